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
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pipeline.fingerprinting.landmarks import Postings, Slices, anchor_bins, unpack
from pipeline.matching.types import Library, Shard

TICKS = 8  # to a frame: the finest step by which a clip's frames are shifted
MAX_CANDIDATES_PER_SONG = 32  # music repeats itself, and other songs are wanted too
PEAK_BITS = 17  # of a key of a peak, enough to tell it from the others of a clip
WINDOWS_PER_CANDIDATE = 4  # windows in which votes are counted, for each candidate that is wanted
WINDOW_TICKS = 2 * TICKS
# A cell of a song that may be negative, where a clip begins before it, as a number that is not.
CELL_BIAS = 1 << 30
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


def find_candidates(queries: Sequence[QueryHashes], library: Library, most: int) -> list[list[Candidate]]:
    """The best candidates of some clips in a library, best first, as `best_candidates` chooses them.

    They are chosen among the `WINDOWS_PER_CANDIDATE` times `most` fullest windows of all shards, whichever song is in
    which shard.
    """
    n_windows = WINDOWS_PER_CANDIDATE * most
    parts = library.map_shards(partial(windows_of_shards, queries, n_windows))
    return [best_candidates(join_windows(of_clip, n_windows), most) for of_clip in zip(*parts, strict=True)]


def windows_of_shards(queries: Sequence[QueryHashes], most: int, shards: Sequence[Shard]) -> list[Windows]:
    """The fullest windows of each clip in some shards: all clips in one shard, then in the next."""
    parts = [[fullest_windows(query, shard, most) for query in queries] for shard in shards]
    return [join_windows([of_shard[place] for of_shard in parts], most) for place in range(len(queries))]


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """Two cells of a song, one after the other, with many hits; and the best candidate in them.

    Parameters
    ----------
    song_id, cell
        ``(n_windows,)`` int32: the first of the two cells, a frame of the song less a frame of the clip. It has a hit.
    n_hits
        ``(n_windows,)`` int32: distinct hashes, frames of the song and frames of the clip; most first, then by song and
        cell.
    n_in_frame
        ``(n_windows,)`` int32: of the frame of ticks that holds most, and starts in the first cell, the distinct
        anchors and ticks.
    delta, votes, n_peaks
        ``(n_windows,)`` int32: the middle of that frame, in ticks from the beginning of the first cell; its distinct
        anchors; its distinct peaks, anchors and targets.
    """

    song_id: NDArray[np.int32]
    cell: NDArray[np.int32]
    n_hits: NDArray[np.int32]
    n_in_frame: NDArray[np.int32]
    delta: NDArray[np.int32]
    votes: NDArray[np.int32]
    n_peaks: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.n_hits)

    def take(self, which: slice | NDArray[np.integer]) -> Windows:
        """Some of the windows."""
        return Windows(*(getattr(self, name)[which] for name in self.__slots__))


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
    nothing = np.zeros(0, np.int32)  # in a store without songs there is no shard
    joined = Windows(
        *(np.concatenate([nothing, *(getattr(part, name) for part in parts)]) for name in Windows.__slots__)
    )
    return joined.take(np.lexsort((joined.cell, joined.song_id, -joined.n_hits))[:most])


