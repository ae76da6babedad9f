"""A song aligned with a stretch of a recording along a line: what the recording sounds like at each of its peaks.

A line has a time offset and a slope, so that a clock that runs fast, or a turntable, gives one alignment. What a song
has in common with another one that matches better does not count for it: hence a song is not found where another
version of it plays, or one that is made of the same sounds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.fingerprinting.peaks import Peaks
from pipeline.fingerprinting.settings import SILENCE, Settings
from pipeline.matching import segments
from pipeline.matching.clip import Clip
from pipeline.matching.segments import SLOT_S, Span, Trace
from pipeline.matching.tracks import NEAR_TICKS, REACH_TICKS, Line, Track, hit_ticks
from pipeline.matching.types import Match
from pipeline.matching.verification import RESPONSE_BOUNDS, VERSION_SHARE, coincident, matched_filter, peak_weights
from pipeline.matching.voting import TICKS, Hits

# The matched filter's response is read twice in a frame: the beginning of a tone is then missed by a quarter at most.
ROW_TICKS = TICKS // 2
ROWS_PER_FRAME = TICKS // ROW_TICKS
# A line may be moved by so many rows to where the response is highest: 4 frames, the error of a weak song's hits.
REFINE_ROWS = np.arange(-8, 9)
# The null: the song's peaks shifted in time by so many rows, 0.25 to 3.5 s. Shifted in frequency they would leave the
# key of the music, and every song in the same key would seem to play.
NULL_SHIFTS_ROWS = tuple(sign * rows for rows in range(11, 155, 11) for sign in (-1, 1))
# Of two songs in the same seconds one matches worse when its level is below this share of the other's. A recording that
# the library holds twice is found twice.
SAME_LEVEL = 0.9
# Songs are versions of each other above `verification.VERSION_SHARE` of shared peaks, and copies above this share: a
# copy at 32 to 64 kbit/s shares 0.62 to 0.86.
COPY_SHARE = 0.9
# A song with a level below this is compared with the same song so many seconds later and earlier, where loops
# repeat. Under noise at 10 dB songs have levels of 0.3 to 1.5. Music that shares loops with a song has 0.2 to 0.7, and
# elsewhere in the song 0.74 of that or more, as four of 150 songs did.
CLEAR_LEVEL = 0.8
# Noise covers a song's quiet peaks and leaves the loud ones: its level by weight is 1.5 to 2.6 times its level, and
# 0.75 or more. Of what shares a loop with a song, quiet and loud peaks sound alike: 1.25 times at most, and in noise at
# 5 dB the level by weight is below 0.55.
MIN_LOUD_LEVEL, NOISY_RATIO = 0.7, 1.4
MIN_LOOP_S, MAX_LOOP_S = 1.5, 13.0
# A song that matches weakly is a loop when it reaches this share of its level elsewhere in the song.
LOOP_SHARE = 0.72


class Stretch:
    """Some minutes of a recording, filtered for verification; nothing in it changes.

    Parameters
    ----------
    samples
        ``(n,)`` float32.
    first_s
        Second of the recording at which they begin.

    Attributes
    ----------
    first
        Slot of the recording, `SLOT_S` long, at which the stretch begins.
    clip
        The samples as a clip, for its spectrograms and query hashes.
    response
        ``(n_rows, n_bins)`` float32, of the matched filter, `ROWS_PER_FRAME` rows to a frame, within `RESPONSE_BOUNDS`.
    """

    def __init__(self, samples: NDArray[np.float32], first_s: int, settings: Settings) -> None:
        self.samples = samples
        self.settings = settings
        self.first = round(first_s / SLOT_S)
        self.clip = Clip(samples, settings)
        # The coarse search needs these spectrograms anyway.
        powers = [self.clip.power(shift) for shift in range(0, TICKS, ROW_TICKS)]
        rows = [matched_filter(np.log(power + np.float32(SILENCE))) for power in powers]
        self.response = np.clip(np.stack(rows, axis=1).reshape(-1, rows[0].shape[1]), *RESPONSE_BOUNDS)

    def unexplained_s(self, matches: Sequence[Match]) -> float:
        """The longest piece with sound in which no song was found, in seconds."""
        size = round(SLOT_S * self.settings.sample_rate)
        sounds = np.add.reduceat(np.square(self.samples), np.arange(0, len(self.samples), size)) > SILENCE
        for match in matches:
            start, stop = round(match.clip_start_s / SLOT_S) - self.first, round(match.clip_end_s / SLOT_S) - self.first
            sounds[max(start, 0) : stop] = False
        edges = np.flatnonzero(np.diff(sounds.astype(np.int8), prepend=0, append=0))
        return float((edges[1::2] - edges[::2]).max(initial=0)) * SLOT_S


@dataclass(frozen=True, slots=True, eq=False)
class Alignment:
    """A song aligned with a stretch along one line.

    Parameters
    ----------
    song_id
        The song.
    first
        Slot of the recording, `SLOT_S` long, at which the stretch begins.
    song_s
        ``(n_slots,)`` float64, the song's second at the start of each slot of the stretch.
    speed
        At which the song is played.
    frame_s
        Length of a frame.
    frame, bin
        ``(n,)`` int64, frame in the stretch and bin of the song's peaks that lie in it, by frame.
    level, variance
        ``(n,)`` float32, the response there above the null's mean, and the variance of the null.
    weight
        ``(n,)`` float32, `peak_weights`.
    voted
        ``(n,)`` bool, whether the peak is an anchor that agrees.
    song_row, song_bin
        ``(n_peaks,)`` int64, where all peaks of the song lie in `Stretch.response`, also before and after the stretch.
    pitch
        Of the song in the stretch over its own; ``None`` if it was not measured, and is that of the speed.
    searched
        At how many changes of speed, pitch and tempo the stretch was searched to find this one.
    """

    song_id: int
    first: int
    song_s: NDArray[np.float64]
    speed: float
    frame_s: float
    frame: NDArray[np.int64]
    bin: NDArray[np.int64]
    level: NDArray[np.float32]
    variance: NDArray[np.float32]
    weight: NDArray[np.float32]
    voted: NDArray[np.bool_]
    song_row: NDArray[np.int64]
    song_bin: NDArray[np.int64]
    pitch: float | None = None
    searched: int = 1

    def trace(self, counted: NDArray[np.bool_] | None = None) -> Trace:
        """What the peaks give in each slot: those where `counted` is true, all of them when it is ``None``."""
        counted = np.ones(len(self.frame), bool) if counted is None else counted
        n_slots = len(self.song_s)
        slot = np.clip((self.frame[counted] * (self.frame_s / SLOT_S)).astype(np.int64), 0, n_slots - 1)

        def per_slot(values: NDArray[np.float32] | NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
            return np.bincount(slot, None if values is None else values[counted], n_slots).astype(np.float64)

        return Trace(
            song_id=self.song_id,
            first=self.first,
            song_s=self.song_s,
            peaks=per_slot(),
            level=per_slot(self.level),
            variance=per_slot(self.variance),
            weight=per_slot(self.weight),
            weighted_level=per_slot(self.weight * self.level),
            votes=per_slot(self.voted),
            pitch=self.pitch,
            searched=self.searched,
        )

    def best_span(self) -> Span:
        """The span with the highest score."""
        return max(segments.spans([self.trace()]), key=lambda span: span.score)

    def within(self, span: Span) -> NDArray[np.bool_]:
        """Which peaks lie in a span, ``(n,)``."""
        second = self.frame * self.frame_s + self.first * SLOT_S
        inside: NDArray[np.bool_] = (second >= span.start * SLOT_S) & (second < span.stop * SLOT_S)
        return inside

    def shared_with(self, other: Alignment, span: Span) -> NDArray[np.bool_]:
        """Which peaks another song has too, within a frame and a bin, in a span of that song; ``(n,)``."""
        there = other.within(span)
        return coincident(self.frame, self.bin, other.frame[there], other.bin[there])


def align(stretch: Stretch, track: Track, song: Peaks, hits: Hits, line: Line, speed: float) -> Alignment:
    """Align a song with a stretch along a line near a given one.

    Parameters
    ----------
    hits
        Of this song alone, in ticks of the stretch's copy at `speed`.
    """
    line = _refine(stretch, track, song, line, speed)
    rate, hop = stretch.settings.sample_rate, stretch.settings.hop
    n_slots = -(-len(stretch.samples) // round(SLOT_S * rate))
    n_rows, n_bins = stretch.response.shape
    song_speed = speed * (1 + line.slope)
    song_row = np.rint((song.frame * TICKS - line.delta) / (song_speed * ROW_TICKS)).astype(np.int64)
    song_bin = scaled_bins(song.bin, song_speed, n_bins)
    inside = (song_row >= 0) & (song_row < len(stretch.samples) // hop * ROWS_PER_FRAME)
    row, bin_ = song_row[inside], song_bin[inside]
    null = stretch.response[shifted_rows(row, n_rows), bin_]
    agree = np.abs(hits.delta - (line.delta + line.slope * hit_ticks(hits))) <= NEAR_TICKS
    anchors = hits.offset[agree].astype(np.int64) << 10 | hits.bin[agree]
    start_s = (line.delta * hop / TICKS + stretch.clip.lead) / rate
    return Alignment(
        song_id=track.song_id,
        first=stretch.first,
        song_s=start_s + SLOT_S * song_speed * np.arange(n_slots, dtype=np.float64),
        speed=song_speed,
        frame_s=hop / rate,
        frame=row // ROWS_PER_FRAME,
        bin=bin_,
        level=stretch.response[row, bin_] - null.mean(axis=0),
        variance=null.var(axis=0),
        weight=peak_weights(song.level[inside]),
        voted=np.isin(song.frame.astype(np.int64) << 10 | song.bin, anchors)[inside],
        song_row=song_row,
        song_bin=song_bin,
    )


def _refine(stretch: Stretch, track: Track, song: Peaks, line: Line, speed: float) -> Line:
    """The line near this one, or level through its middle, with the highest response."""
    n_rows, n_bins = stretch.response.shape
    first, last = track.middles[0] - REACH_TICKS, track.middles[-1] + REACH_TICKS
    highest, refined = -np.inf, line
    for slope in (0.0, line.slope):
        delta = line.delta + (line.slope - slope) * (first + last) / 2
        tick = (song.frame * TICKS - delta) / (1 + slope)
        near = (tick >= first) & (tick <= last)
        row = np.rint(tick[near] / (speed * ROW_TICKS)).astype(np.int64) + REFINE_ROWS[:, None]
        bin_ = np.minimum(np.rint(song.bin[near] * speed).astype(np.int64), n_bins - 1)
        responses = stretch.response[np.clip(row, 0, n_rows - 1), bin_].sum(axis=1)
        best = int(responses.argmax())
        if responses[best] > highest:
            highest = float(responses[best])
            refined = Line(delta - int(REFINE_ROWS[best]) * ROW_TICKS * speed * (1 + slope), slope)
    return refined


def shifted_rows(row: NDArray[np.int64], n_rows: int) -> NDArray[np.int64]:
    """Rows `NULL_SHIFTS_ROWS` away from each, ``(n_shifts, n)``; what lies beyond an end is mirrored."""
    shifted = np.abs(row + np.array(NULL_SHIFTS_ROWS)[:, None])
    mirrored: NDArray[np.int64] = np.clip(np.where(shifted >= n_rows, 2 * n_rows - 2 - shifted, shifted), 0, n_rows - 1)
    return mirrored


def scaled_bins(bin_: NDArray[np.int32], pitch: float | NDArray[np.floating], n_bins: int) -> NDArray[np.int64]:
    """The nearest bins at which peaks of a song lie at another pitch, none above the last."""
    bins: NDArray[np.int64] = np.minimum(np.rint(bin_ * pitch).astype(np.int64), n_bins - 1)
    return bins


def is_repeated_loop(one: Alignment, others: Sequence[Alignment], stretch: Stretch, loop_share: float) -> bool:
    """Whether a song matches weakly, and nearly as well at another place of it or some seconds earlier or later.

    Then what matches is not the song but a loop that the song and the recording are both made of.

    Parameters
    ----------
    others
        All alignments of the same search.
    loop_share
        "Nearly as well": by so much of the level.
    """
    span = one.best_span()
    level, loud_level = segments.mean_level(span), segments.weighted_level(span)
    if level >= CLEAR_LEVEL or loud_level >= max(MIN_LOUD_LEVEL, NOISY_RATIO * level):
        return False
    for other in others:
        if other.song_id == one.song_id:
            there = dataclasses.replace(span, trace=other.trace())
            elsewhere = segments.song_distance_s(span, there) > MIN_LOOP_S
            if elsewhere and segments.mean_level(there) >= loop_share * level:
                return True
    row_s = one.frame_s * ROW_TICKS / TICKS
    start, stop = (round((slot - one.first) * SLOT_S / row_s) for slot in (span.start, span.stop))
    stop = min(stop, len(stretch.response))
    later = np.arange(round(MIN_LOOP_S / row_s), round(MAX_LOOP_S / row_s))
    shifts = np.concatenate([-later, later])
    first, last = np.searchsorted(one.song_row, start - shifts), np.searchsorted(one.song_row, stop - shifts)
    enough = last - first >= np.count_nonzero(one.within(span)) / 2
    responses = [
        stretch.response[one.song_row[peaks] + shift, one.song_bin[peaks]].mean()
        for shift, peaks in zip(shifts[enough], map(slice, first[enough], last[enough]), strict=True)
    ]
    return len(responses) > 0 and float(np.max(responses) - np.mean(responses)) >= loop_share * level


def traces(alignments: Sequence[Alignment]) -> list[Trace]:
    """The trace of each alignment, without the peaks that another alignment explains better."""
    best = [one.best_span() for one in alignments]
    found = []
    for one, span in zip(alignments, best, strict=True):
        counted = np.ones(len(one.frame), bool)
        for other, other_span in zip(alignments, best, strict=True):
            if other.song_id == one.song_id:
                there = dataclasses.replace(span, trace=other_span.trace)
                weaker = other_span.score <= span.score
                counted &= weaker or segments.song_distance_s(span, there) > segments.SAME_PLACE_S
            else:
                counted &= ~_explained_by_other(one, other, span, other_span)
        if counted.any():
            found.append(one.trace(counted))
    return found


def _explained_by_other(one: Alignment, other: Alignment, span: Span, other_span: Span) -> NDArray[np.bool_]:
    """Which peaks of a song do not count for it, since another song has them too and matches better.

    All peaks when the two are versions of one recording. What versions share matches alike, so they are compared at the
    peaks that each has alone.
    """
    shared = one.shared_with(other, other_span)
    share = float(shared[one.within(span)].mean())
    there = dataclasses.replace(span, trace=other_span.trace)
    worse = segments.mean_level(span) < SAME_LEVEL * segments.mean_level(there)
    if VERSION_SHARE <= share < COPY_SHARE and not worse:
        own = _unshared_level(one, other, span, other_span)
        worse = own < SAME_LEVEL * _unshared_level(other, one, other_span, span)
    return (shared | (share >= VERSION_SHARE)) & worse


def _unshared_level(one: Alignment, other: Alignment, span: Span, other_span: Span) -> float:
    """Mean level of a song at the peaks that another song does not have, in the seconds of both spans."""
    own = one.within(span) & one.within(other_span) & ~one.shared_with(other, other_span)
    return float(one.level[own].mean()) if own.any() else 0.0
