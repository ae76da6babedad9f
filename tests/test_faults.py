"""Jobs that fail at every call, die at any moment, or run at once: the store opens, has no problems, loses nothing.

`make test-faults` lets each call of each job fail in each way, kills at hundreds of moments and has minutes of traffic.
The normal suite does a sample of that, the same in each run. FAULTS is how many faults of each job (`all` for
all), KILLS how many processes are killed, TRAFFIC_S how many seconds of traffic.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from pipeline.errors import SongprintError
from pipeline.store import Store, delta_log, storage
from pipeline.store.schema import SCHEMAS
from pipeline.store.storage import Location
from tests import fault_points
from tests.fault_points import Call
from tests.power_cuts import Tree, power_cuts, write_tree
from tests.store_jobs import (
    JOBS,
    Died,
    contents,
    expected_contents,
    files,
    index,
    look,
    needed_files,
    remove,
)

FAULTS = os.environ.get("FAULTS", "2")
KILLS = int(os.environ.get("KILLS", "5"))
TRAFFIC_S = float(os.environ.get("TRAFFIC_S", "0"))
# What each writer does at least, however slow the machine.
TURNS = 7


T = TypeVar("T")


@pytest.fixture
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


class Copies:
    """What a job begins with, to be copied again and again."""

    def __init__(self, job: str, folder: Path) -> None:
        self._template = folder / "template"
        self.url = str(folder / "store")
        JOBS[job].start(str(self._template))

    def fresh(self) -> None:
        """Put what the job begins with where the store is."""
        for suffix in ("", "-other"):
            shutil.rmtree(self.url + suffix, ignore_errors=True)
            if os.path.exists(f"{self._template}{suffix}"):
                shutil.copytree(f"{self._template}{suffix}", self.url + suffix)


def sample(cases: list[tuple[int, str]], calls: list[Call]) -> list[tuple[int, str]]:
    """All cases, or some of them, evenly spread; of the hundred writes to a file, those in the middle."""
    if FAULTS != "all":
        cases = [(at, kind) for at, kind in cases if calls[at - 1].name != "write" or len(calls[at - 1].data) > 1000]
    return evenly(cases)


def evenly(cases: Sequence[T]) -> Sequence[T]:
    """As many cases as `FAULTS` says, evenly spread."""
    if FAULTS == "all" or int(FAULTS) >= len(cases):
        return cases
    return [cases[place] for place in np.linspace(0, len(cases), int(FAULTS), endpoint=False).astype(int)]


def report(capsys: pytest.CaptureFixture[str], line: str) -> None:
    if FAULTS == "all":
        with capsys.disabled():
            print(f"\n{line}")  # noqa: T201


@pytest.mark.usefixtures("no_waiting_for_the_disk")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", JOBS)
def test_a_job_of_which_any_call_fails_leaves_a_whole_store(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = JOBS[name]
    store = Copies(name, tmp_path)
    store.fresh()
    before = job.look(store.url)
    calls = fault_points.count(store.url, lambda: job.run(store.url))
    after = job.look(store.url)
    assert job.after is None or after == job.expected()
    cases = [(at, kind) for at, call in enumerate(calls, 1) for kind in fault_points.kinds_of(call)]
    for at, kind in sample(cases, calls):
        store.fresh()
        where = f"{kind} at call {at} of {len(calls)}: {calls[at - 1].name} {calls[at - 1].path}"
        error = fault_points.fail(store.url, lambda: job.run(store.url), at, kind)
        assert error is None or isinstance(error, SongprintError | Died), f"{where}: {error!r}"
        found = job.look(store.url)
        assert found in (before, after), f"{where}: half of a job is to be seen"
        assert error is not None or found == after, f"{where}: it says that it is done"
        job.run(store.url)
        if calls[at - 1].changes:
            Store.open(store.url).compact(grace_hours=0)
            assert files(store.url) == needed_files(Store.open(store.url)), where
        assert job.look(store.url) == after, where
    report(capsys, f"{name}: {len(calls)} calls, {len(cases)} faults, nothing lost")


@pytest.mark.usefixtures("no_waiting_for_the_disk")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", JOBS)
def test_a_power_cut_at_any_moment_of_a_job_leaves_a_whole_store(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = JOBS[name]
    store = Copies(name, tmp_path)
    store.fresh()
    os.makedirs(store.url, exist_ok=True)
    before = job.look(store.url)
    cuts = list(power_cuts(store.url, lambda: job.run(store.url)))
    after = job.look(store.url)
    for where, tree in evenly(cuts):
        write_tree(store.url, tree)
        assert job.look(store.url) in (before, after), f"{where}: half of a job is to be seen"
        job.run(store.url)
        Store.open(store.url).compact(grace_hours=0)
        assert job.look(store.url) == after, where
        assert files(store.url) == needed_files(Store.open(store.url)), where
    assert job.look(store.url) == after
    report(capsys, f"{name}: {len(cuts)} states after a power cut, nothing lost")


@pytest.mark.usefixtures("no_waiting_for_the_disk")
@pytest.mark.parametrize("unsynced", ["files", "folders", "log entries"])
def test_a_power_cut_is_found_to_lose_what_was_not_synced(
    unsynced: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The replay finds what each kind of sync is for."""
    job = JOBS["index"]
    store = Copies("index", tmp_path)
    store.fresh()
    before = job.look(store.url)
    if unsynced == "files":
        monkeypatch.setattr(storage, "sync_file", lambda file: None)
    elif unsynced == "folders":
        monkeypatch.setattr(storage, "sync_folder", lambda folder: None)
    else:
        monkeypatch.setattr(delta_log, "_sync_entry", lambda location, table, number: None)
    cuts = list(power_cuts(store.url, lambda: job.run(store.url)))
    after = job.look(store.url)

    def is_lost(tree: Tree) -> bool:
        write_tree(store.url, tree)
        try:
            return job.look(store.url) not in (before, after)
        except (SongprintError, AssertionError):
            return True

    assert any(is_lost(tree) for _, tree in reversed(cuts))


