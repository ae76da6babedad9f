"""Songs whose pitch or tempo is changed, each by itself: the places where a piece of a recording may come from.

A disc jockey changes the tempo and keeps the key, an editor shifts the pitch, a tape does both. The peaks of the
recording are found once. A change of pitch scales their bins, one of tempo their frames, so that a step of the search
costs a look-up of scaled landmarks in the same postings, and no resampling.

Few steps suffice. The bins of a landmark must agree exactly, so pitch goes in steps of half a percent. Its two peaks
are only some frames apart, so that one look-up serves every tempo: a landmark is looked up with each whole number of
frames that its distance may be in the song. The tempo shows in the hits: those of a song lie on a line, whose slope is
the tempo. Lines are counted in short windows, in which a few slopes suffice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pipeline.fingerprinting.landmarks import nearest_targets, pack
from pipeline.fingerprinting.peaks import find_maxima, most_salient
from pipeline.fingerprinting.settings import (
    BINS,
    LOWEST_BIN,
    MAX_BIN_DIFFERENCE,
    MAX_FRAME_DIFFERENCE,
    SILENCE,
    Settings,
)
from pipeline.matching.clip import Clip
from pipeline.matching.types import Library, Query, Shard
from pipeline.matching.voting import TICKS

# Steps of pitch. At half a step a third of the votes is left that a clip has at the exact pitch, 7 of 20 a second.
PITCH_STEP = 0.005
# Steps of tempo: at half a step the hits of a window lie within 2.4 frames of the line.
TEMPO_STEP = 0.1
# Of tempos that are alike; and the kinds of changes, each with the same chances.
SAME_TEMPO, KINDS = 0.01, 5
# The search at a song's own pitch and tempo and that of changes have half of the chances each.
SEARCHES = 2
# Seconds in which lines are counted. Pieces of songs in a mix are hardly shorter than two of them.
WINDOW_S = 4.5
# Landmarks of a recording, as in `SearchLevel`.
REACH_FRAMES, REACH_BINS = 2, 8
PEAKS_PER_S = 80
FAN_OUT = 4
# A landmark with a greater distance is changed too much by tempo to be looked up at every tempo.
FRAMES_AHEAD = 8
# The share of landmarks that is counted, those with fewest postings: the others have three quarters of the hits.
RARE_SHARE = 0.8
# Places within so many frames, two to the power of this, are one cell, and two neighbouring cells a line. Lines are
# counted in buckets by the last bits of their cells, and then exactly in the fullest buckets.
CELL_BITS = 2
BUCKET_BITS = 17
FULLEST = 150
# Candidates of each window, with most votes; of those in one song so near each other only the best.
CANDIDATES_PER_WINDOW = 20
NEAR_FRAMES, NEAR_PITCH = 48, 0.012
FEWEST_VOTES = 4
BUCKET_MASK = np.int32((1 << BUCKET_BITS) - 1)
FRAME_BIAS = 1 << 12


@dataclass(frozen=True, slots=True)
class Change:
    """How a song sounds in a recording.

    Parameters
    ----------
    pitch, tempo
        Over those of the song: 1.0 is its own.
    """

    pitch: float
    tempo: float


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The changes that are searched: every pitch with every tempo.

    Parameters
    ----------
    pitches, tempos
        ``(n_pitches,)`` and ``(n_tempos,)`` float64 steps, the nearest to 1.0 first.
    least, most
        The changes beyond which nothing is reported.
    """

    pitches: NDArray[np.float64]
    tempos: NDArray[np.float64]
    least: Change
    most: Change

    def contains(self, change: Change) -> bool:
        """Whether a change that was found may be reported."""
        pitch_fits = self.least.pitch <= change.pitch <= self.most.pitch
        return pitch_fits and self.least.tempo <= change.tempo <= self.most.tempo

    def chances(self, change: Change) -> int:
        """Among how many changes one was found: of its kind, times the kinds and the searches.

        The kinds are a song's own pitch and tempo, tempo alone, pitch alone, both alike, and the rest. Each has as many
        chances in all, so that a change of a kind with few is the likelier one.
        """
        own_pitch, own_tempo = abs(change.pitch - 1) < PITCH_STEP, abs(change.tempo - 1) < SAME_TEMPO
        kinds = SEARCHES * KINDS
        if own_pitch and own_tempo:
            return kinds
        if own_pitch:
            return kinds * len(self.tempos)
        if own_tempo or abs(change.pitch / change.tempo - 1) < SAME_TEMPO:
            return kinds * len(self.pitches)
        return kinds * len(self.pitches) * len(self.tempos)


