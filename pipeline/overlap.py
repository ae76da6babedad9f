"""What two songs have in common: at which spans, whether that makes them the same recording, and at which speed.

Two constellations are compared second by second: the share of one song's peaks that the other has too, at one distance
in time. Hashes that both have are pairs of frames, and those of one recording lie on a line. Its slope says how much
faster one of the two plays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ParameterError
from pipeline.fingerprinting.landmarks import Hashes
from pipeline.fingerprinting.peaks import Peaks
from pipeline.matching.segments import SLOT_S, best_span

# Hashes at the same distance, to 4 frames, that make two songs a candidate; chance seldom gives more than one.
MIN_PAIRS = 5
CELL_BITS = 2
# Distances of two songs that are verified, those with most hashes first: a copy has one, an edit a few.
MAX_DISTANCES = 4
# Peaks coincide within a frame and a bin. Between copies half or more of them do, by chance one in twenty.
NEUTRAL_SHARE = 0.2
# A gap inside a span may miss as many peaks as 200 at NEUTRAL_SHARE: some 5 s.
GAP = 200 * NEUTRAL_SHARE
SHORTEST_S = 3.0
# A common part that is short in both songs is the same recording only if at least so many peaks coincide. Music made of
# the same loops or on the same drone reaches 0.46, and is not listed.
MIN_COMMON_SHARE = 0.5
# Starts and ends within this many seconds are the same: codecs add silence, players cut it.
SAME_END_S = 2.0
# Shares of a song that make the other one a copy, or an excerpt, and a version with another start or length.
WHOLE_SHARE = 0.9
PART_SHARE = 0.5

IDENTICAL, SAME, SHIFTED, EXCERPT, COMMON = KINDS = (
    "identical file", "same recording", "different start or length", "excerpt", "common intro or jingle"
)  # fmt: skip
# Other kinds have an intro or a jingle in common, at most.
SAME_RECORDING = (SAME, SHIFTED, EXCERPT)
LARGEST_SPEED_RANGE = 20.0

# Pairs of frames that are counted, those of the rarest hashes.
MAX_PAIRS = 4_000_000
# Frames in which a line is looked for: between two speeds that are tried it drifts by 2 of them.
WINDOW = 400
# Frames that a pair may lie off its line.
NEAR = 1 << CELL_BITS
# A line that drifts by fewer frames from end to end is level.
LEVEL = 0.5


@dataclass(frozen=True, slots=True)
class Span:
    """A span of a song that another song has too.

    Parameters
    ----------
    start_s, end_s
        In the first song.
    distance_s
        To be added for the place in the second song.
    peaks_share
        Share of the first song's peaks there that the second song has too.
    """

    start_s: float
    end_s: float
    distance_s: float
    peaks_share: float


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """One of two songs that are compared.

    Parameters
    ----------
    hashes
        Of the peaks.
    """

    peaks: Peaks
    hashes: Hashes
    duration_s: float


@dataclass(frozen=True, slots=True)
class Overlap:
    """What two songs have in common, when the second is slowed down by ``speed``.

    Parameters
    ----------
    speed
        How fast the second plays: 1.04 if it is 4 % faster than the first.
    kind
        One of `KINDS`, or ``None`` if they hold no common recording.
    share, other_share
        Of each song, what all spans cover.
    spans
        By start; the distance is that to the slowed second song.
    """

    speed: float
    kind: str | None
    share: float
    other_share: float
    spans: list[Span]

    @property
    def same(self) -> bool:
        """Whether they hold the same recording, also as an excerpt or cut differently."""
        return self.kind in SAME_RECORDING

    def seconds(self, span: Span, song_s: float, other_s: float) -> tuple[tuple[float, float], tuple[float, float]]:
        """Start and end of a span in each song, both at their own speed.

        Parameters
        ----------
        song_s, other_s
            Seconds of the two songs. Spans are cut to half seconds, and a song ends anywhere.
        """
        ends = (span.start_s, span.end_s)
        start_s, end_s = (min(max(at_s, 0.0), song_s) for at_s in ends)
        other_start_s, other_end_s = (min(max((at_s + span.distance_s) / self.speed, 0.0), other_s) for at_s in ends)
        return (start_s, end_s), (other_start_s, other_end_s)


@dataclass(frozen=True, slots=True)
class Line:
    """The line on which most pairs of frames lie: how many do in one window, and its slope over level."""

    votes: int
    slope: float


def check_speed_range(speed_range: float) -> None:
    """Raise a `ParameterError` if the speeds to search, in percent, are out of range."""
    if not 0 <= speed_range <= LARGEST_SPEED_RANGE:
        raise ParameterError(f"speed_range is {speed_range} %; it must be 0 to {LARGEST_SPEED_RANGE:g}")


def compare_near(song: Side, other_at: Callable[[float], Side], speed: float, frame_s: float) -> Overlap:
    """Compare two songs at about one speed: the line of their pairs says which it is.

    Parameters
    ----------
    other_at
        Gives the second song as it would be if it was not played at a speed.
    speed
        At which the second may play.
    """
    other = other_at(speed)
    pairs = shared_frames(song.hashes, other.hashes)
    for _ in range(2):
        line = find_line(pairs)
        drift = abs(line.slope) * other.duration_s / frame_s
        if line.votes < MIN_PAIRS or drift < LEVEL:
            break
        speed /= 1 + line.slope
        other = other_at(speed)
        pairs = shared_frames(song.hashes, other.hashes)
    spans = find_spans(song.peaks, other.peaks, _distances(pairs), frame_s)
    return overlap(spans, song.duration_s, other.duration_s, speed)


def overlap(spans: list[Span], length_s: float, other_length_s: float, speed: float = 1.0) -> Overlap:
    """What some spans make of two songs of some seconds; the parameters are those of `classify`, and the speed."""
    common_s = sum(span.end_s - span.start_s for span in spans)
    shares = (min(common_s / length_s, 1.0), min(common_s / other_length_s, 1.0))
    return Overlap(speed, classify(spans, length_s, other_length_s), *shares, spans)


def shared_frames(song: Hashes, clip: Hashes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of frames at which the song and the clip have the same hash; of the rarest hashes, at most `MAX_PAIRS`."""
    order = np.argsort(song.hash, kind="stable")
    sorted_ = song.hash[order]
    first = np.searchsorted(sorted_, clip.hash, "left")
    count = np.searchsorted(sorted_, clip.hash, "right") - first
    rarest = np.argsort(count, kind="stable")
    rarest = rarest[np.cumsum(count[rarest]) <= MAX_PAIRS]
    first, count = first[rarest], count[rarest]
    place = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
    return song.offset[order[place]].astype(np.int64), np.repeat(clip.offset[rarest], count).astype(np.int64)


