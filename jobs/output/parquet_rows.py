"""Rows as Parquet, a row group for each table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa


def write(tables: Iterable[pa.Table], schema: pa.Schema, file: IO[Any], columns: Sequence[str]) -> None:
    """Write all columns, as the tables come."""
    import pyarrow.parquet as pq  # 30 ms, which a table on a terminal need not pay

    with pq.ParquetWriter(file, schema) as parquet:
        for table in tables:
            parquet.write_table(table)


def read_column(path: Path, name: str) -> Iterator[str]:
    """The values of one column of a file that `write` made."""
    import pyarrow.parquet as pq

    yield from pq.read_table(path, columns=[name])[name].to_pylist()