def best_candidates(windows: Windows, most: int) -> list[Candidate]:
    """The best candidates, best first: in one song at most `MAX_CANDIDATES_PER_SONG`, more than a frame apart.

    The best has most peaks of the song in hits whose deltas lie within a frame: landmarks that share a peak agree more
    easily by chance than those that do not, and what several shifts of the clip find counts once. Of equals the one
    with more hits comes first. Each window has one candidate.
    """
    order = np.lexsort((windows.cell, windows.song_id, -windows.n_in_frame, -windows.n_peaks))
    ordered = windows.take(order)
    deltas = ordered.cell.astype(np.int64) * TICKS + ordered.delta
    candidates: list[Candidate] = []
    taken: dict[int, list[int]] = {}
    for song_id, delta, votes in zip(ordered.song_id.tolist(), deltas.tolist(), ordered.votes.tolist(), strict=True):
        others = taken.setdefault(song_id, [])
        if len(others) == MAX_CANDIDATES_PER_SONG or any(abs(delta - other) <= TICKS for other in others):
            continue
        others.append(delta)
        candidates.append(Candidate(song_id, delta, votes))
        if len(candidates) == most:
            break
    return candidates


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
        self._first = np.flatnonzero(_is_new(key))
        self._count = np.diff(self._first, append=len(key))
        self._tick = query.tick[order]
        self.hash = (key[self._first] >> 32).astype(np.int32)
        self.frame = (key[self._first] & 0xFFFFFFFF).astype(np.int32)

    def ticks(self, entry: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Every tick at which the clip has the hashes of some entries, and the place of its entry among those given."""
        count = self._count[entry]
        tick = self._tick[_ranges(self._first[entry], count)]
        return np.repeat(np.arange(len(entry)), count), tick


def _ranges(first: NDArray[np.int64], count: NDArray[np.int64]) -> NDArray[np.int64]:
    """``count[i]`` whole numbers from ``first[i]`` on, for each i in turn."""
    numbers: NDArray[np.int64] = np.repeat(first - (np.cumsum(count) - count), count)
    numbers += np.arange(len(numbers))
    return numbers


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
    least = _least_by_chance(ordered, most)
    first = _starts(ordered, least)
    while least > 1 and _distinct(ordered, first) < most:
        least -= 1
        first = _starts(ordered, least)
    while _distinct(ordered, fuller := _followed(ordered, first, least)) >= most:
        least, first = least + 1, fuller
    return least, first


def _least_by_chance(ordered: NDArray[np.int32], most: int) -> int:
    """How many hits the `most` fullest windows would have at least if the hits lay anywhere: most often fewer."""
    n_cells = float(ordered[-1]) - float(ordered[0]) + 1 if len(ordered) else 1.0
    a_window = 2 * len(ordered) / n_cells
    least, windows = 1, min(float(len(ordered)), n_cells)
    while (fuller := windows * min(1.0, a_window / least)) >= most:  # each term of Poisson's law from the one before
        least, windows = least + 1, fuller
    return least


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
    first = np.flatnonzero(_is_new(key))
    stop = np.searchsorted(key, key[first] + 2)
    chosen = np.argsort(first - stop, kind="stable")[:most]
    first, stop = first[chosen], stop[chosen]
    of_window = order[first]
    cell = offset[of_window] - entries.frame[entry[of_window]]
    some = order[_ranges(first, stop - first)]
    window = np.repeat(np.arange(len(first)), stop - first)
    place, tick = entries.ticks(entry[some])
    window, offset = window[place], offset[some][place]
    in_window = (offset - cell[window]) * TICKS - tick
    anchor_bin, bin_difference, frame_difference = unpack(entries.hash[entry[some]][place])
    anchor = _peak_keys(offset, anchor_bin)
    target = _peak_keys(offset + frame_difference, anchor_bin + bin_difference)
    counted = _count_votes(window, in_window, anchor, target, len(first))
    return Windows(song_id[of_window], cell, (stop - first).astype(np.int32), *counted)


def _peak_keys(frame: NDArray[np.int32], bin_: NDArray[np.int32]) -> NDArray[np.int32]:
    """Peaks of a song as `PEAK_BITS` each: enough to tell those of a clip from each other."""
    return (frame & 127) << 10 | bin_ & 1023


def _count_votes(
    window: NDArray[np.int64],
    tick: NDArray[np.int32],
    anchor: NDArray[np.int32],
    target: NDArray[np.int32],
    n_windows: int,
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """`Windows.n_in_frame`, `Windows.delta`, `Windows.votes` and `Windows.n_peaks`.

    Parameters
    ----------
    window, tick, anchor, target
        Of each hit its window, its tick there, and the song's peaks. Every window has a hit.
    """
    key = _distinct_keys((window * WINDOW_TICKS + tick) << PEAK_BITS | anchor) >> PEAK_BITS
    counts = np.bincount(key, minlength=n_windows * WINDOW_TICKS)
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    rows = np.arange(n_windows) * WINDOW_TICKS
    in_frame = np.stack([before[rows + start + TICKS] - before[rows + start] for start in range(TICKS)], axis=1)
    start = in_frame.argmax(axis=1)
    n_in_frame = in_frame[np.arange(n_windows), start]
    delta = key[before[rows + start] + n_in_frame // 2] % WINDOW_TICKS
    inside = (tick >= start[window]) & (tick < start[window] + TICKS)
    of = window[inside] << PEAK_BITS
    anchors = _distinct_keys(of | anchor[inside])
    peaks = _distinct_keys(np.concatenate([anchors, of | target[inside]]))
    votes, n_peaks = (np.bincount(keys >> PEAK_BITS, minlength=n_windows).astype(np.int32) for keys in (anchors, peaks))
    return n_in_frame.astype(np.int32), delta.astype(np.int32), votes, n_peaks


def _distinct_keys(key: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each of some numbers once, rising."""
    key = np.sort(key)
    distinct: NDArray[np.int64] = key[_is_new(key)]
    return distinct


def _is_new(key: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of some sorted numbers differ from the one before; the first does."""
    return np.concatenate([np.ones(min(1, len(key)), bool), key[1:] != key[:-1]])


def take_hits(hits: Hits, which: slice | NDArray[np.bool_] | NDArray[np.intp]) -> Hits:
    """Some of the hits."""
    return Hits(hits.song_id[which], hits.offset[which], hits.bin[which], hits.delta[which])
