"""Traces of songs along a recording to segments: which song plays from when to when.

A trace is one alignment of a song: the song's time goes on with the recording's, and for each half second (slot) it
has the recording's response where the song has its peaks. A performance is where that evidence adds up. A voice over
the music, a silence or a lost second does not end it, as long as what follows outweighs the gap. Another performance
of the same song (a jump, a loop, a refrain that returns) competes for the same seconds, and the one with more evidence
gets them. Different songs may sound together.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.matching.calibration import RECORDING_TERMS, SpanEvidence, confidence, logit, search_penalty
from pipeline.matching.types import Match

SLOT_S = 0.5
# Traces of one song are one when their song times differ by no more where they meet.
SAME_PLACE_S = 0.25
# A peak counts for the song when the level there is higher than this, else against it. It is low, since the quiet
# second half of a fade is part of the performance.
NEUTRAL_LEVEL = 0.2
# Once the level of the song in a span is known, the span ends where the level falls to this share of it. Under noise,
# what follows the end reaches the neutral level by chance, and a song does not fall to this share before its end.
END_SHARE = 0.13
# An end with less than this share of the level is a fade, which goes on for one more slot.
FADE_SHARE = 0.7
# How far beyond the span, to either side, its end may lie.
MAX_EXTENSION_S = 12.0
# A vote counts as much as this much level.
VOTE_LEVEL = 4.0
# Evidence that may be lost before a performance is over: 20 s of other sounds, at 50 peaks a second.
MAX_DROP = 20 * 50 * NEUTRAL_LEVEL
# Drift of the song's time from which a performance has another speed: a frame of the spectrogram.
STEADY_S = 0.05
LONGEST_GAP_S = 20.0
# A pitch so near the song's own is its own: a tenth of a bin at 500 Hz.
OWN_PITCH = 0.001
# A tempo so near the song's own is its own. In clips of 5 s one is measured within 0.1 %.
OWN_TEMPO = 0.002
# The least level with peaks counted by their weight. Noise leaves the loud peaks: at 0 and 5 dB one of a hundred
# performances is below 0.66. What shares loops or a key with a song misses its loud peaks: 0.16 to 0.53.
MIN_WEIGHTED_LEVEL = 0.6
# Log odds below which a span cannot become a match, whatever comes before or after.
IMPLAUSIBLE_LOGIT = -8.0
MAX_LOGIT = 30.0


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """What one alignment of a song gives along a recording, slot by slot; arrays are ``(n_slots,)`` float64.

    Parameters
    ----------
    song_id
        The song.
    first
        Slot of the recording, `SLOT_S` long, at which the arrays begin.
    song_s
        The song's second at the start of each slot.
    peaks
        Number of peaks that the song has there.
    level, variance
        Over these peaks: the sum of the response above chance, and its variance by chance.
    weight, weighted_level
        Over these peaks: the sum of their weights, and the sum of the response times the weight.
    votes
        Anchors that agree.
    pitch, searched
        As in `Alignment`.
    """

    song_id: int
    first: int
    song_s: NDArray[np.float64]
    peaks: NDArray[np.float64]
    level: NDArray[np.float64]
    variance: NDArray[np.float64]
    weight: NDArray[np.float64]
    weighted_level: NDArray[np.float64]
    votes: NDArray[np.float64]
    pitch: float | None = None
    searched: int = 1

    def __len__(self) -> int:
        return len(self.song_s)

    @property
    def end(self) -> int:
        """The slot after the last one."""
        return self.first + len(self)

    def since(self, slot: int) -> Trace:
        """The trace without what lies before a slot."""
        cut = max(slot - self.first, 0)
        arrays = {name: getattr(self, name)[cut:] for name in TRACE_ARRAYS}
        return dataclasses.replace(self, first=self.first + cut, **arrays)


TRACE_ARRAYS = ("song_s", "peaks", "level", "variance", "weight", "weighted_level", "votes")


@dataclass(frozen=True, slots=True)
class Span:
    """Slots of a trace over which its evidence adds up to `score`, from `start` to before `stop`."""

    trace: Trace
    start: int
    stop: int
    score: float

    @property
    def slots(self) -> slice:
        """These slots in the trace's arrays."""
        return slice(self.start - self.trace.first, self.stop - self.trace.first)


def segments(traces: Iterable[Trace], needed: float) -> list[Match]:
    """The performances in a recording.

    Parameters
    ----------
    traces
        In any order; those of one song whose times continue each other count as one.
    needed
        Confidence.

    Returns
    -------
    list of Match
        By start, then song.
    """
    found = [to_match(span) for span in spans(traces) if weighted_level(span) >= MIN_WEIGHTED_LEVEL]
    kept = sorted((match for match in found if match.confidence >= needed), key=_by_start)
    return sorted(_bridge_gaps(kept), key=_by_start)


