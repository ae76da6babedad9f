"""What was heard of each song along a recording, to segments: who plays from when to when.

A trace is one performance of a song: the song's place runs on with the recording's time, and for each half second the
trace says how far the recording sounds where the song has its peaks. A performance is where that evidence adds up; a
voice over the music, a silence or a lost second does not end it, as long as what follows outweighs the gap. Another
performance of the same song (a jump, a loop, the refrain that returns) competes for the same seconds, and the one with
more evidence has them; different songs may sound together.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.matching.types import Match

BIN_S = 0.5
# Two stretches of a trace are one when their places differ by no more where they meet.
SAME_PLACE_S = 0.25
# A peak speaks for the song when the level there stands so far above chance, else against it: low, since the quiet
# second half of a fade is part of the performance.
NEUTRAL_LEVEL = 0.2
# Once it is known how the song is heard in the span, the span ends where it is heard by no more than this share of it:
# under noise, what follows the end reaches the neutral level by chance, and the song does not fall to it before.
FADED = 0.13
# An end that is heard by less than this share of it is a fade, which goes on for a bin.
FADING = 0.7
# So far beyond the span, to either side, the end is looked for.
FURTHER_S = 12.0
# A vote says as much as so much level.
VOTE = 4.0
# Of evidence that may be lost before a performance is over: 20 s of other sounds, at 35 peaks a second.
GAP = 20 * 50 * NEUTRAL_LEVEL
# Of place that a performance may drift before it is said to have another speed: a frame of the spectrogram.
STEADY_S = 0.05
LONGEST_GAP_S = 20.0
# Log odds of a performance: weights of its level above neutral in spreads of chance, of the root of its votes, and 1.
# Fitted on spans of 3 to 12 s in six hours of mixes, half of them in a room under noise at 10 dB, against what other
# songs gave there; the last one lower by 9, since these mixes have few strangers.
WEIGHTS = (0.82, 3.0, -16.0)
# Log odds that something in one in a hundred recordings of other music reaches.
NEEDED = 1.0
# By so much the song must be heard where its peaks are counted by their loudness. Noise leaves the loud ones: at 0 and
# 5 dB one of a hundred performances is heard by less than 0.66. What shares loops or a key with a song lacks its loud
# ones and was heard by 0.16 to 0.53.
LEAST_LOUD = 0.6
UNLIKELY = -8.0


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """How one song, placed in one way, stands in a recording.

    Parameters
    ----------
    song_id
        The song.
    first
        Bin of the recording, `BIN_S` long, at which the arrays begin.
    place_s
        ``(n_bins,)`` float64, the song's second at the start of each bin.
    peaks
        ``(n_bins,)`` float64, how many peaks the song has there.
    level, spread
        ``(n_bins,)`` float64, over these peaks: the sum of the recording's level above chance, and its variance by
        chance.
    loudness, loud_level
        ``(n_bins,)`` float64, how loud these peaks are in the song, added up, and the sum of the level, each peak's by
        its loudness.
    votes
        ``(n_bins,)`` float64, anchors that agree.
    """

    song_id: int
    first: int
    place_s: NDArray[np.float64]
    peaks: NDArray[np.float64]
    level: NDArray[np.float64]
    spread: NDArray[np.float64]
    loudness: NDArray[np.float64]
    loud_level: NDArray[np.float64]
    votes: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.place_s)

    @property
    def end(self) -> int:
        """The bin after the last one."""
        return self.first + len(self)


@dataclass(frozen=True, slots=True)
class Span:
    """Bins of a trace over which its evidence adds up."""

    trace: Trace
    start: int
    stop: int
    score: float

    @property
    def here(self) -> slice:
        """These bins in the trace's arrays."""
        return slice(self.start - self.trace.first, self.stop - self.trace.first)


def segments(traces: Iterable[Trace], needed: float) -> list[Match]:
    """The performances in a recording.

    Parameters
    ----------
    traces
        In any order; those of one song whose places run on where they meet count as one.
    needed
        Confidence.

    Returns
    -------
    list of Match
        By start, then song.
    """
    found = [match(span) for span in spans(traces) if loud_level(span) >= LEAST_LOUD]
    sure = sorted((match for match in found if match.confidence >= needed), key=_by_start)
    return sorted(_bridged(sure), key=_by_start)