def find_line(pairs: tuple[NDArray[np.int64], NDArray[np.int64]]) -> Line:
    """Look for the line in windows, in which a wrong speed matters little, and follow it from there to both sides."""
    song, clip = pairs
    if not len(song):
        return Line(0, 0.0)
    delta = clip - song
    window, cell = song // WINDOW, delta >> CELL_BITS
    keys, counts = np.unique((window << 32) + (cell - cell.min()), return_counts=True)
    best = int(np.argmax(counts))
    start = (int(keys[best] >> 32) + 0.5) * WINDOW
    level = float(((int(keys[best] & 0xFFFFFFFF) + int(cell.min())) << CELL_BITS) + NEAR / 2)
    slope, reach = 0.0, WINDOW / 2
    while True:
        near = (np.abs(song - start) <= reach) & (np.abs(delta - level - slope * (song - start)) <= NEAR)
        distance = song[near] - start
        if distance.std() > 0:
            slope, level = np.polyfit(distance, delta[near], 1)
        if reach > max(int(song.max()), 1):
            return Line(int(counts[best]), float(slope))
        reach *= 2


def _distances(pairs: tuple[NDArray[np.int64], NDArray[np.int64]]) -> list[int]:
    """Distances to be added to the song's frames, most pairs first."""
    cells, counts = np.unique((pairs[1] - pairs[0]) >> CELL_BITS, return_counts=True)
    found: list[int] = []
    for place in np.argsort(-counts, kind="stable").tolist():
        distance = int(cells[place]) << CELL_BITS
        if counts[place] < MIN_PAIRS or len(found) == MAX_DISTANCES:
            break
        if all(abs(distance - other) > 1 << CELL_BITS for other in found):
            found.append(distance)
    return found


