"""Evidence to probability: a logistic regression for clips and one for recordings, and their thresholds.

Every term of evidence is one entry of `CLIP_TERMS` or `RECORDING_TERMS`: its name, its weight, and how it is computed.
The figures come from real music, simulated rooms and real noise (docs/RECOGNITION.md tells how to fit them again).
None depends on one library: each term is absolute, or measured against chance in the same clip and song.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

import numpy as np
from scipy.special import expit

from pipeline.matching.verification import Evidence, VersionDifferences
from pipeline.matching.voting import Candidate

Measured = TypeVar("Measured")


@dataclass(frozen=True, slots=True)
class Term(Generic[Measured]):
    """A term of a logistic regression.

    Parameters
    ----------
    weight
        Log odds for each unit of the term.
    value
        Computes the term from what was measured.
    """

    weight: float
    value: Callable[[Measured], float]


def logit(terms: Mapping[str, Term[Measured]], measured: Measured) -> float:
    """Log odds: the sum of the weighted terms."""
    return math.fsum(term.weight * float(term.value(measured)) for term in terms.values())


def confidence(logit: float) -> float:
    """The probability that goes with a logit."""
    return float(expit(logit))


# ------------------------------------------------------------------------------------------------------------ clips

# Other songs' candidates, the best ones left out: each may be a version, or share a loop with the song.
BACKGROUND_RANK = 3
# No null deviation is believed that is less than so much of what independent peaks of deviation 1 would give.
MIN_NULL_DEVIATION = 0.5
MAX_NULL_DEVIATIONS = 25.0
# Where responses are divided: lower ones, and lower and higher ratios, say no more.
LEAST_RESPONSE, LEAST_BACKGROUND, MAX_TO_BACKGROUND = 0.01, 0.05, 8.0
# A lower correlation of levels says nothing: a loudspeaker and a room bring that of a song down to 0.
LEAST_CORRELATION = 0.6
# What a single vote counts where the logarithm of votes is taken: any two sounds have an anchor in common somewhere.
LONE_VOTE = 0.2
# Logit that the best candidate reaches in a share of out-of-library clips: false positive rate to logit.
LOGIT_AT_FPR = {0.1: -2.0, 0.03: 0.3, 0.01: 1.6, 0.003: 4.0, 0.001: 6.0}
# The weights are fitted in libraries of about so many songs. In one ten times as large chance gives more votes and a
# higher response: the evidence above the background shrinks, of right candidates and of wrong ones alike.
CALIBRATED_SONGS, LOGIT_A_DECADE = 100, 0.45
# Seconds of a clip, and by how much its logits are too high. In the shortest clips a chord has a place in some song.
# Music that shares a loop with a song shares it for seconds; a clip so long is hardly ever less sure when it is right,
# except under voices and engines.
LENGTH_PENALTY_S, LENGTH_PENALTY = (0.3, 0.5, 1.0, 2.0, 5.0), (2.0, 1.4, 0.0, 0.0, 2.0)


@dataclass(frozen=True, slots=True)
class Background:
    """What other songs reach in the same clip: the measure of chance.

    Parameters
    ----------
    votes
        Votes that songs usually get: `background_votes`.
    response
        Response of the matched filter at the peaks of one of the best background candidates. A false candidate that is
        the best of a hundred has such a response; a random place has a lower one.
    consistent_response
        The same of the consistent response.
    """

    votes: float
    response: float
    consistent_response: float


@dataclass(frozen=True)
class VerifiedCandidate:
    """A candidate with its evidence."""

    candidate: Candidate
    background: Background
    evidence: Evidence

    @property
    def root_peaks(self) -> float:
        """Square root of the number of peaks compared, at least 1."""
        return math.sqrt(max(self.evidence.peaks, 1))

    @property
    def over_background(self) -> float:
        """Response above that of the background."""
        return self.evidence.response - self.background.response

    @property
    def consistent_over_background(self) -> float:
        """Consistent response above that of the background."""
        return self.evidence.consistent_response - self.background.consistent_response

    @property
    def log_response_to_background(self) -> float:
        """Logarithm of the response over that of the background.

        Noise lowers both: a response that means nothing in a clean clip means much in a noisy one.
        """
        response, background = self.evidence.response, self.background.response
        return math.log(max(response, LEAST_RESPONSE) / max(background, LEAST_BACKGROUND))

    @property
    def consistent_to_background(self) -> float:
        """Consistent response over that of the background, 0 to `MAX_TO_BACKGROUND`."""
        ratio = self.evidence.consistent_response / max(self.background.consistent_response, LEAST_BACKGROUND)
        return min(max(ratio, 0.0), MAX_TO_BACKGROUND)

    @property
    def over_null(self) -> float:
        """Response above that of the same peaks shifted in frequency."""
        return self.evidence.response - self.evidence.null_mean

    @property
    def null_deviations(self) -> float:
        """`over_null` in standard deviations of the null, 0 to `MAX_NULL_DEVIATIONS`."""
        deviation = max(self.evidence.null_deviation, MIN_NULL_DEVIATION / self.root_peaks)
        return min(max(self.over_null / deviation, 0.0), MAX_NULL_DEVIATIONS)

    @property
    def change(self) -> float:
        """Share of the response that is not there when the peaks are shifted in time, 0 to 1.

        Near 0 for a sound that hardly changes with time, such as a chord or a hum: each of its peaks says the same.
        """
        return min(max(1 - self.evidence.null_in_time / max(self.evidence.response, LEAST_BACKGROUND), 0.0), 1.0)

    @property
    def sure_correlation(self) -> float:
        """The correlation of the levels less its standard error (Fisher 1921), at least `LEAST_CORRELATION`.

        A few peaks agree easily, three or fewer say nothing.
        """
        if self.evidence.peaks <= 3:
            return LEAST_CORRELATION
        correlation = min(max(self.evidence.level_correlation, 0.0), 0.999)
        sure = math.tanh(math.atanh(correlation) - 1 / math.sqrt(self.evidence.peaks - 3))
        return max(sure, LEAST_CORRELATION)

    @cached_property
    def logit(self) -> float:
        """Log odds that the candidate, the best of its clip, is right: never more than what was compared allows."""
        return min(logit(CLIP_TERMS, self), logit(SUPPORT_TERMS, self))


def _signed_root(x: float) -> float:
    return math.copysign(math.sqrt(abs(x)), x)


CLIP_TERMS: dict[str, Term[VerifiedCandidate]] = {
    "log votes": Term(3.114, lambda c: math.log(c.candidate.votes + 1.0)),
    "log background votes": Term(-2.503, lambda c: math.log(c.background.votes + 1.0)),
    "root peaks": Term(-0.104, lambda c: c.root_peaks),
    "over background": Term(1.116, lambda c: c.over_background),
    "over background, by peaks": Term(3.157, lambda c: _signed_root(c.over_background * c.root_peaks)),
    "consistent over background": Term(4.875, lambda c: c.consistent_over_background),
    "consistent over background, by peaks": Term(
        2.915, lambda c: _signed_root(c.consistent_over_background * c.root_peaks)
    ),
    "log response to background": Term(-0.297, lambda c: c.log_response_to_background),
    "consistent to background": Term(-0.642, lambda c: c.consistent_to_background),
    "over null": Term(-6.93, lambda c: c.over_null),
    "root null deviations": Term(2.529, lambda c: math.sqrt(c.null_deviations)),
    "unweighted response": Term(2.455, lambda c: c.evidence.unweighted_response),
    "level correlation": Term(8.583, lambda c: c.evidence.level_correlation),
    "missing fraction": Term(-0.768, lambda c: c.evidence.missing_fraction * c.root_peaks),
    "constant": Term(-16.858, lambda _: 1.0),
}


# What was compared limits the log odds. Tones, hums, one-shots and single words agree with some place of a song as well
# as a song does, but in one or two anchors, a few bins, one moment; or they hardly change with time, so that many peaks
# say the same. Fitted by `make calibrate` to such sounds by formula and to right answers, with clean excerpts of 0.3 to
# 0.7 s (docs/RECOGNITION.md).
SUPPORT_TERMS: dict[str, Term[VerifiedCandidate]] = {
    "log votes": Term(1.321, lambda c: math.log(c.candidate.votes if c.candidate.votes > 1 else LONE_VOTE)),
    "log effective bins": Term(1.484, lambda c: math.log(c.evidence.effective_bins + 0.01)),
    "log responding times": Term(1.85, lambda c: math.log(c.evidence.responding_times + 1.0)),
    "responding fraction": Term(5.946, lambda c: c.evidence.responding_fraction),
    "sure correlation": Term(26.799, lambda c: c.sure_correlation),
    "log change": Term(6.769, lambda c: math.log(c.change + 0.1)),
    "constant": Term(-20.839, lambda _: 1.0),
}


@dataclass(frozen=True, slots=True)
class VersionComparison:
    """Two songs that are versions of one recording, in the same clip.

    Parameters
    ----------
    first, second
        Each with its own votes and evidence.
    differences
        As `verification.compare_versions` gives them.
    """

    first: VerifiedCandidate
    second: VerifiedCandidate
    differences: VersionDifferences

    @property
    def logit(self) -> float:
        """Log odds that the clip is of the first."""
        return logit(VERSION_TERMS, self)


# Fitted to 1,920 clips of 160 pairs of editions, each a song or its equalised, compressed, limited, encoded or
# remastered self; the weight of the unshared peaks is twice as large, for 46 clips of the benchmark's own versions
# (docs/RECOGNITION.md). No constant: neither comes first by itself.
VERSION_TERMS: dict[str, Term[VersionComparison]] = {
    "votes in deviations": Term(1.1, lambda c: _deviations(c.first.candidate.votes, c.second.candidate.votes)),
    "root unshared peaks": Term(0.15, lambda c: _signed_root(c.differences.unshared)),
    "levels": Term(0.45, lambda c: _bounded(c.differences.levels)),
    "levels beside curve": Term(1.2, lambda c: _bounded(c.differences.levels_beside_curve)),
}
MAX_AGREEMENT = 12.0  # more says no more


def _bounded(agreement: float) -> float:
    return min(max(agreement, -MAX_AGREEMENT), MAX_AGREEMENT)


def _deviations(first: int, second: int) -> float:
    """The difference of two counts over its standard deviation."""
    return (first - second) / math.sqrt(max(first + second, 1))


def background_votes(candidates: Sequence[Candidate]) -> float:
    """Votes that chance gives in this clip and library: the median of the songs' votes, the best three songs left out.

    Hence neither a song that repeats itself nor one that the library holds twice counts as chance.
    """
    best: dict[int, int] = {}
    for candidate in candidates:
        best[candidate.song_id] = max(best.get(candidate.song_id, 0), candidate.votes)
    rest = sorted(best.values(), reverse=True)[BACKGROUND_RANK:]
    return float(np.median(rest)) if rest else 1.0


def size_allowance(n_songs: int) -> float:
    """By how much the logit of a candidate is too low in a library of so many songs, at least 0."""
    return LOGIT_A_DECADE * max(0.0, math.log10(max(n_songs, 1) / CALIBRATED_SONGS))


def length_penalty(length_s: float) -> float:
    """By how much the logit of a candidate is too high in a clip of this length, compared with one of a second."""
    return float(np.interp(length_s, LENGTH_PENALTY_S, LENGTH_PENALTY))


def clip_threshold(false_positives: float) -> float:
    """The confidence that only a share of out-of-library clips reaches, above 0, at most 1."""
    shares = sorted(LOGIT_AT_FPR)
    logs, logits = [math.log(share) for share in shares], [LOGIT_AT_FPR[share] for share in shares]
    needed = float(np.interp(math.log(false_positives), logs, logits))
    if false_positives < shares[0]:  # below what was measured: along the last slope
        slope = (logits[1] - logits[0]) / math.log(shares[1] / shares[0])
        needed += slope * math.log(false_positives / shares[0])
    return confidence(needed) if false_positives < 1 else 0.0


# ------------------------------------------------------------------------------------------------------- recordings

# Log odds that a segment reaches in one of a hundred recordings of other music.
RECORDING_LOGIT_AT_1_PERCENT = 1.0


@dataclass(frozen=True, slots=True)
class SpanEvidence:
    """What speaks for a song in a span of a recording.

    Parameters
    ----------
    level
        Sum over the song's peaks of the response above chance and above the neutral level.
    variance
        Of that sum, by chance.
    votes
        Distinct anchors that agree.
    """

    level: float
    variance: float
    votes: float


# Fitted on spans of 3 to 12 s in six hours of mixes, half of them in a simulated room under noise at 10 dB, against
# what other songs gave there; the constant lower by 9, since these mixes have little out-of-library music.
RECORDING_TERMS: dict[str, Term[SpanEvidence]] = {
    "level in deviations": Term(0.82, lambda s: s.level / math.sqrt(s.variance + 1.0)),
    "root votes": Term(3.0, lambda s: math.sqrt(s.votes)),
    "constant": Term(-16.0, lambda _: 1.0),
}


def search_penalty(n_searched: int) -> float:
    """By how much the log odds fall of what was found at one of so many changes of pitch and tempo, each a chance."""
    return math.log(n_searched)


def recording_threshold(false_positives: float) -> float:
    """The confidence that a segment of a recording needs.

    Parameters
    ----------
    false_positives
        Share of recordings of other music in which something may be named, above 0, at most 1.
    """
    return 1 / (1 + math.exp(-RECORDING_LOGIT_AT_1_PERCENT) * false_positives / 0.01)
