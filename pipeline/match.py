"""Hashes to hits to votes to candidates: where in which song a clip may come from.

A clip is asked more densely than a song is indexed: more peaks, more targets to an anchor, and several copies of the
clip whose frames start a fraction of a hop later, one of which stands almost where the song's frames stood. That costs
nothing in the store. Time is counted in ticks, `TICKS` to the frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ParameterError
from pipeline.landmarks import Postings

TICKS = 8  # to a frame: the finest step by which a clip's frames are shifted
MOST_PLACES = 8  # candidates in one song: music repeats itself, and must leave room for other songs
# A hit as one integer: song, delta, and enough of the song's anchor to tell it from the others of a clip.
SONG_BITS, DELTA_BITS, ANCHOR_BITS = 21, 25, 17


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
    """The best candidates, most votes first: in one song at most `MOST_PLACES`, more than a frame apart.

    Votes are distinct anchors of the song whose deltas lie within a frame: a landmark that several shifts of the clip
    find counts once.

    Raises
    ------
    ParameterError
        If a song id or a delta is too large to be counted: above two million songs, or a song of a day.
    """
    if not len(hits):
        return []
    least = int(hits.delta.min())
    if int(hits.song_id.max()) >> SONG_BITS or int(hits.delta.max()) - least >> DELTA_BITS:
        raise ParameterError(f"songs to {hits.song_id.max()}, deltas to {hits.delta.max()}: too large to be counted")
    key = hits.song_id.astype(np.int64) << DELTA_BITS | (hits.delta - least)
    key = np.sort(key << ANCHOR_BITS | (hits.offset & 127) << 10 | hits.bin)
    key = key[np.concatenate([[True], key[1:] != key[:-1]])]
    place = key >> ANCHOR_BITS
    first = np.flatnonzero(place[1:] - place[:-1] < TICKS)  # the windows that start at a hit, have more than that one
    if len(first) < 4 * most:  # and the others only when there are few: in a large store most hits stand alone
        first = np.arange(len(place))
    last = np.searchsorted(place, place[first] + TICKS)
    count = last - first
    likely = np.argpartition(-count, min(4 * most, len(count)) - 1)[: 4 * most]
    likely = likely[np.lexsort((likely, -count[likely]))]
    candidates: list[Candidate] = []
    taken: dict[int, list[int]] = {}
    for start, end in zip(first[likely].tolist(), last[likely].tolist(), strict=True):
        middle = int(place[(start + end) // 2])
        song, delta = middle >> DELTA_BITS, (middle & ((1 << DELTA_BITS) - 1)) + least
        others = taken.setdefault(song, [])
        if len(others) == MOST_PLACES or any(abs(delta - other) <= TICKS for other in others):
            continue
        others.append(delta)
        anchors = np.sort(key[start:end] & ((1 << ANCHOR_BITS) - 1))
        candidates.append(Candidate(song, delta, 1 + int(np.count_nonzero(anchors[1:] != anchors[:-1]))))
        if len(candidates) == most:
            break
    return sorted(candidates, key=lambda candidate: (-candidate.votes, candidate.song_id, candidate.delta))
