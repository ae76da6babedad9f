"""A recording of any length to the songs in it: heard in stretches, each asked once, in the memory of one.

A stretch is two minutes long. Its hits are counted in short windows. A place in a song that is a candidate in one
window is chance, one that goes on from window to window is a performance: candidates are chained. A chain follows its
own slope, so that a clock that runs fast or a turntable gives one chain and not fifty. Only the strongest tracks are
held against their song's constellation, all along the stretch; what they find there second by second is a trace, of
which `timeline` makes segments. Where nothing explains what sounds, the stretch is asked again at other speeds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.audio.resampling import at_speed
from pipeline.fingerprinting.landmarks import pair_peaks
from pipeline.fingerprinting.peaks import Peaks
from pipeline.fingerprinting.settings import SILENCE
from pipeline.matching import segments
from pipeline.matching.alignment import Alignment
from pipeline.matching.clip import Clip, SearchLevel
from pipeline.matching.search import COARSE
from pipeline.matching.segments import BIN_S, Trace
from pipeline.matching.tracks import (
    NEAR_TICKS,
    REACH,
    Line,
    Track,
    find_tracks,
    fit_line,
    hit_ticks,
    hits_of_song,
)
from pipeline.matching.types import Library, Match, Query
from pipeline.matching.verification import BOUNDS, RELATED, loudness, tones
from pipeline.matching.voting import TICKS, Hits

STRETCH_S = 120
# Heard again with the next stretch, so that a song that begins at the seam is found whole.
CONTEXT_S = 15
# A steeper line belongs to a copy at another speed.
STEEPEST = 0.006
SPEED_STEP = 0.01
# Nearer speeds are not asked for again.
SAME_SPEED = 0.002
# A stretch is explained when no more than this in one piece belongs to no song.
UNEXPLAINED_S = 10.0
# From one reading of the matched filter to the next: a tone's beginning is not to be missed by half a frame.
FINE_TICKS = TICKS // 2
# By how many of these a line may be moved to where the song is heard best: 4 frames, what hits of a weak one are off.
SETTLING = np.arange(-8, 9)
# By which peaks are moved in time, in such steps, to see what chance gives: 0.25 to 3.5 s. Moved aside by some bins
# they would leave the key of the music, and every song in the same key would seem to play.
STEPS_ASIDE = tuple(sign * steps for steps in range(11, 155, 11) for sign in (-1, 1))
# Of two songs that are heard at once one is heard better when the other's level is less than so much of its own: a
# recording that the library holds twice is found twice.
AS_GOOD = 0.9
# And they are versions of each other when so many of its peaks are the other's too (`verify.RELATED`), or copies when
# so many are: a copy at 32 to 64 kbit/s has 0.62 to 0.86 of them.
THE_SAME = 0.9
# A song that is heard by less than this is suspected of being heard elsewhere in it as well: so many seconds further
# on, where loops come again, by such a share of the level. Under noise at 10 dB songs are heard by 0.3 to 1.5; what
# shares loops with a song by 0.2 to 0.7, and elsewhere by 0.74 of that or more, as four of 150 songs were.
CLEAR = 0.8
NEXT_LOOP_S, LAST_LOOP_S = 1.5, 13.0
A_LOOP = 0.72


class Recording:
    """One recording as it is heard.

    Parameters
    ----------
    stretch_s
        Asked at once; whole seconds. Long ones read the store in long strides, short ones answer sooner.
    effort
        How densely.
    a_loop
        A faintly heard song is a loop when it is heard by this share of its level elsewhere in it.
    """

    def __init__(
        self,
        library: Library,
        query: Query,
        stretch_s: int = STRETCH_S,
        effort: SearchLevel = COARSE,
        a_loop: float = A_LOOP,
    ) -> None:
        self.library = library
        self.query = query
        self.effort = effort
        self.a_loop = a_loop
        self.heard_s = 0.0
        self._rate = library.settings.sample_rate
        self._stretch = stretch_s * self._rate
        self._blocks: list[NDArray[np.float32]] = []
        self._waiting = 0
        self._context = np.zeros(0, np.float32)
        self._first_s = 0
        self._speeds = speeds(query.speed_range)
        self._lately = 1.0  # a turntable keeps its speed: the next stretch is asked at this one first
        self._traces: list[Trace] = []
        self._closed: list[Match] = []

    def hear(self, samples: NDArray[np.float32]) -> None:
        """Take in what comes next, ``(n,)`` float32 at the library's sample rate, any number."""
        self._blocks.append(samples)
        self._waiting += len(samples)
        self.heard_s += len(samples) / self._rate
        if self._waiting < self._stretch:
            return
        waiting = np.concatenate(self._blocks)
        whole = len(waiting) // self._stretch * self._stretch
        for start in range(0, whole, self._stretch):
            self._ask(waiting[start : start + self._stretch])
        self._blocks, self._waiting = [waiting[whole:]], len(waiting) - whole

    def finish(self) -> list[Match]:
        """Ask for the last seconds; the performances in the whole recording."""
        if self._waiting:
            self._ask(np.concatenate(self._blocks))
            self._blocks, self._waiting = [], 0
        return self.matches()

    def matches(self) -> list[Match]:
        """The performances in what was asked so far, by start; the last of them may go on."""
        return sorted(self._closed + self._segments(self._traces), key=lambda match: match.clip_start_s)

    def _segments(self, traces: list[Trace]) -> list[Match]:
        return segments.segments(traces, segments.threshold(self.query.false_positives))

    def _ask(self, samples: NDArray[np.float32]) -> None:
        both = np.concatenate([self._context, samples])
        stretch = Stretch(both, self._first_s, self.library, self.effort, self.a_loop)
        waiting = [self._lately, *(speed for speed in self._speeds if abs(speed - self._lately) > SAME_SPEED)]
        while waiting:
            speed = waiting.pop(0)
            pace = stretch.ask(speed)
            if pace:
                self._lately = 1.0 if abs(pace - 1.0) <= SAME_SPEED else pace
            if stretch.unexplained_s(self._segments(stretch.traces())) <= UNEXPLAINED_S:
                break
        self._traces += stretch.traces()
        self._close(stretch.first)
        self._context = both[-CONTEXT_S * self._rate :]
        self._first_s += (len(both) - len(self._context)) // self._rate

    def _close(self, first: int) -> None:
        """Of songs that were not heard lately keep the segments and not the evidence: memory stays flat."""
        lately = {trace.song_id for trace in self._traces if trace.end >= first - segments.LONGEST_GAP_S / BIN_S}
        self._closed += self._segments([trace for trace in self._traces if trace.song_id not in lately])
        self._traces = [trace for trace in self._traces if trace.song_id in lately]


