"""Stores of any size whose hashes are distributed as those of real music, made from a seed.

The cost of a look-up depends on how often the hashes of a clip occur. So the hashes are drawn from those of a real
store, with replacement: a frequent hash stays as frequent. A larger library also has hashes that a small one has not.
Their share is estimated as Good and Turing do: the share of postings whose hash occurs once. Such a hash is mixed: the
anchor's bin of one real landmark with the differences of another. Offsets and peaks are drawn uniformly; no cost
depends on them.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.audio.tags import Tags
from pipeline.execution.executor import Executor
from pipeline.fingerprinting.landmarks import Hashes, pack, unpack
from pipeline.fingerprinting.peaks import Peaks
from pipeline.store import Manifest, StagedSong, Store, stage

# 400 million postings are then 100,000 songs of half a minute: as many rows in the other tables as a large library has,
# and more rows for each posting.
POSTINGS_PER_SONG = 4_000
SONG_S = 33.0
FRAMES = 710
PEAKS_PER_SONG = 1_320
SONGS_PER_BATCH = 500
BATCHES_PER_COMMIT = 8


class HashDistribution:
    """The distribution of hashes in real music, to draw from.

    Parameters
    ----------
    like
        A store of real music; some hours are enough.

    Attributes
    ----------
    unseen
        Share of the draws that are mixed from two landmarks.
    """

    def __init__(self, like: Store) -> None:
        files = [os.path.join(like.url, name) for name in like.snapshot().files("postings")]
        self._hash = np.sort(
            np.concatenate([pq.read_table(file, columns=["hash"])["hash"].to_numpy() for file in files])
        )
        counts = np.diff(np.flatnonzero(np.diff(self._hash, prepend=-1, append=-1)))
        self.unseen = float((counts == 1).sum() / len(self._hash))

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.int32]:
        """Draw hashes: ``(count,)`` int32, in no order."""
        hashes = rng.choice(self._hash, count)
        new = np.flatnonzero(rng.random(count) < self.unseen)
        anchor, _, _ = unpack(hashes[new])
        _, aside, ahead = unpack(rng.choice(self._hash, len(new)))
        hashes[new] = pack(anchor, aside, ahead)
        return hashes

    def songs(self, seed: int, count: int, length: int = 1) -> list[StagedSong]:
        """Some songs, all of the same length (in times of `SONG_S`), none like another."""
        rng = np.random.default_rng(seed)
        hashes = self.draw(rng, count * POSTINGS_PER_SONG * length).reshape(count, -1)
        offsets = np.sort(rng.integers(0, FRAMES * length, hashes.shape, np.int32), axis=1)
        frames = np.sort(rng.integers(0, FRAMES * length, (count, PEAKS_PER_SONG * length), np.int32), axis=1)
        bins = rng.integers(8, 1024, frames.shape, np.int32)
        levels = np.clip(np.rint(rng.normal(3, 6, frames.shape)), -30, 27).astype(np.int8)
        return [
            StagedSong(
                path=f"/synthetic/{seed:06d}-{place:04d}.mp3",
                tags=Tags(title=f"Song {place} of batch {seed}"),
                duration_s=SONG_S * length,
                digest=f"{seed:016x}{place:016x}",
                decoder="none",
                sample_rate=44100,
                decoded_share=1.0,
                size_bytes=int(SONG_S * length * 24000),
                modified_ns=0,
                hashes=Hashes(hashes[place], offsets[place]),
                peaks=Peaks(frames[place], bins[place], levels[place]),
            )
            for place in range(count)
        ]


def stage_batch(task: tuple[HashDistribution, str, int, int]) -> Manifest:
    """Make a batch of songs and stage it: a task for an executor."""
    distribution, url, seed, count = task
    return stage(url, f"synthetic-{seed:06d}", distribution.songs(seed, count))


def build(distribution: HashDistribution, store: Store, postings: int, executor: Executor, first_seed: int = 0) -> None:
    """Add songs until a store has a number of postings, by the real staging, merging and committing.

    Postings of earlier calls count, so a benchmark can grow one store from size to size.
    """
    left = postings - int(store.snapshot().size()["postings"])
    songs = max(0, round(left / POSTINGS_PER_SONG))
    seed = first_seed + 1 + store.snapshot().n_songs
    per_commit = SONGS_PER_BATCH * BATCHES_PER_COMMIT
    for done in range(0, songs, per_commit):
        count = min(per_commit, songs - done)
        starts = range(0, count, SONGS_PER_BATCH)
        tasks = [
            (distribution, store.url, seed + done + start, min(SONGS_PER_BATCH, count - start)) for start in starts
        ]
        store.commit(executor.map(stage_batch, tasks), map=executor.map)


def store_at(folder: Path, like: Store) -> Store:
    """A store for synthetic songs, with the settings of a real one."""
    return Store.open_or_create(str(folder), like.settings)
