"""Files that failed: which, and why, so that the next run need not try them again.

They are one Parquet file beside the tables, in no version, written as a whole. Of two runs that end at the same moment
one may lose what the other wrote: those files are tried once more.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.store.storage import Location

log = logging.getLogger(__name__)

NAME = "failures.parquet"
SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("modified_ns", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("limit_s", pa.float64()),
    ]
)


@dataclass(frozen=True, slots=True)
class FailedFile:
    """A file that gave no song, because of what it holds.

    Parameters
    ----------
    path
        As the songs table has paths.
    size_bytes, modified_ns
        When it failed: it is another file when these differ.
    limit_s
        Seconds that the file was given; ``None`` for no limit.
    """

    path: str
    size_bytes: int
    modified_ns: int
    reason: str
    limit_s: float | None


def read(location: Location) -> dict[str, FailedFile]:
    """The files that failed, by path; none if the file cannot be read, since it only saves work."""
    try:
        table = pq.read_table(pa.BufferReader(location.read(NAME)), columns=SCHEMA.names)
    except FileNotFoundError:
        return {}
    except (pa.ArrowException, OSError) as error:
        log.warning("%s: not read: %s; files that failed before are tried again", location.path(NAME), error)
        return {}
    return {row["path"]: FailedFile(**row) for row in table.to_pylist()}


def write(location: Location, failed: Iterable[FailedFile]) -> None:
    """Write the files that failed, in place of those that were written before."""
    rows = [dataclasses.asdict(file) for file in sorted(failed, key=lambda file: file.path)]
    if not rows:
        location.delete(NAME)
        return

    def fill(file: Any) -> None:
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), file, compression="zstd", store_schema=False)

    location.write_with(NAME, fill)
