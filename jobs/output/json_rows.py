"""Rows as JSON: a list of objects to print, or one object a line in a file."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa


def write(tables: Iterable[pa.Table], schema: pa.Schema, file: IO[Any], columns: Sequence[str]) -> None:
    """Write one list with an object for each row, in ASCII, so that it steers no terminal."""
    rows = [row for table in tables for row in table.to_pylist()]
    print(json.dumps(rows, indent=2, ensure_ascii=True, default=_iso), file=file)


def write_lines(tables: Iterable[pa.Table], schema: pa.Schema, file: IO[Any], columns: Sequence[str]) -> None:
    """Write each row as an object on a line of its own, as the tables come."""
    for table in tables:
        for row in table.to_pylist():
            file.write(json.dumps(row, ensure_ascii=False, default=_iso) + "\n")


def write_object(row: Mapping[str, Any], file: IO[Any]) -> None:
    """Write one object."""
    print(json.dumps(row, indent=2), file=file)


def read_column(path: Path, name: str) -> Iterator[str]:
    """The values of one column of a file that `write_lines` made."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        yield from (row[name] for row in map(json.loads, file))


def _iso(when: datetime.datetime) -> str:
    return when.isoformat()
