"""Postings as sorted Parquet files: how they are written, merged, and found again by hash.

Every file is sorted by hash, song_id, offset and cut into row groups of 4k rows, whose smallest and largest hash
stand in the footer. A lookup picks the groups that can hold a hash from those alone (`np.searchsorted` over all files
at once), decodes them, and picks the rows by binary search. One clip of 300 hashes so touches at most 300 groups of
a file however large it is; a batch of a thousand clips reads each group once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.fingerprinting.landmarks import Postings
from pipeline.store import delta_log
from pipeline.store.constellations import Source, flagged, renumbered
from pipeline.store.schema import POSTINGS, SCHEMAS, SETTINGS
from pipeline.store.storage import Location

# Few, so that a clip decodes little beside what it asks for: on 400M postings, the 2,700 hashes of a clip of 5 s decode
# 11M rows, with groups of 16k 42M. The price is 0.3 s for the footers of those 400M, once, and 2 % of space.
GROUP_ROWS = 4096
# A merge holds this many postings at a time: 100 MB with what sorting needs.
PART_ROWS = 2_000_000
# A merge task writes one file of about this many postings: 55 MB, some 5 s of work.
FILE_ROWS = 16_000_000

LARGEST = np.iinfo(np.int32).max

Int32s = NDArray[np.int32]


def empty() -> Postings:
    """No postings."""
    return Postings(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.int32))


def join(parts: Sequence[Postings]) -> Postings:
    """Postings one after the other, in the order given."""
    if len(parts) == 1:
        return parts[0]
    parts = parts or [empty()]
    return Postings(
        np.concatenate([part.hash for part in parts]),
        np.concatenate([part.song_id for part in parts]),
        np.concatenate([part.offset for part in parts]),
    )


def take(postings: Postings, which: Any) -> Postings:
    """Some of the postings: a slice, a mask or places."""
    return Postings(postings.hash[which], postings.song_id[which], postings.offset[which])


def merge(parts: Sequence[Postings]) -> Postings:
    """Parts that are sorted each, as one that is sorted; the postings of one song must all be in one part."""
    parts = sorted((part for part in parts if len(part)), key=lambda part: int(part.hash[0]))
    joined = join(parts)
    if all(one.hash[-1] < other.hash[0] for one, other in itertools.pairwise(parts)):  # files that were compacted
        return joined
    # A stable sort of runs that are sorted is a merge (timsort): 4M rows of 30 runs in 0.1 s, a plain sort takes 0.4 s.
    key = (joined.hash.astype(np.int64) << 32) | joined.song_id
    return take(joined, np.argsort(key, kind="stable"))


def sort(postings: Postings) -> Postings:
    """Postings in any order, sorted by hash, song_id, offset."""
    return take(postings, np.lexsort((postings.offset, postings.song_id, postings.hash)))


def writer(file: Any, settings: str) -> pq.ParquetWriter:
    """A Parquet writer with this table's encodings: 3.4 to 3.5 bytes a posting.

    Differences packed into as many bits as they need, and no compression on top: zstd takes off another 5 to 8 %, and
    makes a row group of 4k rows cost 140 instead of 55 us to read.
    """
    made = pq.ParquetWriter(
        file,
        SCHEMAS[POSTINGS],
        compression="none",
        use_dictionary=False,
        column_encoding=dict.fromkeys(("hash", "song_id", "offset"), "DELTA_BINARY_PACKED"),
        write_statistics=["hash"],
        write_page_checksum=True,  # `check` finds a flipped byte; costs 0.1 %
        store_schema=False,
    )
    made.add_key_value_metadata({SETTINGS: settings})
    return made


def to_table(postings: Postings) -> pa.Table:
    """The arrays as Arrow, without a copy."""
    return pa.Table.from_arrays(
        [pa.array(postings.hash), pa.array(postings.song_id), pa.array(postings.offset)],
        schema=SCHEMAS[POSTINGS],
    )


def from_table(table: pa.Table) -> Postings:
    """Arrow columns as arrays."""
    return Postings(*(table[name].to_numpy() for name in ("hash", "song_id", "offset")))


class Reader:
    """Some postings files, found by hash.

    Parameters
    ----------
    sources
        Files of some store, each sorted by hash; the postings of one song are all in one file or in files that do
        not share a hash. With each goes the song id of each number in it (0: left out; ``None``: the numbers are ids).
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = tuple(sources)
        self._footers: list[pq.FileMetaData] = []
        lows: list[int] = []
        highs: list[int] = []
        rows: list[int] = []
        files: list[int] = []
        groups: list[int] = []
        for place, (location, name, _) in enumerate(self._sources):
            with location.parquet(name) as file:
                footer = file.metadata
            self._footers.append(footer)
            count = footer.num_row_groups
            if count == 0:
                continue
            # five figures a group from Python are dear: 400M postings have 100,000 groups
            found = [footer.row_group(i) for i in range(count)]
            low = [group.column(0).statistics.min for group in found]
            lows += low
            highs += [*low[1:], found[-1].column(0).statistics.max]
            rows += [group.num_rows for group in found]
            files += [place] * count
            groups += range(count)
        self._low = np.array(lows, np.int64)
        self._high = np.array(highs, np.int64)
        self._rows = np.array(rows, np.int64)
        self._file = np.array(files, np.int64)
        self._group = np.array(groups, np.int64)
        starts = np.flatnonzero(self._group == 0).tolist()
        self._spans_of = list(itertools.pairwise([*starts, len(self._group)]))  # of each file in the arrays above
        # up to each row group, how many postings each hash of it has, all that it spans taken alike
        self._dense = np.append(0.0, np.cumsum(self._rows / np.maximum(1, self._high - self._low)))

    @property
    def rows(self) -> int:
        """Postings in all files."""
        return int(self._rows.sum())

    def sample(self, step: int) -> Int32s:
        """About the hash of every ``step``-th posting, not sorted."""
        places = np.searchsorted(np.cumsum(self._rows), np.arange(step // 2, self.rows, step), side="right")
        return self._low[places].astype(np.int32)

    def groups(self, hashes: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
        """Which row groups can hold one of the sorted hashes."""
        return self._wanted(self._spans(hashes)) > 0

    def loads(self, hashes: NDArray[np.integer[Any]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What looking up each of the sorted hashes takes, as far as the footers tell.

        Returns
        -------
        rows, found
            ``(n,)`` each: the postings to decode for it, those of a row group shared by all hashes that want it; and
            about how many of them are its own.
        """
        spans = self._spans(hashes)
        shared = np.append(0.0, np.cumsum(self._rows / np.maximum(1, self._wanted(spans))))
        rows, found = np.zeros(len(hashes)), np.zeros(len(hashes))
        for some, first, stop in spans:
            rows[some] += shared[stop] - shared[first]
            found[some] += self._dense[stop] - self._dense[first]
        return rows, found

    def _spans(self, hashes: NDArray[np.integer[Any]]) -> list[tuple[slice, NDArray[np.int64], NDArray[np.int64]]]:
        """For each file: a slice of the sorted hashes, and from and up to which row group each of them may be."""
        spans = []
        for start, stop in self._spans_of:
            some = slice(*np.searchsorted(hashes, [self._low[start], self._high[stop - 1] + 1]).tolist())
            first = start + np.searchsorted(self._high[start:stop], hashes[some], side="left")
            last = start + np.searchsorted(self._low[start:stop], hashes[some], side="right")
            spans.append((some, first, last))
        return spans

    def _wanted(self, spans: Sequence[tuple[slice, NDArray[np.int64], NDArray[np.int64]]]) -> NDArray[np.int64]:
        """How many hashes may be in each row group."""
        first = np.concatenate([np.zeros(0, np.int64), *(first for _, first, _ in spans)])
        stop = np.concatenate([np.zeros(0, np.int64), *(stop for _, _, stop in spans)])
        n = len(self._group) + 1
        return np.cumsum(np.bincount(first, minlength=n) - np.bincount(stop, minlength=n))[:-1]

    def read(
        self, which: NDArray[np.bool_], low: int = 0, high: int = 1 << 31, threads: bool = False
    ) -> list[Postings]:
        """The rows of the chosen row groups with ``low <= hash < high``, one sorted part per file."""
        chosen = np.flatnonzero(which)
        places, firsts = np.unique(self._file[chosen], return_index=True)
        groups = np.split(self._group[chosen], firsts[1:]) if len(chosen) else []

        def part(place: int, chosen: NDArray[np.int64]) -> Postings:
            location, name, renumber = self._sources[place]
            with location.parquet(name, self._footers[place]) as file:
                part = from_table(file.read_row_groups(chosen.tolist(), use_threads=threads and len(places) == 1))
            if low > 0 or high <= LARGEST:
                # of the same type, else the whole column is converted first
                cuts = np.array([low, min(high - 1, LARGEST)], np.int32)
                start, stop = (
                    np.searchsorted(part.hash, cuts[:1], "left"),
                    np.searchsorted(part.hash, cuts[1:], "right"),
                )
                part = take(part, slice(int(start[0]), int(stop[0])))
            if renumber is not None:
                part = Postings(part.hash, renumbered(renumber, part.song_id), part.offset)
                if not part.song_id.all():
                    part = take(part, part.song_id > 0)
            return part

        if threads and len(places) > 1:  # a file to a thread does better than a column to a thread
            with ThreadPoolExecutor(min(len(places), pa.cpu_count())) as pool:
                parts = list(pool.map(part, places.tolist(), groups))
        else:
            parts = [part(place, some) for place, some in zip(places.tolist(), groups, strict=True)]
        return [part for part in parts if len(part)]

    def between(self, low: int, high: int) -> NDArray[np.bool_]:
        """Which row groups can hold a hash with ``low <= hash < high``."""
        return (self._high >= low) & (self._low < high)

    def range(self, low: int, high: int, threads: bool = False) -> list[Postings]:
        """All postings with ``low <= hash < high``, one sorted part per file."""
        return self.read(self.between(low, high), low, high, threads)


@dataclass(frozen=True, slots=True)
class MergeTask:
    """Merge a range of hashes out of some files into one file; picklable, may run twice.

    Parameters
    ----------
    location
        Of the store to write to.
    drop
        ``(n,)`` bool of the song ids to leave out, or ``None``; ids beyond it are kept.
    cuts
        Rising hashes: the task covers ``cuts[0] <= hash < cuts[-1]``, one step at a time.
    name
        Of the file to write, inside the store; ``{crc}`` in it becomes its checksum.
    """

    location: Location
    sources: tuple[Source, ...]
    drop: NDArray[np.bool_] | None
    cuts: tuple[int, ...]
    name: str
    settings: str


def run_merge(task: MergeTask) -> delta_log.DataFile | None:
    """Do a merge; ``None``, and no file, if nothing is left in its range."""
    reader = Reader(task.sources)

    def parts() -> Iterator[Postings]:
        for low, high in itertools.pairwise(task.cuts):
            part = merge(reader.range(low, high))
            if task.drop is not None:
                part = take(part, ~flagged(task.drop, part.song_id))
            if len(part):
                yield part

    return write(task.location, task.name, parts(), task.settings)


def write(location: Location, name: str, parts: Iterator[Postings], settings: str) -> delta_log.DataFile | None:
    """Write parts, sorted and one behind the other, into one file; ``None`` if there are none."""
    low: dict[str, int] = {}
    high: dict[str, int] = {}
    rows = 0

    def fill(first: Postings) -> Callable[[Any], None]:
        def fill_with(file: Any) -> None:
            nonlocal rows
            with writer(file, settings) as out:
                # whole row groups: what does not fill one waits for the next part
                waiting = first
                for part in parts:
                    full = len(waiting) - len(waiting) % GROUP_ROWS
                    put(out, take(waiting, slice(0, full)))
                    waiting = join([take(waiting, slice(full, None)), part])
                put(out, waiting)

        return fill_with

    def put(out: pq.ParquetWriter, part: Postings) -> None:
        nonlocal rows
        if len(part) == 0:
            return
        rows += len(part)
        for column, values in (("hash", part.hash), ("song_id", part.song_id)):
            low[column] = min(low.get(column, 1 << 31), int(values.min()))
            high[column] = max(high.get(column, -1), int(values.max()))
        out.write_table(to_table(part), row_group_size=GROUP_ROWS)

    first = next(parts, None)
    if first is None:
        return None
    name, size = location.write_with(name, fill(first))
    return delta_log.DataFile(name.rpartition("/")[2], size, rows, low, high)


def plan_cuts(samples: Sequence[Int32s], step: int) -> list[tuple[int, ...]]:
    """Cut the range of all hashes so that each file gets about `FILE_ROWS` postings, and each part `PART_ROWS`.

    Parameters
    ----------
    samples
        From each source, the hash of every ``step``-th posting.

    Returns
    -------
    list of tuple of int
        For each file its cuts, at least two; together they cover 0 to 2**31.
    """
    hashes = np.sort(np.concatenate([*samples, np.zeros(0, np.int32)]))
    part = max(1, PART_ROWS // step)
    n_files = max(1, round(len(hashes) * step / FILE_ROWS))
    edges = [0, *(int(hashes[len(hashes) * i // n_files]) for i in range(1, n_files)), 1 << 31]
    inner = hashes[part::part].tolist()
    plans = []
    for low, high in itertools.pairwise(edges):
        if low < high:
            plans.append((low, *sorted({cut for cut in inner if low < cut < high}), high))
    return plans