def _by_start(match: Match) -> tuple[float, int]:
    return match.clip_start_s, match.song_id


def _bridge_gaps(matches: Sequence[Match]) -> list[Match]:
    """Join matches of one song, sorted by start, that continue each other."""
    by_song: dict[int, list[Match]] = {}
    for match in matches:
        of_song = by_song.setdefault(match.song_id, [])
        last = of_song[-1] if of_song else None
        if last and match.clip_start_s - last.clip_end_s <= LONGEST_GAP_S and _continues(last, match):
            of_song[-1] = dataclasses.replace(
                last,
                clip_end_s=match.clip_end_s,
                song_end_s=match.song_end_s,
                votes=last.votes + match.votes,
                confidence=max(last.confidence, match.confidence),
                speed=_speed(match.song_end_s - last.song_start_s, match.clip_end_s - last.clip_start_s),
            )
        else:
            of_song.append(match)
    return [match for of_song in by_song.values() for match in of_song]


def _continues(last: Match, match: Match) -> bool:
    expected_s = last.song_end_s + (match.clip_start_s - last.clip_end_s) * last.speed
    return abs(match.song_start_s - expected_s) <= SAME_PLACE_S


def _speed(song_s: float, clip_s: float, exact: bool = False) -> float:
    """Seconds of a song in a second of a clip; 1.0 if they hardly differ, and even less if they are exact."""
    steady_s = min(STEADY_S, OWN_TEMPO * clip_s) if exact else STEADY_S
    return 1.0 if abs(song_s - clip_s) <= steady_s else song_s / clip_s


def is_plausible(trace: Trace) -> bool:
    """Whether a trace may become a match, together with what comes before or after."""
    return any(_logit(span) >= IMPLAUSIBLE_LOGIT for span in spans([trace]))


def mean_level(span: Span) -> float:
    """Mean response of the recording at the song's peaks, above chance."""
    trace, slots = span.trace, span.slots
    return float(trace.level[slots].sum() / max(trace.peaks[slots].sum(), 1.0))


def weighted_level(span: Span) -> float:
    """`mean_level`, each peak counted by its weight."""
    trace, slots = span.trace, span.slots
    weight = float(trace.weight[slots].sum())
    return float(trace.weighted_level[slots].sum()) / weight if weight else 0.0


def song_distance_s(span: Span, other: Span) -> float:
    """By how many seconds the song times of two traces differ in the slots of their spans, in the mean."""
    return float(np.abs(span.trace.song_s[span.slots] - other.trace.song_s[other.slots]).mean())


def _logit(span: Span) -> float:
    """Log odds that a span is a performance."""
    trace, slots = span.trace, span.slots
    evidence = SpanEvidence(
        level=(trace.level[slots] - NEUTRAL_LEVEL * trace.peaks[slots]).sum(),
        variance=trace.variance[slots].sum(),
        votes=trace.votes[slots].sum(),
    )
    return logit(RECORDING_TERMS, evidence) - search_penalty(trace.searched)


def spans(traces: Iterable[Trace]) -> list[Span]:
    """Where the evidence of each song adds up, if it is plausible; no slot of a song belongs to two traces."""
    by_song: dict[int, list[Trace]] = {}
    for trace in join_traces(traces):
        by_song.setdefault(trace.song_id, []).append(trace)
    return [span for of_song in by_song.values() for span in _suppress_non_maxima(of_song)]


def join_traces(traces: Iterable[Trace]) -> list[Trace]:
    """Join traces of one song that continue each other; where they overlap, the later one counts."""
    by_song: dict[int, list[Trace]] = {}
    for trace in sorted(traces, key=lambda trace: (trace.first, trace.song_id)):
        of_song = by_song.setdefault(trace.song_id, [])
        distances = [(_distance_where_they_meet_s(earlier, trace), i) for i, earlier in enumerate(of_song)]
        distance_s, nearest = min(distances, default=(math.inf, 0))
        if distance_s <= SAME_PLACE_S:
            of_song[nearest] = _join(of_song[nearest], trace)
        else:
            of_song.append(trace)
    return [trace for of_song in by_song.values() for trace in of_song]


def _distance_where_they_meet_s(earlier: Trace, trace: Trace) -> float:
    """By how many seconds the song times differ in the slots that both have; infinite if there are none."""
    if not earlier.first <= trace.first < earlier.end:
        return math.inf
    n_shared = min(earlier.end, trace.end) - trace.first
    difference = earlier.song_s[trace.first - earlier.first :][:n_shared] - trace.song_s[:n_shared]
    return float(np.abs(difference).mean())


