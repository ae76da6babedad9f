"""Evidence to probability: a logistic regression, and how often strangers reach how far.

The figures come from real music, rooms and noise (docs/RECOGNITION.md tells how to fit them again); nothing in them
depends on one library, since every term is either absolute or measured against chance in the very clip and song.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pipeline.match import Candidate
from pipeline.verify import Evidence

# Weight of each of `terms`, in their order.
WEIGHTS = (0.848, -3.904, 0.25, 2.53, 0.711, 2.251, 2.214, 1.102, 5.731, -14.075, -17.696)
# Logit of the best answer that a share of strangers reaches.
STRANGERS = {0.1: -3.54, 0.03: -1.19, 0.01: 0.39, 0.003: 1.93, 0.001: 4.16}
# So much more a clip needs at the second of these lengths: music that shares a loop with a song shares it for seconds,
# and a clip so long is hardly ever less sure when it is right, but under voices.
LONGER_S, SURER = (2.0, 5.0), 0.6
# No spread is believed that is less than so much of what independent peaks of spread 1 would give.
LEAST_SPREAD = 0.5
FURTHEST = 25.0


def rival_votes(candidates: Sequence[Candidate]) -> float:
    """Votes that chance brings in this clip and library: the median of what the songs got, the best three left out.

    So neither a song that repeats itself nor one that the library holds twice passes for chance.
    """
    best: dict[int, int] = {}
    for candidate in candidates:
        best[candidate.song_id] = max(best.get(candidate.song_id, 0), candidate.votes)
    rest = sorted(best.values(), reverse=True)[3:]
    return float(np.median(rest)) if rest else 1.0


def terms(votes: int, rivals: float, evidence: Evidence) -> tuple[float, ...]:
    """What the regression sees of a candidate: votes and answer against chance, and how its levels agree."""
    root = math.sqrt(max(evidence.peaks, 1))
    over_places = evidence.answer - evidence.places_mean
    over_aside = evidence.answer - evidence.aside_mean
    least = LEAST_SPREAD / root
    return (
        math.log(votes + 1.0),
        math.log(rivals + 1.0),
        root,
        over_places,
        over_aside,
        math.sqrt(min(max(over_places / max(evidence.places_spread, least), 0.0), FURTHEST)),
        math.sqrt(min(max(over_aside / max(evidence.aside_spread, least), 0.0), FURTHEST)),
        evidence.plain_answer,
        evidence.likeness,
        evidence.lacking,
        1.0,
    )


def logit(votes: int, rivals: float, evidence: Evidence) -> float:
    """Log odds that a candidate, the best of its clip, is right."""
    return math.fsum(weight * term for weight, term in zip(WEIGHTS, terms(votes, rivals, evidence), strict=True))


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
