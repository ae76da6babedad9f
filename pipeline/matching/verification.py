"""A candidate against its song's own constellation: the clip must sound where the song has its peaks.

Votes only bring the true place among the best hundred. Here the clip's log spectrogram is passed through a matched
filter. Its response is highest where a tone begins or ends and is louder than its surroundings. It is read at exactly
the frames and bins where the song has its peaks. What chance gives is measured in the same clip: with the same peaks
shifted by a few bins or by a few frames (the null), and with the other songs that voting found (the background).

The filter is the linear discriminant between the surroundings of peaks of true candidates and of the best false ones,
on real music in simulated rooms, under voices and noise, made separable and symmetric. False candidates are not random
places: they are music in the same key, whose tones have the same bins but begin and end at other times.

The levels of the song's peaks say more. Noise masks the quiet peaks first, so loud peaks have higher weights. Noise
only adds: a song that is in the clip has its loud peaks there, all with about the same gain. Music that merely shares
some sounds with the song, a drum loop or a sample, misses what else the song plays there.
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

# The filter is separable. Along each axis: weights around the point, and one weight for everything within reach.
FREQUENCY_KERNEL = (-0.16, 0.41, 1.04, 0.41, -0.16)  # across bins: the main lobe of the window
FREQUENCY_REACH, FREQUENCY_REST = 16, -1.54 / 33  # the response to an even spectrum is 0
TIME_KERNEL = (-0.19, 0.47, 1.06, 0.47, -0.19)  # across frames: a tone that begins or ends, not one that lasts
TIME_REACH, TIME_REST = 8, -0.06
# The null: the song's peaks shifted by so many bins, up and down.
NULL_SHIFTS_BINS = tuple(sign * step for step in range(4, 28, 2) for sign in (-1, 1))
LEVEL_STEP = LEVEL_DB * math.log(10) / 10  # a step of a peak's level, as log power
# The null in time: shifted by so many frames, back and forth. A sound that hardly changes with time, a chord or a hum,
# has there what it has at the peaks themselves.
NULL_SHIFTS_FRAMES = (-6, -5, -4, -3, 3, 4, 5, 6)
# Weight of a peak, by its level plus 128: the fourth root of its power.
PEAK_WEIGHTS: NDArray[np.float32] = np.exp(np.arange(-128, 128) * (LEVEL_STEP / 4)).astype(np.float32)
# A loud peak is missing if its gain is lower than the clip's best gains by 13 dB (log power 3). Below 22 dB (log power
# 5) it does not count: the loudspeaker may not reproduce such tones.
MISSING_BELOW, INAUDIBLE_BELOW, GAIN_QUANTILE = -3.0, -5.0, 0.7
# Where responses are added up, each is limited to this range, so that one click does not outweigh all other peaks.
RESPONSE_BOUNDS = (-1.5, 4.0)
# A peak of the song responds if the clip's response there is higher: most peaks do in a clean clip, a third to a half
# in a noisy one, one in ten by chance.
RESPONDING = 1.0
# A voice or a noise masks a peak of the song where the clip is loud around it: within so many frames and bins.
MASKING_FRAMES, MASKING_BINS = 2, 8
# The song's peaks that are not masked all have about the same gain, the clip's level less the song's. It is found in
# steps of 2 dB (log power 0.5), to each of which its two neighbours count half. A peak that is 4 dB off counts half.
GAIN_STEP, GAIN_TOLERANCE = 0.5, 1.0
# A peak with a lower response counts as much as one with this where the usual gain is found.
LEAST_RESPONSE = 0.01
BINS_TOGETHER = 2  # bins that count as one where bins are counted: a tone lies between two
# Songs are versions of one recording when this share of one's peaks are also the other's; chance gives 0.1 to 0.17.
VERSION_SHARE = 0.25
# Where versions are compared, a peak counts half if its response is `RESPONDING`, and nine tenths if it is 1.1 higher;
# and half if its gain is 2 dB off (log power). A curve of the gain over frequency bends every half octave; the ridge
# holds it where there are few peaks.
AUDIBLE_STEP, LEVEL_TOLERANCE, CURVE_STEP_OCTAVES, CURVE_RIDGE = 0.5, 0.5, 0.5, 0.1
FRAME_KEY = 1 << 12  # a frame and a bin as one number: frame * FRAME_KEY + bin


@dataclass(frozen=True, slots=True)
class FilteredSpectrogram:
    """What verification reads of a clip, ``(n_frames, n_bins)`` float32 each.

    Parameters
    ----------
    response
        Of `matched_filter`.
    level
        Log power, the maximum over a frame and its two neighbours.
    """

    response: NDArray[np.float32]
    level: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Evidence:
    """How a clip sounds at a song's peaks.

    Parameters
    ----------
    peaks
        Number of peaks that the song has where the clip lies.
    response
        Mean response of the matched filter at them, weighted by `peak_weights`.
    consistent_response
        As of `Responses`.
    null_mean, null_deviation
        Mean and standard deviation of the same with the peaks shifted by `NULL_SHIFTS_BINS`.
    null_in_time
        Mean of the same with the peaks shifted by `NULL_SHIFTS_FRAMES`.
    unweighted_response
        Mean response, all peaks weighted alike.
    level_correlation
        Correlation of the levels of the song's peaks with those of the clip there, -1 to 1.
    missing_fraction
        Share of the louder peaks that the clip should have and does not, 0 to 1.
    responding_fraction
        Share of the peaks with a response above `RESPONDING`, 0 to 1.
    responding_times
        Number of moments in which such peaks lie: frames that follow each other without a gap are one.
    effective_bins
        Over how many bins the response is spread: the squared sum over the sum of squares of what each adds to
        `response`, negative ones left out. 1 if all of it comes from one tone, 0 without any.
    """

    peaks: int
    response: float
    consistent_response: float
    null_mean: float
    null_deviation: float
    null_in_time: float
    unweighted_response: float
    level_correlation: float
    missing_fraction: float
    responding_fraction: float
    responding_times: int
    effective_bins: float


NO_EVIDENCE = Evidence(
    peaks=0,
    response=0.0,
    consistent_response=0.0,
    null_mean=0.0,
    null_deviation=1.0,
    null_in_time=0.0,
    unweighted_response=0.0,
    level_correlation=0.0,
    missing_fraction=0.0,
    responding_fraction=0.0,
    responding_times=0,
    effective_bins=0.0,
)


@dataclass(frozen=True, slots=True)
class VersionDifferences:
    """What two versions of a recording share, and how well a clip agrees with what differs: above 0 for the first.

    Parameters
    ----------
    shared
        The larger of the shares of their peaks that the other one has too, within a frame and a bin. A short song may
        lie within the clip, or be a part of the other one: then most of its peaks are shared.
    unshared
        Response at the peaks that only the first has, less that at the peaks that only the second has.
    levels
        How much better the first one's levels of the peaks that both have agree with the clip's, at one gain.
    levels_beside_curve
        The same, where the gain may depend on the frequency, as that of a loudspeaker in a room does.
    """

    shared: float
    unshared: float
    levels: float
    levels_beside_curve: float


def matched_filter(log_power: NDArray[np.float32]) -> NDArray[np.float32]:
    """The response of the matched filter.

    Parameters
    ----------
    log_power
        ``(n_frames, n_bins)`` float32.

    Returns
    -------
    NDArray
        ``(n_frames, n_bins)`` float32, in standard deviations of the frame; 0 where nothing exceeds its surroundings.
    """
    # All arrays keep the memory order of the spectrogram: to transpose it takes longer than to filter it.
    across_bins = _filter_rows(log_power.T, FREQUENCY_KERNEL, FREQUENCY_REACH, FREQUENCY_REST).T
    response: NDArray[np.float32] = _filter_rows(across_bins, TIME_KERNEL, TIME_REACH, TIME_REST)
    response /= response.std(axis=1, keepdims=True) + np.float32(0.1)
    return response


def _filter_rows(x: NDArray[np.float32], kernel: Sequence[float], reach: int, rest: float) -> NDArray[np.float32]:
    """Sum of neighbouring rows by the kernel, plus `rest` times all rows within `reach`; edge rows are repeated."""
    n_rows = len(x)
    padded = np.pad(x, ((reach, reach), (0, 0)), mode="edge")
    total = np.float32(rest) * running_sum(padded, reach)
    for row, weight in enumerate(kernel, start=reach - len(kernel) // 2):
        total += np.float32(weight) * padded[row : row + n_rows]
    return total


def masking_level(power: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean log power within `MASKING_FRAMES` and `MASKING_BINS`; ``(n_frames, n_bins)`` float32, as `power`."""
    padding = ((MASKING_FRAMES, MASKING_FRAMES), (MASKING_BINS, MASKING_BINS))
    padded = np.pad(np.log(power + np.float32(SILENCE)), padding, mode="edge")
    total: NDArray[np.float32] = running_sum(running_sum(padded, MASKING_FRAMES).T, MASKING_BINS).T
    return total / np.float32((2 * MASKING_FRAMES + 1) * (2 * MASKING_BINS + 1))


