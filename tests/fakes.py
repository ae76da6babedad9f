"""A library in memory, for experiments: what recognition needs of a store, without one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.fingerprinting.extract import fingerprint
from pipeline.fingerprinting.landmarks import Hashes, Slices
from pipeline.fingerprinting.peaks import Peaks
from pipeline.fingerprinting.settings import Settings


class MemoryShard:
    """Songs end to end in memory, in the order given, as many frames apart as is asked for."""

    def __init__(self, songs: Mapping[int, Hashes], gap: int = 0) -> None:
        self._song_id = np.array(list(songs), np.int32)
        frames = np.array([int(hashes.offset.max(initial=0)) + 1 for hashes in songs.values()], np.int64)
        self._first = np.cumsum(frames + gap) - frames - gap
        self._stop = self._first + frames
        hash_ = np.concatenate([np.zeros(0, np.int32), *(hashes.hash for hashes in songs.values())])
        parts = [first + hashes.offset for first, hashes in zip(self._first, songs.values(), strict=True)]
        position = np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int32)
        order = np.lexsort((position, hash_))
        self._hash, self._position = hash_[order], position[order]

    def find(self, hashes: NDArray[np.int32]) -> Slices:
        """As a shard of a store has them."""
        first = np.searchsorted(self._hash, hashes, "left")
        count = np.searchsorted(self._hash, hashes, "right") - first
        index = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count - first, count)
        return Slices(np.arange(len(hashes)), count, self._position[index])

    def locate(self, position: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """As a shard of a store has them."""
        place = np.maximum(np.searchsorted(self._first, position, "right") - 1, 0)
        inside = position < self._stop[place]
        return np.where(inside, self._song_id[place], 0), (position - self._first[place]).astype(np.int32)


class MemoryLibrary:
    """Songs in memory.

    Parameters
    ----------
    songs
        Hashes and peaks of each song by its id.
    """

    def __init__(self, settings: Settings, songs: Mapping[int, tuple[Hashes, Peaks]]) -> None:
        self.settings = settings
        self.n_songs = len(songs)
        self.peaks = {song_id: peaks for song_id, (_, peaks) in songs.items()}
        self.shards = [MemoryShard({song_id: hashes for song_id, (hashes, _) in songs.items()})]

    @classmethod
    def of(cls, paths: Sequence[str], settings: Settings, map_: Callable[..., Iterable[object]] = map) -> MemoryLibrary:
        """Fingerprint some files; the first has song id 1."""
        made = map_(_print, paths, [settings] * len(paths))
        return cls(settings, dict(enumerate(made, start=1)))  # type: ignore[arg-type]

    def constellations(self, song_ids: Iterable[int]) -> dict[int, Peaks]:
        """As a snapshot of a store gives them."""
        return {song_id: self.peaks[song_id] for song_id in song_ids}


def _print(path: str, settings: Settings) -> tuple[Hashes, Peaks]:
    made = fingerprint(path, settings)
    return made.hashes, made.peaks
