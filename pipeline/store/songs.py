"""Read and write files of the songs table."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.errors import StoreError
from pipeline.store.delta_log import DataFile, Version
from pipeline.store.schema import SCHEMAS, SONGS
from pipeline.store.storage import Location

# Largest number of song ids given for each row left, which bounds the memory that an untrusted store can take.
MAX_IDS_PER_ROW = 10_000


LARGEST_ID = 2**31 - 1
# A row group: what is read for the row of one song.
GROUP_ROWS = 16_384


def read_songs(
    location: Location,
    version: Version,
    columns: Sequence[str] | None = None,
    song_ids: NDArray[np.int32] | None = None,
) -> pa.Table:
    """Rows of one version of the songs table, of every status, sorted by song id.

    Parameters
    ----------
    song_ids
        ``(n,)`` int32, rising: the songs whose rows are read; all when ``None``.
    """
    schema = SCHEMAS[SONGS]
    names = schema.names if columns is None else list(columns)
    read = list(dict.fromkeys(["song_id", *names]))
    parts = [
        read_file(location, data, read, song_ids)
        for data in version.files
        if song_ids is None or _any_between(song_ids, data.low.get("song_id", 0), data.high.get("song_id", LARGEST_ID))
    ]
    if not parts:
        return pa.schema([schema.field(name) for name in names]).empty_table()
    table = pa.concat_tables(parts)
    ids = table["song_id"].to_numpy()
    if song_ids is None and (ids.min(initial=1) < 1 or ids.max(initial=0) > MAX_IDS_PER_ROW * (len(ids) + 1000)):
        raise StoreError(f"{location.path(SONGS)}: it has song ids that no songprint gave; do not trust this store")
    return (table.sort_by("song_id") if len(parts) > 1 else table).select(names)


def read_file(
    location: Location,
    data: DataFile,
    columns: Sequence[str],
    song_ids: NDArray[np.int32] | None = None,
    *,
    use_threads: bool = True,
) -> pa.Table:
    """Rows of one file of the songs table; a column that was added to the table later is null."""
    schema = SCHEMAS[SONGS]
    with location.parquet(f"{SONGS}/{data.name}") as file:
        if song_ids is None:
            rows = file.read(columns=list(columns), use_threads=use_threads)
        else:
            groups = [group for group in range(file.num_row_groups) if _group_has(file, group, song_ids)]
            rows = file.read_row_groups(groups, columns=list(dict.fromkeys(["song_id", *columns])))
            rows = rows.filter(pc.is_in(rows["song_id"], pa.array(song_ids)))
        for field in map(schema.field, columns):
            if field.nullable and field.name not in rows.column_names:
                rows = rows.append_column(field, pa.nulls(len(rows), field.type))
        return rows.select(columns)


def _group_has(file: pq.ParquetFile, group: int, song_ids: NDArray[np.int32]) -> bool:
    """Whether a row group may have rows of some songs, as its statistics say."""
    column = file.metadata.row_group(group).column(file.schema_arrow.names.index("song_id"))
    figures = column.statistics if column.is_stats_set else None
    return figures is None or not figures.has_min_max or _any_between(song_ids, figures.min, figures.max)


def _any_between(song_ids: NDArray[np.int32], low: int, high: int) -> bool:
    first, stop = np.searchsorted(song_ids, low, "left"), np.searchsorted(song_ids, high, "right")
    return bool(first < stop)


def edit_songs(
    location: Location, version: Version, changes: Mapping[int, Mapping[str, Any]]
) -> tuple[list[DataFile], list[DataFile]]:
    """Write anew the files that have some songs, with other values in some of their columns.

    Parameters
    ----------
    changes
        By song id, the columns that change.

    Returns
    -------
    written, replaced
        New files, which belong to no version until they are committed, and those that they take the place of.
    """
    values: dict[str, dict[int, Any]] = {}
    for song_id, columns in changes.items():
        for name, value in columns.items():
            values.setdefault(name, {})[song_id] = value
    wanted = np.array(sorted(changes), np.int32)
    written, replaced = [], []
    for file in version.files:
        if not _any_between(wanted, file.low.get("song_id", 0), file.high.get("song_id", LARGEST_ID)):
            continue
        rows = edited = read_songs(location, version.only(file))
        for name, of_songs in values.items():
            field, column = rows.schema.field(name), rows.schema.get_field_index(name)
            place = pc.index_in(rows["song_id"], pa.array(of_songs, pa.int32())).combine_chunks()
            new = pa.array(of_songs.values(), field.type).take(place)
            edited = edited.set_column(column, field, pc.if_else(pc.is_valid(place), new, rows[name].combine_chunks()))
        if not edited.equals(rows):
            written.append(write_songs(location, edited))
            replaced.append(file)
    return written, replaced


def write_songs(location: Location, rows: pa.Table) -> DataFile:
    """Write rows of the songs table as a new file, which belongs to no version until it is committed."""
    rows = rows.sort_by("song_id")

    def write(file: Any) -> None:
        pq.write_table(
            rows, file, row_group_size=GROUP_ROWS, compression="zstd", write_page_checksum=True, store_schema=False
        )

    name, size = location.write_with(f"{SONGS}/{uuid.uuid4().hex}-{{crc}}.parquet", write)
    ids = pc.min_max(rows["song_id"]).as_py()
    return DataFile(name.rpartition("/")[2], size, len(rows), {"song_id": ids["min"]}, {"song_id": ids["max"]})
