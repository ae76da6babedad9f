"""Songs and libraries that tests make: staged songs of random peaks, and a library in memory in place of a store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.audio.tags import Tags
from pipeline.fingerprinting.extract import constellation, fingerprint
from pipeline.fingerprinting.landmarks import Hashes, Slices, pair_peaks
from pipeline.fingerprinting.peaks import Peaks
from pipeline.fingerprinting.settings import Settings
from pipeline.store import StagedSong


def make_song(
    name: str | int,
    *,
    n_peaks: int = 500,
    n_frames: int = 400,
    n_bins: int = 1024,
    n_hashes: int | None = None,
    hash_bits: int = 8,
) -> StagedSong:
    """A song of random peaks, the same for the same name, which is also its title and its digest.

    Parameters
    ----------
    n_peaks
        Number of peaks to draw; those drawn twice count once.
    n_frames, n_bins
        The range in which the peaks lie.
    n_hashes
        ``None``: the landmarks are those of the peaks, as in real songs. Else so many random ones, independent of them.
    hash_bits
        Bits of a random hash; few bits make songs share hashes.
    """
    rng = np.random.default_rng(name if isinstance(name, int) else [0, *name.encode()])
    at = np.unique(rng.integers(0, n_frames * n_bins, n_peaks))
    peaks = Peaks((at // n_bins).astype(np.int32), (at % n_bins).astype(np.int32), (at % 61 - 30).astype(np.int8))
    if n_hashes is None:
        hashes = pair_peaks(peaks, Settings().fan_out)
    else:
        hash_ = rng.integers(0, 1 << hash_bits, n_hashes).astype(np.int32)
        hashes = Hashes(hash_, np.sort(rng.integers(0, n_frames, n_hashes)).astype(np.int32))
    return StagedSong(
        path=f"/music/{name}.flac",
        tags=Tags(title=str(name), album="an album"),
        duration_s=60.0,
        digest=str(name),
        decoder="soundfile",
        sample_rate=44100,
        decoded_share=1.0,
        size_bytes=1000,
        modified_ns=5,
        hashes=hashes,
        peaks=peaks,
    )


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
    """Songs in memory, with what recognition uses of a `pipeline.store.Snapshot`.

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
        made = map_(_hashes_and_peaks, paths, [settings] * len(paths))
        return cls(settings, dict(enumerate(made, start=1)))  # type: ignore[arg-type]

    @classmethod
    def of_samples(cls, songs: Mapping[int, NDArray[np.float32]], settings: Settings) -> MemoryLibrary:
        """Fingerprint the mono samples of each song, by its id."""
        made = {song_id: constellation(iter([samples]), settings) for song_id, samples in songs.items()}
        return cls(settings, {song_id: (pair_peaks(peaks, settings.fan_out), peaks) for song_id, peaks in made.items()})

    def with_samples(self, songs: Mapping[int, NDArray[np.float32]]) -> MemoryLibrary:
        """Another library, with these songs beside its own."""
        added = {song_id: constellation(iter([samples]), self.settings) for song_id, samples in songs.items()}
        every = {**self.peaks, **added}
        fan_out = self.settings.fan_out
        return MemoryLibrary(
            self.settings, {song_id: (pair_peaks(peaks, fan_out), peaks) for song_id, peaks in every.items()}
        )

    def map_shards(self, task: Callable[[Sequence[MemoryShard]], object]) -> list[object]:
        """As `Snapshot` does."""
        return [task(self.shards)]

    def constellations(self, song_ids: Iterable[int]) -> dict[int, Peaks]:
        """As `Snapshot` does."""
        return {song_id: self.peaks[song_id] for song_id in song_ids}


def _hashes_and_peaks(path: str, settings: Settings) -> tuple[Hashes, Peaks]:
    made = fingerprint(path, settings)
    return made.hashes, made.peaks
