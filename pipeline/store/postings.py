"""Postings as sorted Parquet files that are their own index: how they are written, merged, and found again by hash.

A posting is a hash and a position: a frame number in its shard, where songs lie end to end. Every file is sorted by
hash, position. Positions are written as they are (PLAIN, one page to a row group), so that those of a hash are a slice
of the file, which nothing has to decode; the column of hashes is packed and costs a few per cent. A large file also has
a directory (`directory`), small ones have their hashes read. No hash is in two row groups of a file.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.store import directory
from pipeline.store.byte_ranges import open_ranges, touched
from pipeline.store.delta_log import DataFile
from pipeline.store.directory import Directory
from pipeline.store.schema import POSTINGS, SCHEMAS, SETTINGS
from pipeline.store.storage import Location

# A merge holds this many postings at a time, which become a row group: 60 MB with what sorting needs.
PART_ROWS = 2_000_000
# A merge task writes one file of about this many postings: 65 MB, some 2 s of work.
FILE_ROWS = 16_000_000
# Smaller files get no directory: reading their hashes takes 12 ms at most, a directory over all hashes 17 MB.
DIRECTORY_ROWS = 4_000_000
# Hashes of songprint have 23 bits; those of others may have 31, and get no directory.
LARGEST_DIRECTORY = 1 << 24
# Pieces of fewer positions than this, as small files have them, are gathered from the mapped file: to read one piece
# takes 1 us or more, as long as to gather so many.
FEW_A_PIECE = 64
# A page has a header and, if it is the only one of its column, nothing else beside the values.
LARGEST_PAGE_HEADER = 200
# Row groups of staged files, which are merged a range of hashes at a time.
STAGED_ROWS = 65_536

LARGEST = np.iinfo(np.int32).max

Int32s = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class ShardPostings:
    """Postings of one shard as they are stored, sorted by hash, position.

    Parameters
    ----------
    hash, position
        ``(n,)`` int32.
    """

    hash: Int32s
    position: Int32s

    def __len__(self) -> int:
        return len(self.hash)


def empty() -> ShardPostings:
    """No postings."""
    return ShardPostings(np.zeros(0, np.int32), np.zeros(0, np.int32))


def join(parts: Sequence[ShardPostings]) -> ShardPostings:
    """Postings one after the other, in the order given."""
    if len(parts) == 1:
        return parts[0]
    parts = parts or [empty()]
    return ShardPostings(
        np.concatenate([part.hash for part in parts]), np.concatenate([part.position for part in parts])
    )


def take(postings: ShardPostings, which: Any) -> ShardPostings:
    """Some of the postings: a slice, a mask or places."""
    return ShardPostings(postings.hash[which], postings.position[which])


def merge(parts: Sequence[ShardPostings]) -> ShardPostings:
    """Parts that are sorted each, as one that is sorted."""
    parts = sorted((part for part in parts if len(part)), key=lambda part: int(part.hash[0]))
    if all(one.hash[-1] < other.hash[0] for one, other in itertools.pairwise(parts)):  # files that were compacted
        return join(parts)
    return sort(join(parts))


def sort(postings: ShardPostings) -> ShardPostings:
    """Postings in any order, sorted by hash, position."""
    key = postings.hash.astype(np.int64)
    key <<= 32  # in place: of many hours each copy takes tens of MB
    key |= postings.position.view(np.uint32)
    # a stable sort of runs that are sorted is a merge (timsort): 4M rows of 30 runs in 0.1 s, a plain sort takes 0.4 s
    key.sort(kind="stable")
    return ShardPostings((key >> 32).astype(np.int32), (key & 0xFFFFFFFF).astype(np.int32))


def writer(file: Any, settings: str) -> pq.ParquetWriter:
    """A Parquet writer with this table's encodings: 4.1 bytes a posting, without a directory."""
    made = pq.ParquetWriter(
        file,
        SCHEMAS[POSTINGS],
        compression="none",
        use_dictionary=False,
        column_encoding={"hash": "DELTA_BINARY_PACKED", "position": "PLAIN"},
        data_page_size=1 << 30,
        max_rows_per_page=1 << 30,
        write_statistics=["hash"],
        write_page_checksum=True,  # `check` finds a flipped byte; costs 0.1 %
        store_schema=False,
    )
    made.add_key_value_metadata({SETTINGS: settings})
    return made


