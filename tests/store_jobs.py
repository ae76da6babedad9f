"""Small stores, the jobs that change them, and what a store must hold before and after each job."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import StoreError
from pipeline.store import Store, metadata, stage
from pipeline.store.schema import SCHEMAS
from pipeline.store.storage import Location
from tests.fakes import make_song

GOLDEN = Path(__file__).parent / "data"
# Path, title, postings and peaks of each song by its digest: ids may differ from run to run.
Contents = dict[str, tuple[str, str, list[tuple[int, int]], list[int]]]

small_song = functools.cache(functools.partial(make_song, n_peaks=150, n_frames=200, n_bins=64))


class Died(BaseException):
    """Simulates the end of the process: nothing that the process does after it has an effect."""


def index(store: Store, *batches: Sequence[int]) -> None:
    """Do the work of an index job: skip songs that are there; a batch always has the same name."""
    have = set(store.snapshot().songs(["digest"])["digest"].to_pylist())
    todo = {f"{min(batch)}-{max(batch)}": [n for n in batch if str(n) not in have] for batch in batches}
    store.commit([stage(store.url, name, [small_song(n) for n in new]) for name, new in todo.items() if new])


def ids(store: Store, numbers: set[int]) -> list[int]:
    """The ids of some songs, as far as they are in the store."""
    songs = store.snapshot().songs(["song_id", "digest"]).to_pylist()
    return [song["song_id"] for song in songs if int(song["digest"]) in numbers]


def remove(store: Store, numbers: set[int]) -> None:
    store.remove(ids(store, numbers))


def retag(store: Store, numbers: set[int]) -> None:
    """Give songs another title and path."""
    songs = {row["song_id"]: row["digest"] for row in store.snapshot().songs(["song_id", "digest"]).to_pylist()}
    some = [song_id for song_id, digest in songs.items() if int(digest) in numbers]
    values = {"title": [f"new {songs[i]}" for i in some], "path": [f"/moved/{songs[i]}.flac" for i in some]}
    store.update(some, values)


def replace(store: Store) -> None:
    """Index a file with other content under the path of song 2, which gives way."""
    if "40" not in store.snapshot().songs(["digest"])["digest"].to_pylist():
        song = dataclasses.replace(small_song(40), path=small_song(2).path)
        store.commit([stage(store.url, "replacement", [song])])
    assert ids(store, {2, 40}) == ids(store, {40})


def contents(store: Store) -> Contents:
    """What a store holds: every posting is looked up by its hash, all peaks are read."""
    snapshot = store.snapshot()
    songs = snapshot.songs(["song_id", "digest", "path", "title"]).to_pylist()
    hashes = np.unique(np.concatenate([np.zeros(0, np.int32), *(part.hash for part in snapshot.sweep())]))
    found = snapshot.postings(hashes)
    peaks = snapshot.constellations(song["song_id"] for song in songs)
    order = np.lexsort((found.offset, found.hash, found.song_id))
    edges = np.searchsorted(found.song_id[order], [song["song_id"] for song in songs] + [1 << 30])
    by_digest: Contents = {}
    for song, start, stop in zip(songs, edges[:-1], edges[1:], strict=True):
        of_song = order[start:stop]
        rows = list(zip(found.hash[of_song].tolist(), found.offset[of_song].tolist(), strict=True))
        by_digest[song["digest"]] = (song["path"], song["title"], rows, peaks[song["song_id"]].bin.tolist())
    assert len(by_digest) == len(songs), "a song is there twice"
    assert sum(len(rows) for _, _, rows, _ in by_digest.values()) == len(found)
    return by_digest


@functools.cache
def _expected_song(number: int, retagged: bool) -> tuple[str, str, list[tuple[int, int]], list[int]]:
    song = small_song(number)
    rows = sorted(zip(song.hashes.hash.tolist(), song.hashes.offset.tolist(), strict=True))
    names = (f"/moved/{number}.flac", f"new {number}") if retagged else (song.path, str(number))
    return *names, rows, song.peaks.bin.tolist()


def expected_contents(numbers: Iterable[int], retagged: Iterable[int] = ()) -> Contents:
    """What a store of these songs holds."""
    return {str(number): _expected_song(number, number in set(retagged)) for number in numbers}


def start(url: str) -> None:
    """A store after commits, a removal, and a job that died between its commits."""
    store = Store.create(url)
    index(store, range(1, 5), range(5, 7))
    index(store, range(7, 10))
    remove(store, {4})

    def die(task: Callable[[Any], Any], items: Any) -> list[Any]:
        raise Died

    try:
        store.commit([stage(store.url, "died", [small_song(99)])], map=die)
    except Died:
        return


BEFORE = {1, 2, 3, 5, 6, 7, 8, 9}


def start_damaged(url: str) -> None:
    """The same with a postings file and the store metadata lost, and the last entry of a log torn."""
    start(url)
    store = Store.open(url)
    store.compact(grace_hours=0)
    index(store, [10])
    lost = min(store.snapshot().files("postings"))
    log = Path(url, "songs", "_delta_log")
    remove(store, {2})
    torn = max(log.glob("*.json"))
    torn.write_bytes(torn.read_bytes()[:50])
    Path(url, lost).unlink()
    Path(url, metadata.NAME).write_text("{}")


def start_two(url: str) -> None:
    """The same beside another store, of some of its songs and others."""
    start(url)
    index(Store.create(f"{url}-other"), [3, 4, 20], [21])


def look(url: str) -> Contents | None:
    """What the store holds; it must have no problem. ``None`` if there is no store."""
    if not Store.exists(url):
        return None
    store = Store.open(url)
    assert store.check() == []
    return contents(store)


def look_damaged(url: str) -> Contents | None:
    """What the store holds; ``None`` if it cannot be read."""
    try:
        return contents(Store.open(url))
    except StoreError:
        return None


def look_unconverted(url: str) -> Contents | None:
    """What a converted store holds; ``None`` if it is what it was."""
    if metadata.read_upgradable(Location.of(url)) is None:
        return look(url)
    golden = GOLDEN / "format-2.songprint"
    for path in golden.rglob("*"):
        assert path.is_dir() or path.read_bytes() == Path(url, path.relative_to(golden)).read_bytes()
    return None


@dataclass(frozen=True, slots=True)
class Job:
    """A job that changes a store, which may run again after it failed.

    Parameters
    ----------
    run
        Does it, on the store at a URL.
    after
        The songs that are in the store when it is done; ``None`` if they are not made by `small_song`.
    retagged
        Those of them that have other tags than before.
    start
        Makes the store that it begins with.
    look
        What the store holds, where it must be whole.
    """

    run: Callable[[str], Any]
    after: frozenset[int] | None = None
    retagged: frozenset[int] = frozenset()
    start: Callable[[str], Any] = start
    look: Callable[[str], Contents | None] = look

    def expected(self) -> Contents:
        """What the store holds when the job is done."""
        assert self.after is not None
        return expected_contents(self.after, self.retagged)


JOBS = {
    "create": Job(lambda url: Store.open_or_create(url), frozenset(), start=lambda url: None),
    "index": Job(lambda url: index(Store.open(url), range(4, 12), range(12, 15)), frozenset(range(1, 15))),
    "remove": Job(lambda url: remove(Store.open(url), {2, 8}), frozenset(BEFORE - {2, 8})),
    "retag": Job(lambda url: retag(Store.open(url), {2, 8}), frozenset(BEFORE), frozenset({2, 8})),
    "replace": Job(lambda url: replace(Store.open(url))),
    "compact": Job(lambda url: Store.open(url).compact(), frozenset(BEFORE)),
    "compact at once": Job(lambda url: Store.open(url).compact(grace_hours=0), frozenset(BEFORE)),
    "merge": Job(
        lambda url: Store.open(url).absorb(Store.open(f"{url}-other")),
        frozenset(BEFORE | {4, 20, 21}),
        start=start_two,
    ),
    "repair": Job(Store.repair, frozenset(BEFORE | {10}), start=start_damaged, look=look_damaged),
    "convert": Job(
        Store.upgrade, start=lambda url: shutil.copytree(GOLDEN / "format-2.songprint", url), look=look_unconverted
    ),
    # of a store of format 3 that lacks columns which were added later
    "add columns": Job(
        lambda url: index(Store.open(url), [30]), start=lambda url: shutil.copytree(GOLDEN / "format-3.songprint", url)
    ),
}


def files(url: str) -> set[str]:
    """The files of a store without its logs, by their names in it."""
    found = {path.relative_to(url).as_posix() for path in Path(url).rglob("*") if path.is_file()}
    return {name for name in found if "/_delta_log/" not in name}


def needed_files(store: Store) -> set[str]:
    """The files of the store's version."""
    snapshot = store.snapshot()
    tables = snapshot.location.url.removeprefix(store.url).strip("/")
    names = {name for table in SCHEMAS for name in snapshot.files(table)}
    return {f"{tables}/{name}" if tables else name for name in names} | {metadata.NAME}
