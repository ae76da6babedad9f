"""Samples to spectrogram to peaks: the constellation of a song or a clip.

Audio streams through in batches of frames whose place is absolute (frame 0, 128, 256, ...), so that a song read in
blocks of any size gives the same bits as one read whole, and memory hardly grows with its length. Only what is small
outlives a batch: the local maxima, and the mean log level of each band of each frame. From these the salient peaks
are chosen at the end, by rules that look only at what surrounds them: where the recording starts does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.fingerprinting.settings import BAND, LEVEL_DB, LOWEST_BIN, SILENCE, SURROUNDINGS_S, Settings
from pipeline.fingerprinting.spectrogram import n_bins

STRETCH = 8192  # frames whose levels are worked out at once: three hours of them would take 150 MB


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
    """Local maxima of a spectrogram and how far they stand out, sorted by frame, then bin.

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
    """Every point of a spectrogram that is above `SILENCE` and the maximum over its reach; past the edges is nothing.

    Parameters
    ----------
    batches
        ``(n, n_bins)`` float32 power each.
    reach_frames, reach_bins
        How far a maximum rules, to either side.

    Returns
    -------
    Maxima
        Their salience is over the mean log power of `BAND` bins and `SURROUNDINGS_S` to either side.
    """
    width = n_bins(settings)
    row = width + 2 * reach_bins  # past the lowest and the highest bin is nothing
    held = np.zeros((reach_frames, row), np.float32)  # nor is before the first frame
    first = 0  # the first frame that is not yet decided
    found: list[tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]] = []
    bands = []

    def decide(power: NDArray[np.float32]) -> None:
        """Find the maxima of the frames that now have all their neighbours, given the next ones."""
        nonlocal held, first
        rows = np.zeros((len(held) + len(power), row), np.float32)
        rows[: len(held)] = held
        rows[len(held) :, reach_bins : reach_bins + width] = power
        held = rows[-2 * reach_frames :]
        n_frames = len(rows) - 2 * reach_frames
        if n_frames <= 0:
            return
        flat = rows.reshape(-1)  # frame after frame: what runs over a frame's end falls on the bins past the edges
        highest = running_max(running_max(flat, reach_bins, 1), reach_frames, row)
        centre = flat[reach_frames * row + reach_bins :][: len(highest)]
        place = np.flatnonzero((centre == highest) & (centre > SILENCE))  # a third of the time of np.nonzero
        place = place[place % row >= LOWEST_BIN]
        found.append(((place // row + first).astype(np.int32), (place % row).astype(np.int32), centre[place]))
        first += n_frames

    for power in batches:
        log_power = np.log(power + np.float32(SILENCE)).reshape(len(power), -1, BAND)
        bands.append(np.einsum("fbi->fb", log_power) / np.float32(BAND))  # a fifth of the time of mean(axis=2)
        decide(power)
    if not bands:
        none, nothing = np.empty(0, np.int32), np.empty(0, np.float32)
        return Maxima(none, none, nothing, nothing)
    decide(np.zeros((reach_frames, width), np.float32))
    frame, bin_, power = (np.concatenate(part) for part in zip(*found, strict=True))
    found.clear()  # of many hours what is in pieces and what is joined need not be there both
    levels = np.concatenate(bands)
    bands.clear()
    level = np.log(power)
    around = round(SURROUNDINGS_S / settings.frame_s)
    return Maxima(frame, bin_, level, level - _local_level(levels, around, frame, bin_))


def most_salient(maxima: Maxima, settings: Settings, peaks_per_s: float) -> Peaks:
    """The maxima that become peaks: about so many in each second, whatever the loudness.

    A maximum stays if, within `SURROUNDINGS_S` to either side of it, fewer stand out more than `peaks_per_s` allows for
    that time. Hence nothing depends on where the recording starts.
    """
    around = round(SURROUNDINGS_S / settings.frame_s)
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
    """Sum over `reach` rows to either side, ``2 * reach`` rows fewer: bit for bit alike wherever the rows stand."""
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
    for start in range(0, len(bands), STRETCH):
        some = slice(*np.searchsorted(frame, [start, start + STRETCH]).tolist())
        first = max(start - around, 0)
        level[some] = _level_in(bands[first : start + STRETCH + around], around, frame[some] - first, bin_[some])
    return level


def _level_in(
    bands: NDArray[np.float32], around: int, frame: NDArray[np.int32], bin_: NDArray[np.int32]
) -> NDArray[np.float32]:
    """`_local_level` of peaks that have all the frames around them in these bands, or stand at the recording's ends."""
    edges = ((around, around), (0, 0))
    count = running_sum(np.pad(np.ones((len(bands), 1), np.float32), edges), around)
    mean = running_sum(np.pad(bands, edges), around) / count
    place = np.clip((bin_ + 0.5) / BAND - 0.5, 0, bands.shape[1] - 1).astype(np.float32)
    low = np.minimum(place.astype(np.int32), bands.shape[1] - 2)
    share = place - low
    level: NDArray[np.float32] = mean[frame, low] * (1 - share) + mean[frame, low + 1] * share
    return level


def _more_salient_around(frame: NDArray[np.int32], salience: NDArray[np.float32], around: int) -> NDArray[np.int32]:
    """How many within `around` frames are more salient; of equals the earlier is."""
    more = np.zeros(len(frame), np.int32)
    recently = np.zeros(len(frame), np.int8)  # bytes are added without a conversion: half the time of a song
    for step in range(1, len(frame)):
        near = frame[step:] - frame[:-step] <= around
        if not near.any():
            break
        later_wins = near & (salience[step:] > salience[:-step])
        recently[:-step] += later_wins.view(np.int8)
        recently[step:] += (near ^ later_wins).view(np.int8)
        if step % 63 == 0:  # two a step at most: a byte holds 127
            more += recently
            recently[:] = 0
    return more + recently
