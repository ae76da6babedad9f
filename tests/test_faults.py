"""Jobs that die at any moment, and jobs that run at once: the store opens, has no problems, and loses nothing.

`make test-faults` tries hundreds of moments and minutes of traffic, the normal suite a few of each: FAULTS is how many
moments, TRAFFIC_S how many seconds.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import multiprocessing
import os
import shutil
import signal
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import SongprintError
from pipeline.store import Store, delta_log, stage
from pipeline.store.schema import SCHEMAS
from tests.fakes import make_song

FAULTS = int(os.environ.get("FAULTS", "30"))
TRAFFIC_S = float(os.environ.get("TRAFFIC_S", "0"))
# What each writer does at least, however slow the machine.
TURNS = 7

Contents = dict[str, tuple[list[tuple[int, int]], list[int]]]


small_song = functools.partial(make_song, n_peaks=150, n_frames=200, n_bins=64)


def index(store: Store, *batches: range) -> None:
    """Do the work of an index job: skip songs that are there; a batch always has the same name."""
    have = set(store.snapshot().songs(["digest"])["digest"].to_pylist())
    todo = {batch: [small_song(number) for number in batch if str(number) not in have] for batch in batches}
    store.commit([stage(store.url, f"{batch.start}-{batch.stop}", new) for batch, new in todo.items() if new])


def remove(store: Store, numbers: set[int]) -> None:
    songs = store.snapshot().songs(["song_id", "digest"]).to_pylist()
    store.remove([song["song_id"] for song in songs if int(song["digest"]) in numbers])


def contents(store: Store) -> Contents:
    """Postings and peaks of a store, by digest: ids may differ from run to run."""
    snapshot = store.snapshot()
    songs = {row["song_id"]: row["digest"] for row in snapshot.songs(["song_id", "digest"]).to_pylist()}
    found = snapshot.postings(np.arange(1 << 19, dtype=np.int32))  # all hashes of 64 bins
    peaks = snapshot.constellations(songs)
    by_digest: Contents = {digest: ([], peaks[song_id].bin.tolist()) for song_id, digest in songs.items()}
    assert len(by_digest) == len(songs), "a song is there twice"
    for hash_, song_id, offset in zip(found.hash.tolist(), found.song_id.tolist(), found.offset.tolist(), strict=True):
        by_digest[songs[song_id]][0].append((hash_, offset))
    return by_digest


def expected_contents(numbers: set[int]) -> Contents:
    """Postings and peaks of a store of these songs."""
    songs = {number: small_song(number) for number in numbers}
    return {
        str(number): (
            sorted(zip(song.hashes.hash.tolist(), song.hashes.offset.tolist(), strict=True)),
            song.peaks.bin.tolist(),
        )
        for number, song in songs.items()
    }


# What a job does, and the songs that are in the store when it is done; before it, songs 1 to 9 but without 4.
JOBS: dict[str, tuple[Callable[[Store], Any], set[int]]] = {
    "index": (lambda store: index(store, range(4, 12), range(12, 15)), set(range(1, 15))),
    "remove": (lambda store: remove(store, {2, 8}), {1, 3, 5, 6, 7, 9}),
    "compact": (lambda store: store.compact(), {1, 2, 3, 5, 6, 7, 8, 9}),
    "compact at once": (lambda store: store.compact(grace_hours=0), {1, 2, 3, 5, 6, 7, 8, 9}),
}
BEFORE = {1, 2, 3, 5, 6, 7, 8, 9}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store after commits, a removal, and a job that died between its commits."""
    store = Store.create(str(tmp_path_factory.mktemp("faults") / "template"))
    index(store, range(1, 5), range(5, 7))
    index(store, range(7, 10))
    remove(store, {4})

    def die(task: Callable[[Any], Any], items: Any) -> list[Any]:
        raise Died

    with pytest.raises(Died):
        store.commit([stage(store.url, "died", [small_song(99)])], map=die)
    return Path(store.url)


class Died(BaseException):
    """Simulates the end of the process: nothing that the process does after it has an effect."""


