"""Hashes to hits to votes to candidates: where in which song a clip may come from.

A clip is asked more densely than a song is indexed: more peaks, more targets to an anchor, and several copies of the
clip whose frames start a fraction of a hop later, one of which stands almost where the song's frames stood. That costs
nothing in the store. Time is counted in ticks, `TICKS` to the frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.landmarks import Postings

TICKS = 8  # to a frame: the finest step by which a clip's frames are shifted
HALF = TICKS // 2  # hits are counted in windows one frame wide, half a frame apart
SONG_BITS, OFFSET_BITS, BIN_BITS = 21, 10, 10
DELTA_BITS = 63 - SONG_BITS - OFFSET_BITS - BIN_BITS


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """The landmarks of one clip, at all its shifts, sorted by hash.

    Parameters
    ----------
    hash
        ``(n,)`` int32.
    tick
        ``(n,)`` int32, where the anchor's frame starts.
    """

    hash: NDArray[np.int32]
    tick: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.hash)


@dataclass(frozen=True, slots=True, eq=False)
class Hits:
    """Clip hashes that met a posting.

    Parameters
    ----------
    song_id, offset, bin
        ``(n,)`` int32: the song's anchor.
    delta
        ``(n,)`` int32 ticks: where in the song the clip's tick 0 would be.
    """

    song_id: NDArray[np.int32]
    offset: NDArray[np.int32]
    bin: NDArray[np.int32]
    delta: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.song_id)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A place where a clip may come from.

    Parameters
    ----------
    song_id
        The song.
    delta
        Ticks: where in the song the clip's tick 0 would be.
    votes
        Distinct anchors of the song that agree on it.
    """

    song_id: int
    delta: int
    votes: int


def join(question: Question, postings: Postings) -> Hits:
    """Meet a clip's hashes with what the store knows of them."""
    first = np.searchsorted(postings.hash, question.hash, "left")
    count = np.searchsorted(postings.hash, question.hash, "right") - first
    asked = np.repeat(np.arange(len(question)), count)
    starts = np.cumsum(count) - count
    found = np.arange(len(asked)) - np.repeat(starts - first, count)
    offset = postings.offset[found]
    return Hits(
        postings.song_id[found],
        offset,
        question.hash[asked] >> (31 - 18),
        offset * np.int32(TICKS) - question.tick[asked],
    )


def vote(hits: Hits, most: int) -> list[Candidate]:
    """The best candidates, most votes first, no two of them within a frame of each other in the same song.

    Votes are distinct anchors of the song: a landmark that several shifts of the clip find counts once.
    """
    if not len(hits):
        return []
    low = int(hits.delta.min())
    window = (hits.delta - low) // HALF
    key = hits.song_id.astype(np.int64) << DELTA_BITS | window
    key = key << OFFSET_BITS | (hits.offset & ((1 << OFFSET_BITS) - 1))
    key = np.sort(key << BIN_BITS | hits.bin)
    distinct = key[np.concatenate([[True], key[1:] != key[:-1]])] >> (OFFSET_BITS + BIN_BITS)
    start = np.flatnonzero(np.concatenate([[True], distinct[1:] != distinct[:-1]]))
    place = distinct[start]
    count = np.diff(np.append(start, len(distinct)))
    both = count.copy()
    adjacent = np.flatnonzero(place[1:] == place[:-1] + 1)
    both[adjacent] += count[adjacent + 1]
    best = np.argpartition(-both, min(4 * most, len(both)) - 1)[: 4 * most]
    best = best[np.lexsort((place[best], -both[best]))]
    candidates: list[Candidate] = []
    taken: set[tuple[int, int]] = set()
    for index in best:
        song = int(place[index]) >> DELTA_BITS
        half = int(place[index]) & ((1 << DELTA_BITS) - 1)
        if any((song, half + aside) in taken for aside in (-2, -1, 0, 1, 2)):
            continue
        taken.add((song, half))
        inside = (hits.song_id == song) & (np.abs(hits.delta - low - (half + 1) * HALF) <= HALF)
        anchors = hits.offset[inside].astype(np.int64) << BIN_BITS | hits.bin[inside]
        candidates.append(Candidate(song, int(np.median(hits.delta[inside])), len(np.unique(anchors))))
        if len(candidates) == most:
            break
    return sorted(candidates, key=lambda candidate: (-candidate.votes, candidate.song_id, candidate.delta))
