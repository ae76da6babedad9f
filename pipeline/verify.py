"""A candidate against its song's own constellation: the clip must sound where the song has its peaks.

Votes only bring the true place among the best hundred. Here the clip's log spectrogram is passed through a matched
filter, which answers most where a tone begins or ends and stands out of its neighbourhood, and is read at exactly
the frames and bins where the song, so placed, has its peaks. What that gives by chance is measured on the spot: at
other places of the same song, and with the same peaks moved aside by a few bins.

The filter is the linear discriminant between what surrounds the peaks of true candidates and of the best false ones, on
real music in rooms, under voices and noise, made separable and symmetric. False candidates are no random places: they
are music in the same key, whose tones stand at the same bins but begin and end at other times.
docs/RECOGNITION.md has the figures, and what else was tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.constellation import LOWEST_BIN, SILENCE, Peaks, running_sum

# The filter is separable. Along each axis: weights around the point, and one for everything further around.
LOBE = (-0.16, 0.41, 1.04, 0.41, -0.16)  # of the window, across bins
LOBE_AROUND, LOBE_REST = 16, -1.54 / 33  # an even spectrum gives 0
COURSE = (-0.19, 0.47, 1.06, 0.47, -0.19)  # across frames: a tone that begins or ends here, not one that stands
COURSE_AROUND, COURSE_REST = 8, -0.06
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
        Mean of the matched filter over them.
    places_level, places_spread
        Mean and standard deviation of the same at other places of the song.
    bins_level, bins_spread
        The same with the peaks moved aside.
    """

    peaks: int
    level: float
    places_level: float
    places_spread: float
    bins_level: float
    bins_spread: float


def tones(power: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the matched filter answers.

    Parameters
    ----------
    power
        ``(n_frames, n_bins)`` float32.

    Returns
    -------
    NDArray
        ``(n_frames, n_bins)`` float32; 0 where nothing stands out, 1 a standard deviation of the frame.
    """
    log_power = np.log(power + np.float32(SILENCE))
    across_bins = _weighted(np.ascontiguousarray(log_power.T), LOBE, LOBE_AROUND, LOBE_REST).T
    answer: NDArray[np.float32] = _weighted(np.ascontiguousarray(across_bins), COURSE, COURSE_AROUND, COURSE_REST)
    answer /= answer.std(axis=1, keepdims=True) + np.float32(0.1)
    return answer


def _weighted(x: NDArray[np.float32], weights: Sequence[float], around: int, rest: float) -> NDArray[np.float32]:
    """Weighted sum of neighbouring rows, and `rest` times all within `around`; the edge rows go on beyond the edges."""
    n_rows = len(x)
    padded = np.pad(x, ((around, around), (0, 0)), mode="edge")
    total = np.float32(rest) * running_sum(padded, around)
    for place, weight in enumerate(weights, start=around - len(weights) // 2):
        total += np.float32(weight) * padded[place : place + n_rows]
    return total


def listen(surface: NDArray[np.float32], song: Peaks, place: int) -> tuple[int, float]:
    """How many peaks the song has where the clip lies, and the mean answer of the filter there.

    Parameters
    ----------
    surface
        ``(n_frames, n_bins)`` float32, what `tones` gave.
    song
        The song's constellation.
    place
        The song's frame at which the clip's frame 0 lies.
    """
    first, last = np.searchsorted(song.frame, [place, place + len(surface)])
    if first == last:
        return 0, 0.0
    return int(last - first), float(surface[song.frame[first:last] - place, song.bin[first:last]].mean())


def weigh(surface: NDArray[np.float32], song: Peaks, place: int) -> Evidence:
    """`listen`, and what it gives by chance."""
    n_frames, n_bins = surface.shape
    peaks, level = listen(surface, song, place)
    if not peaks:
        return Evidence(0, 0.0, 0.0, 1.0, 0.0, 1.0)
    first, last = np.searchsorted(song.frame, [place, place + n_frames])
    frame, bin_ = song.frame[first:last] - place, song.bin[first:last]
    aside = bin_[None, :] + np.array(BINS_ASIDE, np.int32)[:, None]
    aside = np.where(aside >= n_bins, 2 * n_bins - 2 - aside, aside)
    aside = np.where(aside < LOWEST_BIN, 2 * LOWEST_BIN - aside, aside)
    moved = surface[frame[None, :], aside].mean(axis=1)
    elsewhere = _elsewhere(surface, song, place)
    return Evidence(
        peaks, level, float(elsewhere.mean()), float(elsewhere.std()), float(moved.mean()), float(moved.std())
    )


def _elsewhere(surface: NDArray[np.float32], song: Peaks, place: int) -> NDArray[np.float32]:
    """The mean answer at other places of the song, at least two frames from this one; zeros when it has too few."""
    n_frames = len(surface)
    last = int(song.frame[-1]) - n_frames // 2
    places = np.unique(np.linspace(-(n_frames // 2), last, OTHER_PLACES).astype(np.int32))
    places = places[np.abs(places - place) > 2]
    first = np.searchsorted(song.frame, places)
    count = np.searchsorted(song.frame, places + n_frames) - first
    places, first, count = places[count > 0], first[count > 0], count[count > 0]
    if len(places) < 8:
        return np.zeros(1, np.float32)
    starts = np.cumsum(count) - count
    index = np.arange(count.sum()) - np.repeat(starts - first, count)
    answers = surface[song.frame[index] - np.repeat(places, count), song.bin[index]]
    means: NDArray[np.float32] = np.add.reduceat(answers, starts) / count
    return means