def _join(earlier: Trace, trace: Trace) -> Trace:
    kept = trace.first - earlier.first
    arrays = {name: np.concatenate([getattr(earlier, name)[:kept], getattr(trace, name)]) for name in TRACE_ARRAYS}
    pitch = trace.pitch if earlier.pitch is None else earlier.pitch
    searched = min(earlier.searched, trace.searched)
    return Trace(song_id=earlier.song_id, first=earlier.first, pitch=pitch, searched=searched, **arrays)


def _suppress_non_maxima(traces: Sequence[Trace]) -> list[Span]:
    """The spans of one song's traces, the highest score first; a span takes its slots from all others."""
    first = min(trace.first for trace in traces)
    free = np.ones(max(trace.end for trace in traces) - first, bool)
    scores = [_scores(trace) for trace in traces]
    taken: list[Span] = []
    best = [_span(trace, score) for trace, score in zip(traces, scores, strict=True)]
    while True:
        i = max(range(len(best)), key=lambda i: best[i].score)
        span = best[i]
        if span.score <= 0:
            break
        slots = slice(span.start - first, span.stop - first)
        trace = traces[i]
        available = free[trace.first - first : trace.end - first]
        if free[slots].all():
            taken.append(span)
            free[slots] = False
        best[i] = _span(trace, np.where(available, scores[i], -np.inf))
    taken = [span for span in taken if _logit(span) >= IMPLAUSIBLE_LOGIT]
    return [_refine_ends(span, [other for other in taken if other is not span]) for span in taken]


def _scores(trace: Trace) -> NDArray[np.float64]:
    """What each slot says for the performance, or against it, in units of level."""
    return trace.level - NEUTRAL_LEVEL * trace.peaks + VOTE_LEVEL * trace.votes


def best_span(scores: NDArray[np.float64], max_drop: float) -> tuple[int, int, float]:
    """Start, stop and sum of the neighbours with the largest sum, which nowhere falls by more than `max_drop`."""
    best = (0, 0, 0.0)
    total = top = 0.0
    start = 0
    for i, score in enumerate(scores.tolist()):
        if total <= 0 or top - total > max_drop:
            total = top = 0.0
            start = i
        total += score
        if total > top:
            top = total
            if top > best[2]:
                best = (start, i + 1, top)
    return best


def _span(trace: Trace, scores: NDArray[np.float64]) -> Span:
    start, stop, score = best_span(scores, MAX_DROP)
    return Span(trace, trace.first + start, trace.first + stop, score)


def _refine_ends(span: Span, others: Iterable[Span]) -> Span:
    """The span with its ends where the level falls to `END_SHARE` of the span's, or another span of the song begins."""
    trace, slots = span.trace, span.slots
    expected = mean_level(span) * trace.peaks
    scores = trace.level - END_SHARE * expected
    for other in others:
        scores[max(other.start - trace.first, 0) : max(other.stop - trace.first, 0)] = -np.inf
    extension, middle = round(MAX_EXTENSION_S / SLOT_S), (slots.start + slots.stop) // 2
    before = np.cumsum(scores[max(slots.start - extension, 0) : middle + 1][::-1])
    after = np.cumsum(scores[middle : slots.stop + extension])
    start, last = middle - int(before.argmax()), middle + int(after.argmax())
    fading = trace.level < FADE_SHARE * expected
    start = max(start - int(fading[start]), 0)
    last = min(last + int(fading[last]), len(trace) - 1)
    return dataclasses.replace(span, start=trace.first + start, stop=trace.first + last + 1)


def to_match(span: Span) -> Match:
    """A span in seconds, with its confidence."""
    trace, slots = span.trace, span.slots
    song_s = trace.song_s[slots]
    length_s = len(song_s) * SLOT_S
    speed = 1.0
    if len(song_s) > 1:
        played_s = float(song_s[-1] - song_s[0]) * len(song_s) / (len(song_s) - 1)
        speed = _speed(played_s, length_s, exact=trace.pitch is not None)
    early_s = max(0.0, -float(song_s[0]))  # the song begins inside the first slot
    return Match(
        song_id=trace.song_id,
        clip_start_s=span.start * SLOT_S + early_s / speed,
        clip_end_s=span.stop * SLOT_S,
        song_start_s=float(song_s[0]) + early_s,
        song_end_s=float(song_s[0] + length_s * speed),
        votes=int(trace.votes[slots].sum()),
        confidence=confidence(min(_logit(span), MAX_LOGIT)),
        speed=speed,
        pitch=speed if trace.pitch is None else 1.0 if abs(trace.pitch - 1.0) <= OWN_PITCH else trace.pitch,
    )
