"""A candidate against its song's own constellation: how far the clip sounds where the song has its peaks.

Votes only bring the true place among the best few. Here the clip's spectrogram is read at exactly the frames and bins
where the song, so placed, has its peaks: how far does the level stand above its surroundings? What it would be by
chance is measured on the spot: at other places of the same song, and with the same peaks moved aside by a few bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.constellation import LOWEST_BIN, SILENCE, Peaks, running_max

AROUND_FRAMES = 10  # the surroundings that a level is compared with
AROUND_BINS = 16
OTHER_PLACES = 60
BINS_ASIDE = tuple(sign * step for step in range(4, 28, 2) for sign in (-1, 1))


@dataclass(frozen=True, slots=True)
class Evidence:
    """How a clip sounds at a song's peaks.

    Parameters
    ----------
    peaks
        How many peaks the song has where the clip lies.
    level
        Mean over them of the clip's level above its surroundings, in standard deviations of the surroundings.
    over_places, over_bins
        The same in standard deviations of what it is at other places of the song, and with the peaks moved aside.
    """

    peaks: int
    level: float
    over_places: float
    over_bins: float


def prominence(power: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far each bin of a clip's spectrogram, or the best of its 8 neighbours, stands above its surroundings.

    Parameters
    ----------
    power
        ``(n_frames, n_bins)`` float32.

    Returns
    -------
    NDArray
        ``(n_frames, n_bins)`` float32, in standard deviations of the log power around.
    """
    log_power = np.log(power + np.float32(SILENCE))
    log_power -= log_power.mean()
    mean = _box_mean(log_power)
    spread = np.sqrt(np.maximum(_box_mean(log_power * log_power) - mean * mean, 1e-4))
    padded = np.pad((log_power - mean) / spread, 1, mode="edge")
    return running_max(running_max(padded, 1, axis=0), 1, axis=1)


def _box_mean(x: NDArray[np.float32]) -> NDArray[np.float32]:
    for axis, around in ((0, AROUND_FRAMES), (1, AROUND_BINS)):
        total = np.cumsum(x, axis=axis, dtype=np.float64)
        total = np.concatenate([np.zeros_like(total.take([0], axis)), total], axis=axis)
        places = np.arange(x.shape[axis])
        high = np.minimum(places + around + 1, x.shape[axis])
        low = np.maximum(places - around, 0)
        count = (high - low).reshape((-1, 1) if axis == 0 else (1, -1))
        x = ((total.take(high, axis) - total.take(low, axis)) / count).astype(np.float32)
    return x


def weigh(surface: NDArray[np.float32], song: Peaks, place: int) -> Evidence:
    """The evidence for a clip lying at a place of a song.

    Parameters
    ----------
    surface
        ``(n_frames, n_bins)`` float32, what `prominence` gave.
    song
        The song's constellation.
    place
        The song's frame at which the clip's frame 0 lies.
    """
    n_frames, n_bins = surface.shape
    first, last = np.searchsorted(song.frame, [place, place + n_frames])
    frame, bin_ = song.frame[first:last] - place, song.bin[first:last]
    if not len(frame):
        return Evidence(0, 0.0, 0.0, 0.0)
    level = float(surface[frame, bin_].mean())
    aside = np.abs(bin_[None, :] + np.array(BINS_ASIDE, np.int32)[:, None])
    aside = np.where(aside >= n_bins, 2 * n_bins - 2 - aside, aside)
    aside = np.where(aside < LOWEST_BIN, 2 * LOWEST_BIN - aside, aside)
    moved = surface[frame[None, :], aside].mean(axis=1)
    return Evidence(len(frame), level, _standing(level, _elsewhere(surface, song, place)), _standing(level, moved))


def _elsewhere(surface: NDArray[np.float32], song: Peaks, place: int) -> NDArray[np.float32]:
    """The mean level at other places of the song, at least two frames from this one."""
    n_frames = len(surface)
    span = int(song.frame[-1]) + n_frames // 2
    places = np.unique(np.linspace(-(n_frames // 2), span - n_frames, OTHER_PLACES).astype(np.int32))
    places = places[np.abs(places - place) > 2]
    first = np.searchsorted(song.frame, places)
    count = np.searchsorted(song.frame, places + n_frames) - first
    places, first, count = places[count > 0], first[count > 0], count[count > 0]
    if not len(places):
        return np.zeros(0, np.float32)
    starts = np.cumsum(count) - count
    index = np.arange(count.sum()) - np.repeat(starts - first, count)
    levels = surface[song.frame[index] - np.repeat(places, count), song.bin[index]]
    means: NDArray[np.float32] = np.add.reduceat(levels, starts) / count
    return means


def _standing(level: float, null: NDArray[np.float32]) -> float:
    if len(null) < 8:
        return 0.0
    return float((level - null.mean()) / max(float(null.std()), 0.02))
