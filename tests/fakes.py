"""A library in memory, for experiments: what recognition needs of a store, without one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.fingerprinting.extract import fingerprint
from pipeline.fingerprinting.landmarks import Hashes, Postings
from pipeline.fingerprinting.peaks import Peaks
from pipeline.fingerprinting.settings import Settings


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
        hash_ = np.concatenate([hashes.hash for hashes, _ in songs.values()])
        song_id = np.repeat(np.array(list(songs), np.int32), [len(hashes) for hashes, _ in songs.values()])
        offset = np.concatenate([hashes.offset for hashes, _ in songs.values()])
        order = np.lexsort((offset, song_id, hash_))
        self._all = Postings(hash_[order], song_id[order], offset[order])

    @classmethod
    def of(cls, paths: Sequence[str], settings: Settings, map_: Callable[..., Iterable[object]] = map) -> MemoryLibrary:
        """Fingerprint some files; the first has song id 1."""
        made = map_(_print, paths, [settings] * len(paths))
        return cls(settings, dict(enumerate(made, start=1)))  # type: ignore[arg-type]

    def postings(self, hashes: NDArray[np.int32]) -> Postings:
        """As a snapshot of a store gives them."""
        first = np.searchsorted(self._all.hash, hashes, "left")
        count = np.searchsorted(self._all.hash, hashes, "right") - first
        index = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count - first, count)
        return Postings(self._all.hash[index], self._all.song_id[index], self._all.offset[index])

    def costs(self, hashes: NDArray[np.int32]) -> NDArray[np.float64]:
        """Nothing: all is in memory."""
        return np.zeros(len(hashes))

    def constellations(self, song_ids: Iterable[int]) -> dict[int, Peaks]:
        """As a snapshot of a store gives them."""
        return {song_id: self.peaks[song_id] for song_id in song_ids}


def _print(path: str, settings: Settings) -> tuple[Hashes, Peaks]:
    made = fingerprint(path, settings)
    return made.hashes, made.peaks