def filter_spectrogram(power: NDArray[np.float32]) -> FilteredSpectrogram:
    """What verification reads of a clip.

    Parameters
    ----------
    power
        ``(n_frames, n_bins)`` float32.
    """
    log_power = np.log(power + np.float32(SILENCE))
    level = log_power.copy()
    np.maximum(level[1:], log_power[:-1], out=level[1:])
    np.maximum(level[:-1], log_power[1:], out=level[:-1])
    return FilteredSpectrogram(matched_filter(log_power), level)


def filter_response(clip: FilteredSpectrogram, song: Peaks, start: int) -> float:
    """Mean response of the matched filter at a song's peaks, weighted by `peak_weights`; 0 if it has none there.

    Parameters
    ----------
    song
        The song's constellation.
    start
        The song's frame at which the clip's frame 0 lies.
    """
    first, stop = _peak_range(song, start, len(clip.response))
    if first == stop:
        return 0.0
    responses = clip.response[song.frame[first:stop] - start, song.bin[first:stop]]
    return float(_weighted_mean(responses, peak_weights(song.level[first:stop])))


@dataclass(frozen=True, slots=True, eq=False)
class Responses:
    """What a clip gives at the peaks of each of some candidates, ``(n_candidates,)`` each.

    Parameters
    ----------
    peaks
        int64: number of peaks that the song has where the clip lies.
    response
        float64, as of `filter_response`.
    consistent_response
        float64: mean response at the peaks, those more that a voice or a noise does not mask, each counted the less the
        more its gain differs from the usual one. Noise has no usual gain, nor has another song.
    """

    peaks: NDArray[np.int64]
    response: NDArray[np.float64]
    consistent_response: NDArray[np.float64]