def _by_start(match: Match) -> tuple[float, int]:
    return match.clip_start_s, match.song_id


def _bridged(matches: Sequence[Match]) -> list[Match]:
    """Join matches of one song, by start, that go on from each other."""
    runs: dict[int, list[Match]] = {}
    for match in matches:
        of_song = runs.setdefault(match.song_id, [])
        before = of_song[-1] if of_song else None
        if before and match.clip_start_s - before.clip_end_s <= LONGEST_GAP_S and _goes_on(before, match):
            of_song[-1] = dataclasses.replace(
                before,
                clip_end_s=match.clip_end_s,
                song_end_s=match.song_end_s,
                votes=before.votes + match.votes,
                confidence=max(before.confidence, match.confidence),
                speed=_speed(match.song_end_s - before.song_start_s, match.clip_end_s - before.clip_start_s),
            )
        else:
            of_song.append(match)
    return [match for of_song in runs.values() for match in of_song]


def _goes_on(before: Match, match: Match) -> bool:
    expected_s = before.song_end_s + (match.clip_start_s - before.clip_end_s) * before.speed
    return abs(match.song_start_s - expected_s) <= SAME_PLACE_S


def _speed(advanced_s: float, elapsed_s: float) -> float:
    return 1.0 if abs(advanced_s - elapsed_s) <= STEADY_S else advanced_s / elapsed_s


def likely(trace: Trace) -> bool:
    """Whether a trace may turn out to be a performance, together with what comes before or after."""
    return any(_logit(span) >= UNLIKELY for span in spans([trace]))


def threshold(false_positives: float) -> float:
    """The confidence that a segment needs.

    Parameters
    ----------
    false_positives
        Above 0, at most 1: of recordings of other music, the share in which something may be named.
    """
    return 1 / (1 + math.exp(-NEEDED) * false_positives / 0.01)


def mean_level(span: Span) -> float:
    """Of the recording at the song's peaks, above chance."""
    here = span.here
    return float(span.trace.level[here].sum() / max(span.trace.peaks[here].sum(), 1.0))


def loud_level(span: Span) -> float:
    """`mean_level`, each peak counted by its loudness."""
    here = span.here
    loudness = float(span.trace.loudness[here].sum())
    return float(span.trace.loud_level[here].sum()) / loudness if loudness else 0.0


def apart_s(span: Span, there: Span) -> float:
    """By how much the places of two traces differ on the same bins."""
    return float(np.abs(span.trace.place_s[span.here] - there.trace.place_s[there.here]).mean())


def _logit(span: Span) -> float:
    """Log odds that a span is a performance."""
    trace, here = span.trace, span.here
    above = (trace.level[here] - NEUTRAL_LEVEL * trace.peaks[here]).sum()
    standing = above / math.sqrt(trace.spread[here].sum() + 1.0)
    terms = (standing, math.sqrt(trace.votes[here].sum()), 1.0)
    return math.fsum(weight * float(term) for weight, term in zip(WEIGHTS, terms, strict=True))


def spans(traces: Iterable[Trace]) -> list[Span]:
    """Where each song's evidence adds up, if it may be a performance; no second of a song is given to two traces."""
    songs: dict[int, list[Trace]] = {}
    for trace in joined(traces):
        songs.setdefault(trace.song_id, []).append(trace)
    return [span for of_song in songs.values() for span in _shared_out(of_song)]


def joined(traces: Iterable[Trace]) -> list[Trace]:
    """Join traces of one song that run on from each other; where they overlap, the later one counts."""
    runs: dict[int, list[Trace]] = {}
    for trace in sorted(traces, key=lambda trace: (trace.first, trace.song_id)):
        of_song = runs.setdefault(trace.song_id, [])
        before = [(_apart_s(run, trace), place) for place, run in enumerate(of_song)]
        apart_s, place = min(before, default=(math.inf, 0))
        if apart_s <= SAME_PLACE_S:
            of_song[place] = _join(of_song[place], trace)
        else:
            of_song.append(trace)
    return [run for of_song in runs.values() for run in of_song]


