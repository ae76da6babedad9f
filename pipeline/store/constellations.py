"""The constellations table: the peaks of each song as a row of Parquet, half a megabyte for an hour of audio.

Reading one song decodes a row group of four.

Frames are stored as steps (the first one counted from frame 0), which are small where peaks are dense; the columns
are byte-split, which zstd then halves again. Frames and bins take 0.33 MB/h (at 40 peaks/s 0.21, where dictionaries
gave 0.22, DELTA_BINARY_PACKED 0.27), levels 0.2.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.errors import ParameterError
from pipeline.fingerprinting.peaks import Peaks
from pipeline.store.delta_log import DataFile
from pipeline.store.schema import CONSTELLATIONS, SCHEMAS, SETTINGS
from pipeline.store.storage import Location

# Under which a file's metadata has the first song id of each row group.
FIRST_IDS = "songprint.first_ids"
# Files whose footers are kept: 0.2 MB each.
OPEN_FILES = 256
# Reading one song decodes its group: 4 songs cost 0.2 ms more than 1, and the footer is a quarter.
SONGS_PER_GROUP = 4
LARGEST_BIN = np.iinfo(np.int16).max


def to_table(song_ids: Sequence[int], peaks: Sequence[Peaks]) -> pa.Table:
    """One row per song, in the order given.

    Raises
    ------
    ParameterError
        If peaks are not sorted by frame, or a frame or bin does not fit.
    """
    ends = np.cumsum([0, *map(len, peaks)], dtype=np.int64)
    if ends[-1] > np.iinfo(np.int32).max:
        raise ParameterError(f"{ends[-1]} peaks are too many for one file; stage fewer songs at once")
    steps = [np.diff(part.frame, prepend=np.int32(0)) for part in peaks]
    frame_step = np.concatenate([*steps, np.zeros(0, np.int32)]).astype(np.int32)
    bins = np.concatenate([*(part.bin for part in peaks), np.zeros(0, np.int32)])
    levels = np.concatenate([*(part.level for part in peaks), np.zeros(0, np.int8)])
    if len(frame_step) and (frame_step.min() < 0 or bins.min() < 0 or bins.max() > LARGEST_BIN):
        raise ParameterError(f"peaks must be sorted by frame, with bins from 0 to {LARGEST_BIN}")
    offsets = pa.array(ends.astype(np.int32))
    return pa.Table.from_arrays(
        [
            pa.array(np.asarray(song_ids, np.int32)),
            pa.ListArray.from_arrays(offsets, pa.array(frame_step)),
            pa.ListArray.from_arrays(offsets, pa.array(bins.astype(np.int16))),
            pa.ListArray.from_arrays(offsets, pa.array(levels)),
        ],
        schema=SCHEMAS[CONSTELLATIONS],
    )


def from_table(table: pa.Table, wanted: Container[int]) -> dict[int, Peaks]:
    """The inverse of `to_table`, for the songs that are wanted."""
    found: dict[int, Peaks] = {}
    for batch in table.to_batches():
        steps = batch.column("frame_step")
        ends = steps.offsets.to_numpy()
        frame_step, bin_ = steps.values.to_numpy(), batch.column("bin").values.to_numpy()
        level = batch.column("level").values.to_numpy()
        for song_id, start, stop in zip(batch.column("song_id").to_pylist(), ends[:-1], ends[1:], strict=True):
            if song_id not in wanted:
                continue
            frame = np.cumsum(frame_step[start:stop], dtype=np.int32)
            # copies: a view would keep the other songs read with it in memory
            found[song_id] = Peaks(frame, bin_[start:stop].astype(np.int32), level[start:stop].copy())
    return found


def writer(file: Any, settings: str) -> pq.ParquetWriter:
    """A Parquet writer with this table's encodings."""
    made = pq.ParquetWriter(
        file,
        SCHEMAS[CONSTELLATIONS],
        compression="zstd",
        compression_level=1,
        use_dictionary=False,
        column_encoding={
            "song_id": "DELTA_BINARY_PACKED",
            "frame_step.list.element": "BYTE_STREAM_SPLIT",
            "bin.list.element": "BYTE_STREAM_SPLIT",
            "level.list.element": "BYTE_STREAM_SPLIT",
        },
        write_statistics=["song_id"],
        write_page_checksum=True,
        store_schema=False,
    )
    made.add_key_value_metadata({SETTINGS: settings})
    return made


# A file of some store, and the song id of each id in it (0: left out; `None`: they are song ids already).
Source = tuple[Location, str, NDArray[np.int32] | None]


@dataclass(frozen=True, slots=True)
class CopyTask:
    """Copy songs from some files into one, under their song ids; picklable, may run twice.

    Parameters
    ----------
    location
        Of the store to write to.
    drop
        ``(n,)`` bool of the song ids to leave out, or ``None``; ids beyond it are kept.
    name
        Of the file to write, inside the store; ``{crc}`` in it becomes its checksum.
    """

    location: Location
    sources: tuple[Source, ...]
    drop: NDArray[np.bool_] | None
    name: str
    settings: str


def renumbered(song_ids: NDArray[np.int32], file_ids: NDArray[np.int32]) -> NDArray[np.int32]:
    """The song id of each id in a file; 0 for ids beyond the table ``song_ids``."""
    inside = (file_ids >= 0) & (file_ids < len(song_ids))
    return np.where(inside, song_ids[np.where(inside, file_ids, 0)], 0).astype(np.int32)


