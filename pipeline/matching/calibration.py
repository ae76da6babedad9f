"""Evidence to probability: a logistic regression, and how often strangers reach how far.

The figures come from real music, rooms and noise (docs/RECOGNITION.md tells how to fit them again); nothing in them
depends on one library, since every term is either absolute or measured against chance in the very clip and song.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.matching.verification import Evidence
from pipeline.matching.voting import Candidate

# Weight of each of `terms`, in their order.
WEIGHTS = (0.747, -4.944, 0.227, 4.613, 1.429, -1.68, 1.722, 2.346, 3.365, -1.078, -9.705)
# Logit of the best answer that a share of strangers reaches.
STRANGERS = {0.1: -4.2, 0.03: -2.66, 0.01: -0.8, 0.003: 0.58, 0.001: 2.63}
# So much more a clip needs at the second of these lengths: music that shares a loop with a song shares it for seconds,
# and a clip so long is hardly ever less sure when it is right, but under voices.
LONGER_S, SURER = (2.0, 5.0), 2.5
# No spread is believed that is less than so much of what independent peaks of spread 1 would give.
LEAST_SPREAD = 0.5
FURTHEST = 25.0


@dataclass(frozen=True, slots=True)
class Chance:
    """What songs get of a clip by chance.

    Parameters
    ----------
    votes
        As many as the songs usually get: `rival_votes`.
    answer
        What the matched filter answers at the peaks of one of the best of them. A false candidate that is the best of
        a hundred sounds like this; no place chosen at random sounds so well.
    """

    votes: float
    answer: float


def rival_votes(candidates: Sequence[Candidate]) -> float:
    """Votes that chance brings in this clip and library: the median of what the songs got, the best three left out.

    So neither a song that repeats itself nor one that the library holds twice passes for chance.
    """
    best: dict[int, int] = {}
    for candidate in candidates:
        best[candidate.song_id] = max(best.get(candidate.song_id, 0), candidate.votes)
    rest = sorted(best.values(), reverse=True)[3:]
    return float(np.median(rest)) if rest else 1.0


def terms(votes: int, chance: Chance, evidence: Evidence) -> tuple[float, ...]:
    """What the regression sees of a candidate: votes and answer against chance, and how its levels agree."""
    root = math.sqrt(max(evidence.peaks, 1))
    over_rivals = evidence.answer - chance.answer
    over_aside = evidence.answer - evidence.aside_mean
    least = LEAST_SPREAD / root
    return (
        math.log(votes + 1.0),
        math.log(chance.votes + 1.0),
        root,
        over_rivals,
        math.copysign(math.sqrt(abs(over_rivals) * root), over_rivals),
        over_aside,
        math.sqrt(min(max(over_aside / max(evidence.aside_spread, least), 0.0), FURTHEST)),
        evidence.plain_answer,
        evidence.likeness,
        evidence.lacking * root,
        1.0,
    )


def logit(votes: int, chance: Chance, evidence: Evidence) -> float:
    """Log odds that a candidate, the best of its clip, is right."""
    return math.fsum(weight * term for weight, term in zip(WEIGHTS, terms(votes, chance, evidence), strict=True))


def confidence(logit: float) -> float:
    """The probability that goes with a logit."""
    return 1.0 / (1.0 + math.exp(-logit))


def more_for(length_s: float) -> float:
    """So much higher a logit a clip of this length needs than a short one."""
    return float(np.interp(length_s, LONGER_S, (0.0, SURER)))


def threshold(false_positives: float, length_s: float = 0.0) -> float:
    """The confidence that only a share of strangers reaches.

    Parameters
    ----------
    false_positives
        Above 0, at most 1: of clips that are not in the library.
    length_s
        Of the clip: a longer one must be surer.
    """
    shares = sorted(STRANGERS)
    ends = np.interp(math.log(false_positives), [math.log(share) for share in shares], [STRANGERS[s] for s in shares])
    if false_positives < shares[0]:  # beyond what was measured: on along the last slope
        slope = (STRANGERS[shares[1]] - STRANGERS[shares[0]]) / math.log(shares[1] / shares[0])
        ends += slope * math.log(false_positives / shares[0])
    ends += more_for(length_s)
    return confidence(float(ends)) if false_positives < 1 else 0.0
