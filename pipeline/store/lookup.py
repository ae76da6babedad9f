"""Postings by hash, over the files of one shard of a snapshot."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.fingerprinting.landmarks import Postings, Slices
from pipeline.store.delta_log import DataFile
from pipeline.store.postings import PART_ROWS, Int32s, PostingsFile, ShardPostings, merge, sort
from pipeline.store.schema import POSTINGS
from pipeline.store.storage import Location


class ShardLookup:
    """Songs end to end, and where the hashes occur in them; safe for threads.

    Parameters
    ----------
    number
        Of the shard.
    files
        Its postings files.
    first, stop
        ``(n_songs,)`` int32, rising: the frames of each song that counts.
    song_id
        ``(n_songs,)`` int32.
    """

    def __init__(
        self,
        location: Location,
        number: int,
        files: Sequence[DataFile],
        first: Int32s,
        stop: Int32s,
        song_id: Int32s,
    ) -> None:
        self.number = number
        self._location = location
        self._data_files = files
        self._first = first
        self._stop = stop
        self._song_id = song_id

    @cached_property
    def _files(self) -> list[PostingsFile]:
        return [PostingsFile(self._location, f"{POSTINGS}/{one.name}", one.size_bytes) for one in self._data_files]

    @property
    def rows(self) -> int:
        """Postings in all files, also of songs that do not count."""
        return sum(file.rows for file in self._files)

    def find(self, hashes: Int32s) -> Slices:
        """Where some hashes occur.

        Parameters
        ----------
        hashes
            ``(n_hashes,)`` int32, rising; one that comes twice is found twice.
        """
        wanted = []
        for file in self._files:
            start = int(np.searchsorted(hashes, np.int32(file.low), "left"))
            stop = int(np.searchsorted(hashes, np.int32(file.high), "right"))
            first, count = file.find(hashes[start:stop])
            some = np.flatnonzero(count)
            wanted.append((file, some + start, first[some], count[some]))
        position = np.empty(sum(int(count.sum()) for *_, count in wanted), np.int32)
        at = 0
        for file, _, first, count in wanted:
            if len(first):
                end = at + int(count.sum())
                file.read_positions(first, count, position[at:end])
                at = end
        entry = np.concatenate([np.zeros(0, np.int64), *(some for _, some, _, _ in wanted)])
        return Slices(entry, np.concatenate([np.zeros(0, np.int64), *(count for *_, count in wanted)]), position)

    def locate(self, position: Int32s) -> tuple[Int32s, Int32s]:
        """The song of each position, and the frame in it; song 0 where none counts: removed, or never finished."""
        if not len(self._first):
            return np.zeros(len(position), np.int32), np.zeros(len(position), np.int32)
        place = np.maximum(np.searchsorted(self._first, position, "right") - 1, 0)
        offset = position - self._first[place]
        counts = (offset >= 0) & (position < self._stop[place])
        return np.where(counts, self._song_id[place], 0).astype(np.int32), offset

    def range(self, low: int, high: int) -> Postings:
        """All postings with ``low <= hash < high`` of songs that count."""
        return self.postings(merge([file.range(low, high) for file in self._files]))

    def sample(self, step: int) -> Int32s:
        """The hash of every ``step``-th posting, in no order."""
        return np.concatenate([np.zeros(0, np.int32), *(file.sample(step) for file in self._files)])

    def counts(self) -> list[tuple[Int32s, NDArray[np.int64]]]:
        """The hashes of each file, and how many postings of each; also of songs that do not count."""
        return [file.counts() for file in self._files]

    def postings(self, found: ShardPostings) -> Postings:
        """Those of songs that count, by hash, song_id, offset."""
        song_id, offset = self.locate(found.position)
        counts = song_id > 0
        if not counts.all():
            song_id, offset = song_id[counts], offset[counts]
        return Postings(found.hash if counts.all() else found.hash[counts], song_id, offset)


def join_shards(parts: Sequence[Postings]) -> Postings:
    """Postings of several shards as one, sorted by hash, song_id, offset."""
    parts = [part for part in parts if len(part)]
    if len(parts) == 1:
        return parts[0]
    hash_ = np.concatenate([np.zeros(0, np.int32), *(part.hash for part in parts)])
    song_id = np.concatenate([np.zeros(0, np.int32), *(part.song_id for part in parts)])
    offset = np.concatenate([np.zeros(0, np.int32), *(part.offset for part in parts)])
    order = np.lexsort((offset, song_id, hash_))
    return Postings(hash_[order], song_id[order], offset[order])


def postings_of(shards: Sequence[ShardLookup], hashes: Int32s) -> Postings:
    """What `Snapshot.postings` gives."""
    parts = []
    for shard in shards:
        found = shard.find(hashes)
        # several files may have the same hash
        parts.append(shard.postings(sort(ShardPostings(np.repeat(hashes[found.entry], found.count), found.position))))
    return join_shards(parts)


def sweep(shards: Sequence[ShardLookup]) -> Iterator[Postings]:
    """All postings, in parts that rise by hash: no hash is in two parts."""
    rows = sum(shard.rows for shard in shards)
    steps = max(1, rows // PART_ROWS)
    step = max(1, rows // (steps * 64))
    sample = np.sort(np.concatenate([np.zeros(0, np.int32), *(shard.sample(step) for shard in shards)]))
    inner = [int(sample[len(sample) * i // steps]) for i in range(1, steps)] if len(sample) else []
    cuts = np.unique([0, *inner, 1 << 31])
    for low, high in itertools.pairwise(cuts.tolist()):
        yield join_shards([shard.range(low, high) for shard in shards])


def frequencies(shards: Sequence[ShardLookup]) -> NDArray[np.int64]:
    """How many postings each hash has that has any, by hash; of songs that do not count as well."""
    counted = [part for shard in shards for part in shard.counts()]
    hashes = np.concatenate([np.zeros(0, np.int32), *(hashes for hashes, _ in counted)])
    counts = np.concatenate([np.zeros(0, np.int64), *(counts for _, counts in counted)])
    order = np.argsort(hashes, kind="stable")
    edges = np.flatnonzero(np.diff(hashes[order], prepend=-1))
    return np.add.reduceat(counts[order], edges) if len(edges) else counts