def flagged(flags: NDArray[np.bool_], song_ids: NDArray[np.int32]) -> NDArray[np.bool_]:
    """The flag of each song; ``False`` for ids beyond the flags."""
    return np.append(flags, False)[np.minimum(song_ids, len(flags))]


def plan_copies(
    sources: Sequence[tuple[Location, str, NDArray[np.int32]]], songs_per_file: int
) -> list[tuple[Source, ...]]:
    """Group staging files, in their order, into the sources of files of about ``songs_per_file`` songs."""
    plans: list[tuple[Source, ...]] = []
    group: list[Source] = []
    count = 0
    for location, name, ids in sources:
        group.append((location, name, ids))
        count += int(np.count_nonzero(ids))
        if count >= songs_per_file:
            plans.append(tuple(group))
            group, count = [], 0
    return [*plans, tuple(group)] if count else plans


def run_copy(task: CopyTask) -> DataFile | None:
    """Do a copy; ``None``, and no file, if no song is left."""

    def parts() -> Iterator[pa.Table]:
        for location, name, ids in task.sources:
            with location.parquet(name) as file:
                for group in range(file.num_row_groups):
                    part = file.read_row_group(group, use_threads=False)
                    numbers = part["song_id"].to_numpy()
                    numbers = numbers if ids is None else renumbered(ids, numbers)
                    keep = numbers > 0
                    if task.drop is not None:
                        keep &= ~flagged(task.drop, numbers)
                    if keep.any():
                        part = part.set_column(0, part.schema.field(0), pa.array(numbers))
                        yield part if keep.all() else part.filter(pa.array(keep))

    return write(task.location, task.name, parts(), task.settings)


def write(location: Location, name: str, parts: Iterator[pa.Table], settings: str) -> DataFile | None:
    """Write rows, sorted by song id, into one file; ``None``, and no file, if there are none."""
    low, high, rows = 1 << 31, 0, 0
    firsts: list[int] = []
    first = next(parts, None)
    if first is None:
        return None

    def fill(file: Any) -> None:
        nonlocal low, high, rows
        with writer(file, settings) as out:
            for part in itertools.chain([first], parts):
                ids = part["song_id"].to_numpy()
                low, high, rows = min(low, int(ids.min())), max(high, int(ids.max())), rows + len(ids)
                firsts.extend(ids[::SONGS_PER_GROUP].tolist())
                out.write_table(part, row_group_size=SONGS_PER_GROUP)
            out.add_key_value_metadata({FIRST_IDS: json.dumps(firsts)})

    name, size = location.write_with(name, fill)
    return DataFile(name.rpartition("/")[2], size, rows, {"song_id": low}, {"song_id": high})


class _Groups:
    """The row groups of one file, found by song id."""

    def __init__(self, location: Location, file: DataFile) -> None:
        self._location = location
        self._name = f"{CONSTELLATIONS}/{file.name}"
        with location.parquet(self._name) as parquet:
            self._footer = footer = parquet.metadata
        recorded = (footer.metadata or {}).get(FIRST_IDS.encode())
        if recorded is None:  # 5 us each from the footer, 1.3 ms a file
            found = [footer.row_group(i).column(0).statistics.min for i in range(footer.num_row_groups)]
        else:
            found = json.loads(recorded)
        self._first = np.array(found, np.int64)

    def read(self, song_ids: NDArray[np.int64]) -> dict[int, Peaks]:
        """The peaks of the songs with these sorted ids, as far as the file has them."""
        groups = np.unique(np.searchsorted(self._first, song_ids, "right") - 1)
        groups = groups[groups >= 0]
        if not len(groups):
            return {}
        with self._location.parquet(self._name, self._footer) as file:
            return from_table(file.read_row_groups(groups.tolist(), use_threads=False), set(song_ids.tolist()))

    def song_ids(self) -> NDArray[np.int64]:
        """All songs of the file, rising."""
        with self._location.parquet(self._name, self._footer) as file:
            ids: NDArray[np.int64] = file.read(columns=["song_id"])["song_id"].to_numpy().astype(np.int64)
        return ids


class Reader:
    """Constellation files, found by song id; a file is opened when a song of it is asked for. Safe for threads."""

    def __init__(self, location: Location, files: Sequence[DataFile]) -> None:
        self._location = location
        self._files = tuple(files)
        self._open = lru_cache(maxsize=OPEN_FILES)(self._groups)

    def _groups(self, place: int) -> _Groups:
        return _Groups(self._location, self._files[place])

    def read(self, song_ids: NDArray[np.int64]) -> dict[int, Peaks]:
        """The peaks of the songs with these sorted ids, as far as the files have them."""
        found: dict[int, Peaks] = {}
        for place, file in enumerate(self._files):
            some = slice(*np.searchsorted(song_ids, [file.low["song_id"], file.high["song_id"] + 1]).tolist())
            if len(song_ids[some]):
                found |= self._open(place).read(song_ids[some])
        return found

    def song_ids(self) -> NDArray[np.int64]:
        """All songs that the files have, rising."""
        parts = [self._open(place).song_ids() for place in range(len(self._files))]
        return np.sort(np.concatenate([np.zeros(0, np.int64), *parts]))
