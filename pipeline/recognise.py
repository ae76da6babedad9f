"""Clips to matches: ask the library, verify what it answers, and say how sure that is.

A cascade: every clip is first asked sparsely, and only those that stay unresolved are asked densely, then at other
speeds. All clips of a batch share one look-up per stage.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import soxr
from numpy.typing import NDArray

from pipeline.calibration import Chance, confidence, logit, rival_votes, threshold
from pipeline.config import Settings
from pipeline.constellation import SURROUNDINGS_S, Maxima, Peaks, find_maxima, most_salient, power_batches
from pipeline.errors import ParameterError
from pipeline.landmarks import FURTHEST_FRAME, Postings, pair_peaks
from pipeline.match import TICKS, Candidate, Question, join, vote
from pipeline.verify import RELATED, Evidence, Heard, compare, hear, listen, weigh


class Library(Protocol):
    """What recognition needs of a store."""

    @property
    def settings(self) -> Settings: ...

    @property
    def n_songs(self) -> int: ...

    def postings(self, hashes: NDArray[np.int32]) -> Postings:
        """What the library knows of some hashes, sorted and unique."""

    def costs(self, hashes: NDArray[np.int32]) -> NDArray[np.float64]:
        """About what looking up each of some hashes costs, in postings read; zeros where it does not matter."""

    def constellations(self, song_ids: Iterable[int]) -> dict[int, Peaks]:
        """The constellations of some songs."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How densely a clip is asked.

    Parameters
    ----------
    shifts
        Copies of the clip, a fraction of a hop apart; divides `TICKS`.
    reach_frames, reach_bins
        How far a peak rules.
    peaks_per_s, fan_out
        As in `Settings`, but more.
    reads
        What the question may cost in a large store, in postings read; `affordable` has the rule.
    together
        Clips that share a look-up: the more, the less is read for each, and the more is in memory.
    candidates
        How many votes bring, at most.
    listened
        To how many of them the clip is listened for, those with most votes. In a library ten times as large chance
        brings more votes, and the true place of a clip under noise is often not among the first hundred; a clip that
        the sparse look resolves has it among the first few.
    """

    shifts: int
    reach_frames: int
    reach_bins: int
    peaks_per_s: float
    fan_out: int
    reads: float
    together: int
    candidates: int
    listened: int


class Clip:
    """A clip's spectrograms at its shifts, made once when they are asked for.

    The clip is asked with half a window of silence to either side, so that its first and last sounds count too.
    """

    def __init__(self, samples: NDArray[np.float32], settings: Settings) -> None:
        self.settings = settings
        self.lead = settings.window // 2
        self.padded = np.pad(samples, (self.lead, self.lead + settings.hop))
        self.n_samples = len(samples)
        self._power: dict[int, NDArray[np.float32]] = {}
        self._heard: dict[int, Heard] = {}

    def power(self, shift: int) -> NDArray[np.float32]:
        """``(n_frames, n_bins)`` of the copy that starts `shift` ticks later."""
        if shift not in self._power:
            start = shift * self.settings.hop // TICKS
            batches = power_batches([self.padded[start : start + self.n_samples + 2 * self.lead]], self.settings)
            self._power[shift] = np.concatenate([batch.copy() for batch in batches])
        return self._power[shift]

    def heard(self, shift: int) -> Heard:
        """The same as verification hears it."""
        if shift not in self._heard:
            self._heard[shift] = hear(self.power(shift))
        return self._heard[shift]

    def forget(self) -> None:
        """Free the spectrograms, of which a clip of 5 s has 11 MB when it was asked densely."""
        self._power.clear()
        self._heard.clear()

    def question(self, effort: Effort) -> Question:
        """The clip's landmarks at all shifts: the copies are treated as one recording, one after another."""
        shifts = range(0, TICKS, TICKS // effort.shifts)
        copies = [
            find_maxima([self.power(shift)], self.settings, effort.reach_frames, effort.reach_bins) for shift in shifts
        ]
        apart = len(self.power(0)) + FURTHEST_FRAME + round(SURROUNDINGS_S / self.settings.frame_s)
        maxima = Maxima(
            np.concatenate([copy.frame + np.int32(place * apart) for place, copy in enumerate(copies)]),
            np.concatenate([copy.bin for copy in copies]),
            np.concatenate([copy.level for copy in copies]),
            np.concatenate([copy.salience for copy in copies]),
        )
        hashes = pair_peaks(most_salient(maxima, self.settings, effort.peaks_per_s), effort.fan_out)
        order = np.argsort(hashes.hash, kind="stable")
        copy, frame = hashes.offset[order] // apart, hashes.offset[order] % apart
        return Question(hashes.hash[order], frame * np.int32(TICKS) + copy * np.int32(TICKS // effort.shifts))

    def placed(self, candidate: Candidate) -> tuple[Heard, int]:
        """The copy whose frames stand where the song's do, and the song's frame at its first."""
        shift = -candidate.delta % TICKS
        return self.heard(shift), (candidate.delta + shift) // TICKS

    def listen(self, candidates: Sequence[Candidate], songs: Mapping[int, Peaks]) -> list[float]:
        """What the matched filter answers at the song's peaks, for each candidate."""
        return [
            listen(heard.answer, songs[c.song_id], place)[1] for c in candidates for heard, place in [self.placed(c)]
        ]

    def weigh(self, candidate: Candidate, song: Peaks) -> Evidence:
        """The evidence for a candidate."""
        heard, place = self.placed(candidate)
        return weigh(heard, song, place)

    def usual_rival(self) -> float:
        """What the matched filter usually answers at the best rival that a clip so long has in a large library."""
        return USUAL_RIVAL / math.sqrt(max(self.n_samples, 1) / self.settings.sample_rate)

    def compare(self, one: Candidate, other: Candidate, songs: Mapping[int, Peaks]) -> tuple[float, float]:
        """Which of two songs is heard, if they are versions of one recording."""
        (heard, place), (its_heard, its_place) = self.placed(one), self.placed(other)
        return compare((heard, songs[one.song_id], place), (its_heard, songs[other.song_id], its_place))


@dataclass(frozen=True, slots=True)
class Query:
    """What one query run may choose.

    Parameters
    ----------
    false_positives
        Share of clips that are not in the library which may be named all the same, above 0, at most 1.
    speed_range
        Percent by which a clip may be played fast or slow, 0 to 20.
    reads
        How much of a large store may be read for a clip, over what is usual, above 0. Less skips more of the frequent
        hashes and is faster; ``math.inf`` skips none.
    """

    false_positives: float = 0.01
    speed_range: float = 0.0
    reads: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.false_positives <= 1:
            raise ParameterError(f"false positives is {self.false_positives}; it must be above 0 and at most 1")
        if not 0 <= self.speed_range <= 20:
            raise ParameterError(f"speed range is {self.speed_range} %; it must be 0 to 20")
        if not self.reads > 0:
            raise ParameterError(f"reads is {self.reads}; it must be above 0")


@dataclass(frozen=True, slots=True)
class Match:
    """A song found in a clip.

    Parameters
    ----------
    song_id
        The song.
    clip_start_s, clip_end_s, song_start_s, song_end_s
        The span in the clip, and the same in the song.
    votes
        Distinct anchors that agree; of versions of one recording the one that is heard best has the most of any.
    confidence
        Probability that the match is right.
    speed
        At which the song is played in the clip.
    """

    song_id: int
    clip_start_s: float
    clip_end_s: float
    song_start_s: float
    song_end_s: float
    votes: int
    confidence: float
    speed: float


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


SPARSE = Effort(2, 2, 8, 80, 5, 1e6, 256, 100, 40)
DENSE = Effort(8, 2, 8, 100, 10, 1e7, 64, 300, 300)
SOUNDING, VOTED = 8, 4  # of the candidates, those that are weighed
SONGS_AT_ONCE = 2000  # whose peaks are in memory for verification: 130 kB each, of four minutes
RESOLVED = 0.95  # a sparse answer this sure is not asked again: denser looks change one in a thousand
RIVAL = 3  # of the other songs: the best of them may be a version, or share a loop with the song
# In a library of so few songs its third best is no measure of chance; the answer at it is usually so much over the
# root of the clip's seconds in a larger one.
FEW_SONGS, USUAL_RIVAL = 20, 0.9
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
        least = RESOLVED if effort is SPARSE else 0.0  # two looks would be two chances to be wrong
        for start in range(0, len(open_), effort.together):
            some = open_[start : start + effort.together]
            heard = [Clip(at_speed(clips[place], speed), library.settings) for place in some]
            for place, clip, answers in zip(some, heard, ask(heard, library, effort, query.reads), strict=True):
                found = _matches(answers, clip, speed, rate, max(needed[place], least))
                if found and found[0].confidence > sure[place]:
                    matches[place] = found
                    # of several songs, versions of a recording most often, the dense look is the better judge
                    sure[place] = 0.0 if effort is SPARSE and len(found) > 1 else found[0].confidence
    return matches


def _stages(query: Query) -> list[tuple[Effort, float]]:
    aside = int(np.ceil(query.speed_range / 100 / SPEED_STEP - 1e-9))
    speeds = sorted(
        (1 + SPEED_STEP * step for step in range(-aside, aside + 1) if step), key=lambda speed: abs(speed - 1)
    )
    return [(SPARSE, 1.0), (DENSE, 1.0), *((effort, speed) for effort in (SPARSE, DENSE) for speed in speeds)]


def at_speed(samples: NDArray[np.float32], speed: float) -> NDArray[np.float32]:
    """What a clip played at `speed` sounds like at the song's own."""
    if speed == 1.0:
        return samples
    slower: NDArray[np.float32] = soxr.resample(samples, 1.0, speed)
    return slower


def ask(clips: Sequence[Clip], library: Library, effort: Effort, reads: float = 1.0) -> list[list[Answer]]:
    """The candidates of each clip, verified, best first: one look-up in the library for all."""
    if not clips:
        return []
    questions = [affordable(clip.question(effort), library, effort.reads * reads) for clip in clips]
    postings = library.postings(unique(np.concatenate([question.hash for question in questions])))
    found = [vote(join(question, postings), effort.candidates) for question in questions]
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


def affordable(question: Question, library: Library, reads: float) -> Question:
    """The part of a question that costs at most so much to look up, cheapest hashes first.

    Cheap are rare hashes and those whose neighbours are asked too; stop-hashes, which most songs have, go first. Of
    5 s in 400 million postings a fifth of the hashes costs a tenth of all, and a clip that it leaves open is asked
    densely.
    """
    hashes = unique(question.hash)
    costs = library.costs(hashes)
    order = np.argsort(costs, kind="stable")
    kept = np.zeros(len(hashes), bool)
    kept[order[np.cumsum(costs[order]) <= reads]] = True
    some = kept[np.searchsorted(hashes, question.hash)]
    return question if some.all() else Question(question.hash[some], question.tick[some])


def unique(sorted_or_not: NDArray[np.int32]) -> NDArray[np.int32]:
    """Each value once, ascending; several times faster than ``np.unique``."""
    ordered = np.sort(sorted_or_not)
    once: NDArray[np.int32] = ordered[
        np.concatenate([np.ones(min(len(ordered), 1), bool), ordered[1:] != ordered[:-1]])
    ]
    return once


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