def _apart_s(run: Trace, trace: Trace) -> float:
    """By how much the places differ where a trace meets an earlier one; infinite if it does not."""
    if not run.first <= trace.first < run.end:
        return math.inf
    shared = min(run.end, trace.end) - trace.first
    differ = run.place_s[trace.first - run.first :][:shared] - trace.place_s[:shared]
    return float(np.abs(differ).mean())


def _join(run: Trace, trace: Trace) -> Trace:
    kept = trace.first - run.first
    fields = ("place_s", "peaks", "level", "spread", "loudness", "loud_level", "votes")
    arrays = {name: np.concatenate([getattr(run, name)[:kept], getattr(trace, name)]) for name in fields}
    return Trace(run.song_id, run.first, **arrays)


def _shared_out(traces: Sequence[Trace]) -> list[Span]:
    """Give the seconds of one song to its traces, the strongest span first."""
    first = min(trace.first for trace in traces)
    free = np.ones(max(trace.end for trace in traces) - first, bool)
    scores = [_scores(trace) for trace in traces]
    taken: list[Span] = []
    best = [_span(trace, score) for trace, score in zip(traces, scores, strict=True)]
    while True:
        place = max(range(len(best)), key=lambda place: best[place].score)
        span = best[place]
        if span.score <= 0:
            break
        here = slice(span.start - first, span.stop - first)
        trace = traces[place]
        mask = free[trace.first - first : trace.end - first]
        if free[here].all():
            taken.append(span)
            free[here] = False
        best[place] = _span(trace, np.where(mask, scores[place], -np.inf))
    taken = [span for span in taken if _logit(span) >= UNLIKELY]
    return [_settled(span, [other for other in taken if other is not span]) for span in taken]


def _scores(trace: Trace) -> NDArray[np.float64]:
    """What each bin says for the performance, or against it, in units of level."""
    return trace.level - NEUTRAL_LEVEL * trace.peaks + VOTE * trace.votes


def best_span(scores: NDArray[np.float64], gap: float) -> tuple[int, int, float]:
    """Start, stop and sum of the neighbours with the largest sum, which nowhere falls by more than ``gap``."""
    best = (0, 0, 0.0)
    total = top = 0.0
    start = 0
    for place, score in enumerate(scores.tolist()):
        if total <= 0 or top - total > gap:
            total = top = 0.0
            start = place
        total += score
        if total > top:
            top = total
            if top > best[2]:
                best = (start, place + 1, top)
    return best


def _span(trace: Trace, scores: NDArray[np.float64]) -> Span:
    start, stop, score = best_span(scores, GAP)
    return Span(trace, trace.first + start, trace.first + stop, score)


def _settled(span: Span, others: Iterable[Span]) -> Span:
    """The span with its ends where the song is no longer heard as in the span, or another span of it begins."""
    trace, here = span.trace, span.here
    expected = mean_level(span) * trace.peaks
    scores = trace.level - FADED * expected
    for other in others:
        scores[max(other.start - trace.first, 0) : max(other.stop - trace.first, 0)] = -np.inf
    further, middle = round(FURTHER_S / BIN_S), (here.start + here.stop) // 2
    before = np.cumsum(scores[max(here.start - further, 0) : middle + 1][::-1])
    after = np.cumsum(scores[middle : here.stop + further])
    start, last = middle - int(before.argmax()), middle + int(after.argmax())
    fading = trace.level < FADING * expected
    start = max(start - int(fading[start]), 0)
    last = min(last + int(fading[last]), len(trace) - 1)
    return dataclasses.replace(span, start=trace.first + start, stop=trace.first + last + 1)


def match(span: Span) -> Match:
    """A span in seconds, and how sure it is."""
    trace, here = span.trace, span.here
    place_s = trace.place_s[here]
    length_s = len(place_s) * BIN_S
    advanced_s = float(place_s[-1] - place_s[0]) + BIN_S
    speed = _speed(advanced_s, length_s)
    early_s = max(0.0, -float(place_s[0]))  # the song begins inside the first bin
    return Match(
        song_id=trace.song_id,
        clip_start_s=span.start * BIN_S + early_s / speed,
        clip_end_s=span.stop * BIN_S,
        song_start_s=float(place_s[0]) + early_s,
        song_end_s=float(place_s[0] + length_s * speed),
        votes=int(trace.votes[here].sum()),
        confidence=1 / (1 + math.exp(-min(_logit(span), 30.0))),
        speed=speed,
    )