@pytest.mark.usefixtures("no_waiting_for_the_disk")
@pytest.mark.parametrize("table", SCHEMAS)
def test_a_commit_survives_a_power_cut_with_those_that_it_builds_on(table: str, tmp_path: Path) -> None:
    """One job dies between a commit and its sync; another commits on top of it, then the power is cut."""
    store = Copies("index", tmp_path)
    store.fresh()
    handle = Store.open(store.url)
    last = delta_log.load(Location.of(store.url), table).number
    sync = delta_log._sync_entry

    def die(location: Location, of: str, number: int) -> None:
        if of == table and number > last:
            raise Died
        sync(location, of, number)

    def job() -> None:
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Died):
            patch.setattr(delta_log, "_sync_entry", die)
            index(handle, [10])
        index(handle, [11])
        handle.compact()

    cuts = list(power_cuts(store.url, job))
    for where, tree in evenly(cuts):
        write_tree(store.url, tree)
        assert look(store.url) is not None, where
        index(Store.open(store.url), [10], [11])
        assert look(store.url) == expected_contents({1, 2, 3, 5, 6, 7, 8, 9, 10, 11}), where


def _child(url: str, job: str, ready: Any) -> None:
    ready.set()
    JOBS[job].run(url)


@pytest.mark.parametrize("name", ["index", "remove", "compact", "compact at once", "convert"])
def test_a_job_that_is_killed_leaves_a_whole_store(name: str, tmp_path: Path) -> None:
    """SIGKILL at random moments, between any two instructions."""
    spawn = multiprocessing.get_context("spawn")
    chance = np.random.default_rng(len(name))
    job = JOBS[name]
    store = Copies(name, tmp_path)
    store.fresh()
    before = job.look(store.url)
    job.run(store.url)
    after = job.look(store.url)
    for _ in range(max(1, KILLS // 5)):
        store.fresh()
        ready = spawn.Event()
        child = spawn.Process(target=_child, args=(store.url, name, ready))
        child.start()
        assert ready.wait(60)
        child.join(chance.exponential(0.08))
        if child.is_alive():
            os.kill(child.pid or 0, signal.SIGKILL)
        child.join()
        assert job.look(store.url) in (before, after), "half of a job is to be seen"
        job.run(store.url)
        Store.open(store.url).compact(grace_hours=0)
        assert job.look(store.url) == after
        assert files(store.url) == needed_files(Store.open(store.url))


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
