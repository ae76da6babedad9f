"""Clips to matches: ask the library, verify what it answers, and say how sure that is.

A cascade: every clip is first asked sparsely, and only those that stay unresolved are asked densely, then at other
speeds. All clips of a batch share one look-up per stage.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import soxr
from numpy.typing import NDArray

from pipeline.calibration import confidence, logit, rival_votes, threshold
from pipeline.config import Settings
from pipeline.constellation import REACH_BINS, REACH_FRAMES, Peaks, Picking, pick_peaks, power_batches
from pipeline.errors import ParameterError
from pipeline.landmarks import Postings, pair_peaks
from pipeline.match import TICKS, Candidate, Question, join, vote
from pipeline.verify import Evidence, prominence, weigh


class Library(Protocol):
    """What recognition needs of a store."""

    @property
    def settings(self) -> Settings: ...

    @property
    def n_songs(self) -> int: ...

    def postings(self, hashes: NDArray[np.int32]) -> Postings:
        """What the library knows of some hashes, sorted and unique."""

    def constellations(self, song_ids: Iterable[int]) -> dict[int, Peaks]:
        """The constellations of some songs."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How densely a clip is asked.

    Parameters
    ----------
    shifts
        Copies of the clip, a fraction of a hop apart; divides `TICKS`.
    picking
        Which peaks the clip has.
    fan_out
        Targets to an anchor.
    """

    shifts: int
    picking: Picking
    fan_out: int


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
        self._surface: dict[int, NDArray[np.float32]] = {}

    def power(self, shift: int) -> NDArray[np.float32]:
        """``(n_frames, n_bins)`` of the copy that starts `shift` ticks later."""
        if shift not in self._power:
            start = shift * self.settings.hop // TICKS
            batches = power_batches([self.padded[start : start + self.n_samples + 2 * self.lead]], self.settings)
            self._power[shift] = np.concatenate([batch.copy() for batch in batches])
        return self._power[shift]

    def surface(self, shift: int) -> NDArray[np.float32]:
        """What `prominence` makes of it."""
        if shift not in self._surface:
            self._surface[shift] = prominence(self.power(shift))
        return self._surface[shift]

    def question(self, effort: Effort) -> Question:
        hashes, ticks = [], []
        for shift in range(0, TICKS, TICKS // effort.shifts):
            found = pair_peaks(pick_peaks([self.power(shift)], self.settings, effort.picking), effort.fan_out)
            hashes.append(found.hash)
            ticks.append(found.offset * np.int32(TICKS) + np.int32(shift))
        hash_, tick = np.concatenate(hashes), np.concatenate(ticks)
        order = np.argsort(hash_, kind="stable")
        return Question(hash_[order], tick[order])

    def weigh(self, candidate: Candidate, song: Peaks) -> Evidence:
        shift = -candidate.delta % TICKS
        return weigh(self.surface(shift), song, (candidate.delta + shift) // TICKS)


@dataclass(frozen=True, slots=True)
class Query:
    """What one query run may choose.

    Parameters
    ----------
    false_positives
        Share of clips that are not in the library which may be named all the same, above 0, at most 1.
    speed_range
        Percent by which a clip may be played fast or slow, 0 to 20.
    """

    false_positives: float = 0.01
    speed_range: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.false_positives <= 1:
            raise ParameterError(f"false positives is {self.false_positives}; it must be above 0 and at most 1")
        if not 0 <= self.speed_range <= 20:
            raise ParameterError(f"speed range is {self.speed_range} %; it must be 0 to 20")


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
        Distinct anchors that agree.
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
    """A candidate, verified."""

    candidate: Candidate
    evidence: Evidence
    logit: float


CANDIDATES = 20
SPARSE = Effort(2, Picking(REACH_FRAMES - 1, REACH_BINS - 4, 60), 5)
DENSE = Effort(8, Picking(REACH_FRAMES - 1, REACH_BINS - 4, 80), 10)
RESOLVED = 0.995  # a sparse answer this sure is not asked again
SECOND = 0.9  # a further song in the same clip must be this sure
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
    needed = threshold(query.false_positives)
    matches: list[list[Match]] = [[] for _ in clips]
    sure = [0.0] * len(clips)
    for effort, speed in _stages(query):
        open_ = [place for place in range(len(clips)) if sure[place] < (RESOLVED if speed == 1.0 else needed)]
        heard = [Clip(at_speed(clips[place], speed), library.settings) for place in open_]
        for place, clip, answers in zip(open_, heard, ask(heard, library, effort), strict=True):
            found = _matches(answers, clip, speed, rate, needed)
            if found and found[0].confidence > sure[place]:
                matches[place], sure[place] = found, found[0].confidence
    return matches


def _stages(query: Query) -> list[tuple[Effort, float]]:
    aside = int(np.ceil(query.speed_range / 100 / SPEED_STEP - 1e-9))
    speeds = sorted(
        (1 + SPEED_STEP * step for step in range(-aside, aside + 1) if step), key=lambda speed: abs(speed - 1)
    )
    return [(SPARSE, 1.0), (DENSE, 1.0), *((DENSE, speed) for speed in speeds)]


def at_speed(samples: NDArray[np.float32], speed: float) -> NDArray[np.float32]:
    """What a clip played at `speed` sounds like at the song's own."""
    if speed == 1.0:
        return samples
    slower: NDArray[np.float32] = soxr.resample(samples, 1.0, speed)
    return slower


def ask(clips: Sequence[Clip], library: Library, effort: Effort) -> list[list[Answer]]:
    """The candidates of each clip, verified, best first: one look-up in the library for all."""
    if not clips:
        return []
    questions = [clip.question(effort) for clip in clips]
    postings = library.postings(unique(np.concatenate([question.hash for question in questions])))
    votes = [vote(join(question, postings), CANDIDATES) for question in questions]
    songs = library.constellations(sorted({candidate.song_id for found in votes for candidate in found}))
    answers = []
    for clip, found in zip(clips, votes, strict=True):
        rivals = rival_votes(found)
        weighed = [(candidate, clip.weigh(candidate, songs[candidate.song_id])) for candidate in found]
        verified = [Answer(c, evidence, logit(c.votes, rivals, evidence)) for c, evidence in weighed]
        answers.append(sorted(verified, key=lambda answer: -answer.logit))
    return answers


def unique(sorted_or_not: NDArray[np.int32]) -> NDArray[np.int32]:
    """Each value once, ascending; several times faster than ``np.unique``."""
    ordered = np.sort(sorted_or_not)
    once: NDArray[np.int32] = ordered[
        np.concatenate([np.ones(min(len(ordered), 1), bool), ordered[1:] != ordered[:-1]])
    ]
    return once


def _matches(answers: Sequence[Answer], clip: Clip, speed: float, rate: int, needed: float) -> list[Match]:
    """The best place of each song that passes, in seconds."""
    found: dict[int, Match] = {}
    for answer in answers:
        sure = confidence(answer.logit)
        if answer.candidate.song_id in found or sure < (max(needed, SECOND) if found else needed):
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
    return list(found.values())
