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

# Weight of each term of `_terms`, in its order.
WEIGHTS = (2.910, -0.134, 0.606, 3.467, -0.539, 1.298, 0.379, -17.157)
# Logit of the best answer that a share of strangers reaches.
STRANGERS = {0.1: -1.2, 0.03: 0.2, 0.01: 1.3, 0.003: 2.5, 0.001: 3.7}
CLIP = 30.0


def rival_votes(candidates: Sequence[Candidate]) -> float:
    """Votes that chance brings in this clip and library: the median of what the songs got, the best three left out.

    So neither a song that repeats itself nor one that the library holds twice passes for chance.
    """
    best: dict[int, int] = {}
    for candidate in candidates:
        best[candidate.song_id] = max(best.get(candidate.song_id, 0), candidate.votes)
    rest = sorted(best.values(), reverse=True)[3:]
    return float(np.median(rest)) if rest else 1.0


def logit(votes: int, rivals: float, evidence: Evidence) -> float:
    """Log odds that a candidate, the best of its clip, is right."""
    root = math.sqrt(evidence.peaks)
    terms = (
        math.log(votes + 1.0),
        math.log(rivals + 1.0),
        root,
        evidence.level,
        evidence.level * root,
        min(max(evidence.over_places, -5.0), CLIP),
        min(max(evidence.over_bins, -5.0), CLIP),
        1.0,
    )
    return math.fsum(weight * term for weight, term in zip(WEIGHTS, terms, strict=True))


def confidence(logit: float) -> float:
    """The probability that goes with a logit."""
    return 1.0 / (1.0 + math.exp(-logit))


def threshold(false_positives: float) -> float:
    """The confidence that only a share of strangers reaches.

    Parameters
    ----------
    false_positives
        Above 0, at most 1: of clips that are not in the library.
    """
    shares = sorted(STRANGERS)
    ends = np.interp(math.log(false_positives), [math.log(share) for share in shares], [STRANGERS[s] for s in shares])
    if false_positives < shares[0]:  # beyond what was measured: on along the last slope
        slope = (STRANGERS[shares[1]] - STRANGERS[shares[0]]) / math.log(shares[1] / shares[0])
        ends += slope * math.log(false_positives / shares[0])
    return confidence(float(ends)) if false_positives < 1 else 0.0
