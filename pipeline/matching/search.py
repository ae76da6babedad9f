"""Clips to matches: ask the library, verify what it answers, and say how sure that is.

A cascade: every clip is first asked sparsely, and only those that stay unresolved are asked densely, then at other
speeds.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.audio.resampling import at_speed
from pipeline.fingerprinting.peaks import Peaks
from pipeline.matching.calibration import Chance, confidence, logit, rival_votes, threshold
from pipeline.matching.clip import Clip, SearchLevel
from pipeline.matching.types import Library, Match, Query
from pipeline.matching.verification import RELATED, Evidence
from pipeline.matching.voting import TICKS, Candidate, find_candidates


@dataclass(frozen=True, slots=True)
class Answer:
    """A candidate and what speaks for it.

    Parameters
    ----------
    chance
        What the other songs got of the clip.
    """

    candidate: Candidate
    chance: Chance
    evidence: Evidence

    @property
    def logit(self) -> float:
        """Log odds that it is right."""
        return logit(self.candidate.votes, self.chance, self.evidence)


COARSE = SearchLevel(2, 2, 8, 80, 5, 256, 100, 40)
FINE = SearchLevel(8, 2, 8, 100, 10, 64, 300, 300)
SOUNDING, VOTED = 8, 4  # of the candidates, those that are weighed
SONGS_AT_ONCE = 2000  # whose peaks are in memory for verification: 130 kB each, of four minutes
RESOLVED = 0.95  # a sparse answer this sure is not asked again: denser looks change one in a thousand
RIVAL = 3  # of the other songs: the best of them may be a version, or share a loop with the song
# A library with fewer songs has too few others to measure chance by.
FEW_SONGS = 20
SECOND = 0.95  # a further song in the same clip must be this sure, or as sure as the first
SPEED_STEP = 0.01  # copies so far apart find what is played at any speed between


def recognise(clips: Sequence[NDArray[np.float32]], library: Library, query: Query) -> list[list[Match]]:
    """Name the songs in short clips.

    Parameters
    ----------
    clips
        ``(n_samples,)`` float32 each, at the library's sample rate, up to about 15 s.

    Returns
    -------
    list of list of Match
        For each clip, best first; empty where nothing passes the threshold of ``query.false_positives``. A library
        that holds a recording twice gives both songs.
    """
    rate = library.settings.sample_rate
    needed = [threshold(query.false_positives, len(clip) / rate) for clip in clips]
    matches: list[list[Match]] = [[] for _ in clips]
    sure = [0.0] * len(clips)
    for effort, speed in _stages(query):
        open_ = [place for place in range(len(clips)) if sure[place] < (RESOLVED if speed == 1.0 else needed[place])]
        least = RESOLVED if effort is COARSE else 0.0  # two looks would be two chances to be wrong
        for start in range(0, len(open_), effort.together):
            some = open_[start : start + effort.together]
            heard = [Clip(at_speed(clips[place], speed), library.settings) for place in some]
            for place, clip, answers in zip(some, heard, ask(heard, library, effort), strict=True):
                found = _matches(answers, clip, speed, rate, max(needed[place], least))
                if found and found[0].confidence > sure[place]:
                    matches[place] = found
                    # of several songs, versions of a recording most often, the dense look is the better judge
                    sure[place] = 0.0 if effort is COARSE and len(found) > 1 else found[0].confidence
    return matches


def _stages(query: Query) -> list[tuple[SearchLevel, float]]:
    aside = int(np.ceil(query.speed_range / 100 / SPEED_STEP - 1e-9))
    speeds = sorted(
        (1 + SPEED_STEP * step for step in range(-aside, aside + 1) if step), key=lambda speed: abs(speed - 1)
    )
    return [(COARSE, 1.0), (FINE, 1.0), *((effort, speed) for effort in (COARSE, FINE) for speed in speeds)]


def ask(clips: Sequence[Clip], library: Library, effort: SearchLevel) -> list[list[Answer]]:
    """The candidates of each clip, verified, best first."""
    found = [find_candidates(clip.question(effort), library, effort.candidates) for clip in clips]
    answers = []
    few = SONGS_AT_ONCE // effort.listened
    for start in range(0, len(clips), few):
        some = found[start : start + few]
        songs = library.constellations(
            sorted({candidate.song_id for candidates in some for candidate in candidates[: effort.listened]})
        )
        for clip, candidates in zip(clips[start : start + few], some, strict=True):
            listened = candidates[: effort.listened]
            answered = clip.listen(listened, songs)
            usual = clip.usual_rival() if library.n_songs < FEW_SONGS else 0.0
            chance = Chance(rival_votes(candidates), max(usual, _rival_answer(listened, answered, clip, songs)))
            weighed = [
                Answer(candidate, chance, clip.weigh(candidate, songs[candidate.song_id]))
                for candidate in shortlist(listened, answered)
            ]
            answers.append(_right_version(sorted(weighed, key=lambda answer: -answer.logit), clip, songs))
            clip.forget()
    return answers


def _rival_answer(
    candidates: Sequence[Candidate], answered: Sequence[float], clip: Clip, songs: Mapping[int, Peaks]
) -> float:
    """What the filter answers at the third best of the songs that are no version of the best; 0 if there is none."""
    best: dict[int, int] = {}
    for index in sorted(range(len(candidates)), key=lambda index: -answered[index]):
        best.setdefault(candidates[index].song_id, index)
    if len(best) <= RIVAL:
        return 0.0
    first, *others = best.values()
    rivals = (i for i in others if clip.compare(candidates[i], candidates[first], songs)[0] < RELATED)
    third = next(itertools.islice(rivals, RIVAL - 1, None), None)
    return 0.0 if third is None else answered[third]


def _right_version(answers: list[Answer], clip: Clip, songs: Mapping[int, Peaks]) -> list[Answer]:
    """The same answers, best first, of versions of one recording the one that is heard best.

    What versions share speaks for each of them; which of them it is, only what they do not share can tell. The version
    that wins is as sure as the recording is, and has the votes for it.
    """
    best: dict[int, Answer] = {}
    for answer in answers:
        if answer.logit > 0:
            best.setdefault(answer.candidate.song_id, answer)
    if len(best) < 2:
        return answers
    first, *others = best.values()
    winner, votes = first, first.candidate.votes
    for other in others:
        shared, margin = clip.compare(other.candidate, winner.candidate, songs)
        if shared >= RELATED:
            votes = max(votes, other.candidate.votes)
            winner = other if margin > 0 else winner
    sure = dataclasses.replace(first, candidate=dataclasses.replace(winner.candidate, votes=votes))
    return [sure, *(answer for answer in answers if answer is not winner)]


def shortlist(candidates: Sequence[Candidate], answered: Sequence[float]) -> list[Candidate]:
    """The candidates that sound most like their song, and those with most votes."""
    order = sorted(range(len(candidates)), key=lambda index: -answered[index])
    return [candidates[index] for index in sorted({*order[:SOUNDING], *range(min(VOTED, len(candidates)))})]


def _matches(answers: Sequence[Answer], clip: Clip, speed: float, rate: int, needed: float) -> list[Match]:
    """The best place of each song that is sure enough, in seconds: the first as `needed`, further ones as `SECOND`."""
    found: dict[int, Match] = {}
    for answer in answers:
        sure = confidence(answer.logit)
        if answer.candidate.song_id in found or sure < needed:
            continue
        start = (answer.candidate.delta * clip.settings.hop / TICKS + clip.lead) / rate
        before = max(-start, 0.0)  # the clip began before the song did
        length = clip.n_samples / rate
        found[answer.candidate.song_id] = Match(
            answer.candidate.song_id,
            before / speed,
            length / speed,
            start + before,
            start + length,
            answer.candidate.votes,
            sure,
            speed,
        )
        needed = max(needed, min(sure, SECOND))  # a copy is as sure as the first
    return list(found.values())
