"""Rows as CSV, in which a spreadsheet finds no formula and a terminal no control character.

Tags and names of files are untrusted data. JSON and Parquet have the exact text.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from jobs.output.text import flat

# What makes a spreadsheet compute, as OWASP lists it (CSV injection); the wide forms do so in East Asian ones.
FORMULA = re.compile("[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
# No title holds one on purpose, and a CSV is read in terminals; line breaks and tabs are quoted well enough.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")

# Digits after the point, of seconds and of all else: the others are probabilities, shares and speeds. JSON and Parquet
# have the exact values.
MILLISECONDS, FIGURES = 3, 4


def write(tables: Iterable[pa.Table], schema: pa.Schema, file: IO[Any], columns: Sequence[str]) -> None:
    """Write a line with the names of all columns, then a line for each row."""
    writer = csv.writer(file)
    writer.writerow(schema.names)
    for table in tables:
        for row in table.to_pylist():
            writer.writerow(["" if row[name] is None else _shown(name, row[name]) for name in schema.names])


def write_object(row: Mapping[str, Any], file: IO[Any]) -> None:
    """Write the names of an object in one line, its values in the next."""
    writer = csv.writer(file)
    row = flat(row)
    writer.writerow(row)
    writer.writerow(_shown(name, value) for name, value in row.items())


def read_column(path: Path, name: str) -> Iterator[str]:
    """The values of one column of a file that `write` made."""
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        yield from (row[name] for row in csv.DictReader(file))


def _shown(name: str, value: Any) -> Any:
    """A value for a CSV: a text that a spreadsheet would compute gets an apostrophe in front; figures are rounded."""
    if isinstance(value, float):
        digits = MILLISECONDS if name.endswith("_s") else FIGURES
        return round(value, digits) + 0.0  # no -0.0
    if isinstance(value, list):
        value = "; ".join(map(str, value))
    if not isinstance(value, str):
        return value
    formula = "'" if FORMULA.match(value) else ""
    return formula + CONTROL.sub("\N{REPLACEMENT CHARACTER}", value)
