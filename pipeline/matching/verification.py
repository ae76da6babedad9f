"""A candidate against its song's own constellation: the clip must sound where the song has its peaks.

Votes only bring the true place among the best hundred. Here the clip's log spectrogram is passed through a matched
filter, which answers most where a tone begins or ends and stands out of its neighbourhood, and is read at exactly
the frames and bins where the song, so placed, has its peaks. What that gives by chance is measured on the spot: with
the same peaks moved aside by a few bins, and by the other songs that votes brought for the same clip.

The filter is the linear discriminant between what surrounds the peaks of true candidates and of the best false ones, on
real music in rooms, under voices and noise, made separable and symmetric. False candidates are no random places: they
are music in the same key, whose tones stand at the same bins but begin and end at other times.

How loud the song's peaks are says more. Noise drowns the quiet ones first, so that the loud ones count for more. And it
only adds: a song that is in the clip has its loud peaks there, all with about the same gain. Music that merely shares
some sounds with the song, a drum loop or a sample, lacks what else the song plays there.
docs/RECOGNITION.md has the figures, and what else was tried.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.fingerprinting.peaks import Peaks, running_sum
from pipeline.fingerprinting.settings import LEVEL_DB, LOWEST_BIN, SILENCE

# The filter is separable. Along each axis: weights around the point, and one for everything further around.
LOBE = (-0.16, 0.41, 1.04, 0.41, -0.16)  # of the window, across bins
LOBE_AROUND, LOBE_REST = 16, -1.54 / 33  # an even spectrum gives 0
COURSE = (-0.19, 0.47, 1.06, 0.47, -0.19)  # across frames: a tone that begins or ends here, not one that stands
COURSE_AROUND, COURSE_REST = 8, -0.06
BINS_ASIDE = tuple(sign * step for step in range(4, 28, 2) for sign in (-1, 1))
NEPERS = LEVEL_DB * math.log(10) / 10  # a step of a peak's level, as log power
# What a peak counts for, by its level and 128 more: the fourth root of its power.
LOUDNESS: NDArray[np.float32] = np.exp(np.arange(-128, 128) * (NEPERS / 4)).astype(np.float32)
# A loud peak is lacking if it is this much weaker than the best heard ones say (log power: 13 dB), but not so much that
# the loudspeaker will have no such tones (22 dB).
LACKING, CUT_OFF, BEST_HEARD = -3.0, -5.0, 0.7
# Where peaks are added up, none says more than so much, either way: a click is not to outvote the others.
BOUNDS = (-1.5, 4.0)
# Songs are versions of one recording when so many of one's peaks are the other's too; chance gives a tenth to a sixth.
RELATED = 0.25
ROW = 1 << 12  # a frame and a bin as one number


@dataclass(frozen=True, slots=True)
class Heard:
    """A clip as verification hears it, ``(n_frames, n_bins)`` float32 each.

    Parameters
    ----------
    answer
        What the matched filter of `tones` answers.
    level
        Log power, the most of a frame and its two neighbours.
    """

    answer: NDArray[np.float32]
    level: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Evidence:
    """How a clip sounds at a song's peaks.

    Parameters
    ----------
    peaks
        How many peaks the song has where the clip lies.
    answer
        Mean answer of the matched filter at them, the louder ones counted for more.
    aside_mean, aside_spread
        Mean and standard deviation of the same with the peaks moved aside.
    plain_answer
        `answer`, all peaks counted alike.
    likeness
        Correlation of the levels of the song's peaks with those of the clip there.
    lacking
        Share of the louder peaks that the clip should have, and has not.
    """

    peaks: int
    answer: float
    aside_mean: float
    aside_spread: float
    plain_answer: float
    likeness: float
    lacking: float


NO_EVIDENCE = Evidence(0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0)


def tones(log_power: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the matched filter answers.

    Parameters
    ----------
    log_power
        ``(n_frames, n_bins)`` float32.

    Returns
    -------
    NDArray
        ``(n_frames, n_bins)`` float32; 0 where nothing stands out, 1 a standard deviation of the frame.
    """
    # all arrays stay in the order of memory that the spectrogram has: to transpose it takes longer than to filter it
    across_bins = _weighted(log_power.T, LOBE, LOBE_AROUND, LOBE_REST).T
    answer: NDArray[np.float32] = _weighted(across_bins, COURSE, COURSE_AROUND, COURSE_REST)
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


def hear(power: NDArray[np.float32]) -> Heard:
    """What verification needs of a clip.

    Parameters
    ----------
    power
        ``(n_frames, n_bins)`` float32.
    """
    log_power = np.log(power + np.float32(SILENCE))
    level = log_power.copy()
    np.maximum(level[1:], log_power[:-1], out=level[1:])
    np.maximum(level[:-1], log_power[1:], out=level[:-1])
    return Heard(tones(log_power), level)