def to_table(postings: ShardPostings) -> pa.Table:
    """The arrays as Arrow, without a copy."""
    return pa.Table.from_arrays([pa.array(postings.hash), pa.array(postings.position)], schema=SCHEMAS[POSTINGS])


def from_table(table: pa.Table) -> ShardPostings:
    """Arrow columns as arrays."""
    return ShardPostings(table["hash"].to_numpy(), table["position"].to_numpy())


class PostingsFile:
    """One postings file, found by hash; safe for threads.

    Parameters
    ----------
    location, name
        Where it is.
    size
        Bytes that it must have.

    Attributes
    ----------
    rows
        Postings in it.
    mapped
        Whether its positions can be read as they lie in it. Other tools may have written it otherwise; then it is
        read as any Parquet file is.
    """

    def __init__(self, location: Location, name: str, size: int | None = None) -> None:
        self._location = location
        self._name = name
        with location.parquet(name) as file:
            self._footer = footer = file.metadata
        groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
        self.rows = footer.num_rows
        rows = np.array([group.num_rows for group in groups], np.int64)
        self._group_start = np.concatenate([np.zeros(1, np.int64), np.cumsum(rows)])
        statistics = [group.column(0).statistics for group in groups]
        # files of other tools may lack them: then any hash may be in any row group
        self._low = np.array([figure.min if figure else 0 for figure in statistics], np.int64)
        self._high = np.array([figure.max if figure else LARGEST for figure in statistics], np.int64)
        chunks = [group.column(1) for group in groups]
        values = [chunk.data_page_offset + chunk.total_compressed_size - 4 * chunk.num_values for chunk in chunks]
        self._byte = np.array(values, np.int64)
        self.mapped = all(self._low[1:] > self._high[:-1]) and all(
            chunk.compression == "UNCOMPRESSED"
            and "PLAIN" in chunk.encodings
            and not chunk.has_dictionary_page
            and at - chunk.data_page_offset < LARGEST_PAGE_HEADER
            for chunk, at in zip(chunks, values, strict=True)
        )
        recorded = (footer.metadata or {}).get(directory.KEY.encode(), b"").decode() if self.mapped else ""
        self._ranges = open_ranges(location, name, location.size(name) if size is None else size)
        self.directory: Directory | None = None
        if recorded:
            self.directory = directory.from_bytes(recorded, self._ranges.view(*directory.place_of(recorded)))

    def _read_hashes(self) -> Int32s:
        with self._location.parquet(self._name, self._footer) as file:
            hashes: Int32s = file.read(columns=["hash"], use_threads=False)["hash"].to_numpy()
        return hashes

    @cached_property
    def _runs(self) -> tuple[Int32s, NDArray[np.int64]]:
        """Each hash that the file has, rising, and its first row; at the end the number of rows."""
        hashes = self._read_hashes()
        rows = np.flatnonzero(np.diff(hashes, prepend=-1, append=-1)) if len(hashes) else np.zeros(1, np.int64)
        return hashes[rows[:-1]], rows

    @cached_property
    def _positions(self) -> Int32s:
        with self._location.parquet(self._name, self._footer) as file:
            positions: Int32s = file.read(columns=["position"], use_threads=False)["position"].to_numpy()
        return positions

    @property
    def low(self) -> int:
        """The smallest hash."""
        return int(self._low[0]) if len(self._low) else 0

    @property
    def high(self) -> int:
        """The largest hash."""
        return int(self._high[-1]) if len(self._high) else -1

    def find(self, hashes: Int32s) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The first row of each hash, and how many it has."""
        if self.directory is not None:
            touched(len(hashes), self.directory.row.nbytes)
            return self.directory.find(hashes)
        own, rows = self._runs
        place = np.minimum(np.searchsorted(own, hashes), max(len(own) - 1, 0))
        if not len(own):
            return place, np.zeros(len(hashes), np.int64)
        first = rows[place]
        return first, np.where(own[place] == hashes, rows[place + 1] - first, 0)

    def read_positions(self, first: NDArray[np.int64], count: NDArray[np.int64], out: Int32s) -> None:
        """Write the positions of some rows, those of each hash as `find` gave them, end to end to ``out``."""
        if not self.mapped:
            out[:] = self._positions[np.repeat(first - (np.cumsum(count) - count), count) + np.arange(count.sum())]
            return
        group = np.searchsorted(self._group_start, first, "right") - 1
        at = self._byte[group] + 4 * (first - self._group_start[group])
        if len(count) and len(out) < FEW_A_PIECE * len(count):
            self._ranges.gather(at, count, out)
        else:
            self._ranges.take(at, 4 * count, out.view(np.uint8))

    def range(self, low: int, high: int) -> ShardPostings:
        """All postings with ``low <= hash < high``."""
        if self.directory is None:
            which = np.flatnonzero((self._high >= low) & (self._low < high))
            if not len(which):
                return empty()
            with self._location.parquet(self._name, self._footer) as file:
                part = from_table(file.read_row_groups(which.tolist(), use_threads=False))
            if not self.mapped and not all(self._low[1:] > self._high[:-1]):
                part = sort(part)
            # of the same type, else the whole column is converted first
            cuts = np.array([low, min(high - 1, LARGEST)], np.int32)
            start, stop = (
                int(np.searchsorted(part.hash, cuts[:1], "left")[0]),
                int(np.searchsorted(part.hash, cuts[1:], "right")[0]),
            )
            return take(part, slice(start, stop))
        place = np.arange(
            min(max(low - self.directory.low, 0), self.directory.n_hashes),
            min(max(high - self.directory.low, 0), self.directory.n_hashes) + 1,
        )
        rows = self.directory.first_rows(place)
        if len(rows) < 2 or rows[-1] == rows[0]:
            return empty()
        hashes = np.repeat((place[:-1] + self.directory.low).astype(np.int32), np.diff(rows))
        # of each row group the rows between the two ends
        start = np.clip(self._group_start[:-1], rows[0], rows[-1])
        stop = np.clip(self._group_start[1:], rows[0], rows[-1])
        parts = [
            self._ranges.read(int(at + 4 * (a - group)), int(4 * (b - a))).view("<i4")
            for at, group, a, b in zip(self._byte, self._group_start[:-1], start, stop, strict=True)
            if b > a
        ]
        return ShardPostings(hashes, np.concatenate(parts))

    def counts(self) -> tuple[Int32s, NDArray[np.int64]]:
        """The hashes that it has, and how many postings of each."""
        if self.directory is not None:
            counts = np.diff(self.directory.all_rows())
            some = np.flatnonzero(counts)
            return (some + self.directory.low).astype(np.int32), counts[some]
        own, rows = self._runs
        return own, np.diff(rows)

    def sample(self, step: int) -> Int32s:
        """The hash of every ``step``-th posting, rising."""
        hashes, counts = self.counts()
        return hashes[np.searchsorted(np.cumsum(counts), np.arange(step // 2, self.rows, step), side="right")]


@dataclass(frozen=True, slots=True, eq=False)
class Relocation:
    """Where the songs of some files go: positions inside a song move along with it, others are left out.

    Parameters
    ----------
    first, stop
        ``(n_songs,)`` int64, rising: the frames of each song in the files.
    new_first
        ``(n_songs,)`` int64: its first frame in the new file; -1 leaves it out. Songs that stay keep their order.
    """

    first: NDArray[np.int64]
    stop: NDArray[np.int64]
    new_first: NDArray[np.int64]

    @property
    def keeps_any(self) -> bool:
        """Whether any song stays."""
        return bool((self.new_first >= 0).any())

    def apply(self, postings: ShardPostings) -> ShardPostings:
        """The postings of the songs that stay, at their new positions."""
        if not len(postings) or not len(self.first):
            return empty()
        shift = self.new_first - self.first
        together = (
            (self.new_first >= 0).all() and (shift == shift[0]).all() and (self.first[1:] == self.stop[:-1]).all()
        )
        if together and postings.position.min() >= self.first[0] and postings.position.max() < self.stop[-1]:
            return postings if shift[0] == 0 else ShardPostings(
                postings.hash, (postings.position + shift[0]).astype(np.int32)
            )  # fmt: skip
        song = np.searchsorted(self.first, postings.position, "right") - 1
        inside = np.maximum(song, 0)
        stays = (song >= 0) & (postings.position < self.stop[inside]) & (self.new_first[inside] >= 0)
        kept, song = take(postings, stays), song[stays]
        return ShardPostings(kept.hash, (kept.position + shift[song]).astype(np.int32))


# A file of some store, and where its songs go; `None`: they stay where they are.
Source = tuple[Location, str, Relocation | None]


@dataclass(frozen=True, slots=True)
class MergeTask:
    """Merge a range of hashes out of some files into one file; picklable, may run twice.

    Parameters
    ----------
    location
        Of the store to write to.
    shard
        That the new file belongs to.
    cuts
        Rising hashes: the task covers ``cuts[0] <= hash < cuts[-1]``, one step at a time.
    name
        Of the file to write, inside the store; ``{crc}`` in it becomes its checksum.
    """

    location: Location
    sources: tuple[Source, ...]
    shard: int
    cuts: tuple[int, ...]
    name: str
    settings: str


def run_merge(task: MergeTask) -> DataFile | None:
    """Do a merge; ``None``, and no file, if nothing is left in its range."""
    files = [(PostingsFile(location, name), relocation) for location, name, relocation in task.sources]

    def parts() -> Iterator[ShardPostings]:
        for low, high in itertools.pairwise(task.cuts):
            found = [
                part if relocation is None else relocation.apply(part)
                for file, relocation in files
                if len(part := file.range(low, high))
            ]
            merged = merge(found)
            if len(merged):
                yield merged

    return write(task.location, task.name, parts(), task.settings, task.shard)


def write(
    location: Location, name: str, parts: Iterator[ShardPostings], settings: str, shard: int = 0
) -> DataFile | None:
    """Write parts, sorted and one behind the other, into one file; ``None`` if there are none.

    Parameters
    ----------
    parts
        No hash is in two of them.
    """
    first = next(parts, None)
    if first is None:
        return None
    low: dict[str, int] = {}
    high: dict[str, int] = {}
    rows = 0
    counts: list[tuple[Int32s, NDArray[np.int64]]] = []

    def fill(file: Any) -> None:
        nonlocal rows
        sink = pa.PythonFile(file, mode="w")  # it counts what goes by, so that Parquet knows of the directory's bytes
        with writer(sink, settings) as out:
            for part in itertools.chain([first], parts):
                rows += len(part)
                for column, values in (("hash", part.hash), ("position", part.position)):
                    low[column] = min(low.get(column, 1 << 31), int(values.min()))
                    high[column] = max(high.get(column, -1), int(values.max()))
                edges = np.flatnonzero(np.diff(part.hash, prepend=-1, append=-1))
                counts.append((part.hash[edges[:-1]], np.diff(edges)))
                out.write_table(to_table(part), row_group_size=len(part))
            if rows >= DIRECTORY_ROWS and high["hash"] - low["hash"] < LARGEST_DIRECTORY:
                made = directory.build(low["hash"], high["hash"], counts)
                sink.write(bytes(-sink.tell() % 8))
                out.add_key_value_metadata({directory.KEY: made.metadata(sink.tell())})
                sink.write(made.to_bytes())
        sink.flush()

    name, size = location.write_with(name, fill)
    return DataFile(name.removeprefix(f"{POSTINGS}/"), size, rows, low, high, shard)


def write_staged(location: Location, name: str, staged: ShardPostings) -> None:
    """Write what a worker staged: row groups small enough to be read a range of hashes at a time."""

    def fill(file: Any) -> None:
        with writer(file, "") as out:
            if len(staged):
                out.write_table(to_table(staged), row_group_size=STAGED_ROWS)

    location.write_with(name, fill)


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