class Fault:
    """Count the operations of a job on the disk, and fail at one of those moments.

    Parameters
    ----------
    at
        The moment, from 1; later ones than the job has do nothing.
    error
        This error is raised, once; ``None``: the process dies.
    """

    def __init__(self, patch: pytest.MonkeyPatch, at: int, error: OSError | None) -> None:
        self.moments = 0
        self._at = at
        self._error = error
        self._dead = False
        for name in ("replace", "unlink", "rmdir", "makedirs"):
            patch.setattr(os, name, self._before(getattr(os, name)))
        patch.setattr(os, "fsync", self._torn)
        patch.setattr(delta_log, "commit", self._around(delta_log.commit))

    def _moment(self) -> None:
        if self._dead:
            raise Died
        self.moments += 1
        if self.moments == self._at:
            if self._error:
                raise self._error
            self._dead = True
            raise Died

    def _before(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **options: Any) -> Any:
            self._moment()
            return call(*args, **options)

        return called

    def _around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **options: Any) -> Any:
            self._moment()
            result = call(*args, **options)
            if not self._error:  # an error after the commit would be wrong: the commit was made
                self._moment()
            return result

        return called

    def _torn(self, descriptor: int) -> None:
        """The file was not yet on the disk: half of it is lost."""
        try:
            self._moment()
        except BaseException:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.truncate(os.readlink(f"/proc/self/fd/{descriptor}"), os.fstat(descriptor).st_size // 2)
            raise


def copy(template: Path, to: Path) -> Store:
    shutil.copytree(template, to)
    return Store.open(str(to))


def check_and_repeat(store: Store, job: str) -> None:
    """Check the store after a fault, then repeat the job and check again."""
    run, after = JOBS[job]
    assert store.check() == []
    assert contents(store) in (expected_contents(BEFORE), expected_contents(after)), "half of a job is to be seen"
    run(store)
    assert contents(store) == expected_contents(after)
    assert store.check() == []
    store.compact(grace_hours=0)
    assert contents(store) == expected_contents(after)
    assert store.check() == []
    on_disk = {path.relative_to(store.url).as_posix() for path in Path(store.url).rglob("*") if path.is_file()}
    needed = {name for table in SCHEMAS for name in store.snapshot().files(table)} | {"songprint.json"}
    assert {name for name in on_disk if "/_delta_log/" not in name} == needed


def moments(template: Path, folder: Path, job: str) -> int:
    """Number of moments of a job at which a `Fault` can occur."""
    store = copy(template, folder)
    with pytest.MonkeyPatch.context() as patch:
        fault = Fault(patch, 0, None)
        JOBS[job][0](store)
    return fault.moments


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("kind", ["death", "disk full", "permission denied"])
def test_a_job_that_fails_at_any_moment_leaves_a_whole_store(
    template: Path, tmp_path: Path, job: str, kind: str
) -> None:
    errors = {"disk full": errno.ENOSPC, "permission denied": errno.EACCES}
    error = OSError(errors[kind], os.strerror(errors[kind])) if kind in errors else None
    every = range(1, moments(template, tmp_path / "undisturbed", job) + 1)
    chosen = np.random.default_rng(len(job)).permutation(every)[: max(1, FAULTS // (len(JOBS) * 3))]
    for at in chosen.tolist():
        store = copy(template, tmp_path / str(at))
        with pytest.MonkeyPatch.context() as patch:
            Fault(patch, at, error)
            with contextlib.suppress(Died, SongprintError, OSError):
                JOBS[job][0](store)
        check_and_repeat(store, job)
        shutil.rmtree(store.url)


def _child(url: str, job: str, ready: Any) -> None:
    store = Store.open(url)
    ready.set()
    JOBS[job][0](store)


@pytest.mark.parametrize("job", JOBS)
def test_a_job_that_is_killed_leaves_a_whole_store(template: Path, tmp_path: Path, job: str) -> None:
    """SIGKILL at random moments, between any two instructions."""
    spawn = multiprocessing.get_context("spawn")
    chance = np.random.default_rng(len(job))
    for turn in range(max(1, FAULTS // (len(JOBS) * 3))):
        store = copy(template, tmp_path / str(turn))
        ready = spawn.Event()
        child = spawn.Process(target=_child, args=(store.url, job, ready))
        child.start()
        assert ready.wait(60)
        child.join(chance.exponential(0.08))
        if child.is_alive():
            os.kill(child.pid or 0, signal.SIGKILL)
        child.join()
        check_and_repeat(store, job)
        shutil.rmtree(store.url)


def _writer(url: str, numbers: range, until: float, done: Any) -> None:
    """Add songs two by two, remove every fifth, compact now and then; say which are there in the end."""
    store = Store.open(url)
    added = []
    for turn, first in enumerate(numbers[::2]):
        if turn >= TURNS and time.time() > until:
            break
        pair = range(first, first + 2)
        index(store, pair)
        added += list(pair)
        if turn % 5 == 4:
            remove(store, {first})
            added.remove(first)
        if turn % 7 == 6:
            store.compact(grace_hours=1)
    done.put(added)


def _reader(url: str, over: Any, failures: Any, reads: Any) -> None:
    """Read the store until the writers are done: every song of a snapshot is complete, and there once."""
    seen = 0
    store = Store.open(url)
    try:
        while not over.is_set() or not seen:
            found = contents(store)
            assert found == expected_contents({int(digest) for digest in found})
            seen += 1
    except BaseException as error:
        failures.put(repr(error))
        raise
    finally:
        reads.put(seen)


@pytest.fixture
def spawned() -> Iterator[list[Any]]:
    processes: list[Any] = []
    yield processes
    for process in processes:
        process.kill()
        process.join()


def test_two_writers_and_three_readers_lose_nothing_and_see_no_half_commit(tmp_path: Path, spawned: list[Any]) -> None:
    store = Store.create(str(tmp_path / "busy"))
    spawn = multiprocessing.get_context("spawn")
    done, failures, reads = spawn.Queue(), spawn.Queue(), spawn.Queue()
    over, until = spawn.Event(), time.time() + TRAFFIC_S
    spawned += [
        spawn.Process(target=_writer, args=(store.url, range(first, first + 90_000), until, done))
        for first in (1_000, 100_000)
    ]
    spawned += [spawn.Process(target=_reader, args=(store.url, over, failures, reads)) for _ in range(3)]
    for process in spawned:
        process.start()
    added = {number for _ in range(2) for number in done.get(timeout=TRAFFIC_S + 200)}
    over.set()
    seen = [reads.get(timeout=100) for _ in range(3)]
    for process in spawned:
        process.join(60)
    assert [process.exitcode for process in spawned] == [0] * 5, failures.get() if not failures.empty() else ""
    assert min(seen) > 0
    assert len(added) >= 2 * (2 * TURNS - TURNS // 5)
    assert contents(store) == expected_contents(added)
    assert store.check() == []