def find_spans(song: Peaks, other: Peaks, distances: list[int], frame_s: float) -> list[Span]:
    """Find the spans of a song that another song has too, at or near some distances.

    Parameters
    ----------
    distances
        Frames to be added to the song's, to about `CELL_BITS`.

    Returns
    -------
    list of Span
        By start; they do not overlap.
    """
    size = SLOT_S / frame_s
    if not len(song) or not len(other):
        return []
    place = (song.frame / size).astype(np.int64)
    peaks = np.bincount(place)
    free = np.ones(len(peaks), bool)
    spans: list[Span] = []
    around = (np.arange(-1, 2)[:, None] << 10) + np.arange(-1, 2)
    other_keys = np.unique(((other.frame.astype(np.int64) << 10 | other.bin)[:, None] + around.ravel()).ravel())
    keys = song.frame.astype(np.int64) << 10 | song.bin
    for cell in distances:
        tried = [
            (distance, _among(keys + (distance << 10), other_keys))
            for distance in range(cell - 1, cell + (1 << CELL_BITS) + 1)
        ]
        # Peaks agree to a frame, so that of a copy three distances agree equally: the middle one is right.
        most = max(int(agrees.sum()) for _, agrees in tried)
        tied = [pair for pair in tried if int(pair[1].sum()) == most]
        distance, agrees = tied[len(tied) // 2]
        agree = np.bincount(place, agrees, len(peaks))
        scores = agree - NEUTRAL_SHARE * peaks
        while True:
            start, stop, _ = best_span(np.where(free, scores, -np.inf), GAP)
            if (stop - start) * SLOT_S < SHORTEST_S:
                break
            share = float(agree[start:stop].sum() / max(peaks[start:stop].sum(), 1))
            spans.append(Span(start * SLOT_S, stop * SLOT_S, distance * frame_s, share))
            free[start:stop] = False
    return sorted(spans, key=lambda span: span.start_s)


def _among(keys: NDArray[np.int64], sorted_: NDArray[np.int64]) -> NDArray[np.bool_]:
    places = np.minimum(np.searchsorted(sorted_, keys), len(sorted_) - 1)
    found: NDArray[np.bool_] = sorted_[places] == keys
    return found


def classify(spans: list[Span], length_s: float, other_length_s: float) -> str | None:
    """How two songs are related: one of the kinds, or None if they hold no common recording.

    Parameters
    ----------
    spans
        What they share, by start.
    length_s, other_length_s
        Seconds of the two songs.
    """
    if not spans:
        return None
    common_s = sum(span.end_s - span.start_s for span in spans)
    share, other_share = sorted((common_s / length_s, common_s / other_length_s))
    first, last = spans[0], spans[-1]
    aligned = abs(first.distance_s) <= SAME_END_S and abs(last.distance_s) <= SAME_END_S
    if share >= WHOLE_SHARE and aligned and abs(length_s - other_length_s) <= 2 * SAME_END_S:
        return SAME
    if share >= PART_SHARE:
        return SHIFTED
    if other_share >= WHOLE_SHARE:
        return EXCERPT
    return COMMON if max(span.peaks_share for span in spans) >= MIN_COMMON_SHARE else None
