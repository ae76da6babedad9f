"""Matches along a recording to segments: neighbouring windows that found the same song at the same place are one.

A recording is asked window by window; each window knows only itself. Here what they found is put in order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from pipeline.recognise import Match

# Two windows hear one performance of a song when their starts in it differ by no more.
SAME_DELTA_S = 0.5
# A chorus under a talking voice may be lost for a while.
LONGEST_GAP_S = 20.0


def segments(matches: Iterable[Match]) -> list[Match]:
    """Join matches of one song whose spans follow each other at the same delta.

    Parameters
    ----------
    matches
        Of the windows of one recording, their spans in seconds of the recording.

    Returns
    -------
    list of Match
        By start; votes are those of the strongest window, the confidence that of the surest.
    """
    open_: dict[int, list[Match]] = {}
    for match in sorted(matches, key=lambda match: (match.clip_start_s, -match.votes)):
        runs = open_.setdefault(match.song_id, [])
        for place, run in enumerate(runs):
            drift = (match.song_start_s - match.clip_start_s * match.speed) - (
                run.song_start_s - run.clip_start_s * run.speed
            )
            if abs(drift) <= SAME_DELTA_S and match.clip_start_s - run.clip_end_s <= LONGEST_GAP_S:
                runs[place] = _joined(run, match)
                break
        else:
            runs.append(match)
    found = [run for runs in open_.values() for run in runs]
    return sorted(found, key=lambda match: (match.clip_start_s, -match.votes, match.song_id))


def _joined(first: Match, second: Match) -> Match:
    last = max(first, second, key=lambda match: match.clip_end_s)
    return dataclasses.replace(
        first,
        clip_end_s=last.clip_end_s,
        song_end_s=last.song_end_s,
        votes=max(first.votes, second.votes),
        confidence=max(first.confidence, second.confidence),
    )
