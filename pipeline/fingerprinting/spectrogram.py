"""Samples to a power spectrogram, in batches of frames.

Batches begin at fixed frames (0, 128, 256, ...), so that a song read in blocks of any size gives the same bits as one
read whole, and memory does not grow with its length.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.fft import rfft

from pipeline.fingerprinting.settings import Settings

BATCH_FRAMES = 128  # fits the cache; every FFT call has this many rows, so that each row is computed alike
BATCHES_AT_ONCE = 4  # computed one after another: with the decoder in between, each would find a cold cache


def n_bins(settings: Settings) -> int:
    """Bins of a frame: all but the one at half the sample rate."""
    return settings.window // 2


def power_batches(blocks: Iterable[NDArray[np.float32]], settings: Settings) -> Iterator[NDArray[np.float32]]:
    """Power spectrogram of a stream of samples, in batches.

    Parameters
    ----------
    blocks
        ``(n,)`` float32 each, of any lengths.

    Yields
    ------
    NDArray
        ``(BATCH_FRAMES, n_bins)`` float32 power, the last batch shorter. Frame f covers the samples ``f * hop`` to
        ``f * hop + window``; only whole frames count. The array is overwritten by the next batch.
    """
    hop, size = settings.hop, settings.window
    # Hann window by hand: scipy.signal would cost every command 0.6 s of import for this line.
    taper = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)).astype(np.float32)
    need = (BATCH_FRAMES - 1) * hop + size
    framed = np.empty((BATCH_FRAMES, size), np.float32)
    power = np.empty((BATCH_FRAMES, n_bins(settings)), np.float32)
    waiting = np.empty(0, np.float32)

    def transform(samples: NDArray[np.float32], count: int) -> NDArray[np.float32]:
        frames = np.lib.stride_tricks.sliding_window_view(samples, size)[::hop][:count]
        np.multiply(frames, taper, out=framed[:count])
        framed[count:] = 0
        parts = rfft(framed, axis=1)[:, : n_bins(settings)]
        np.abs(parts, out=power)  # then squared: half the time of adding the squares of both parts
        return np.multiply(power, power, out=power)[:count]

    for block in _regroup(blocks, BATCHES_AT_ONCE * BATCH_FRAMES * hop):
        waiting = np.concatenate([waiting, block])
        start = 0
        while len(waiting) - start >= need:
            yield transform(waiting[start : start + need], BATCH_FRAMES)
            start += BATCH_FRAMES * hop
        waiting = waiting[start:]
    left = (len(waiting) - size) // hop + 1
    if left > 0:
        yield transform(waiting, left)


def _regroup(blocks: Iterable[NDArray[np.float32]], least: int) -> Iterator[NDArray[np.float32]]:
    """The same samples in blocks of at least so many, except for the last."""
    some: list[NDArray[np.float32]] = []
    for block in blocks:
        some.append(block)
        if sum(map(len, some)) >= least:
            yield np.concatenate(some)
            some = []
    if some:
        yield np.concatenate(some)
