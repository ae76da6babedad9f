"""Postings by hash, over the files of one snapshot."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ParameterError
from pipeline.fingerprinting.landmarks import Postings
from pipeline.store.postings import PART_ROWS, Int32s, Reader, merge, take
from pipeline.store.storage import Location

# A lookup decodes this many postings at a time: 12 MB, about what the cache holds; four times as many take a tenth more
# CPU. In threads it decodes more at a time, since each takes a file.
LOOKUP_ROWS, THREADED_LOOKUP_ROWS = 1_000_000, 4_000_000
# A lookup of fewer is someone waiting for a clip, and is spread over threads, which then cost a third more CPU.
THREADED_ROWS = 32_000_000
# A store up to this size is kept decoded in memory (12 bytes a posting) and answers in a millisecond.
RESIDENT_ROWS = 8_000_000
# What counting a posting that was asked for costs, in postings that are decoded and were not.
HIT_ROWS = 8


def find(parts: Sequence[Postings], hashes: Int32s) -> Postings:
    """The rows of sorted parts that have one of the sorted hashes, sorted."""
    starts = [np.searchsorted(part.hash, hashes, side="left") for part in parts]
    counts = [
        np.searchsorted(part.hash, hashes, side="right") - start for part, start in zip(parts, starts, strict=True)
    ]
    found = []
    for part, start, count in zip(parts, starts, counts, strict=True):
        if total := int(count.sum()):
            # the rows start[i] … start[i] + count[i] - 1 of every hash i, without a loop
            places = np.arange(total) + np.repeat(start - (np.cumsum(count) - count), count)
            found.append(take(part, places))
    return merge(found)


class Lookup:
    """Postings by hash, over the files of one snapshot; safe for threads.

    Parameters
    ----------
    is_indexed
        ``(largest song id + 1,)`` bool: the songs that count.
    """

    def __init__(self, location: Location, names: Sequence[str], is_indexed: NDArray[np.bool_]) -> None:
        self._reader = Reader([(location, name, None) for name in names])
        self._is_indexed = is_indexed
        self._resident: Postings | None = None
        self._lock = threading.Lock()

    def scan(self, hashes: Int32s) -> Iterator[Postings]:
        """What `Snapshot.scan` gives."""
        hashes = np.ascontiguousarray(hashes, np.int32)
        if len(hashes) > 1 and not (np.diff(hashes) > 0).all():
            raise ParameterError("hashes to look up must be sorted and unique")
        if len(hashes) == 0 or self._reader.rows == 0:
            return
        if self._reader.rows <= RESIDENT_ROWS:
            yield self._drop_removed(find([self._all()], hashes))
            return
        rows, _ = self._reader.loads(hashes)
        wanted = self._reader.groups(hashes)
        few = rows.sum() < THREADED_ROWS
        at_once = THREADED_LOOKUP_ROWS if few else LOOKUP_ROWS
        for some in np.split(hashes, np.flatnonzero(np.diff(np.cumsum(rows) // at_once)) + 1):
            parts = self._reader.read(wanted & self._reader.between(int(some[0]), int(some[-1]) + 1), threads=few)
            yield self._drop_removed(find(parts, some))

    def costs(self, hashes: Int32s) -> NDArray[np.float64]:
        """What `Snapshot.costs` gives."""
        if self._reader.rows <= RESIDENT_ROWS:
            return np.zeros(len(hashes))
        rows, found = self._reader.loads(hashes)
        return rows + found * HIT_ROWS

    def sweep(self) -> Iterator[Postings]:
        """All postings, in parts that rise by hash: no hash is in two parts."""
        reader = self._reader
        steps = max(1, reader.rows // PART_ROWS)
        cuts = np.unique([0, *np.quantile(reader._low, np.arange(1, steps) / steps).astype(np.int64), 1 << 31])
        for low, high in itertools.pairwise(cuts):
            yield self._drop_removed(merge(reader.range(int(low), int(high))))

    def frequencies(self) -> NDArray[np.int64]:
        """How many postings each hash has that has any, by hash."""
        counts = [np.zeros(0, np.int64)]
        for part in self.sweep():
            edges = np.flatnonzero(np.diff(part.hash, prepend=-1, append=-1))
            counts.append(np.diff(edges))
        return np.concatenate(counts)

    def _all(self) -> Postings:
        with self._lock:
            if self._resident is None:
                self._resident = self._drop_removed(merge(self._reader.range(0, 1 << 31, threads=True)))
            return self._resident

    def _drop_removed(self, postings: Postings) -> Postings:
        """Leave out what belongs to no song: removed, or never finished."""
        low, high = int(postings.song_id.min(initial=0)), int(postings.song_id.max(initial=0))
        if low >= 0 and high < len(self._is_indexed) and self._is_indexed[1:].all() and postings.song_id.all():
            return postings  # without further ado where nothing was ever removed
        known = (postings.song_id >= 0) & (postings.song_id < len(self._is_indexed))
        counts = np.zeros(len(postings), bool)
        counts[known] = self._is_indexed[postings.song_id[known]]
        return postings if counts.all() else take(postings, counts)
