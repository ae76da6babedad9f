"""Query hashes to hits to votes to candidates: where in which song a clip may come from.

A clip has more hashes than a song of its length: more peaks, more targets to an anchor, and several copies of the clip
whose frames start a fraction of a hop later, one of which nearly coincides with the song's frames. That costs nothing
in the store. Time is counted in ticks, `TICKS` to the frame.

Every hit is counted. A position less the clip's frame is a cell, and a song that is in the clip has many hits in two
neighbouring cells. So hits are first counted in whole frames, where a landmark that several shifts find is one, by
sorting their cells: 10 million take 60 ms. Only the hits in the fullest cells are counted tick by tick.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ParameterError
from pipeline.fingerprinting.landmarks import Postings, Slices, anchor_bins
from pipeline.matching.types import Library, Shard

TICKS = 8  # to a frame: the finest step by which a clip's frames are shifted
MAX_CANDIDATES_PER_SONG = 8  # candidates in one song: music repeats itself, and other songs are wanted too
# A hit as one integer: the song's number among those that were hit, delta, and enough of the song's anchor to tell it
# from the others of a clip.
SONG_BITS, DELTA_BITS, ANCHOR_BITS = 21, 25, 17
WINDOWS_PER_CANDIDATE = 4  # windows in which votes are counted, for each candidate that is wanted
# A cell of a song that may be negative, where a clip begins before it, as a number that is not.
CELL_BIAS = 1 << 30
# Hits of which few are three to a window.
MANY = 100_000
# To find the hits of some cells, flags of all cells by their last bits: as many as the cache holds.
FLAG_BITS = 20
# Hits that are worked on at a time: the cache holds them, where a pass over all of them would wait for memory.
HITS_AT_ONCE = 1 << 16


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


def find_candidates(query: QueryHashes, library: Library, most: int) -> list[Candidate]:
    """The best candidates of a clip in a library, most votes first, as `vote` counts them.

    Votes are counted in the `WINDOWS_PER_CANDIDATE` times `most` fullest windows of all shards, whichever song is in
    which shard.
    """
    windows = [fullest_windows(query, shard, WINDOWS_PER_CANDIDATE * most) for shard in library.shards]
    return vote(join_windows(windows, WINDOWS_PER_CANDIDATE * most).hits, most)


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """Two cells of a song, one after the other, with many hits; and the hits.

    Parameters
    ----------
    song_id, cell
        ``(n_windows,)`` int32: the first of the two cells, a frame of the song less a frame of the clip. It has a hit.
    n_hits
        ``(n_windows,)`` int64: distinct hashes, frames of the song and frames of the clip; most first, then by song and
        cell.
    hits
        All hits of these windows, with their ticks.
    """

    song_id: NDArray[np.int32]
    cell: NDArray[np.int32]
    n_hits: NDArray[np.int64]
    hits: Hits

    def __len__(self) -> int:
        return len(self.n_hits)


def fullest_windows(query: QueryHashes, shard: Shard, most: int) -> Windows:
    """The windows of a shard that hold most hits, of equals the first by song and cell.

    Parameters
    ----------
    most
        Windows, at least 1.
    """
    entries = _Entries(query)
    found = shard.find(entries.hash)
    cell = _subtract_frames(found, entries.frame)
    last = np.cumsum(found.count)
    ordered = np.sort(cell)
    least, first = _fullest_places(ordered, most)
    while True:
        # two songs may share a cell of the shard, so that this finds the windows of each and perhaps some more
        some = _hits_in(cell, ordered[first]) if least > 1 else np.arange(len(cell))
        entry = found.entry[np.searchsorted(last, some, "right")]
        windows = _windows_by_song(entries, entry, cell[some] + entries.frame[entry], shard, most)
        if least == 1 or (len(windows) >= most and windows.n_hits[-1] >= least):
            return windows
        least = max(1, min(least - 1, int(windows.n_hits[-1]) if len(windows) >= most else least))
        first = _starts(ordered, least)


def join_windows(parts: Sequence[Windows], most: int) -> Windows:
    """The fullest windows of several shards, as if they were one.

    Parameters
    ----------
    parts
        Of each shard its `most` fullest.
    """
    if len(parts) == 1:
        return parts[0]
    parts = [*parts, NO_WINDOWS]
    song_id = np.concatenate([part.song_id for part in parts])
    cell = np.concatenate([part.cell for part in parts])
    n_hits = np.concatenate([part.n_hits for part in parts])
    first = np.lexsort((cell, song_id, -n_hits))[:most]
    hits = Hits(*(np.concatenate([getattr(part.hits, name) for part in parts]) for name in HIT_COLUMNS))
    chosen = _song_cells(song_id[first], cell[first])
    of_hit = _song_cells(hits.song_id, hits.delta >> (TICKS.bit_length() - 1))
    inside = np.isin(of_hit, np.concatenate([chosen, chosen + 1]))
    return Windows(song_id[first], cell[first], n_hits[first], take_hits(hits, inside))


HIT_COLUMNS = ("song_id", "offset", "bin", "delta")
NO_HITS = Hits(*(np.zeros(0, np.int32) for _ in HIT_COLUMNS))
NO_WINDOWS = Windows(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.int64), NO_HITS)


class _Entries:
    """A clip's hashes at whole frames, each pair once: what is counted.

    Attributes
    ----------
    hash, frame
        ``(n,)`` int32, by hash, then frame. A tick belongs to the frame that it does not lie behind, so that all hits
        whose deltas lie in one frame have the same cell.
    """

    def __init__(self, query: QueryHashes) -> None:
        key = query.hash.astype(np.int64) << 32 | -(-query.tick // TICKS)
        order = np.argsort(key, kind="stable")
        key = key[order]
        self._first = np.flatnonzero(np.concatenate([np.ones(min(1, len(key)), bool), key[1:] != key[:-1]]))
        self._count = np.diff(self._first, append=len(key))
        self._tick = query.tick[order]
        self.hash = (key[self._first] >> 32).astype(np.int32)
        self.frame = (key[self._first] & 0xFFFFFFFF).astype(np.int32)

    def hits(self, entry: NDArray[np.int64], song_id: NDArray[np.int32], offset: NDArray[np.int32]) -> Hits:
        """The hits of some entries with frames of songs, one for each tick at which the clip has the hash."""
        count = self._count[entry]
        tick = self._tick[np.repeat(self._first[entry] - (np.cumsum(count) - count), count) + np.arange(count.sum())]
        offset = np.repeat(offset, count)
        bin_ = np.repeat(anchor_bins(self.hash[entry]), count)
        return Hits(np.repeat(song_id, count), offset, bin_, offset * np.int32(TICKS) - tick)


def _subtract_frames(found: Slices, frame: NDArray[np.int32]) -> NDArray[np.int32]:
    """The cells of the hits, in place of their positions: of a clip of 10 s in 100,000 songs they have 40 MB."""
    last = np.cumsum(found.count)
    total = int(last[-1]) if len(last) else 0
    # whole slices, as many at a time as the cache holds
    cuts = np.searchsorted(last, np.arange(0, total, HITS_AT_ONCE), "right").tolist()
    at = 0
    for start, stop in itertools.pairwise([0, *cuts, len(last)]):
        if start < stop:
            end = int(last[stop - 1])
            found.position[at:end] -= np.repeat(frame[found.entry[start:stop]], found.count[start:stop])
            at = end
    return found.position


def _fullest_places(ordered: NDArray[np.int32], most: int) -> tuple[int, NDArray[np.int64]]:
    """How many hits the `most` fullest windows have at least, as far as the shard tells, and where those start.

    Windows of two hits or more are found by their first place in the sorted cells; 1 if there are not enough of them.
    """
    least = 3 if len(ordered) > MANY else 1  # of many hits the windows of three are few, and are found in one pass
    first = _starts(ordered, least)
    while least > 1 and _distinct(ordered, first) < most:
        least -= 1
        first = _starts(ordered, least)
    while _distinct(ordered, fuller := _followed(ordered, first, least)) >= most:
        least, first = least + 1, fuller
    return least, first


def _starts(ordered: NDArray[np.int32], least: int) -> NDArray[np.int64]:
    """The places in sorted cells at which windows with at least so many hits start."""
    if least == 1:
        return np.arange(len(ordered))
    first, last = ordered[: 1 - least], ordered[least - 1 :]
    chunks = [slice(start, start + HITS_AT_ONCE) for start in range(0, len(first), HITS_AT_ONCE)]
    parts = [np.flatnonzero(last[chunk] - first[chunk] <= 1) + chunk.start for chunk in chunks]
    return np.concatenate([np.zeros(0, np.int64), *parts])


def _followed(ordered: NDArray[np.int32], first: NDArray[np.int64], steps: int) -> NDArray[np.int64]:
    """Of some places in sorted cells those whose window holds another so many places further on."""
    first = first[: np.searchsorted(first, len(ordered) - steps)]
    return first[ordered[first + steps] - ordered[first] <= 1]


def _distinct(ordered: NDArray[np.int32], first: NDArray[np.int64]) -> int:
    """How many cells there are at some places in sorted cells."""
    cells = ordered[first]
    return min(1, len(cells)) + int(np.count_nonzero(cells[1:] != cells[:-1]))


def _hits_in(cell: NDArray[np.int32], first: NDArray[np.int32]) -> NDArray[np.int64]:
    """The places of hits that lie in windows, given by their first cells, rising."""
    cells = np.unique(np.concatenate([first, first + np.int32(1)]))
    flags = np.zeros(1 << FLAG_BITS, bool)
    mask = np.int32((1 << FLAG_BITS) - 1)
    flags[cells & mask] = True
    starts = range(0, len(cell), HITS_AT_ONCE)
    # all places are inside, and "clip" spares numpy to look first: 1.6 instead of 2.4 ns a hit
    flagged = (flags.take(cell[start : start + HITS_AT_ONCE] & mask, mode="clip") for start in starts)
    parts = [np.flatnonzero(some) + start for some, start in zip(flagged, starts, strict=True)]
    some = np.concatenate([np.zeros(0, np.int64), *parts])
    place = np.minimum(np.searchsorted(cells, cell[some]), max(len(cells) - 1, 0))
    return some[cells[place] == cell[some]] if len(cells) else some[:0]


def _song_cells(song_id: NDArray[np.int32], cell: NDArray[np.int32]) -> NDArray[np.int64]:
    """Cells of songs as one integer; the next cell of the same song is the next integer."""
    return (song_id.astype(np.int64) << 32) + (cell + np.int64(CELL_BIAS))


def _windows_by_song(
    entries: _Entries, entry: NDArray[np.int64], position: NDArray[np.int32], shard: Shard, most: int
) -> Windows:
    """The fullest windows among some hits, song by song."""
    song_id, offset = shard.locate(position)
    counts = song_id > 0
    entry, song_id, offset = entry[counts], song_id[counts], offset[counts]
    key = _song_cells(song_id, offset - entries.frame[entry])
    order = np.argsort(key, kind="stable")
    key = key[order]
    first = np.flatnonzero(np.concatenate([np.ones(min(1, len(key)), bool), key[1:] != key[:-1]]))
    stop = np.searchsorted(key, key[first] + 2)
    chosen = np.argsort(first - stop, kind="stable")[:most]
    first, stop = first[chosen], stop[chosen]
    # each hit once, however many windows it is in
    inside = np.cumsum(np.bincount(first, minlength=len(key) + 1) - np.bincount(stop, minlength=len(key) + 1))[:-1] > 0
    some = order[inside]
    hits = entries.hits(entry[some], song_id[some], offset[some])
    of_window = order[first]
    cell = offset[of_window] - entries.frame[entry[of_window]]
    return Windows(song_id[of_window], cell, stop - first, hits)


def take_hits(hits: Hits, which: slice | NDArray[np.bool_] | NDArray[np.intp]) -> Hits:
    """Some of the hits."""
    return Hits(hits.song_id[which], hits.offset[which], hits.bin[which], hits.delta[which])


def vote(hits: Hits, most: int) -> list[Candidate]:
    """The best candidates, most votes first: in one song at most `MAX_CANDIDATES_PER_SONG`, more than a frame apart.

    Votes are distinct anchors of the song whose deltas lie within a frame: a landmark that several shifts of the clip
    find counts once. They are counted in the `WINDOWS_PER_CANDIDATE` times `most` windows of a frame with most hits.

    Raises
    ------
    ParameterError
        If there are hits in two million songs, or a song is longer than two days.
    """
    if not len(hits):
        return []
    origin = int(hits.delta.min())
    songs, song = np.unique(hits.song_id, return_inverse=True)
    if len(songs) >> SONG_BITS or int(hits.delta.max()) - origin >> DELTA_BITS:
        raise ParameterError(f"{len(songs)} songs, deltas to {hits.delta.max()}: too large to be counted")
    key = song.astype(np.int64) << DELTA_BITS | (hits.delta - origin)
    key = np.sort(key << ANCHOR_BITS | (hits.offset & 127) << 10 | hits.bin)
    key = key[np.concatenate([np.ones(1, bool), key[1:] != key[:-1]])]
    first, last = _densest_windows(key >> ANCHOR_BITS, WINDOWS_PER_CANDIDATE * most)
    candidates: list[Candidate] = []
    taken: dict[int, list[int]] = {}
    for start, end in zip(first.tolist(), last.tolist(), strict=True):
        middle = int(key[(start + end) // 2]) >> ANCHOR_BITS
        song_id, delta = int(songs[middle >> DELTA_BITS]), (middle & ((1 << DELTA_BITS) - 1)) + origin
        others = taken.setdefault(song_id, [])
        if len(others) == MAX_CANDIDATES_PER_SONG or any(abs(delta - other) <= TICKS for other in others):
            continue
        others.append(delta)
        anchors = np.sort(key[start:end] & ((1 << ANCHOR_BITS) - 1))
        candidates.append(Candidate(song_id, delta, 1 + int(np.count_nonzero(anchors[1:] != anchors[:-1]))))
        if len(candidates) == most:
            break
    return sorted(candidates, key=lambda candidate: (-candidate.votes, candidate.song_id, candidate.delta))


def _densest_windows(place: NDArray[np.int64], enough: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The windows of `TICKS` that start at one of the sorted places and hold most, the fullest and lowest first."""
    more = 1  # windows that hold more than so many; the largest power of two for which there are enough
    first = np.arange(len(place))
    while len(starts := np.flatnonzero(place[more:] - place[:-more] < TICKS)) >= enough:
        first, more = starts, 2 * more
    last = np.searchsorted(place, place[first] + TICKS)
    fullest = np.argsort(first - last, kind="stable")[:enough]
    return first[fullest], last[fullest]
