"""Samples to a power spectrogram, in batches of frames at absolute places."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.fft import rfft

from pipeline.fingerprinting.settings import Settings

BATCH = 128  # frames: fits the cache, and every FFT call has this many rows, so that each row is computed alike
TOGETHER = 4  # batches done one after the other: the decoder in between would cost each a cold cache


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
        ``(BATCH, n_bins)`` float32, the last one shorter: frame f is of samples ``f * hop`` to ``f * hop + window``.
        Only whole frames count. The array is overwritten by the next batch.
    """
    hop, size = settings.hop, settings.window
    taper = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)).astype(np.float32)
    need = (BATCH - 1) * hop + size
    framed = np.empty((BATCH, size), np.float32)
    power = np.empty((BATCH, n_bins(settings)), np.float32)
    waiting = np.empty(0, np.float32)

    def transform(samples: NDArray[np.float32], count: int) -> NDArray[np.float32]:
        frames = np.lib.stride_tricks.sliding_window_view(samples, size)[::hop][:count]
        np.multiply(frames, taper, out=framed[:count])
        framed[count:] = 0
        parts = rfft(framed, axis=1)[:, : n_bins(settings)]
        np.abs(parts, out=power)  # and squared: half the time of adding the squares of both parts
        return np.multiply(power, power, out=power)[:count]

    for block in _gathered(blocks, TOGETHER * BATCH * hop):
        waiting = np.concatenate([waiting, block])
        start = 0
        while len(waiting) - start >= need:
            yield transform(waiting[start : start + need], BATCH)
            start += BATCH * hop
        waiting = waiting[start:]
    left = (len(waiting) - size) // hop + 1
    if left > 0:
        yield transform(waiting, left)


def _gathered(blocks: Iterable[NDArray[np.float32]], least: int) -> Iterator[NDArray[np.float32]]:
    """The same samples in blocks of so many at least, but for the last."""
    some: list[NDArray[np.float32]] = []
    for block in blocks:
        some.append(block)
        if sum(map(len, some)) >= least:
            yield np.concatenate(some)
            some = []
    if some:
        yield np.concatenate(some)