def grid(query: Query) -> Grid | None:
    """The changes that a query asks for; none without `pitch_range` and `tempo_range`."""
    if not query.pitch_range and not query.tempo_range:
        return None
    highest, widest = 2 ** (query.pitch_range / 12), query.tempo_range / 100
    return Grid(
        pitches=_steps(1 / highest, highest, PITCH_STEP),
        tempos=_steps(1 - widest, 1 + widest, TEMPO_STEP),
        least=Change((1 - PITCH_STEP) / highest, 1 - widest - SAME_TEMPO),
        most=Change((1 + PITCH_STEP) * highest, 1 + widest + SAME_TEMPO),
    )


def _steps(low: float, high: float, step: float) -> NDArray[np.float64]:
    """Ratios from about `low` to about `high`, one of them 1.0, the nearest to it first."""
    first, last = (math.ceil(abs(math.log(end)) / math.log1p(step) - 1e-9) for end in (low, high))
    steps = (1 + step) ** np.arange(-first, last + 1, dtype=np.float64)
    nearest_first: NDArray[np.float64] = steps[np.argsort(np.abs(np.log(steps)), kind="stable")]
    return nearest_first


@dataclass(frozen=True, slots=True, eq=False)
class ScalableLandmarks:
    """Pairs of a recording's peaks, not yet rounded to the frames and bins of a song.

    Parameters
    ----------
    frame
        ``(n,)`` int32, of the anchor.
    anchor, target
        ``(n,)`` float32 bins.
    ahead
        ``(n,)`` int32 frames from the anchor to the target.
    """

    frame: NDArray[np.int32]
    anchor: NDArray[np.float32]
    target: NDArray[np.float32]
    ahead: NDArray[np.int32]

    def take(self, which: NDArray[np.bool_]) -> ScalableLandmarks:
        """Some of them."""
        return ScalableLandmarks(self.frame[which], self.anchor[which], self.target[which], self.ahead[which])


@dataclass(frozen=True, slots=True, eq=False)
class ExactPeaks:
    """The peaks of a recording, before they are rounded to the bins of a song.

    Parameters
    ----------
    tick
        ``(n_peaks,)`` int32, where the frame starts.
    bin
        ``(n_peaks,)`` float32: the vertex of a parabola through the log powers of a peak and of the bins beside it.
    """

    tick: NDArray[np.int32]
    bin: NDArray[np.float32]


def exact_peaks(clip: Clip, shift: int) -> ExactPeaks:
    """The peaks of a clip's copy at a shift, by frame, then bin."""
    power = clip.power(shift)
    peaks = most_salient(find_maxima([power], clip.settings, REACH_FRAMES, REACH_BINS), clip.settings, PEAKS_PER_S)
    inner = np.clip(peaks.bin, 1, power.shape[1] - 2)
    below, at, above = (np.log(power[peaks.frame, inner + step] + np.float32(SILENCE)) for step in (-1, 0, 1))
    bend = np.minimum(below - 2 * at + above, np.float32(-1e-6))
    exact = peaks.bin + np.clip((below - above) / (2 * bend), -0.5, 0.5).astype(np.float32)
    return ExactPeaks(peaks.frame * np.int32(TICKS) + np.int32(shift), exact.astype(np.float32))


def scalable_landmarks(peaks: ExactPeaks) -> ScalableLandmarks:
    """The landmarks of the peaks of one copy for a search of changes."""
    frame, bin_ = peaks.tick // np.int32(TICKS), peaks.bin
    anchor, target = nearest_targets(frame, np.rint(bin_).astype(np.int32), FAN_OUT, FRAMES_AHEAD, MAX_BIN_DIFFERENCE)
    return ScalableLandmarks(frame[anchor], bin_[anchor], bin_[target], frame[target] - frame[anchor])


