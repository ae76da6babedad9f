"""A song with changed pitch and tempo, aligned with a stretch of a recording along a path.

A candidate is a step of a coarse grid. Its song's constellation is scaled by the change and read in the stretch, at
pitches, tempos and places around the candidate: where the response is highest is the change. Candidates of one song in
successive windows that continue each other are one performance. Its path through the stretch is found by dynamic
programming, so that a tempo that drifts is followed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.fingerprinting.landmarks import Postings, nearest_targets, pack, pair_peaks
from pipeline.fingerprinting.peaks import Peaks
from pipeline.fingerprinting.settings import BINS, LOWEST_BIN, MAX_BIN_DIFFERENCE, MAX_FRAME_DIFFERENCE
from pipeline.matching import segments
from pipeline.matching.alignment import (
    ROW_TICKS,
    ROWS_PER_FRAME,
    Alignment,
    Stretch,
    is_repeated_loop,
    scaled_bins,
    shifted_rows,
)
from pipeline.matching.changes import (
    WINDOW_S,
    Change,
    ChangedCandidate,
    ExactPeaks,
    Grid,
    exact_peaks,
    find_changed,
    scalable_landmarks,
)
from pipeline.matching.segments import SLOT_S
from pipeline.matching.tracks import NEAR_TICKS, hit_ticks
from pipeline.matching.types import Library, Match
from pipeline.matching.verification import peak_weights
from pipeline.matching.voting import TICKS, QueryHashes, find_hits

# Around a candidate: half a step of its grid to either side, and its two cells.
PITCHES = np.array([-0.0025, 0.0, 0.0025])
TEMPOS = np.arange(-0.05, 0.051, 0.0125)
ROWS = np.arange(-10, 11)
# Around the best of these.
FINE_PITCHES = np.arange(-0.0025, 0.0026, 0.00125)
FINE_TEMPOS = np.arange(-0.008, 0.0081, 0.004)
FINE_ROWS = np.arange(-2, 3)
# A fit is kept with so many standard deviations of its null.
LEAST_DEVIATIONS = 3.0
# Two fits of one song continue each other when their pitches and the places they give differ by no more.
SAME_PITCH, SAME_FRAMES, SAME_TEMPO = 0.006, 3.0, 0.02
# Fits of one window: `fit` moves them by up to 22 rows from its middle.
SAME_WINDOW_ROWS = 44
# Performances of a stretch that are aligned.
MAX_ALIGNED = 16
# Steps of the path, how far it may move in each, and what a row of it costs: the response that one peak in ten loses.
STEP_S, STEP_ROWS, ROW_COST = 3.0, 3, 15.0
# How far the path may leave the line.
PATH_ROWS = 64
# A path whose line scores so much of it is the line, which gives the tempo better.
STRAIGHT_SHARE = 0.95
# So often it is moved, each time by up to a frame at either end: the path of a short clip is up to two frames off.
LINE_ROUNDS = 2
# A match with fewer votes a second may be of the song's drums alone, at another tempo: there the search goes on. At its
# own pitch and tempo a song has some 50, under noise 10.
CLEAR_VOTES_PER_S = 8.0
# Query hashes, to count the votes, so far around the windows of a performance.
FAN_OUT = 5
ANCHORS_S = 15.0


@dataclass(frozen=True, slots=True)
class Fit:
    """A candidate, refined.

    Parameters
    ----------
    row
        Of `Stretch.response`, the middle of the window.
    frame
        Where in the song that is.
    deviations
        Of the null, by which the response exceeds it.
    """

    song_id: int
    change: Change
    row: float
    frame: float
    deviations: float


def fit(stretch: Stretch, song: Peaks, candidate: ChangedCandidate) -> Fit:
    """The change and the place near a candidate at which the stretch has the highest response at the song's peaks."""
    at = Fit(candidate.song_id, candidate.change, candidate.tick / ROW_TICKS, candidate.frame, 0.0)
    coarse, fine = (PITCHES, TEMPOS, ROWS), (FINE_PITCHES, FINE_TEMPOS, FINE_ROWS)
    moved = _best_near(stretch, song, at, *coarse)
    tempo = moved.change.tempo / at.change.tempo - 1
    if abs(moved.row - at.row) >= ROWS[-1] or abs(tempo) >= 0.99 * TEMPOS[-1]:  # it may lie beyond
        moved = _best_near(stretch, song, moved, *coarse)
    at = _best_near(stretch, song, moved, *fine)
    row, bin_ = _scaled(stretch, *_window(stretch, song, at), at.change, at.row, at.frame)
    n_rows = len(stretch.response)
    responses, null = stretch.response[row, bin_], stretch.response[shifted_rows(row, n_rows), bin_]
    level, deviation = responses.sum() - null.sum(axis=1).mean(), math.sqrt(null.var(axis=0).sum() + 1.0)
    return Fit(at.song_id, at.change, at.row, at.frame, float(level) / deviation)


