"""Samples at another rate or another speed, with soxr."""

from __future__ import annotations

from collections.abc import Generator, Iterable

import numpy as np
from numpy.typing import NDArray


def resample_blocks(
    blocks: Iterable[NDArray[np.float32]], sample_rate: int, wanted: int
) -> Generator[NDArray[np.float32], None, None]:
    """A stream of ``(n,)`` float32 samples at another rate, in Hz; no block is empty."""
    import soxr  # 20 ms that a command without audio does not pay

    if sample_rate == wanted:
        yield from (block for block in blocks if len(block))
        return
    resampler = soxr.ResampleStream(sample_rate, wanted, 1, dtype="float32", quality="HQ")
    for block in blocks:
        block = resampler.resample_chunk(block)
        if len(block):
            yield block
    block = resampler.resample_chunk(np.zeros(0, np.float32), last=True)
    if len(block):
        yield block


def at_speed(samples: NDArray[np.float32], speed: float) -> NDArray[np.float32]:
    """A clip that was played at `speed`, as it sounds at the song's own speed; ``(n,)`` to ``(n * speed,)`` float32."""
    if speed == 1.0:
        return samples
    import soxr

    slower: NDArray[np.float32] = soxr.resample(samples, 1.0, speed)
    return slower