@dataclass(frozen=True, slots=True)
class ChangedCandidate:
    """A place in a song, and a change, from which a window of a recording may come.

    Parameters
    ----------
    song_id
        The song.
    change
        The step of the grid.
    tick
        The middle of the window, in ticks of the recording.
    frame
        Where in the song that is, in frames.
    votes
        Distinct anchors of the song within a frame or two of the line.
    """

    song_id: int
    change: Change
    tick: float
    frame: float
    votes: int


def find_changed(landmarks: ScalableLandmarks, library: Library, searched: Grid) -> list[ChangedCandidate]:
    """The candidates of each window with most votes, at most `LINES_PER_WINDOW` each.

    Parameters
    ----------
    landmarks
        Of the seconds that are to be searched.
    """
    parts = library.map_shards(partial(_changed_in_shards, landmarks, searched, library.settings))
    candidates: list[ChangedCandidate] = []
    n_of_window: dict[int, int] = {}
    for rank, candidate in sorted((one for part in parts for one in part), key=lambda one: one[0]):
        window = rank[0]
        n_of_window[window] = n_of_window.get(window, 0) + 1
        if n_of_window[window] <= CANDIDATES_PER_WINDOW:
            candidates.append(candidate)
    return candidates


def _changed_in_shards(
    landmarks: ScalableLandmarks, searched: Grid, settings: Settings, shards: Sequence[Shard]
) -> list[tuple[tuple[int, ...], ChangedCandidate]]:
    """The candidates of some shards, each with its rank: the window, then what comes first in it."""
    found: list[tuple[NDArray[np.int64], ...]] = []
    for number, shard in enumerate(shards):
        for step, pitch in enumerate(searched.pitches.tolist()):
            hits = _find_hits(landmarks, shard, pitch, searched.tempos, settings)
            for at, tempo in enumerate(searched.tempos.tolist()):
                window, place, votes = _count_lines(hits, tempo)
                origin = np.full((len(votes), 3), (number, step, at), np.int64)
                found.append((window, place, votes, *origin.T))
    if not found:
        return []
    window, place, votes, numbers, steps, tempo_steps = (np.concatenate(part) for part in zip(*found, strict=True))
    candidates: list[tuple[tuple[int, ...], ChangedCandidate]] = []
    kept: list[tuple[int, int, int, float]] = []
    for i in np.lexsort((place, tempo_steps, steps, -votes, window)).tolist():
        step = int(steps[i])
        key = (int(window[i]), int(numbers[i]), int(place[i]), math.log(searched.pitches[step]))
        of_window = [other for other in kept if other[0] == key[0]]
        if len(of_window) == CANDIDATES_PER_WINDOW or any(_is_near(key, other) for other in of_window):
            continue
        song_id, frame = (int(value[0]) for value in shards[key[1]].locate(place[i : i + 1].astype(np.int32)))
        if song_id:
            kept.append(key)
            change = Change(float(searched.pitches[step]), float(searched.tempos[tempo_steps[i]]))
            tick = (key[0] + 0.5) * _window_frames(settings) * TICKS
            rank = (key[0], -int(votes[i]), step, int(tempo_steps[i]), song_id, frame)
            candidates.append((rank, ChangedCandidate(song_id, change, tick, float(frame), int(votes[i]))))
    return candidates


def _is_near(key: tuple[int, int, int, float], other: tuple[int, int, int, float]) -> bool:
    """Whether two candidates, by window, shard, place and logarithm of the pitch, may be one."""
    return key[1] == other[1] and abs(key[2] - other[2]) <= NEAR_FRAMES and abs(key[3] - other[3]) <= NEAR_PITCH


def _window_frames(settings: Settings) -> int:
    return max(1, round(WINDOW_S / settings.frame_s))


@dataclass(frozen=True, slots=True, eq=False)
class _LineHits:
    """Hits at one pitch, ``(n,)`` each: window, frames from its middle, place of the song's anchor, and its bin."""

    window: NDArray[np.int32]
    from_middle: NDArray[np.float32]
    position: NDArray[np.int32]
    bin: NDArray[np.int32]