def listen(answer: NDArray[np.float32], song: Peaks, place: int) -> tuple[int, float]:
    """How many peaks the song has where the clip lies, and the mean answer of the filter there.

    Parameters
    ----------
    answer
        ``(n_frames, n_bins)`` float32, what `tones` gave.
    song
        The song's constellation; louder peaks count for more.
    place
        The song's frame at which the clip's frame 0 lies.
    """
    first, last = _inside(song, place, len(answer))
    if first == last:
        return 0, 0.0
    answers = answer[song.frame[first:last] - place, song.bin[first:last]]
    return last - first, float(_mean(answers, loudness(song.level[first:last])))


def compare(one: tuple[Heard, Peaks, int], other: tuple[Heard, Peaks, int]) -> tuple[float, float]:
    """Which of two songs is in the clip, if they are versions of one recording.

    Parameters
    ----------
    one, other
        The clip as heard, a song, and the song's frame at which the clip's frame 0 lies.

    Returns
    -------
    shared : float
        The share of the one's peaks that the other has too, by a frame and a bin.
    margin : float
        By how much more what only the one has is heard than what only the other has; what they share speaks for both.
    """
    (frame, bin_), (its_frame, its_bin) = (
        _peaks(song, place, len(heard.answer)) for heard, song, place in (one, other)
    )
    shared, its_shared = beside(frame, bin_, its_frame, its_bin), beside(its_frame, its_bin, frame, bin_)
    alone = one[0].answer[frame[~shared], bin_[~shared]].clip(*BOUNDS)
    its_alone = other[0].answer[its_frame[~its_shared], its_bin[~its_shared]].clip(*BOUNDS)
    return float(shared.mean()) if len(shared) else 0.0, float(alone.sum() - its_alone.sum())


def _peaks(song: Peaks, place: int, n_frames: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The song's peaks where a clip lies: frame in the clip, and bin."""
    first, last = _inside(song, place, n_frames)
    return song.frame[first:last] - np.int32(place), song.bin[first:last]


def beside(
    frame: NDArray[np.integer], bin_: NDArray[np.integer], its_frame: NDArray[np.integer], its_bin: NDArray[np.integer]
) -> NDArray[np.bool_]:
    """Which peaks of a song have one of another song at most a frame and a bin away."""
    around = [(its_frame + frames) * ROW + its_bin + bins for frames in (-1, 0, 1) for bins in (-1, 0, 1)]
    return np.isin(frame * ROW + bin_, np.concatenate(around))


def _inside(song: Peaks, place: int, n_frames: int) -> tuple[int, int]:
    """From and up to which of the song's peaks a clip lies."""
    ends = np.array([place, place + n_frames], np.int32)  # int32 as they are: else all frames are converted first
    first, last = np.searchsorted(song.frame, ends).tolist()
    return first, last


def weigh(heard: Heard, song: Peaks, place: int) -> Evidence:
    """`listen`, what it gives by chance, and how the levels agree."""
    n_frames, n_bins = heard.answer.shape
    first, last = _inside(song, place, n_frames)
    if first == last:
        return NO_EVIDENCE
    # one index into rows end to end, of the type that numpy wants: a third of the time of two
    row, bin_ = (song.frame[first:last] - place).astype(np.intp) * n_bins, song.bin[first:last].astype(np.intp)
    weights = loudness(song.level[first:last])
    aside = bin_ + np.array(BINS_ASIDE)[:, None]
    aside = np.where(aside >= n_bins, 2 * n_bins - 2 - aside, aside)
    aside = np.where(aside < LOWEST_BIN, 2 * LOWEST_BIN - aside, aside)
    answers, moved = heard.answer.take(row + bin_), _mean(heard.answer.take(row + aside), weights)
    level, its = song.level[first:last] * np.float32(NEPERS), heard.level.take(row + bin_)
    return Evidence(
        last - first,
        float(_mean(answers, weights)),
        float(moved.mean()),
        float(moved.std()),
        float(answers.mean()),
        _correlation(level, its),
        _lacking(level, its),
    )


def loudness(level: NDArray[np.int8]) -> NDArray[np.float32]:
    """What peaks count for, by their levels in the song."""
    weights: NDArray[np.float32] = LOUDNESS[level.astype(np.intp) + 128]
    return weights


def _mean(answers: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of the last axis, the louder peaks counted for more."""
    mean: NDArray[np.float32] = answers @ weights / weights.sum()
    return mean


def _correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    one, other = one - one.mean(), other - other.mean()
    size = math.sqrt(float(one @ one) * float(other @ other))
    return float(one @ other) / size if size else 0.0


def _lacking(level: NDArray[np.float32], its: NDArray[np.float32]) -> float:
    """Share of the louder half of peaks that are much weaker in the clip than the best heard of them say."""
    loud = level > np.median(level)
    if not loud.any():
        return 0.0
    gain = its[loud] - level[loud]
    over = gain - float(np.quantile(gain, BEST_HEARD))
    return float(((over < LACKING) & (over > CUT_OFF)).mean())