def _window(stretch: Stretch, song: Peaks, at: Fit) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Frames and bins of the song's peaks in the window."""
    reach = WINDOW_S / 2 / stretch.settings.frame_s * at.change.tempo
    ends = np.array([at.frame - reach, at.frame + reach + 1]).astype(np.int32)
    inside = slice(*np.searchsorted(song.frame, ends).tolist())
    return song.frame[inside], song.bin[inside]


def _scaled(
    stretch: Stretch, frame: NDArray[np.int32], bin_: NDArray[np.int32], change: Change, row: float, at_frame: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where peaks of a song lie in the stretch, each moved to the nearest row and bin that there is."""
    n_rows, n_bins = stretch.response.shape
    rows = np.rint((frame - at_frame) * (ROWS_PER_FRAME / change.tempo) + row).astype(np.int64)
    return np.clip(rows, 0, n_rows - 1), scaled_bins(bin_, change.pitch, n_bins)


def _best_near(
    stretch: Stretch,
    song: Peaks,
    at: Fit,
    pitches: NDArray[np.float64],
    tempos: NDArray[np.float64],
    rows: NDArray[np.int64],
) -> Fit:
    """The place and change with the highest response, of some pitches and tempos higher, and of some rows later."""
    pitches, tempos = 1 + pitches, 1 + tempos
    frame, bin_ = _window(stretch, song, at)
    if not len(frame):
        return at
    n_rows, n_bins = stretch.response.shape
    from_middle = (frame - at.frame) * (ROWS_PER_FRAME / at.change.tempo)
    row = np.rint(from_middle / tempos[:, None] + at.row).astype(np.int32)[:, None, :] + rows[:, None].astype(np.int32)
    row = np.clip(row, 0, n_rows - 1) * np.int32(n_bins)
    bins = np.minimum(np.rint(bin_ * (at.change.pitch * pitches[:, None])), n_bins - 1).astype(np.int32)
    flat = stretch.response.reshape(-1)
    sums = np.stack([flat.take(row + one).sum(axis=2) for one in bins])
    pitch, tempo, shift = np.unravel_index(int(sums.argmax()), sums.shape)
    change = Change(at.change.pitch * float(pitches[pitch]), at.change.tempo * float(tempos[tempo]))
    return Fit(at.song_id, change, at.row + float(rows[shift]), at.frame, float(sums.max()))


def performances(fits: Sequence[Fit]) -> list[list[Fit]]:
    """Fits that continue each other, joined: the best first, at most `MAX_ALIGNED`.

    Of the fits of a song in one window only the best counts: the others are where a loop repeats in the song.
    """
    groups: list[list[Fit]] = []
    taken: list[Fit] = []
    for one in sorted(fits, key=lambda fit: -fit.deviations):
        if one.deviations < LEAST_DEVIATIONS or any(_is_same_window(one, other) for other in taken):
            continue
        taken.append(one)
        group = next((group for group in groups if _continues(group, one)), None)
        if group is None:
            groups.append([one])
        else:
            group.append(one)
    return sorted(groups, key=lambda group: -sum(one.deviations**2 for one in group))[:MAX_ALIGNED]


def _is_same_window(one: Fit, other: Fit) -> bool:
    return one.song_id == other.song_id and abs(one.row - other.row) <= SAME_WINDOW_ROWS


def _continues(group: Sequence[Fit], one: Fit) -> bool:
    """Whether a fit is the same performance as the nearest one of a group."""
    near = min(group, key=lambda fit: abs(fit.row - one.row))
    if near.song_id != one.song_id or abs(math.log(near.change.pitch / one.change.pitch)) > SAME_PITCH:
        return False
    frames = (one.row - near.row) / ROWS_PER_FRAME
    expected = near.frame + frames * (near.change.tempo + one.change.tempo) / 2
    return abs(one.frame - expected) <= SAME_FRAMES + SAME_TEMPO * abs(frames)


def align_changed(stretch: Stretch, song: Peaks, group: Sequence[Fit], peaks: Sequence[ExactPeaks]) -> Alignment:
    """Align a song with a stretch along the path of one performance.

    Parameters
    ----------
    peaks
        Of the stretch's copies, as `stretch_peaks` gives them.
    """
    pitch = group[0].change.pitch
    path = _path(stretch, song, pitch, _line(group))
    pitch = _refine_pitch(stretch, song, pitch, path, group)
    anchors = _anchors(stretch, song, Change(pitch, path.tempo), path, group, peaks)
    song_id = group[0].song_id
    alignment = _along(stretch, song, song_id, pitch, path, anchors)
    if not segments.is_plausible(alignment.trace()):
        return alignment
    ends = np.array(_span_rows(stretch, alignment))
    line = _refine_line(stretch, song, pitch, _straight(path, ends), ends)
    straight = _along(stretch, song, song_id, pitch, line, anchors)
    if not segments.is_plausible(straight.trace()):
        return alignment
    as_well = straight.best_span().score >= STRAIGHT_SHARE * alignment.best_span().score
    return straight if as_well else alignment


def _straight(path: _Path, ends: NDArray[np.float64]) -> _Path:
    """The line nearest to a path between two rows."""
    inside = (path.row >= ends[0]) & (path.row <= ends[1])
    if inside.sum() < 2:
        return _Path(ends, path.frame_at(ends))
    slope, at_0 = np.polyfit(path.row[inside], path.frame[inside], 1)
    return _Path(ends, at_0 + slope * ends)


def refine_alignment(stretch: Stretch, song: Peaks, found: Alignment, peaks: Sequence[ExactPeaks]) -> Alignment:
    """An alignment that was found at the song's own pitch and tempo, with the exact ones if it matches as well then."""
    refined = _align_along(stretch, song, found.song_id, found.speed, _span_rows(stretch, found), found.song_s, peaks)
    if refined is None:
        return found
    refined = dataclasses.replace(refined, searched=found.searched)
    as_well = segments.is_plausible(refined.trace()) and refined.best_span().score >= found.best_span().score
    return refined if as_well else dataclasses.replace(found, pitch=refined.pitch)


def refine_match(stretch: Stretch, song: Peaks, match: Match, peaks: Sequence[ExactPeaks]) -> Match:
    """The match of a clip with its exact pitch and tempo; unchanged if the clip does not sound like the song there.

    Parameters
    ----------
    stretch
        The whole clip.
    """
    n_slots = -(-len(stretch.samples) // round(SLOT_S * stretch.settings.sample_rate))
    slots = np.arange(n_slots, dtype=np.float64) * SLOT_S
    song_s = match.song_start_s + (slots - match.clip_start_s) * match.speed
    rows_per_s = ROWS_PER_FRAME / stretch.settings.frame_s
    span = match.clip_start_s * rows_per_s, match.clip_end_s * rows_per_s
    refined = _align_along(stretch, song, match.song_id, match.speed, span, song_s, peaks)
    if refined is None or not segments.is_plausible(refined.trace()):
        return match
    exact = segments.to_match(refined.best_span())
    return dataclasses.replace(match, speed=exact.speed, pitch=exact.pitch)


def _align_along(
    stretch: Stretch,
    song: Peaks,
    song_id: int,
    speed: float,
    span: tuple[float, float],
    song_s: NDArray[np.float64],
    peaks: Sequence[ExactPeaks],
) -> Alignment | None:
    """A song aligned near the line on which it was found, with its pitch and tempo there; None if nothing fits.

    Parameters
    ----------
    speed
        Of the song on the line.
    span
        First and last row in which the song plays.
    song_s
        ``(n_slots,)``, the song's second on the line at the start of each slot.
    """
    start, stop = span
    rows_per_s = ROWS_PER_FRAME / stretch.settings.frame_s
    n_windows = max(1, round((stop - start) / (WINDOW_S * rows_per_s)))
    rows = start + (np.arange(n_windows) + 0.5) * (stop - start) / n_windows
    seconds = np.interp(rows / (SLOT_S * rows_per_s), np.arange(len(song_s)), song_s)
    frames = (seconds - stretch.clip.lead / stretch.settings.sample_rate) / stretch.settings.frame_s
    change = Change(speed, speed)
    places = zip(rows.tolist(), frames.tolist(), strict=True)
    candidates = [ChangedCandidate(song_id, change, row * ROW_TICKS, frame, 0) for row, frame in places]
    groups = performances([fit(stretch, song, one) for one in candidates])
    return align_changed(stretch, song, groups[0], peaks) if groups else None


def _span_rows(stretch: Stretch, alignment: Alignment) -> tuple[float, float]:
    """First and last row of the best span of an alignment."""
    span = alignment.best_span()
    rows_per_slot = SLOT_S / stretch.settings.frame_s * ROWS_PER_FRAME
    return (span.start - stretch.first) * rows_per_slot, (span.stop - stretch.first) * rows_per_slot


@dataclass(frozen=True, slots=True, eq=False)
class _Path:
    """Where a song lies in a stretch: its frame at some rows, ``(n,)`` float64 each, straight in between and beyond."""

    row: NDArray[np.float64]
    frame: NDArray[np.float64]

    @property
    def tempo(self) -> float:
        """Frames of the song to a frame of the stretch, in the mean."""
        return float((self.frame[-1] - self.frame[0]) / (self.row[-1] - self.row[0])) * ROWS_PER_FRAME

    def frame_at(self, row: NDArray[np.floating]) -> NDArray[np.float64]:
        """The song's frame at rows."""
        return _interpolate(row, self.row, self.frame)

    def row_at(self, frame: NDArray[np.int32]) -> NDArray[np.float64]:
        """The row at frames of the song."""
        return _interpolate(frame, self.frame, self.row)


def _interpolate(x: NDArray[np.number], at: NDArray[np.float64], value: NDArray[np.float64]) -> NDArray[np.float64]:
    """As `numpy.interp`, and along the first and the last piece beyond the ends."""
    first = np.clip(np.searchsorted(at, x, "right") - 1, 0, len(at) - 2)
    slope = (value[first + 1] - value[first]) / (at[first + 1] - at[first])
    interpolated: NDArray[np.float64] = value[first] + slope * (x - at[first])
    return interpolated


def _line(group: Sequence[Fit]) -> _Path:
    """A line through the fits of a performance, by least squares; of the tempo of the best if they are at one row."""
    row, frame, weight = (np.array([getattr(one, name) for one in group]) for name in ("row", "frame", "deviations"))
    slope, at_0 = group[0].change.tempo / ROWS_PER_FRAME, 0.0
    if row.min() < row.max():
        slope, at_0 = (float(value) for value in np.polyfit(row, frame, 1, w=weight))
    else:
        at_0 = float(frame[0] - slope * row[0])
    ends = np.array([0.0, 1.0])
    return _Path(ends, at_0 + slope * ends)


def _path(stretch: Stretch, song: Peaks, pitch: float, line: _Path) -> _Path:
    """The path near a line with the highest response, less the cost of leaving it."""
    n_rows, n_bins = stretch.response.shape
    step = round(STEP_S / stretch.settings.frame_s * ROWS_PER_FRAME)
    n_steps = max(2, -(-n_rows // step))
    at = line.row_at(song.frame)
    inside = (at >= 0) & (at < n_rows)
    at = np.rint(at[inside]).astype(np.int64)
    bins = scaled_bins(song.bin[inside], pitch, n_bins)
    shifts = np.arange(-PATH_ROWS, PATH_ROWS + 1)
    flat = stretch.response.reshape(-1)
    sums = np.zeros((n_steps, len(shifts)))
    edges = np.searchsorted(at, np.arange(n_steps + 1) * step)
    for i, shift in enumerate(shifts.tolist()):
        responses = flat.take(np.clip(at + shift, 0, n_rows - 1) * n_bins + bins)
        sums[:, i] = np.diff(np.concatenate([[0.0], np.cumsum(responses, dtype=np.float64)])[edges])
    rows = (np.arange(n_steps) + 0.5) * step
    return _Path(rows, line.frame_at(rows - shifts[_best_steps(sums)]))


def _best_steps(sums: NDArray[np.float64]) -> NDArray[np.int64]:
    """The column of each row with the highest sum in all, less `ROW_COST` for each column that it moves (Viterbi)."""
    moves = range(-STEP_ROWS, STEP_ROWS + 1)
    total, came = sums[0], []
    for row in sums[1:]:
        padded = np.pad(total, STEP_ROWS, constant_values=-np.inf)
        options = np.stack([padded[STEP_ROWS + move :][: len(total)] - ROW_COST * abs(move) for move in moves])
        best = options.argmax(axis=0)
        came.append(np.arange(len(total)) + best - STEP_ROWS)
        total = row + options.max(axis=0)
    chosen = [int(total.argmax())]
    for before in reversed(came):
        chosen.append(int(before[chosen[-1]]))
    return np.array(chosen[::-1])


def _refine_pitch(stretch: Stretch, song: Peaks, pitch: float, path: _Path, group: Sequence[Fit]) -> float:
    """The pitch with the highest response along a path, in the windows of its fits."""
    row = path.row_at(song.frame)
    reach = WINDOW_S / 2 / stretch.settings.frame_s * ROWS_PER_FRAME
    inside = np.zeros(len(row), bool)
    for one in group:
        inside |= np.abs(row - one.row) <= reach
    return _best_pitch(stretch, np.rint(row[inside]).astype(np.int64), song.bin[inside], pitch)


def _best_pitch(stretch: Stretch, row: NDArray[np.int64], bin_: NDArray[np.int32], pitch: float) -> float:
    """The pitch near one with the highest response at a song's peaks, given by rows and by their bins in the song."""
    n_rows, n_bins = stretch.response.shape
    pitches = pitch * (1 + np.arange(-5, 6) * 0.001)
    bins = scaled_bins(bin_, pitches[:, None], n_bins)
    return _vertex(pitches, stretch.response[np.clip(row, 0, n_rows - 1), bins].sum(axis=1))


def _vertex(x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    """Where values at equal distances have their maximum, by a parabola through the highest and its neighbours."""
    best = int(np.clip(y.argmax(), 1, len(y) - 2))
    before, at, after = (float(value) for value in y[best - 1 : best + 2])
    bend = before - 2 * at + after
    return float(x[best] + (x[1] - x[0]) * (np.clip((before - after) / (2 * bend), -1, 1) if bend < 0 else 0.0))


def _refine_line(stretch: Stretch, song: Peaks, pitch: float, line: _Path, ends: NDArray[np.float64]) -> _Path:
    """The line near this one with the highest response between two rows: it is moved at both of them."""
    n_rows, n_bins = stretch.response.shape
    moves = np.arange(-2, 2.1, 0.5)
    first, last = (axis.ravel()[:, None] for axis in np.meshgrid(moves, moves, indexing="ij"))
    for _ in range(LINE_ROUNDS):
        row = line.row_at(song.frame)
        near = (row >= ends[0]) & (row <= ends[1])
        share = (row[near] - ends[0]) / (ends[1] - ends[0])
        bins = scaled_bins(song.bin[near], pitch, n_bins)
        moved = np.rint(row[near] + first * (1 - share) + last * share).astype(np.int64)
        sums = stretch.response[np.clip(moved, 0, n_rows - 1), bins].sum(axis=1)
        good = np.exp((sums - sums.max()) / max(float(sums.max()), 1.0) * 50)  # the middle of a flat maximum
        by = np.array([float((axis[:, 0] * good).sum() / good.sum()) for axis in (first, last)])
        line = _Path(ends + by, line.frame_at(ends))
    return line


def _along(
    stretch: Stretch,
    song: Peaks,
    song_id: int,
    pitch: float,
    path: _Path,
    anchors: tuple[NDArray[np.int64], NDArray[np.float64]],
) -> Alignment:
    """The alignment along a path."""
    settings = stretch.settings
    n_rows, n_bins = stretch.response.shape
    n_slots = -(-len(stretch.samples) // round(SLOT_S * settings.sample_rate))
    exact_row = path.row_at(song.frame)
    song_row = np.rint(exact_row).astype(np.int64)
    song_bin = scaled_bins(song.bin, pitch, n_bins)
    inside = (song_row >= 0) & (song_row < len(stretch.samples) // settings.hop * ROWS_PER_FRAME)
    row, bin_ = song_row[inside], song_bin[inside]
    null = stretch.response[shifted_rows(row, n_rows), bin_]
    slot_row = np.arange(n_slots) * (SLOT_S / settings.frame_s * ROWS_PER_FRAME)
    place, row_of_anchor = anchors
    voted = np.zeros(len(song_row), bool)
    voted[place[np.abs(row_of_anchor - exact_row[place]) * ROW_TICKS <= NEAR_TICKS]] = True
    return Alignment(
        song_id=song_id,
        first=stretch.first,
        # the middle of a song's frame is half a window after its start, that of a stretch's frame at its start
        song_s=path.frame_at(slot_row) * settings.frame_s + stretch.clip.lead / settings.sample_rate,
        speed=path.tempo,
        frame_s=settings.frame_s,
        frame=row // ROWS_PER_FRAME,
        bin=bin_,
        level=stretch.response[row, bin_] - null.mean(axis=0),
        variance=null.var(axis=0),
        weight=peak_weights(song.level[inside]),
        voted=voted[inside],
        song_row=song_row,
        song_bin=song_bin,
        pitch=pitch,
    )


def _anchors(
    stretch: Stretch, song: Peaks, change: Change, path: _Path, group: Sequence[Fit], peaks: Sequence[ExactPeaks]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Landmarks that a song and a stretch have in common near a performance.

    Returns
    -------
    place, row
        ``(n,)``: the anchor among the song's peaks, and where in the stretch it is.
    """
    reach = ANCHORS_S / stretch.settings.frame_s * ROWS_PER_FRAME
    rows = np.array([min(one.row for one in group) - reach, max(one.row for one in group) + reach])
    first, stop = np.searchsorted(song.frame, path.frame_at(rows).astype(np.int32)).tolist()
    near = Peaks(song.frame[first:stop], song.bin[first:stop], song.level[first:stop])
    query = _changed_hashes(peaks, change, rows * ROW_TICKS)
    landmarks = pair_peaks(near, stretch.settings.fan_out)
    order = np.argsort(landmarks.hash, kind="stable")
    hits = find_hits(query, Postings(landmarks.hash[order], np.zeros(len(order), np.int32), landmarks.offset[order]))
    place = np.searchsorted(_peak_keys(near.frame, near.bin), _peak_keys(hits.offset, hits.bin)) + first
    return place, hit_ticks(hits) / (change.tempo * ROW_TICKS)


def _peak_keys(frame: NDArray[np.int32], bin_: NDArray[np.int32]) -> NDArray[np.int64]:
    return frame.astype(np.int64) << 10 | bin_


def _changed_hashes(peaks: Sequence[ExactPeaks], change: Change, ends: NDArray[np.float64]) -> QueryHashes:
    """The hashes of a stretch between two ticks, as they would be if it was not changed; their ticks are the song's."""
    parts = []
    for of_copy in peaks:
        inside = (of_copy.tick >= ends[0]) & (of_copy.tick <= ends[1])
        tick, bin_ = of_copy.tick[inside] * change.tempo, np.rint(of_copy.bin[inside] / change.pitch).astype(np.int32)
        frame = np.rint(tick / TICKS).astype(np.int32)
        order = np.lexsort((bin_, frame))
        order = order[(bin_[order] >= LOWEST_BIN) & (bin_[order] < BINS)]
        tick, frame, bin_ = tick[order], frame[order], bin_[order]
        anchor, target = nearest_targets(frame, bin_, FAN_OUT, MAX_FRAME_DIFFERENCE, MAX_BIN_DIFFERENCE)
        hashes = pack(bin_[anchor], bin_[target] - bin_[anchor], frame[target] - frame[anchor])
        parts.append((hashes, np.rint(tick[anchor]).astype(np.int32)))
    hash_, ticks = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.argsort(hash_, kind="stable")
    return QueryHashes(hash_[order], ticks[order])


def stretch_peaks(stretch: Stretch) -> list[ExactPeaks]:
    """The peaks of each copy of a stretch whose rows its response has."""
    return [exact_peaks(stretch.clip, shift) for shift in range(0, TICKS, ROW_TICKS)]


def find_alignments(
    stretch: Stretch,
    library: Library,
    searched: Grid,
    explained: Sequence[Match],
    loop_share: float,
    peaks: Sequence[ExactPeaks],
) -> list[Alignment]:
    """Songs whose pitch or tempo is changed, aligned with a stretch.

    Parameters
    ----------
    searched
        The changes.
    explained
        Matches that were found already: the seconds of those that are clear are not searched.
    loop_share
        As for `alignment.is_repeated_loop`.
    peaks
        Of the stretch's copies, as `stretch_peaks` gives them.
    """
    landmarks = scalable_landmarks(peaks[0])
    second = landmarks.frame * stretch.settings.frame_s + stretch.first * SLOT_S
    unexplained = np.ones(len(second), bool)
    for match in explained:
        if match.votes < CLEAR_VOTES_PER_S * (match.clip_end_s - match.clip_start_s):
            continue
        unexplained &= (second < match.clip_start_s) | (second > match.clip_end_s)
    candidates = find_changed(landmarks.take(unexplained), library, searched)
    songs = library.constellations({one.song_id for one in candidates})
    fits = [fit(stretch, songs[one.song_id], one) for one in candidates]
    found = []
    for group in performances(fits):
        one = align_changed(stretch, songs[group[0].song_id], group, peaks)
        change = Change(one.pitch or one.speed, one.speed)
        if searched.contains(change):
            found.append(dataclasses.replace(one, searched=searched.chances(change)))
    found = [one for one in found if segments.is_plausible(one.trace())]
    return [one for one in found if not is_repeated_loop(one, found, stretch, loop_share)]