def _find_hits(
    landmarks: ScalableLandmarks, shard: Shard, pitch: float, tempos: NDArray[np.float64], settings: Settings
) -> _LineHits:
    """Look up the landmarks at a pitch, with every distance in frames that they may have at some tempos."""
    anchor = np.rint(landmarks.anchor / np.float32(pitch)).astype(np.int32)
    aside = np.rint(landmarks.target / np.float32(pitch)).astype(np.int32) - anchor
    fits = (anchor >= LOWEST_BIN) & (anchor < BINS) & (np.abs(aside) <= MAX_BIN_DIFFERENCE)
    hashes, entries = [], []
    for ahead, entry in _distances(landmarks.ahead, fits, float(tempos.min()), float(tempos.max())):
        hashes.append(pack(anchor[entry], aside[entry], np.full(len(entry), ahead, np.int32)))
        entries.append(entry)
    hash_ = np.concatenate([np.zeros(0, np.int32), *hashes])
    entry = np.concatenate([np.zeros(0, np.int64), *entries])
    order = np.argsort(hash_)
    found = shard.find(hash_[order])
    some = found.count[found.count > 0]
    most = np.quantile(some, RARE_SHARE) if len(some) else 0
    rare = np.repeat(found.count <= most, found.count)
    of_hit = np.repeat(entry[order[found.entry]], found.count)[rare]
    size = _window_frames(settings)
    window = landmarks.frame // np.int32(size)
    from_middle = (landmarks.frame - (window + 0.5) * size).astype(np.float32)
    return _LineHits(window[of_hit], from_middle[of_hit], found.position[rare], anchor[of_hit])


def _distances(
    ahead: NDArray[np.int32], fits: NDArray[np.bool_], slowest: float, fastest: float
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Each whole number of frames, and the landmarks whose distance may be that in the song."""
    for distance in range(1, FRAMES_AHEAD + 1):
        entry = np.flatnonzero(fits & (ahead == distance))
        low, high = math.floor(distance * slowest), math.ceil(distance * fastest)
        if slowest == fastest == 1.0:
            low = high = distance
        for frames in range(max(low, 1), min(high, MAX_FRAME_DIFFERENCE) + 1):
            yield frames, entry


def _count_lines(hits: _LineHits, tempo: float) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Window, place in the shard at the window's middle, and votes of the lines with most votes at a tempo."""
    # floored, so that all cells are of one size
    frames = (hits.from_middle * np.float32(tempo) + np.float32(FRAME_BIAS)).astype(np.int32)
    cell = (hits.position - frames + np.int32(FRAME_BIAS)) >> CELL_BITS
    counts = np.bincount((cell + hits.window * np.int32(7919)) & BUCKET_MASK, minlength=BUCKET_MASK + 1)
    pairs = counts[:-1] + counts[1:]
    of_size = np.bincount(pairs)
    least = max(FEWEST_VOTES, len(of_size) - int(np.searchsorted(np.cumsum(of_size[::-1]), FULLEST, "right")))
    flags = np.zeros(BUCKET_MASK + 1, bool)
    flags[:-1] = pairs >= least
    flags[1:] |= flags[:-1]
    some = np.flatnonzero(flags[(cell + hits.window * np.int32(7919)) & BUCKET_MASK])
    line = hits.window[some].astype(np.int64) << 32 | (cell[some] + np.int64(1 << 30))
    anchor = (hits.position[some] & 127).astype(np.int64) << 10 | hits.bin[some]
    key = np.sort(np.concatenate([line, line - 1]) << 17 | np.concatenate([anchor, anchor]))
    key = key[np.diff(key, prepend=-1) != 0] >> 17
    first = np.flatnonzero(np.diff(key, prepend=-1))
    votes = np.diff(first, append=len(key))
    best = np.argsort(-votes, kind="stable")[:FULLEST]
    best = best[votes[best] >= FEWEST_VOTES]
    line = key[first[best]]
    return line >> 32, ((line & 0xFFFFFFFF) - (1 << 30) + 1) << CELL_BITS, votes[best]