def read_responses(placed: Sequence[tuple[FilteredSpectrogram, Peaks, int]], masking: NDArray[np.float32]) -> Responses:
    """Responses of a clip at the peaks of some candidates, all of them at once.

    Parameters
    ----------
    placed
        Of each candidate the filtered clip, the song, and the song's frame at which the clip's frame 0 lies.
    masking
        The clip's `masking_level`; its frames may be a part of a frame off those of the filtered copies.
    """
    read: list[list[NDArray[np.float32]]] = [[np.zeros(0, np.float32)] * 4]
    for clip, song, start in placed:
        n_frames, n_bins = clip.response.shape
        first, stop = _peak_range(song, start, n_frames)
        at = (song.frame[first:stop] - start).astype(np.intp) * n_bins + song.bin[first:stop]
        song_level = song.level[first:stop] * np.float32(LEVEL_STEP)
        read.append([clip.response.take(at), clip.level.take(at), masking.take(at), song_level])
    peaks = np.array([len(one[0]) for one in read[1:]], np.int64)
    response, level, masking, song_level = (np.concatenate(parts) for parts in zip(*read, strict=True))
    of = np.repeat(np.arange(len(peaks)), peaks)

    def mean(values: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float64]:
        totals = np.bincount(of, weights, len(peaks))
        return np.bincount(of, values * weights, len(peaks)) / np.maximum(totals, np.finfo(np.float32).tiny)

    audible = np.exp((song_level - masking) / 4)
    gain = level - song_level
    usual = _usual_gain(of, gain, audible * response.clip(LEAST_RESPONSE), len(peaks))
    agreement = np.reciprocal(1 + np.square((gain - usual[of]) / np.float32(GAIN_TOLERANCE)))
    return Responses(peaks, mean(response, np.exp(song_level / 4)), mean(response * agreement, audible))


