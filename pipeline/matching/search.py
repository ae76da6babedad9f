"""Clips to matches: query the library, verify the candidates, and say how probable each is.

Every clip is first searched coarsely. Only clips that stay unresolved are searched finely, only those that are still
unknown with dense peaks, then at other speeds.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.audio.resampling import at_speed
from pipeline.fingerprinting.peaks import Peaks
from pipeline.matching.alignment import LOOP_SHARE, Stretch, traces
from pipeline.matching.calibration import (
    BACKGROUND_RANK,
    Background,
    VerifiedCandidate,
    VersionComparison,
    background_votes,
    clip_threshold,
    confidence,
    length_penalty,
    recording_threshold,
    size_allowance,
)
from pipeline.matching.changes import SEARCHES, Grid, grid
from pipeline.matching.clip import Clip, SearchLevel
from pipeline.matching.segments import segments
from pipeline.matching.speed import refine_speed
from pipeline.matching.types import Library, Match, Query
from pipeline.matching.verification import (
    VERSION_SHARE,
    FilteredSpectrogram,
    Responses,
    compare_versions,
    compute_evidence,
    read_responses,
    shared_fractions,
)
from pipeline.matching.voting import TICKS, Candidate, find_candidates
from pipeline.matching.warping import CLEAR_VOTES_PER_S, find_alignments, refine_match, stretch_peaks

COARSE = SearchLevel(
    shifts=1,
    reach_frames=2,
    reach_bins=8,
    peaks_per_s=80,
    fan_out=6,
    clips_at_once=32,
    candidates=100,
    filtered=20,
)
FINE = SearchLevel(
    shifts=4,
    reach_frames=2,
    reach_bins=8,
    peaks_per_s=100,
    fan_out=20,
    clips_at_once=4,
    candidates=300,
    filtered=300,
)
DENSE = dataclasses.replace(FINE, reach_frames=1, reach_bins=5, peaks_per_s=250, fan_out=6)
# Evidence is computed for so many of the candidates: those with the highest response, and the first by peaks.
BEST_BY_RESPONSE, BEST_BY_PEAKS = 8, 4
# Songs compared at few peaks and with so many times fewer votes than the best only have a sound in common with it.
DOMINANT_VOTES = 4
# Songs whose peaks are in memory at once for verification: 130 kB for four minutes.
SONGS_IN_MEMORY = 2000
# A clip that the coarse search finds with this confidence is resolved: a fine search changes one in a thousand.
RESOLVED_CONFIDENCE = 0.995
# A further song in the same clip needs this confidence, or that of the first.
FURTHER_SONG_CONFIDENCE = 0.995
# A library with fewer songs has too few background candidates to measure chance by. In a larger one their response is
# usually EXPECTED_BACKGROUND (the consistent one: half of it) over the root of the clip's seconds.
FEW_SONGS, EXPECTED_BACKGROUND, EXPECTED_CONSISTENT_BACKGROUND = 20, 0.9, 0.45
EXPECTED_VOTES = 3.0  # and songs that are not in the clip get so many votes
# Copies of a clip at speeds so far apart find what is played at any speed between.
SPEED_STEP = 0.01


def find_matches(
    clips: Sequence[NDArray[np.float32]], library: Library, query: Query, unnamed: bool = False
) -> list[list[Match]]:
    """Name the songs in short clips.

    Parameters
    ----------
    clips
        ``(n_samples,)`` float32 each, at the library's sample rate, up to about 15 s.
    unnamed
        Of a clip in which nothing passes the threshold, give the candidate with the highest confidence all the same. It
        is searched as any other clip. Not for a query with a range of pitch or tempo.

    Returns
    -------
    list of list of Match
        For each clip, best first; empty where nothing passes the threshold of ``query.false_positives``. A library
        that holds a recording twice gives both songs.
    """
    allowance = size_allowance(library.n_songs)
    changes = grid(query)
    # every speed and each of two searches is a chance to be wrong, and the share holds for all of them
    share = query.false_positives / (SEARCHES if changes else 1)
    needed = clip_threshold(share)
    needed_at_speeds = clip_threshold(share / len(speeds(query.speed_range)))
    matches: list[list[Match]] = [[] for _ in clips]
    below: list[list[Match]] = [[] for _ in clips]  # the best candidate below the threshold
    best = [0.0] * len(clips)  # confidence reached so far
    for level, speed in _stages(query):
        to_resolve = speed == 1.0 and level is not DENSE
        unresolved = [i for i in range(len(clips)) if best[i] < (RESOLVED_CONFIDENCE if to_resolve else needed)]
        # Every search is a chance to be wrong: a coarse one counts only if it resolves the clip.
        least = RESOLVED_CONFIDENCE if level is COARSE else 0.0
        for start in range(0, len(unresolved), level.clips_at_once):
            some = unresolved[start : start + level.clips_at_once]
            searched = [Clip(at_speed(clips[i], speed), library.settings) for i in some]
            for i, clip, candidates in zip(some, searched, search(searched, library, level), strict=True):
                threshold = needed if speed == 1.0 else needed_at_speeds
                found = _matches_above(max(threshold, least), candidates, clip, speed, allowance)
                if found and found[0].confidence > best[i]:
                    matches[i] = found
                    # Several songs are most often versions of one recording, which the fine search tells apart better.
                    best[i] = 0.0 if level is COARSE and len(found) > 1 else found[0].confidence
                if unnamed and not found and level is not COARSE:
                    likeliest = _matches_above(0.0, candidates[:1], clip, speed, allowance)
                    below[i] = max(below[i], likeliest, key=lambda some: some[0].confidence if some else -1.0)
    if changes:
        return [_with_changes(*clip, library, query, changes) for clip in zip(clips, matches, best, strict=True)]
    if query.speed_range:
        for i, found in enumerate(matches):
            songs = library.constellations({match.song_id for match in found})
            matches[i] = [refine_speed(match, clips[i], songs[match.song_id], library.settings) for match in found]
    return [found or others for found, others in zip(matches, below, strict=True)]


def _with_changes(
    samples: NDArray[np.float32], found: list[Match], best: float, library: Library, query: Query, changes: Grid
) -> list[Match]:
    """The matches of a clip with exact pitch and tempo, or those of songs that are changed, if they have more votes.

    Parameters
    ----------
    found, best
        The matches at the songs' own pitch and tempo, and the confidence of the first.
    """
    stretch = Stretch(samples, 0, library.settings)
    peaks = stretch_peaks(stretch)
    votes = found[0].votes if found else 0
    if best < RESOLVED_CONFIDENCE or votes < CLEAR_VOTES_PER_S * len(samples) / library.settings.sample_rate:
        aligned = find_alignments(stretch, library, changes, [], LOOP_SHARE, peaks)
        changed = segments(traces(aligned), recording_threshold(query.false_positives))
        changed = sorted(changed, key=lambda match: -match.confidence)
        if changed and changed[0].votes > votes:
            return changed
    songs = library.constellations({match.song_id for match in found})
    return [refine_match(stretch, songs[match.song_id], match, peaks) for match in found]


def speeds(speed_range: float) -> list[float]:
    """The speeds to search at, 1.0 and those next to it first.

    Parameters
    ----------
    speed_range
        Percent, 0 or more.
    """
    steps = int(np.ceil(speed_range / 100 / SPEED_STEP - 1e-9))
    return sorted((1 + SPEED_STEP * step for step in range(-steps, steps + 1)), key=lambda speed: abs(speed - 1))


def _stages(query: Query) -> list[tuple[SearchLevel, float]]:
    """Levels and speeds in the order in which they are searched."""
    own, *others = speeds(query.speed_range)
    at_others = [(level, speed) for level in (COARSE, FINE) for speed in others]
    return [(COARSE, own), (FINE, own), (DENSE, own), *at_others]


def search(clips: Sequence[Clip], library: Library, level: SearchLevel) -> list[list[VerifiedCandidate]]:
    """The verified candidates of each clip, best first."""
    found = find_candidates([clip.query_hashes(level) for clip in clips], library, level.candidates)
    verified = []
    at_once = SONGS_IN_MEMORY // level.filtered
    for start in range(0, len(clips), at_once):
        some = found[start : start + at_once]
        wanted = {one.song_id for candidates in some for one in candidates[: level.filtered]}
        songs = library.constellations(sorted(wanted))
        for clip, candidates in zip(clips[start : start + at_once], some, strict=True):
            verified.append(rank(verify(clip, candidates, songs, level, library.n_songs), clip, songs))
            clip.free()
    return verified


def verify(
    clip: Clip, candidates: Sequence[Candidate], songs: Mapping[int, Peaks], level: SearchLevel, n_songs: int
) -> list[VerifiedCandidate]:
    """The best of a clip's candidates with their evidence, in the order given.

    Parameters
    ----------
    candidates
        Best first.
    songs
        The constellations of the first ``level.filtered`` of them.
    n_songs
        Songs in the library.
    """
    chance_votes = _chance_votes(candidates, clip, songs)
    candidates = candidates[: level.filtered]
    placed = [_place(candidate, clip, songs) for candidate in candidates]
    responses = read_responses(placed, clip.masking())
    background = _background(candidates, responses, chance_votes, clip, songs)
    if n_songs < FEW_SONGS:
        background = _at_least_usual(background, max(clip.n_samples, 1) / clip.settings.sample_rate)
    verified = []
    for i in select_for_evidence(responses.consistent_response):
        evidence = compute_evidence(*placed[i], float(responses.consistent_response[i]))
        verified.append(VerifiedCandidate(candidates[i], background, evidence))
    return verified


def rank(verified: Sequence[VerifiedCandidate], clip: Clip, songs: Mapping[int, Peaks]) -> list[VerifiedCandidate]:
    """Verified candidates of a clip, best first, of versions of one recording the one that matches best."""
    return _prefer_best_version(_without_shared_sounds(sorted(verified, key=lambda one: -one.logit)), clip, songs)


def _without_shared_sounds(verified: list[VerifiedCandidate]) -> list[VerifiedCandidate]:
    """The candidates, best first, without those that have only a sound in common with a likely one.

    A song shorter than the clip, or one that begins or ends within it, is compared at few peaks, and a note that both
    songs have fits it better than all of its own notes fit the right one. It has far fewer votes.
    """
    likely = [one for one in verified if one.logit > 0]
    most = max(likely, key=lambda one: one.candidate.votes, default=None)
    if most is None:
        return verified
    votes, peaks = most.candidate.votes / DOMINANT_VOTES, most.evidence.peaks / 2
    return [one for one in verified if one.candidate.votes > votes or one.evidence.peaks > peaks]


def _chance_votes(candidates: Sequence[Candidate], clip: Clip, songs: Mapping[int, Peaks]) -> float:
    """`background_votes` of the songs that are no version of the best one.

    The median allows for some versions. Only where most songs have nearly as many votes as the best are they compared:
    in a small library that holds a recording many times.
    """
    best: dict[int, Candidate] = {}
    for candidate in candidates:
        best.setdefault(candidate.song_id, candidate)
    ranked = list(best.values())
    near = [other for other in ranked[1:] if 2 * other.votes >= ranked[0].votes and other.song_id in songs]
    if 2 * len(near) < len(ranked) or not near:
        return background_votes(candidates)
    shared = _shared_fractions(near, ranked[0], clip, songs)
    versions = {other.song_id for other, share in zip(near, shared, strict=True) if share >= VERSION_SHARE}
    return background_votes([candidate for candidate in candidates if candidate.song_id not in versions])


def _background(
    candidates: Sequence[Candidate],
    responses: Responses,
    chance_votes: float,
    clip: Clip,
    songs: Mapping[int, Peaks],
) -> Background:
    """What the third best of the songs reach that are no version of the best one, 0 if there is none.

    A song that begins or ends within the clip has few peaks there, and some of a hundred such pieces fit by chance.
    """
    enough = responses.peaks >= responses.peaks.max(initial=0) / 2

    def third(reached: NDArray[np.float64]) -> float:
        best: dict[int, int] = {}
        for i in np.argsort(-reached, kind="stable").tolist():
            best.setdefault(candidates[i].song_id, i)
        first, *others = best.values() if best else (0,)
        background = (
            i
            for i in others
            if enough[i] and _shared_fractions([candidates[i]], candidates[first], clip, songs)[0] < VERSION_SHARE
        )
        return float(next((reached[i] for i in itertools.islice(background, BACKGROUND_RANK - 1, None)), 0.0))

    return Background(chance_votes, third(responses.response), third(responses.consistent_response))


def _at_least_usual(background: Background, length_s: float) -> Background:
    """The background of a library that has too few songs to measure it."""
    return Background(
        max(background.votes, EXPECTED_VOTES),
        max(background.response, EXPECTED_BACKGROUND / math.sqrt(length_s)),
        max(background.consistent_response, EXPECTED_CONSISTENT_BACKGROUND / math.sqrt(length_s)),
    )


def _place(candidate: Candidate, clip: Clip, songs: Mapping[int, Peaks]) -> tuple[FilteredSpectrogram, Peaks, int]:
    """The copy of the clip whose frames coincide with the song's, the song, and its frame at the copy's frame 0."""
    filtered, start = clip.filtered_at(candidate.delta)
    return filtered, songs[candidate.song_id], start


def _shared_fractions(
    some: Sequence[Candidate], other: Candidate, clip: Clip, songs: Mapping[int, Peaks]
) -> NDArray[np.float64]:
    """`shared_fractions` of some candidates and another one."""
    return shared_fractions([_place(candidate, clip, songs) for candidate in some], _place(other, clip, songs))


def compare(
    first: VerifiedCandidate, second: VerifiedCandidate, clip: Clip, songs: Mapping[int, Peaks]
) -> VersionComparison:
    """Two candidates as versions of one recording."""
    placed = (_place(one.candidate, clip, songs) for one in (first, second))
    return VersionComparison(first, second, compare_versions(*placed))


def _prefer_best_version(
    verified: list[VerifiedCandidate], clip: Clip, songs: Mapping[int, Peaks]
) -> list[VerifiedCandidate]:
    """The same candidates, best first; of versions of one recording the one that matches best comes first.

    The response at the peaks that versions share speaks for each of them. What tells which it is are the votes of each,
    the peaks that they do not share, and whose levels agree with the clip's at the others. The version that wins gets
    the confidence and the votes that its recording has.
    """
    best: dict[int, VerifiedCandidate] = {}
    for one in verified:
        if one.logit > 0:
            best.setdefault(one.candidate.song_id, one)
    if len(best) < 2:
        return verified
    first, *others = best.values()
    winner, votes = first, first.candidate.votes
    for other in others:
        comparison = compare(other, winner, clip, songs)
        if comparison.differences.shared >= VERSION_SHARE:
            votes = max(votes, other.candidate.votes)
            winner = other if comparison.logit > 0 else winner
    preferred = dataclasses.replace(first, candidate=dataclasses.replace(winner.candidate, votes=votes))
    return [preferred, *(one for one in verified if one is not winner)]


def select_for_evidence(responses: NDArray[np.float64]) -> list[int]:
    """Which candidates are verified, of all as `find_candidates` gave them: the best by response, and the first."""
    best = np.argsort(-responses, kind="stable")[:BEST_BY_RESPONSE].tolist()
    return sorted({*best, *range(min(BEST_BY_PEAKS, len(responses)))})


def _matches_above(
    needed: float, candidates: Sequence[VerifiedCandidate], clip: Clip, speed: float, allowance: float
) -> list[Match]:
    """The best place of each song with enough confidence: `needed`, for further songs `FURTHER_SONG_CONFIDENCE`.

    Parameters
    ----------
    allowance
        As `size_allowance` gives it.
    """
    rate = clip.settings.sample_rate
    length_s = clip.n_samples / rate
    correction = allowance - length_penalty(length_s)
    found: dict[int, Match] = {}
    for one in candidates:
        song_id, probability = one.candidate.song_id, confidence(one.logit + correction)
        if song_id in found or probability < needed:
            continue
        start_s = (one.candidate.delta * clip.settings.hop / TICKS + clip.lead) / rate
        before_s = max(-start_s, 0.0)  # the clip began before the song did
        found[song_id] = Match(
            song_id=song_id,
            clip_start_s=before_s / speed,
            clip_end_s=length_s / speed,
            song_start_s=start_s + before_s,
            song_end_s=start_s + length_s,
            votes=one.candidate.votes,
            confidence=probability,
            speed=speed,
            pitch=speed,
        )
        needed = max(needed, min(probability, FURTHER_SONG_CONFIDENCE))  # a copy is as sure as the first
    return list(found.values())
