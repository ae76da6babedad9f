"""The constellations table: the peaks of each song as a row of Parquet, half a megabyte for an hour of audio.

Reading one song decodes a row group of four.

Frames are stored as steps (the first one counted from frame 0), which are small where peaks are dense; the columns
are byte-split, which zstd then halves again. Frames and bins take 0.33 MB/h (at 40 peaks/s 0.21, where dictionaries
gave 0.22, DELTA_BINARY_PACKED 0.27), levels 0.2.
"""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.errors import ParameterError
from pipeline.fingerprinting.peaks import Peaks
from pipeline.store import delta_log
from pipeline.store.schema import CONSTELLATIONS, SCHEMAS, SETTINGS
from pipeline.store.storage import Location

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


def run_copy(task: CopyTask) -> delta_log.DataFile | None:
    """Run a copy; ``None``, and no file, if no song is left."""

    def parts() -> Iterator[pa.Table]:
        for location, name, ids in task.sources:
            with location.parquet(name) as file:
                for group in range(file.num_row_groups):
                    part = file.read_row_group(group, use_threads=False)
                    song_ids = part["song_id"].to_numpy()
                    song_ids = song_ids if ids is None else renumbered(ids, song_ids)
                    keep = song_ids > 0
                    if task.drop is not None:
                        keep &= ~flagged(task.drop, song_ids)
                    if keep.any():
                        part = part.set_column(0, part.schema.field(0), pa.array(song_ids))
                        yield part if keep.all() else part.filter(pa.array(keep))

    return write(task.location, task.name, parts(), task.settings)


def write(location: Location, name: str, parts: Iterator[pa.Table], settings: str) -> delta_log.DataFile | None:
    """Write rows, sorted by song id, into one file; ``None``, and no file, if there are none."""
    low, high, rows = 1 << 31, 0, 0
    first = next(parts, None)
    if first is None:
        return None

    def fill(file: Any) -> None:
        nonlocal low, high, rows
        with writer(file, settings) as out:
            for part in itertools.chain([first], parts):
                ids = part["song_id"].to_numpy()
                low, high, rows = min(low, int(ids.min())), max(high, int(ids.max())), rows + len(ids)
                out.write_table(part, row_group_size=SONGS_PER_GROUP)

    name, size = location.write_with(name, fill)
    return delta_log.DataFile(name.rpartition("/")[2], size, rows, {"song_id": low}, {"song_id": high})


class Reader:
    """Constellation files, found by song id; safe for threads."""

    def __init__(self, location: Location, names: Sequence[str]) -> None:
        self._location = location
        self._names = tuple(names)
        self._footers: list[pq.FileMetaData] = []
        lows: list[int] = []
        highs: list[int] = []
        files: list[int] = []
        groups: list[int] = []
        for place, name in enumerate(self._names):
            with location.parquet(name) as file:
                footer = file.metadata
            self._footers.append(footer)
            statistics = [footer.row_group(i).column(0).statistics for i in range(footer.num_row_groups)]
            lows += [stat.min for stat in statistics]
            highs += [stat.max for stat in statistics]
            files += [place] * len(statistics)
            groups += range(len(statistics))
        self._low = np.array(lows, np.int64)
        self._high = np.array(highs, np.int64)
        self._file = np.array(files, np.int64)
        self._group = np.array(groups, np.int64)

    def read(self, song_ids: NDArray[np.int64]) -> dict[int, Peaks]:
        """The peaks of the songs with these sorted ids; songs that the files do not have are left out."""
        wanted = set(song_ids.tolist())
        first = np.searchsorted(song_ids, self._low, side="left")
        which = first < np.searchsorted(song_ids, self._high, side="right")
        found: dict[int, Peaks] = {}
        for place in np.unique(self._file[which]):
            chosen = self._group[which & (self._file == place)]
            with self._location.parquet(self._names[place], self._footers[place]) as file:
                found |= from_table(file.read_row_groups(chosen.tolist(), use_threads=False), wanted)
        return found

    def song_ids(self) -> NDArray[np.int64]:
        """All songs that the files have, rising."""
        ids = [np.zeros(0, np.int64)]
        for name, footer in zip(self._names, self._footers, strict=True):
            with self._location.parquet(name, footer) as file:
                ids.append(file.read(columns=["song_id"])["song_id"].to_numpy().astype(np.int64))
        return np.sort(np.concatenate(ids))