def speeds(speed_range: float) -> list[float]:
    """Those to ask for, the likeliest first: copies `SPEED_STEP` apart find what is played at any speed between."""
    aside = int(np.ceil(speed_range / 100 / SPEED_STEP - 1e-9))
    return sorted((1 + SPEED_STEP * step for step in range(-aside, aside + 1)), key=lambda speed: abs(speed - 1))


class Stretch:
    """Some minutes of a recording.

    Parameters
    ----------
    samples
        ``(n,)`` float32.
    first_s
        Second of the recording at which they begin.
    effort, a_loop
        As for `Recording`.
    """

    def __init__(
        self, samples: NDArray[np.float32], first_s: int, library: Library, effort: SearchLevel, a_loop: float
    ) -> None:
        self.samples = samples
        self.first = round(first_s / BIN_S)
        self.library = library
        self.effort = effort
        self.a_loop = a_loop
        self.clip = Clip(samples, library.settings)
        # Frames half a hop apart: the sparse question needs these spectrograms anyway.
        powers = [self.clip.power(shift) for shift in range(0, TICKS, FINE_TICKS)]
        copies = [tones(np.log(power + np.float32(SILENCE))) for power in powers]
        surface = np.stack(copies, axis=1).reshape(-1, copies[0].shape[1])
        self.surface = np.clip(surface, *BOUNDS)
        self._held: list[Alignment] = []

    def ask(self, speed: float) -> float | None:
        """Look for songs that are played at about this speed.

        Returns
        -------
        float or None
            The speed of the one that stands out most, if any seems to be there.
        """
        held = self._heard_at(speed)
        for _ in range(2):  # at its very speed a song has more votes
            if held and abs(held[0].pace - speed) > SAME_SPEED:
                speed = held[0].pace
                held = self._heard_at(speed) or held
        self._held += [one for one in held if not self._anywhere(one, held)]
        return held[0].pace if held else None

    def _heard_at(self, speed: float) -> list[Alignment]:
        settings = self.library.settings
        copy = self.clip if speed == 1.0 else Clip(at_speed(self.samples, speed), settings)
        question = copy.question(self.effort)
        found = find_tracks(question, self.library, settings.sample_rate * TICKS / settings.hop)
        songs = self.library.constellations({chain.song_id for chain in found})
        # the store has a song's landmarks by hash; by song its peaks say them
        by_song = {
            song_id: hits_of_song(question, song_id, pair_peaks(peaks, settings.fan_out))
            for song_id, peaks in songs.items()
        }
        lines = [(chain, fit_line(chain, by_song[chain.song_id])) for chain in found]
        held = [
            self._hold(chain, songs[chain.song_id], by_song[chain.song_id], line, speed)
            for chain, line in lines
            if abs(line.slope) <= STEEPEST
        ]
        return [one for one in held if segments.likely(one.trace())]

    def traces(self) -> list[Trace]:
        """What was found; what a song has in common with one that is heard better does not speak for it.

        So a song does not seem to play where another version of it does, or one that is made of the same sounds.
        """
        best = [_best(one) for one in self._held]
        traces = []
        for one, span in zip(self._held, best, strict=True):
            counts = np.ones(len(one.frame), bool)
            for other, theirs in zip(self._held, best, strict=True):
                if other.song_id == one.song_id:
                    there = dataclasses.replace(span, trace=theirs.trace)
                    counts &= theirs.score <= span.score or segments.apart_s(span, there) > segments.SAME_PLACE_S
                else:
                    counts &= ~_borrowed(one, other, span, theirs)
            if counts.any():
                traces.append(one.trace(counts))
        return traces

    def _anywhere(self, one: Alignment, others: Sequence[Alignment]) -> bool:
        """Whether the song is heard faintly, and nearly as well at another of its places or some seconds further on.

        Then it is not the song that is heard but a loop that both are made of.
        """
        span = _best(one)
        level = segments.mean_level(span)
        if level >= CLEAR:
            return False
        for other in others:
            there = dataclasses.replace(span, trace=other.trace())
            elsewhere = other.song_id == one.song_id and segments.apart_s(span, there) > NEXT_LOOP_S
            if elsewhere and segments.mean_level(there) >= self.a_loop * level:
                return True
        fine_s = one.frame_s * FINE_TICKS / TICKS
        start, stop = (round((bin_ - self.first) * BIN_S / fine_s) for bin_ in (span.start, span.stop))
        stop = min(stop, len(self.surface))
        steps = np.arange(round(NEXT_LOOP_S / fine_s), round(LAST_LOOP_S / fine_s))
        steps = np.concatenate([-steps, steps])
        first, last = np.searchsorted(one.song_fine, start - steps), np.searchsorted(one.song_fine, stop - steps)
        enough = last - first >= np.count_nonzero(one.within(span)) / 2
        heard = [
            self.surface[one.song_fine[some] + step, one.song_bin[some]].mean()
            for step, some in zip(steps[enough], map(slice, first[enough], last[enough]), strict=True)
        ]
        return len(heard) > 0 and float(np.max(heard) - np.mean(heard)) >= self.a_loop * level

    def unexplained_s(self, matches: list[Match]) -> float:
        """The longest piece in which something sounds that belongs to no song."""
        size = round(BIN_S * self.library.settings.sample_rate)
        sounds = np.add.reduceat(np.square(self.samples), np.arange(0, len(self.samples), size)) > SILENCE
        for match in matches:
            sounds[
                max(round(match.clip_start_s / BIN_S) - self.first, 0) : round(match.clip_end_s / BIN_S) - self.first
            ] = False
        edges = np.flatnonzero(np.diff(sounds.astype(np.int8), prepend=0, append=0))
        return float((edges[1::2] - edges[::2]).max(initial=0)) * BIN_S

    def _settled(self, chain: Track, song: Peaks, line: Line, speed: float) -> Line:
        """The line near this one, or level through its middle, along which the song is heard best."""
        first, last = chain.middles[0] - REACH, chain.middles[-1] + REACH
        best = -np.inf
        for slope in (0.0, line.slope):
            delta = line.delta + (line.slope - slope) * (first + last) / 2
            tick = (song.frame * TICKS - delta) / (1 + slope)
            near = (tick >= first) & (tick <= last)
            fine = np.rint(tick[near] / (speed * FINE_TICKS)).astype(np.int64) + SETTLING[:, None]
            bin_ = np.minimum(np.rint(song.bin[near] * speed).astype(np.int64), self.surface.shape[1] - 1)
            heard = self.surface[np.clip(fine, 0, len(self.surface) - 1), bin_].sum(axis=1)
            place = int(heard.argmax())
            if heard[place] > best:
                best = float(heard[place])
                settled = Line(delta - int(SETTLING[place]) * FINE_TICKS * speed * (1 + slope), slope)
        return settled

    def _hold(self, chain: Track, song: Peaks, hits: Hits, line: Line, speed: float) -> Alignment:
        """What the stretch says of a song along a line.

        Parameters
        ----------
        hits
            Of this song alone, in the ticks of the copy at `speed`.
        """
        line = self._settled(chain, song, line, speed)
        rate, hop = self.library.settings.sample_rate, self.library.settings.hop
        n_bins = -(-len(self.samples) // round(BIN_S * rate))
        pace = speed * (1 + line.slope)
        song_fine = np.rint((song.frame * TICKS - line.delta) / (pace * FINE_TICKS)).astype(np.int64)
        song_bin = np.minimum(np.rint(song.bin * pace).astype(np.int64), self.surface.shape[1] - 1)
        inside = (song_fine >= 0) & (song_fine < len(self.samples) // hop * (TICKS // FINE_TICKS))
        fine, bin_ = song_fine[inside], song_bin[inside]
        chance = self.surface[_moved(fine, len(self.surface)), bin_]
        level = self.surface[fine, bin_] - chance.mean(axis=0)
        agree = np.abs(hits.delta - (line.delta + line.slope * hit_ticks(hits))) <= NEAR_TICKS
        anchors = hits.offset[agree].astype(np.int64) << 10 | hits.bin[agree]
        start_s = (line.delta * hop / TICKS + self.clip.lead) / rate
        return Alignment(
            song_id=chain.song_id,
            first=self.first,
            place_s=start_s + BIN_S * pace * np.arange(n_bins, dtype=np.float64),
            pace=pace,
            frame_s=hop / rate,
            frame=fine // (TICKS // FINE_TICKS),
            bin=bin_,
            level=level,
            spread=chance.var(axis=0),
            loudness=loudness(song.level[inside]),
            voted=np.isin(song.frame.astype(np.int64) << 10 | song.bin, anchors)[inside],
            song_fine=song_fine,
            song_bin=song_bin,
        )


def _best(one: Alignment) -> segments.Span:
    return max(segments.spans([one.trace()]), key=lambda span: span.score)


def _borrowed(one: Alignment, other: Alignment, span: segments.Span, theirs: segments.Span) -> NDArray[np.bool_]:
    """Which peaks of a song do not speak for it, since another one that has them is heard better.

    All of them when the two are versions of one recording: what they share is heard alike, so those peaks are compared
    that each has alone.
    """
    shared = one.shared(other, theirs)
    share = float(shared[one.within(span)].mean())
    there = dataclasses.replace(span, trace=theirs.trace)
    better = segments.mean_level(span) < AS_GOOD * segments.mean_level(there)
    if RELATED <= share < THE_SAME and not better:
        better = _alone(one, other, span, theirs) < AS_GOOD * _alone(other, one, theirs, span)
    return (shared | (share >= RELATED)) & better


def _alone(one: Alignment, other: Alignment, span: segments.Span, theirs: segments.Span) -> float:
    """How far a song is heard at the peaks that another one has not, where both may sound."""
    own = one.within(span) & one.within(theirs) & ~one.shared(other, theirs)
    return float(one.level[own].mean()) if own.any() else 0.0


def _moved(fine: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Places `STEPS_ASIDE` from each; what would lie beyond an end is folded back."""
    moved = np.abs(fine + np.array(STEPS_ASIDE)[:, None])
    folded: NDArray[np.int64] = np.clip(np.where(moved >= length, 2 * length - 2 - moved, moved), 0, length - 1)
    return folded
