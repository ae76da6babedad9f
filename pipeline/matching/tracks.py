"""Candidates of one song in successive windows of a recording, joined to tracks."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.fingerprinting.landmarks import Postings, pair_peaks
from pipeline.fingerprinting.peaks import Peaks
from pipeline.fingerprinting.settings import MAX_FRAME_DIFFERENCE
from pipeline.matching.calibration import background_votes
from pipeline.matching.types import Library
from pipeline.matching.voting import TICKS, Hits, QueryHashes, find_candidates, find_hits, take_hits

# Votes are counted in windows of this length and distance.
WINDOW_S = 10.0
WINDOW_STEP_S = 5.0
# The last window: a song that has just begun is alone in a short one.
LAST_WINDOW_S = 4.0
CANDIDATES = 40
# From one window to the next the time offset may change by so many ticks: 0.5 % of speed, and a frame's jitter.
STEP_TICKS = 5
JITTER_TICKS = 8
# How far a track goes on beyond the middle of its first and last window: half a window.
REACH_TICKS = 860
# By so many ticks may a hit differ from its track's line.
NEAR_TICKS = 6
# How strongly a line is kept level: a jitter of 3 ticks against slopes of 0.2 %.
STIFFNESS = (3 / 0.002) ** 2
# Tracks of a stretch that are verified, and tracks of one song among them: music that repeats itself gives many.
MAX_TRACKS = 30
MAX_TRACKS_PER_SONG = 4


@dataclass(slots=True)
class Track:
    """Candidates of one song in successive windows, whose time offsets continue each other.

    Parameters
    ----------
    middles
        The middle of each window, in ticks of the clip.
    deltas
        Time offset of the candidate in each window, in ticks.
    excess_votes
        Votes in all windows, above the background votes of each.
    """

    song_id: int
    middles: list[float] = field(default_factory=list)
    deltas: list[int] = field(default_factory=list)
    excess_votes: float = 0.0

    def distance(self, middle: float, delta: int, step: float) -> float:
        """By how many ticks a candidate differs from the last one; infinite if it does not continue this track."""
        steps = (middle - self.middles[-1]) / step
        ticks = abs(delta - self.deltas[-1])
        return ticks if steps > 0 and ticks <= JITTER_TICKS + STEP_TICKS * steps else np.inf


def find_tracks(query: QueryHashes, library: Library, ticks_per_s: float) -> list[Track]:
    """The tracks with most votes above the background, at most `MAX_TRACKS`.

    A place in a song that is a candidate in one window is chance; one that continues from window to window is a
    performance.

    Parameters
    ----------
    query
        Of a stretch.
    """
    size, step = WINDOW_S * ticks_per_s, WINDOW_STEP_S * ticks_per_s
    end = float(query.tick.max(initial=0))
    last = max(end - size, 0.0)
    windows = [(start, start + size) for start in (*np.arange(0.0, last, step), last)]
    windows.append((max(end - LAST_WINDOW_S * ticks_per_s, 0.0), end))
    inside = [(query.tick >= start) & (query.tick < stop) for start, stop in windows]
    queries = [QueryHashes(query.hash[some], query.tick[some]) for some in inside]
    songs: dict[int, list[Track]] = {}
    for (start, stop), candidates in zip(windows, find_candidates(queries, library, CANDIDATES), strict=True):
        middle = (start + stop) / 2
        chance = background_votes(candidates)
        for candidate in candidates:
            of_song = songs.setdefault(candidate.song_id, [])
            track = min(of_song, key=lambda track: track.distance(middle, candidate.delta, step), default=None)
            if track is None or track.distance(middle, candidate.delta, step) == np.inf:
                track = Track(candidate.song_id)
                of_song.append(track)
            track.middles.append(middle)
            track.deltas.append(candidate.delta)
            track.excess_votes += max(candidate.votes - chance, 0.0)
    strongest = [track for of_song in songs.values() for track in sorted(of_song, key=_rank)[:MAX_TRACKS_PER_SONG]]
    return sorted(strongest, key=_rank)[:MAX_TRACKS]


def _rank(track: Track) -> tuple[float, int, int]:
    return -track.excess_votes, track.song_id, track.deltas[0]


@dataclass(frozen=True, slots=True)
class Line:
    """Where a song lies in a clip: at ``tick`` of the clip the song is at its own ``tick * (1 + slope) + delta``."""

    delta: float
    slope: float


def fit_line(track: Track, hits: Hits) -> Line:
    """The straight line through the hits of a track, by least squares, kept level by `STIFFNESS`.

    Parameters
    ----------
    hits
        Of the track's song alone.
    """
    tick = hit_ticks(hits)
    near = np.abs(hits.delta - np.interp(tick, track.middles, track.deltas)) <= NEAR_TICKS
    near &= (tick >= track.middles[0] - REACH_TICKS) & (tick <= track.middles[-1] + REACH_TICKS)
    if not near.any():  # candidates that contradict each other in one window
        return Line(float(np.mean(track.deltas)), 0.0)
    middle, delta = tick[near].mean(), hits.delta[near].mean()
    distance = tick[near] - middle
    slope = float((distance * (hits.delta[near] - delta)).sum() / ((distance * distance).sum() + STIFFNESS))
    return Line(float(delta - slope * middle), slope)


def hits_near(tracks: Sequence[Track], query: QueryHashes, songs: Mapping[int, Peaks], fan_out: int) -> list[Hits]:
    """The hits of a query with the landmarks of each track's song near the track, sorted by tick.

    The store finds landmarks by hash; those of one song follow from its peaks. They are made only of the part that the
    query reaches, and of all tracks at once, one behind the other: a second of a stream takes half the time.

    Parameters
    ----------
    query
        Of the whole stretch.
    songs
        The constellations of the tracks' songs.
    fan_out
        Of the library.
    """
    if not tracks:
        return []
    query_frames = int(query.tick.max(initial=0)) // TICKS
    first = np.array([(min(track.deltas) - REACH_TICKS) // TICKS for track in tracks], np.int32)
    last = np.array([(max(track.deltas) + REACH_TICKS) // TICKS + query_frames for track in tracks], np.int32)
    last += MAX_FRAME_DIFFERENCE  # the targets of the last anchors
    length = last - first + 1 + MAX_FRAME_DIFFERENCE  # no part reaches the next
    start = np.cumsum(length, dtype=np.int32) - length
    parts = []
    for track, low, high, at in zip(tracks, first, last, start, strict=True):
        song = songs[track.song_id]
        near = slice(*np.searchsorted(song.frame, [low, high + 1]))
        parts.append((song.frame[near] - low + at, song.bin[near], song.level[near]))
    landmarks = pair_peaks(Peaks(*(np.concatenate(column) for column in zip(*parts, strict=True))), fan_out)
    order = np.argsort(landmarks.hash, kind="stable")
    offset = landmarks.offset[order]
    part = (np.searchsorted(start, offset, "right") - 1).astype(np.int32)
    found = find_hits(query, Postings(landmarks.hash[order], part, offset - start[part] + first[part]))
    order = np.lexsort((hit_ticks(found), found.song_id))
    ends = np.searchsorted(found.song_id[order], np.arange(len(tracks) + 1))
    song_id = np.array([track.song_id for track in tracks], np.int32)[found.song_id]
    hits = dataclasses.replace(found, song_id=song_id)
    return [take_hits(hits, order[low:high]) for low, high in itertools.pairwise(ends)]


def hit_ticks(hits: Hits) -> NDArray[np.int32]:
    """Where in the clip the anchor of each hit starts, ``(n,)`` int32 ticks."""
    tick: NDArray[np.int32] = hits.offset * np.int32(TICKS) - hits.delta
    return tick
