"""Query hashes to hits to votes to candidates: where in which song a clip may come from.

A clip has more hashes than a song of its length: more peaks, more targets to an anchor, and several copies of the clip
whose frames start a fraction of a hop later, one of which nearly coincides with the song's frames. That costs nothing
in the store. Time is counted in ticks, `TICKS` to the frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ParameterError
from pipeline.fingerprinting.landmarks import Postings, anchor_bins

TICKS = 8  # to a frame: the finest step by which a clip's frames are shifted
MAX_CANDIDATES_PER_SONG = 8  # candidates in one song: music repeats itself, and must leave room for other songs
# A hit as one integer: song, delta, and enough of the song's anchor to tell it from the others of a clip.
SONG_BITS, DELTA_BITS, ANCHOR_BITS = 21, 25, 17
WINDOWS_PER_CANDIDATE = 4  # windows in which votes are counted, for each candidate that is wanted
# Hits are counted before they are sorted if there are more than a few, in as many cells as the cache holds.
COUNT_ABOVE_HITS, CELL_BITS = 200_000, 21
HASH_MULTIPLIERS = (521_288_629, 362_436_069)  # odd, nothing in common: who shares a cell by one does not by the other
MAX_COUNT = 127  # in a cell: two of them fit a byte
SAMPLED_WINDOWS = 40  # windows of which the fullest is tried first: then a tenth of two million hits is sorted


@dataclass(frozen=True, slots=True, eq=False)
class QueryHashes:
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


def find_hits(query: QueryHashes, postings: Postings) -> Hits:
    """Meet a clip's hashes with what the store knows of them."""
    first = np.searchsorted(postings.hash, query.hash, "left")
    count = np.searchsorted(postings.hash, query.hash, "right") - first
    found = np.repeat(first - (np.cumsum(count) - count), count)
    found += np.arange(len(found))
    offset = postings.offset[found]
    delta = offset * np.int32(TICKS)
    delta -= np.repeat(query.tick, count)
    return Hits(postings.song_id[found], offset, np.repeat(anchor_bins(query.hash), count), delta)


def vote(hits: Hits, most: int) -> list[Candidate]:
    """The best candidates, most votes first: in one song at most `MAX_CANDIDATES_PER_SONG`, more than a frame apart.

    Votes are distinct anchors of the song whose deltas lie within a frame: a landmark that several shifts of the clip
    find counts once. They are counted in the `WINDOWS_PER_CANDIDATE` times `most` windows of a frame with most hits.

    Raises
    ------
    ParameterError
        If a song id or a delta is too large to be counted: above two million songs, or a song of a day.
    """
    if not len(hits):
        return []
    origin = int(hits.delta.min())
    if int(hits.song_id.max()) >> SONG_BITS or int(hits.delta.max()) - origin >> DELTA_BITS:
        raise ParameterError(f"songs to {hits.song_id.max()}, deltas to {hits.delta.max()}: too large to be counted")
    key, first, last = _top_windows(hits, origin, WINDOWS_PER_CANDIDATE * most)
    candidates: list[Candidate] = []
    taken: dict[int, list[int]] = {}
    for start, end in zip(first.tolist(), last.tolist(), strict=True):
        middle = int(key[(start + end) // 2]) >> ANCHOR_BITS
        song, delta = middle >> DELTA_BITS, (middle & ((1 << DELTA_BITS) - 1)) + origin
        others = taken.setdefault(song, [])
        if len(others) == MAX_CANDIDATES_PER_SONG or any(abs(delta - other) <= TICKS for other in others):
            continue
        others.append(delta)
        anchors = np.sort(key[start:end] & ((1 << ANCHOR_BITS) - 1))
        candidates.append(Candidate(song, delta, 1 + int(np.count_nonzero(anchors[1:] != anchors[:-1]))))
        if len(candidates) == most:
            break
    return sorted(candidates, key=lambda candidate: (-candidate.votes, candidate.song_id, candidate.delta))


def _top_windows(
    hits: Hits, origin: int, enough: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The hits as sorted keys, and from and up to which of them the fullest windows reach, fullest first.

    A window is a frame long and starts at a hit. Two million hits take a tenth of a second to sort, and most stand
    nearly alone. So first those are sorted that may be in windows of some size; if that leaves too few such windows,
    those that may be in windows as full as the last one found. What is left out is in no window that matters.
    """
    counts = _BucketCounts(hits, HASH_MULTIPLIERS[0]) if len(hits) > COUNT_ABOVE_HITS else None
    least = counts.threshold() if counts is not None else 1
    while True:
        some = hits
        if counts is not None and least > 1:  # by other cells, few are together by chance that were so before
            some = _BucketCounts(counts.in_full_buckets(least), HASH_MULTIPLIERS[1]).in_full_buckets(least)
        key = some.song_id.astype(np.int64) << DELTA_BITS | (some.delta - origin)
        # stable is a merge here: hits come in runs, one for each hash of the clip, that rise by song and delta
        key = np.sort(key << ANCHOR_BITS | (some.offset & 127) << 10 | some.bin, kind="stable")
        key = key[np.concatenate([np.ones(min(1, len(key)), bool), key[1:] != key[:-1]])]
        first, last = _densest_windows(key >> ANCHOR_BITS, enough)
        reached = int(last[-1] - first[-1]) if len(first) == enough else 1
        if reached >= least:
            return key, first, last
        least = reached


def _densest_windows(place: NDArray[np.int64], enough: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The windows of `TICKS` that start at one of the sorted places and hold most, the fullest and lowest first."""
    more = 1  # windows that hold more than so many; the largest power of two for which there are enough
    first = np.arange(len(place))
    while len(starts := np.flatnonzero(place[more:] - place[:-more] < TICKS)) >= enough:
        first, more = starts, 2 * more
    last = np.searchsorted(place, place[first] + TICKS)
    fullest = np.argsort(first - last, kind="stable")[:enough]
    return first[fullest], last[fullest]


class _BucketCounts:
    """Hits counted in cells of a song and a frame, of which several share one counter: at least the true counts."""

    def __init__(self, hits: Hits, spread: int) -> None:
        size = 1 << min(len(hits).bit_length(), CELL_BITS)
        self.hits = hits
        self.cell = hits.song_id * np.int32(spread)
        self.cell += hits.delta >> (TICKS.bit_length() - 1)
        self.cell &= np.int32(size - 1)
        count = np.minimum(np.bincount(self.cell, minlength=size), MAX_COUNT).astype(np.uint8)
        self.around = count + np.roll(count, -1)  # a window that starts in a cell ends in it or in the next one

    def threshold(self) -> int:
        """About how many hits the fullest of `SAMPLED_WINDOWS` windows has."""
        sample = self.around[:: max(1, len(self.around) >> 16)]
        place = len(sample) - 1 - len(sample) // SAMPLED_WINDOWS
        return int(np.partition(sample, place)[place])

    def in_full_buckets(self, least: int) -> Hits:
        """The hits that may be in a window of at least so many."""
        full = self.around >= min(least, MAX_COUNT)
        some = np.flatnonzero((full | np.roll(full, 1))[self.cell])
        return Hits(self.hits.song_id[some], self.hits.offset[some], self.hits.bin[some], self.hits.delta[some])