def _usual_gain(
    of: NDArray[np.intp], gain: NDArray[np.float32], weights: NDArray[np.float32], n: int
) -> NDArray[np.float32]:
    """The gain that most of the weight of each candidate has, ``(n,)``; `of` is the candidate of each peak."""
    if not len(gain):
        return np.zeros(n, np.float32)
    step = np.floor(gain / np.float32(GAIN_STEP)).astype(np.intp)
    least = int(step.min())
    n_steps = int(step.max()) - least + 1
    counted = np.bincount(step - least + n_steps * of, weights, n * n_steps).reshape(n, n_steps)
    together = 2 * counted
    together[:, 1:] += counted[:, :-1]
    together[:, :-1] += counted[:, 1:]
    fullest = together.argmax(axis=1) + least
    usual: NDArray[np.float32] = ((fullest + 0.5) * GAIN_STEP).astype(np.float32)
    return usual


def compute_evidence(clip: FilteredSpectrogram, song: Peaks, start: int, consistent_response: float) -> Evidence:
    """`filter_response`, what chance gives, and how the levels agree; parameters as there, and of `Responses`."""
    n_frames, n_bins = clip.response.shape
    first, stop = _peak_range(song, start, n_frames)
    if first == stop:
        return NO_EVIDENCE
    # One index into the rows end to end, of numpy's own index type: a third of the time of two indices.
    frame, bin_ = (song.frame[first:stop] - start).astype(np.intp), song.bin[first:stop].astype(np.intp)
    row = frame * n_bins
    weights = peak_weights(song.level[first:stop])
    shifted = bin_ + np.array(NULL_SHIFTS_BINS)[:, None]
    shifted = np.where(shifted >= n_bins, 2 * n_bins - 2 - shifted, shifted)
    shifted = np.where(shifted < LOWEST_BIN, 2 * LOWEST_BIN - shifted, shifted)
    responses, null = clip.response.take(row + bin_), _weighted_mean(clip.response.take(row + shifted), weights)
    period = max(2 * (n_frames - 1), 1)  # of the frames, reflected at both ends of the clip
    shifted = (frame + np.array(NULL_SHIFTS_FRAMES)[:, None]) % period
    shifted = np.minimum(shifted, period - shifted)
    null_in_time = _weighted_mean(clip.response.take(shifted * n_bins + bin_), weights)
    responding_frame = song.frame[first:stop][responses > RESPONDING]
    song_level, clip_level = song.level[first:stop] * np.float32(LEVEL_STEP), clip.level.take(row + bin_)
    return Evidence(
        peaks=stop - first,
        response=float(_weighted_mean(responses, weights)),
        consistent_response=consistent_response,
        null_mean=float(null.mean()),
        null_deviation=float(null.std()),
        null_in_time=float(null_in_time.mean()),
        unweighted_response=float(responses.mean()),
        level_correlation=_correlation(song_level, clip_level),
        missing_fraction=_missing_fraction(song_level, clip_level),
        responding_fraction=len(responding_frame) / (stop - first),
        responding_times=int(np.count_nonzero(np.diff(responding_frame, prepend=np.int32(-2)) > 1)),
        effective_bins=_effective_number(responses.clip(0) * weights, bin_ // BINS_TOGETHER),
    )


def shared_fractions(
    placed: Sequence[tuple[FilteredSpectrogram, Peaks, int]], other: tuple[FilteredSpectrogram, Peaks, int]
) -> NDArray[np.float64]:
    """Of each of some songs the share of its peaks that another one has too, within a frame and a bin.

    Parameters
    ----------
    placed, other
        The filtered clip, a song, and the song's frame at which the clip's frame 0 lies.

    Returns
    -------
    NDArray
        ``(n_songs,)`` float64; 0 for a song without peaks in the clip.
    """
    nothing = np.zeros(0, np.int32)
    *some, of_other = (_peaks_in_clip(song, start, len(clip.response)) for clip, song, start in [*placed, other])
    frame = np.concatenate([nothing, *(frame for frame, _ in some)])
    bin_ = np.concatenate([nothing, *(bin_ for _, bin_ in some)])
    count = np.array([len(frame) for frame, _ in some], np.intp)
    of_song = np.repeat(np.arange(len(count)), count)
    return np.bincount(of_song[coincident(frame, bin_, *of_other)], minlength=len(count)) / np.maximum(count, 1)


def compare_versions(
    first: tuple[FilteredSpectrogram, Peaks, int], second: tuple[FilteredSpectrogram, Peaks, int]
) -> VersionDifferences:
    """Which of two songs is in the clip, if they are versions of one recording.

    Parameters
    ----------
    first, second
        The filtered clip, a song, and the song's frame at which the clip's frame 0 lies.
    """
    (clip_1, song_1, start_1), (clip_2, song_2, start_2) = first, second
    frame_1, bin_1 = _peaks_in_clip(song_1, start_1, len(clip_1.response))
    frame_2, bin_2 = _peaks_in_clip(song_2, start_2, len(clip_2.response))
    response_1 = clip_1.response[frame_1, bin_1].clip(*RESPONSE_BOUNDS)
    response_2 = clip_2.response[frame_2, bin_2].clip(*RESPONSE_BOUNDS)
    same = coincident_peak(frame_1, bin_1, frame_2, bin_2)
    shared_1, shared_2 = same >= 0, coincident(frame_2, bin_2, frame_1, bin_1)
    unshared = float(response_1[~shared_1].sum() - response_2[~shared_2].sum())
    frame_1, bin_1, same = frame_1[shared_1], bin_1[shared_1], same[shared_1]
    level_1 = song_1.level[slice(*_peak_range(song_1, start_1, len(clip_1.level)))][shared_1] * np.float32(LEVEL_STEP)
    level_2 = song_2.level[slice(*_peak_range(song_2, start_2, len(clip_2.level)))][same] * np.float32(LEVEL_STEP)
    clip_level = (clip_1.level[frame_1, bin_1] + clip_2.level[frame_2[same], bin_2[same]]) / 2
    response = (response_1[shared_1] + response_2[same]) / 2
    audible = 1 / (1 + np.exp((RESPONDING - response) / AUDIBLE_STEP))
    differences = np.stack([level_1 - level_2, clip_level - (level_1 + level_2) / 2]).astype(float)
    return VersionDifferences(
        shared=max(float(one.mean()) if len(one) else 0.0 for one in (shared_1, shared_2)),
        unshared=unshared,
        levels=_agreement(differences, audible, np.zeros((len(same), 0))),
        levels_beside_curve=_agreement(differences, audible, _curves(bin_1)),
    )


def _agreement(differences: NDArray[np.float64], audible: NDArray[np.floating], curves: NDArray[np.float64]) -> float:
    """How much better the levels of one version agree with a clip's than those of another one: above 0 if they do.

    If the first one plays, the clip's levels less the mean of both differ as half of the difference of both does.

    Parameters
    ----------
    differences
        ``(2, n_peaks)``: the levels of the first version less those of the second, and those of the clip less the mean
        of both.
    audible
        ``(n_peaks,)``: weights.
    curves
        ``(n_peaks, n_curves)``: what a loudspeaker and a room may add to the levels, beside a constant gain.
    """
    weights, rest = audible, differences
    for last in (False, True):
        rest = differences - (differences @ weights / max(float(weights.sum()), 1e-9))[:, None]
        weighted = curves * weights[:, None]
        normal = curves.T @ weighted + CURVE_RIDGE * np.eye(curves.shape[1])
        rest = rest - np.linalg.solve(normal, weighted.T @ rest.T).T @ curves.T
        if not last:  # a voice or a noise is louder than the song at some of the peaks
            weights = audible / (1 + np.square(rest[1] / LEVEL_TOLERANCE))
    return float(weights @ (rest[0] * rest[1]))


def _curves(bin_: NDArray[np.integer]) -> NDArray[np.float64]:
    """Piecewise linear curves over the logarithm of the frequency, read at some bins; ``(n_peaks, n_curves)``."""
    octaves = np.log2(np.maximum(bin_, LOWEST_BIN) / LOWEST_BIN)[:, None]
    knots = np.arange(0, octaves.max(initial=0) + CURVE_STEP_OCTAVES, CURVE_STEP_OCTAVES)
    curves: NDArray[np.float64] = np.maximum(1 - np.abs(octaves - knots) / CURVE_STEP_OCTAVES, 0.0)
    return curves


def coincident(
    frame: NDArray[np.integer],
    bin_: NDArray[np.integer],
    other_frame: NDArray[np.integer],
    other_bin: NDArray[np.integer],
) -> NDArray[np.bool_]:
    """Which peaks of a song have a peak of another song at most a frame and a bin away; ``(n_peaks,)``."""
    return coincident_peak(frame, bin_, other_frame, other_bin) >= 0


def coincident_peak(
    frame: NDArray[np.integer],
    bin_: NDArray[np.integer],
    other_frame: NDArray[np.integer],
    other_bin: NDArray[np.integer],
) -> NDArray[np.intp]:
    """Of each peak of a song the peak of another song at most a frame and a bin away, or -1; ``(n_peaks,)``."""
    found = np.full(len(frame), -1, np.intp)
    if not len(other_frame):
        return found
    place = other_frame * FRAME_KEY + other_bin
    order = np.argsort(place, kind="stable")
    place = place[order]
    for frames in (-1, 1, 0):  # the one in the same frame is taken last, so that it stays
        lowest = (frame + frames) * FRAME_KEY + bin_ - 1
        next_ = np.minimum(np.searchsorted(place, lowest), len(place) - 1)
        near = (place[next_] >= lowest) & (place[next_] <= lowest + 2)
        found[near] = order[next_[near]]
    return found


def peak_weights(level: NDArray[np.int8]) -> NDArray[np.float32]:
    """Weights of peaks by their levels in the song; ``(n_peaks,)``."""
    weights: NDArray[np.float32] = PEAK_WEIGHTS[level.astype(np.intp) + 128]
    return weights


def _peak_range(song: Peaks, start: int, n_frames: int) -> tuple[int, int]:
    """The song's peaks where a clip lies: the first one, and the one after the last."""
    ends = np.array([start, start + n_frames], np.int32)  # int32 like the frames, else all frames are converted first
    first, stop = np.searchsorted(song.frame, ends).tolist()
    return first, stop


def _peaks_in_clip(song: Peaks, start: int, n_frames: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The song's peaks where a clip lies: frame in the clip, and bin."""
    first, stop = _peak_range(song, start, n_frames)
    return song.frame[first:stop] - np.int32(start), song.bin[first:stop]


def _weighted_mean(responses: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weighted mean over the last axis."""
    mean: NDArray[np.float32] = responses @ weights / weights.sum()
    return mean


def _correlation(x: NDArray[np.float32], y: NDArray[np.float32]) -> float:
    x, y = x - x.mean(), y - y.mean()
    size = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / size if size else 0.0


def _effective_number(parts: NDArray[np.float32], group: NDArray[np.intp]) -> float:
    """Of groups that add to a sum: as many as if all added alike; ``(n_peaks,)`` each, the parts 0 or more."""
    sums = np.bincount(group, parts)
    squares = float(sums @ sums)
    return float(sums.sum()) ** 2 / squares if squares else 0.0


def _missing_fraction(song_level: NDArray[np.float32], clip_level: NDArray[np.float32]) -> float:
    """Share of the louder half of the peaks that are much weaker in the clip than the gain of the best ones says."""
    loud = song_level > _order_statistic(song_level, 0.5)
    if not loud.any():
        return 0.0
    gain = clip_level[loud] - song_level[loud]
    over = gain - _order_statistic(gain, GAIN_QUANTILE)
    return float(((over < MISSING_BELOW) & (over > INAUDIBLE_BELOW)).mean())


def _order_statistic(x: NDArray[np.float32], share: float) -> np.float32:
    """The value that this share of the others is below: a twentieth of the time of `np.quantile`."""
    value: np.float32 = np.sort(x)[int(share * (len(x) - 1))]
    return value
