"""Spectrogram to peaks: the constellation of a song or a clip.

The spectrogram comes in batches, and only little is kept of each: the local maxima, and the mean log level of each band
of each frame. From these the salient peaks are chosen at the end. A peak depends only on its neighbourhood, so that it
does not matter where the recording starts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.fingerprinting.settings import BAND_BINS, LEVEL_DB, LOWEST_BIN, NEIGHBOURHOOD_S, SILENCE, Settings
from pipeline.fingerprinting.spectrogram import n_bins

FRAMES_AT_ONCE = 8192  # local levels are computed for so many frames at once; for three hours they take 150 MB


@dataclass(frozen=True, slots=True, eq=False)
class Peaks:
    """Local maxima of a spectrogram, sorted by frame, then bin.

    Parameters
    ----------
    frame, bin
        ``(n_peaks,)`` int32.
    level
        ``(n_peaks,)`` int8: power, in steps of `LEVEL_DB`.
    """

    frame: NDArray[np.int32]
    bin: NDArray[np.int32]
    level: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.frame)


@dataclass(frozen=True, slots=True, eq=False)
class Maxima:
    """Local maxima of a spectrogram and their salience, sorted by frame, then bin.

    Parameters
    ----------
    frame, bin
        ``(n,)`` int32.
    level
        ``(n,)`` float32: log power.
    salience
        ``(n,)`` float32: log power less the mean log power around.
    """

    frame: NDArray[np.int32]
    bin: NDArray[np.int32]
    level: NDArray[np.float32]
    salience: NDArray[np.float32]


def find_maxima(
    batches: Iterable[NDArray[np.float32]], settings: Settings, reach_frames: int, reach_bins: int
) -> Maxima:
    """Every point of a spectrogram that is above `SILENCE` and the maximum over its reach; beyond the edges power is 0.

    Parameters
    ----------
    batches
        ``(n, n_bins)`` float32 power each.
    reach_frames, reach_bins
        Frames and bins to either side over which a point must be the maximum.

    Returns
    -------
    Maxima
        Their salience is over the mean log power of `BAND_BINS` bins and `NEIGHBOURHOOD_S` to either side.
    """
    width = n_bins(settings)
    row = width + 2 * reach_bins  # zeros beyond the lowest and the highest bin
    pending = np.zeros((reach_frames, row), np.float32)  # and before the first frame
    first = 0  # the first frame whose maxima are not known yet
    found: list[tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]] = []
    bands = []

    def add_frames(power: NDArray[np.float32]) -> None:
        """Take the next frames, and find the maxima of the frames whose neighbours are now all there."""
        nonlocal pending, first
        rows = np.zeros((len(pending) + len(power), row), np.float32)
        rows[: len(pending)] = pending
        rows[len(pending) :, reach_bins : reach_bins + width] = power
        pending = rows[-2 * reach_frames :]
        n_frames = len(rows) - 2 * reach_frames
        if n_frames <= 0:
            return
        flat = rows.reshape(-1)  # frame after frame: what runs over a frame's end falls on the zeros beyond the edges
        highest = running_max(running_max(flat, reach_bins, 1), reach_frames, row)
        centre = flat[reach_frames * row + reach_bins :][: len(highest)]
        index = np.flatnonzero((centre == highest) & (centre > SILENCE))  # a third of the time of np.nonzero
        index = index[index % row >= LOWEST_BIN]
        found.append(((index // row + first).astype(np.int32), (index % row).astype(np.int32), centre[index]))
        first += n_frames

    for power in batches:
        log_power = np.log(power + np.float32(SILENCE)).reshape(len(power), -1, BAND_BINS)
        bands.append(np.einsum("fbi->fb", log_power) / np.float32(BAND_BINS))  # a fifth of the time of mean(axis=2)
        add_frames(power)
    if not bands:
        none, nothing = np.empty(0, np.int32), np.empty(0, np.float32)
        return Maxima(none, none, nothing, nothing)
    add_frames(np.zeros((reach_frames, width), np.float32))
    frame, bin_, power = (np.concatenate(part) for part in zip(*found, strict=True))
    found.clear()  # for many hours of audio, the pieces and the joined arrays do not fit in memory together
    levels = np.concatenate(bands)
    bands.clear()
    level = np.log(power)
    around = round(NEIGHBOURHOOD_S / settings.frame_s)
    return Maxima(frame, bin_, level, level - _local_level(levels, around, frame, bin_))


def most_salient(maxima: Maxima, settings: Settings, peaks_per_s: float) -> Peaks:
    """The maxima that become peaks: about `peaks_per_s` in each second, whatever the loudness.

    A maximum becomes a peak if fewer maxima within `NEIGHBOURHOOD_S` to either side are more salient than `peaks_per_s`
    allows for that time. Hence nothing depends on where the recording starts.
    """
    around = round(NEIGHBOURHOOD_S / settings.frame_s)
    most = peaks_per_s * (2 * around + 1) * settings.frame_s
    keep = _more_salient_around(maxima.frame, maxima.salience, around) < most
    steps = np.rint(maxima.level[keep] * (10 / np.log(10) / LEVEL_DB))
    return Peaks(maxima.frame[keep], maxima.bin[keep], steps.astype(np.int8))


def running_max(x: NDArray[np.float32], reach: int, step: int) -> NDArray[np.float32]:
    """Maximum over `reach` values to either side, `step` apart: ``2 * reach * step`` fewer, in log2 passes."""
    size, span = 2 * reach + 1, 1
    while 2 * span <= size:
        x = np.maximum(x[: -span * step], x[span * step :])
        span *= 2
    rest = size - span
    return np.maximum(x[: -rest * step], x[rest * step :]) if rest else x


def running_sum(x: NDArray[np.float32], reach: int) -> NDArray[np.float32]:
    """Sum over `reach` rows to either side, ``2 * reach`` rows fewer: the same bits wherever the rows are."""
    n_rows = len(x) - 2 * reach
    total = np.zeros_like(x[:n_rows])
    part, span, start = x, 1, 0
    size = 2 * reach + 1
    while size:  # the window as a sum of windows of 1, 2, 4, ... rows
        if size & 1:
            total += part[start : start + n_rows]
            start += span
        size >>= 1
        if size:
            part = part[:-span] + part[span:]
            span *= 2
    return total


def _local_level(
    bands: NDArray[np.float32], around: int, frame: NDArray[np.int32], bin_: NDArray[np.int32]
) -> NDArray[np.float32]:
    """Mean log power around each peak: of `around` frames to either side, between the two nearest bands."""
    level = np.empty(len(frame), np.float32)
    for start in range(0, len(bands), FRAMES_AT_ONCE):
        some = slice(*np.searchsorted(frame, [start, start + FRAMES_AT_ONCE]).tolist())
        first = max(start - around, 0)
        level[some] = _level_in(bands[first : start + FRAMES_AT_ONCE + around], around, frame[some] - first, bin_[some])
    return level


def _level_in(
    bands: NDArray[np.float32], around: int, frame: NDArray[np.int32], bin_: NDArray[np.int32]
) -> NDArray[np.float32]:
    """`_local_level` of peaks whose neighbourhood is in these bands, or cut off by the recording's ends."""
    edges = ((around, around), (0, 0))
    count = running_sum(np.pad(np.ones((len(bands), 1), np.float32), edges), around)
    mean = running_sum(np.pad(bands, edges), around) / count
    band = np.clip((bin_ + 0.5) / BAND_BINS - 0.5, 0, bands.shape[1] - 1).astype(np.float32)
    low = np.minimum(band.astype(np.int32), bands.shape[1] - 2)
    share = band - low
    level: NDArray[np.float32] = mean[frame, low] * (1 - share) + mean[frame, low + 1] * share
    return level


def _more_salient_around(frame: NDArray[np.int32], salience: NDArray[np.float32], around: int) -> NDArray[np.int32]:
    """How many within `around` frames are more salient; of equals the earlier is."""
    more = np.zeros(len(frame), np.int32)
    partial = np.zeros(len(frame), np.int8)  # booleans are added to int8 without a conversion, in half the time
    for step in range(1, len(frame)):
        near = frame[step:] - frame[:-step] <= around
        if not near.any():
            break
        later_wins = near & (salience[step:] > salience[:-step])
        partial[:-step] += later_wins.view(np.int8)
        partial[step:] += (near ^ later_wins).view(np.int8)
        if step % 63 == 0:  # each step adds 2 at most, and an int8 holds 127
            more += partial
            partial[:] = 0
    return more + partial
