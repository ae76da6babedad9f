"""A library that changes every day, indexed every night: the store equals one made anew.

``python -m tests.nightly 300 7`` plays 300 nights with the seed 7. Each day files are added, retagged, replaced,
renamed, moved, swapped, copied, touched, broken and deleted at random.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from pipeline import Store, index, indexing
from pipeline.indexing import IndexReport
from pipeline.simulation import encoding, music

FOLDERS = ("", "a", "a/deep", "b")
SONG_S = 3.0
RATE = 11_025
Contents = dict[str, dict[str, Any]]


@lru_cache(maxsize=1024)
def samples(seed: int) -> NDArray[np.float32]:
    """A song of its own for each seed."""
    return music.song(seed, SONG_S, RATE)


class Folder:
    """A folder of music, and what is done to it by day.

    Parameters
    ----------
    path
        It need not exist.
    seed
        What happens depends on it alone.
    """

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self._rng = np.random.default_rng(seed)
        self._n_made = 0
        self._seeds: dict[Path, int] = {}
        for name in FOLDERS:
            (path / name).mkdir(parents=True, exist_ok=True)
        for _ in range(6):
            self.add()

    def day(self, changes: int) -> None:
        """Change some files."""
        deeds: list[Callable[[], None]] = [
            self.add, self.add, self.retag, self.replace, self.rename, self.move, self.retag_and_move, self.swap,
            self.copy, self.touch, self.spoil, self.delete, self.delete,
        ]  # fmt: skip
        for _ in range(changes):
            deeds[self._rng.integers(len(deeds))]()

    def add(self) -> None:
        self._n_made += 1
        self._write(self._free(), self._n_made)

    def retag(self) -> None:
        path = self._some()
        self._write(path, self._seeds[path])

    def replace(self) -> None:
        self._n_made += 1
        self._write(self._some(), self._n_made)

    def rename(self) -> None:
        path = self._some()
        self._move(path, path.with_name(self._free().name))

    def move(self) -> None:
        """To another folder, under the same name."""
        path = self._some()
        self._move(path, self.path / self._choose(FOLDERS) / path.name)

    def retag_and_move(self) -> None:
        path = self._some()
        self._write(path, self._seeds[path])
        self._move(path, self._free())

    def swap(self) -> None:
        one, two, free = self._some(), self._some(), self._free()
        if one != two:
            self._move(one, free)
            self._move(two, one)
            self._move(free, two)

    def copy(self) -> None:
        path, free = self._some(), self._free()
        shutil.copyfile(path, free)
        self._seeds[free] = self._seeds[path]
        self._stamp(free)

    def touch(self) -> None:
        self._stamp(self._some())

    def spoil(self) -> None:
        """A download that was cut off: no audio in it."""
        path = self._some()
        path.write_bytes(b"no audio" * (1 + self._n_made))
        self._stamp(path)

    def delete(self) -> None:
        path = self._some()
        path.unlink()
        del self._seeds[path]
        if len(self._seeds) < 3:
            self.add()

    def _choose(self, choices: Any) -> Any:
        return choices[self._rng.integers(len(choices))]

    def _some(self) -> Path:
        chosen: Path = self._choose(sorted(self._seeds))
        return chosen

    def _free(self) -> Path:
        return self.path / str(self._choose(FOLDERS)) / f"{self._rng.integers(1 << 30):08x}.flac"

    def _write(self, path: Path, seed: int) -> None:
        encoding.write(path, samples(seed), RATE, title=f"title {self._rng.integers(1 << 30)}", artist=str(seed))
        self._seeds[path] = seed
        self._stamp(path)

    def _move(self, path: Path, to: Path) -> None:
        if path != to:
            path.replace(to)
            self._seeds[to] = self._seeds.pop(path)

    def _stamp(self, path: Path) -> None:
        """Give it a time of change of its own: the clock of a file system may stand still between two changes."""
        os.utime(path, ns=(1, int(self._rng.integers(1, 1 << 60))))


def night(folder: Path, store: Store, commit_at_once: bool) -> IndexReport:
    """Index, and remove the songs whose file is gone; with a commit after each batch, or one for all."""
    with mock.patch.object(indexing, "COMMIT_EVERY_S", -1.0 if commit_at_once else 1e9):
        return index([str(folder)], store, prune=True)


def contents(store: Store) -> Contents:
    """Of each content: all its paths, its tags, its postings and peaks."""
    snapshot = store.snapshot()
    songs = snapshot.songs(["song_id", "path", "other_paths", "title", "artist", "digest", "size_bytes"]).to_pylist()
    postings: dict[int, list[tuple[int, int]]] = {song["song_id"]: [] for song in songs}
    for part in snapshot.sweep():
        for hash_, song_id, offset in zip(part.hash.tolist(), part.song_id.tolist(), part.offset.tolist(), strict=True):
            postings[song_id].append((hash_, offset))
    peaks = snapshot.constellations(postings)
    return {
        song["digest"]: {
            "paths": sorted([song["path"], *(song["other_paths"] or ())]),
            "tags": (song["title"], song["artist"], song["size_bytes"]),
            "postings": sorted(postings[song["song_id"]]),
            "peaks": peaks[song["song_id"]].frame.tolist(),
        }
        for song in songs
    }


def made_anew(folder: Path, at: Path) -> Contents:
    """The contents of a new store of a folder."""
    store = Store.create(str(at))
    index([str(folder)], store)
    found = contents(store)
    shutil.rmtree(at)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("nights", type=int)
    parser.add_argument("seed", type=int)
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="songprint-nightly-"))
    folder, store = Folder(place / "music", options.seed), Store.create(str(place / "store"))
    rng = np.random.default_rng(options.seed)
    for number in range(options.nights):
        report = night(folder.path, store, commit_at_once=bool(rng.integers(2)))
        if number % 7 == 6:
            store.compact(grace_hours=0)
        same = contents(store) == made_anew(folder.path, place / "anew")
        problems = store.check()
        print(f"night {number}: {store.snapshot().n_songs} songs, {report.added} added, {report.retagged} retagged,",
              f"{report.replaced} replaced, {report.moved} moved, {report.removed} removed,",
              f"{len(report.failures)} failed,", "equal" if same else "DIFFERENT", *problems)  # fmt: skip
        if not same or problems:
            print(f"WRONG: left in {place}")
            return 1
        folder.day(int(rng.integers(1, 9)))
    shutil.rmtree(place)
    return 0


if __name__ == "__main__":
    sys.exit(main())
