"""Candidates of one song in successive windows, joined to tracks along a recording."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.fingerprinting.landmarks import Hashes, Postings
from pipeline.matching.calibration import rival_votes
from pipeline.matching.types import Library
from pipeline.matching.voting import TICKS, Hits, QueryHashes, find_candidates, join, take_hits

WINDOW_S = 10.0
WINDOW_STEP_S = 5.0
SHORT_WINDOW_S = 4.0
CANDIDATES = 40
# From one window to the next a place may move by so many ticks: 0.5 % of speed, beside a frame's jitter.
STEP_TICKS = 5
JITTER_TICKS = 8
# Of a chain that is a single window, or at its ends: half a window.
REACH = 860
# By so many ticks may a hit lie off its chain's line.
NEAR_TICKS = 6
# How strongly a line is held level: a jitter of 3 ticks against slopes of 0.2 %.
STIFFNESS = (3 / 0.002) ** 2
# Chains of a stretch that are verified, and of one song among them: music that repeats itself gives many.
MAX_TRACKS = 30
MAX_TRACKS_PER_SONG = 4


@dataclass(slots=True)
class Track:
    """Candidates of one song in successive windows, whose places go on from each other.

    Parameters
    ----------
    middles
        Ticks of the copy, the middle of each window.
    deltas
        Of the candidates.
    over_chance
        Votes in all, beyond those that chance brings.
    """

    song_id: int
    middles: list[float] = field(default_factory=list)
    deltas: list[int] = field(default_factory=list)
    over_chance: float = 0.0

    def reaches(self, middle: float, delta: int, step: float) -> float:
        """By how many ticks a candidate is off; infinite if it does not go on from this chain."""
        steps = (middle - self.middles[-1]) / step
        apart = abs(delta - self.deltas[-1])
        return apart if steps > 0 and apart <= JITTER_TICKS + STEP_TICKS * steps else np.inf


def find_tracks(question: QueryHashes, library: Library, ticks_per_s: float) -> list[Track]:
    """The strongest tracks of candidates.

    Parameters
    ----------
    question
        Of a stretch.
    """
    size, step = WINDOW_S * ticks_per_s, WINDOW_STEP_S * ticks_per_s
    end = float(question.tick.max(initial=0))
    last = max(end - size, 0.0)
    windows = [(start, start + size) for start in (*np.arange(0.0, last, step), last)]
    # A song that has just begun is alone in a short window.
    windows.append((max(end - SHORT_WINDOW_S * ticks_per_s, 0.0), end))
    songs: dict[int, list[Track]] = {}
    for start, stop in windows:
        middle = (start + stop) / 2
        inside = (question.tick >= start) & (question.tick < stop)
        found = find_candidates(QueryHashes(question.hash[inside], question.tick[inside]), library, CANDIDATES)
        chance = rival_votes(found)
        for candidate in found:
            of_song = songs.setdefault(candidate.song_id, [])
            chain = min(of_song, key=lambda chain: chain.reaches(middle, candidate.delta, step), default=None)
            if chain is None or chain.reaches(middle, candidate.delta, step) == np.inf:
                chain = Track(candidate.song_id)
                of_song.append(chain)
            chain.middles.append(middle)
            chain.deltas.append(candidate.delta)
            chain.over_chance += max(candidate.votes - chance, 0.0)
    strongest = [chain for of_song in songs.values() for chain in sorted(of_song, key=_weakness)[:MAX_TRACKS_PER_SONG]]
    return sorted(strongest, key=_weakness)[:MAX_TRACKS]


def _weakness(chain: Track) -> tuple[float, int, int]:
    return -chain.over_chance, chain.song_id, chain.deltas[0]


@dataclass(frozen=True, slots=True)
class Line:
    """Where a song lies in a copy: at ``tick`` it is at its own ``tick * (1 + slope) + delta``."""

    delta: float
    slope: float


def fit_line(chain: Track, hits: Hits) -> Line:
    """The straight line through the hits of a chain.

    Parameters
    ----------
    hits
        Of the chain's song alone.
    """
    tick = hit_ticks(hits)
    near = np.abs(hits.delta - np.interp(tick, chain.middles, chain.deltas)) <= NEAR_TICKS
    near &= (tick >= chain.middles[0] - REACH) & (tick <= chain.middles[-1] + REACH)
    if not near.any():  # candidates at odds with each other in one window
        return Line(float(np.mean(chain.deltas)), 0.0)
    middle, delta = tick[near].mean(), hits.delta[near].mean()
    aside = tick[near] - middle
    slope = float((aside * (hits.delta[near] - delta)).sum() / ((aside * aside).sum() + STIFFNESS))
    return Line(float(delta - slope * middle), slope)


def hits_of_song(question: QueryHashes, song_id: int, landmarks: Hashes) -> Hits:
    """Where a stretch meets the landmarks of one song, by tick."""
    order = np.argsort(landmarks.hash, kind="stable")
    song = np.full(len(landmarks), song_id, np.int32)
    hits = join(question, Postings(landmarks.hash[order], song, landmarks.offset[order]))
    return take_hits(hits, np.argsort(hit_ticks(hits), kind="stable"))


def hit_ticks(hits: Hits) -> NDArray[np.int32]:
    """Where in the copy that was asked each hit's anchor starts."""
    tick: NDArray[np.int32] = hits.offset * np.int32(TICKS) - hits.delta
    return tick
