"""Rows as a table on a terminal.

Not by `rich.table`: that takes 0.1 s to import, folds or cuts what is wider than the terminal even into a pipe, and
the README shows this very text.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

import pyarrow as pa

from jobs.output.text import flat, printable

# Not everything fits a terminal; a file has the whole text.
WIDEST_CELL = 48
# Columns whose third digit says something: 0.4 % is another edition, and 4 % a film on television.
RATIOS = ("speed", "pitch")


def write(tables: Iterable[pa.Table], schema: pa.Schema, file: IO[Any], columns: Sequence[str]) -> None:
    """Write the names of some columns, then a line for each row; numbers are set to the right.

    On a terminal that is too narrow each row becomes a block of lines.
    """
    rows = [row for table in tables for row in table.to_pylist()]
    cells = [[_cell(name, row[name]) for name in columns] for row in rows]
    types = [schema.field(name).type for name in columns]
    right = [pa.types.is_integer(type_) or pa.types.is_floating(type_) for type_ in types]
    widths = [max(len(name), *(len(row[i]) for row in cells), 0) for i, name in enumerate(columns)]
    if rows and file.isatty() and sum(widths) + 2 * (len(widths) - 1) > shutil.get_terminal_size().columns:
        _write_blocks(rows, file, columns)
        return
    for line in [columns, *cells]:
        aligned = zip(line, widths, right, strict=True)
        padded = [cell.rjust(width) if number else cell.ljust(width) for cell, width, number in aligned]
        print("  ".join(padded).rstrip(), file=file)


def _write_blocks(rows: Iterable[Mapping[str, Any]], file: IO[Any], columns: Sequence[str]) -> None:
    """Write a line for each value that is there, and an empty line between rows."""
    width = max(map(len, columns))
    for place, row in enumerate(rows):
        if place:
            print(file=file)
        for name in columns:
            if row[name] not in (None, ""):
                print(f"{name:{width}}  {_cell(name, row[name], shorten=False)}", file=file)


def write_object(row: Mapping[str, Any], file: IO[Any]) -> None:
    """Write the names and values of an object, one a line."""
    row = flat(row)
    width = max(map(len, row))
    for name, value in row.items():
        print(f"{name:{width}}  {_cell(name, value)}", file=file)


def _cell(name: str, value: Any, shorten: bool = True) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.{4 if name in RATIOS else 2}f}"
    text = printable(str(value))
    if shorten and len(text) > WIDEST_CELL:
        half = WIDEST_CELL // 2 - 1
        text = f"{text[:half]}…{text[-half:]}"
    return text
