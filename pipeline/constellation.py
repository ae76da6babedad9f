"""Samples to spectrogram to peaks: the constellation of a song or a clip.

Audio streams through in batches of frames whose place is absolute (frame 0, 128, 256, ...), so that a song read in
blocks of any size gives the same bits as one read whole, and memory hardly grows with its length. Only what is small
outlives a batch: the local maxima, and the mean log level of each band of each frame. From these the salient peaks
are chosen at the end, by rules that look only at what surrounds them: where the recording starts does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import rfft

from pipeline.config import Settings

BATCH = 128  # frames: fits the cache, and every FFT call has this many rows, so that each row is computed alike
BAND = 32  # bins over which the local level is averaged
REACH_FRAMES = 3  # over which a song's peak is the maximum, to either side; a clip's peaks are let stand closer
REACH_BINS = 12
SURROUNDINGS_S = 0.75  # seconds to either side over which the local level and the number of peaks are measured
LOWEST_BIN = 8  # below 43 Hz there is rumble, and no loudspeaker
SILENCE = 1e-6  # power: what the dither of 16 bit leaves in one bin is a tenth of it


@dataclass(frozen=True, slots=True, eq=False)
class Peaks:
    """Local maxima of a spectrogram, sorted by frame, then bin.

    Parameters
    ----------
    frame, bin
        ``(n_peaks,)`` int32.
    """

    frame: NDArray[np.int32]
    bin: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.frame)


@dataclass(frozen=True, slots=True)
class Picking:
    """Which local maxima become peaks.

    Parameters
    ----------
    reach_frames, reach_bins
        A peak is the maximum over so many frames and bins to either side.
    peaks_per_s
        The most salient are kept, so many for each second of audio.
    """

    reach_frames: int
    reach_bins: int
    peaks_per_s: float


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
        parts = rfft(framed, axis=1).view(np.float32)[:, : 2 * n_bins(settings)]
        np.multiply(parts, parts, out=parts)
        np.add(parts[:, 0::2], parts[:, 1::2], out=power)
        return power[:count]

    for block in blocks:
        waiting = np.concatenate([waiting, block]) if len(waiting) else block
        start = 0
        while len(waiting) - start >= need:
            yield transform(waiting[start : start + need], BATCH)
            start += BATCH * hop
        waiting = waiting[start:]
    left = (len(waiting) - size) // hop + 1
    if left > 0:
        yield transform(waiting, left)


def pick_peaks(batches: Iterable[NDArray[np.float32]], settings: Settings, picking: Picking) -> Peaks:
    """Choose the peaks of a spectrogram.

    1. A peak is above `SILENCE` and the maximum over the reach around it; past the edges there is nothing.
    2. Its salience is its log power less the mean log power around it (`BAND` bins, `SURROUNDINGS_S` to either side).
    3. It stays if fewer than ``peaks_per_s`` times the length of its surroundings stand around it with more salience.

    Parameters
    ----------
    batches
        ``(n, n_bins)`` float32 power each.

    Returns
    -------
    Peaks
        In the frames of the spectrogram.
    """
    frames, bins, levels, bands = [], [], [], []
    reach = picking.reach_frames
    width = n_bins(settings)
    held_power = held_max = np.zeros((reach, width), np.float32)  # the edge: `reach` frames of nothing come first
    first = -reach  # frame of the first held row

    def harvest(power: NDArray[np.float32], row_max: NDArray[np.float32]) -> None:
        centre = power[reach : len(power) - reach]
        is_peak = (centre == running_max(row_max, reach, axis=0)) & (centre > SILENCE)
        is_peak[:, :LOWEST_BIN] = False
        row, column = np.divmod(np.flatnonzero(is_peak), width)  # a third of the time of np.nonzero
        frames.append((row + (first + reach)).astype(np.int32))
        bins.append(column.astype(np.int32))
        levels.append(np.log(centre[row, column]))

    edge = np.zeros((width, reach), np.float32)
    for power in batches:
        log_power = np.log(power + np.float32(SILENCE))
        bands.append(log_power.reshape(len(power), -1, BAND).mean(axis=2))
        sideways = np.zeros((len(power), width + 2 * picking.reach_bins), np.float32)
        sideways[:, picking.reach_bins : picking.reach_bins + width] = power
        row_max = running_max(sideways, picking.reach_bins, axis=1)
        held_power = np.concatenate([held_power, power])
        held_max = np.concatenate([held_max, row_max])
        if len(held_power) > 2 * reach:
            harvest(held_power, held_max)
            first += len(held_power) - 2 * reach
            held_power, held_max = held_power[-2 * reach :], held_max[-2 * reach :]
    if not bands:
        return Peaks(np.empty(0, np.int32), np.empty(0, np.int32))
    harvest(np.concatenate([held_power, edge.T]), np.concatenate([held_max, edge.T]))
    frame, bin_, level = np.concatenate(frames), np.concatenate(bins), np.concatenate(levels)
    around = round(SURROUNDINGS_S / settings.frame_s)
    salience = level - _local_level(np.concatenate(bands), around, frame, bin_)
    most = picking.peaks_per_s * (2 * around + 1) * settings.frame_s
    keep = _more_salient_around(frame, salience, around, int(np.ceil(most))) < most
    return Peaks(frame[keep], bin_[keep])


def running_max(x: NDArray[np.float32], reach: int, axis: int) -> NDArray[np.float32]:
    """Maximum over `reach` places to either side along one axis of two, ``2 * reach`` places fewer, in log2 passes."""
    size, span = 2 * reach + 1, 1
    while 2 * span <= size:
        x = np.maximum(x[:-span], x[span:]) if axis == 0 else np.maximum(x[:, :-span], x[:, span:])
        span *= 2
    rest = size - span
    if rest:
        x = np.maximum(x[:-rest], x[rest:]) if axis == 0 else np.maximum(x[:, :-rest], x[:, rest:])
    return x


def running_sum(x: NDArray[np.float32], reach: int) -> NDArray[np.float32]:
    """Sum over each row and `reach` rows to either side, fewer at the ends: bit for bit the same wherever it stands."""
    padded = np.zeros((len(x) + 2 * reach, *x.shape[1:]), np.float32)
    padded[reach : reach + len(x)] = x
    total = np.zeros_like(x)
    for shift in range(2 * reach + 1):
        total += padded[shift : shift + len(x)]
    return total


def _local_level(
    bands: NDArray[np.float32], around: int, frame: NDArray[np.int32], bin_: NDArray[np.int32]
) -> NDArray[np.float32]:
    """Mean log power around each peak: of `around` frames to either side, between the two nearest bands."""
    count = running_sum(np.ones((len(bands), 1), np.float32), around)
    mean = running_sum(bands, around) / count
    place = np.clip((bin_ + 0.5) / BAND - 0.5, 0, bands.shape[1] - 1).astype(np.float32)
    low = np.minimum(place.astype(np.int32), bands.shape[1] - 2)
    share = place - low
    level: NDArray[np.float32] = mean[frame, low] * (1 - share) + mean[frame, low + 1] * share
    return level


def _more_salient_around(
    frame: NDArray[np.int32], salience: NDArray[np.float32], around: int, enough: int
) -> NDArray[np.int32]:
    """How many peaks within `around` frames are more salient, or at least `enough` of them when there are more."""
    more = np.zeros(len(frame), np.int32)
    for step in range(1, len(frame)):
        near = frame[step:] - frame[:-step] <= around
        if not near.any():
            break
        later_wins = salience[step:] > salience[:-step]
        more[:-step] += near & later_wins
        more[step:] += near & ~later_wins
    return more
