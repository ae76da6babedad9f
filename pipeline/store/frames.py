"""Where the frames of songs lie: end to end in shards, each of which numbers its frames from 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ParameterError
from pipeline.store.schema import NEXT_FRAME, NEXT_SHARD

# A position is an int32, so a shard has at most 2**31 frames: 400,000 songs of four minutes. It has an eighth of that,
# 1.4 billion postings, so that the hits of a clip in one shard stay within some hundred MB.
SHARD_FRAMES = 1 << 28
LARGEST_SHARD = (1 << 31) - 1


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where some songs lie.

    Parameters
    ----------
    shard
        ``(n_songs,)`` int32.
    first
        ``(n_songs,)`` int64, the first frame in the shard.
    n_frames
        ``(n_songs,)`` int64.
    """

    shard: NDArray[np.int32]
    first: NDArray[np.int64]
    n_frames: NDArray[np.int64]

    @property
    def stop(self) -> NDArray[np.int64]:
        """``(n_songs,)`` int64, behind the last frame."""
        return self.first + self.n_frames


def reserve(numbers: Mapping[str, int], n_frames: Sequence[int], shard_frames: int) -> tuple[Places, dict[str, int]]:
    """Places for songs behind all that were given, and the numbers that say so from now on.

    A song lies in one shard. One that does not fit behind the last begins the next shard.

    Raises
    ------
    ParameterError
        If a song is longer than a shard can be.
    """
    shard, frame = numbers.get(NEXT_SHARD, 0), numbers.get(NEXT_FRAME, 0)
    shards, firsts = [], []
    for length in n_frames:
        if length > LARGEST_SHARD:
            raise ParameterError(f"a song of {length} frames is too long for a store")
        if frame and frame + length > shard_frames:
            shard, frame = shard + 1, 0
        shards.append(shard)
        firsts.append(frame)
        frame += length
    places = Places(np.array(shards, np.int32), np.array(firsts, np.int64), np.array(n_frames, np.int64))
    return places, {NEXT_SHARD: shard, NEXT_FRAME: frame}
