"""Results to standard output or to a file: the one place that knows csv, jsonl, parquet, and what a terminal can bear.

What a file's tags say is data: control characters never reach a terminal or a CSV, and a spreadsheet that opens a CSV
finds no formula in it. Whoever needs the exact text takes JSON or Parquet.
"""

from __future__ import annotations

import csv
import datetime
import json
import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from jobs.options import Format
from pipeline.errors import ParameterError

SUFFIXES = (".csv", ".jsonl", ".parquet")
# Not everything fits a terminal; a file has all columns.
WIDEST_CELL = 48
# What makes a spreadsheet compute, as OWASP lists it (CSV injection); the wide forms do so in East Asian ones.
FORMULA = re.compile("[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
# Nobody's title holds one on purpose, and a CSV is looked at in terminals; line breaks and tabs are quoted well enough.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def check_output(output: str) -> None:
    """Refuse an output that no writer knows, before the work begins rather than after it."""
    if output == "-":
        return
    if not output.endswith(SUFFIXES):
        raise ParameterError(f"{output}: --output takes a name that ends in {', '.join(SUFFIXES)}, or - to print")
    check_folder(output)


def check_folder(output: str) -> None:
    """Refuse a file whose folder is not there, or may not be written to."""
    folder = os.path.dirname(os.path.abspath(output))
    if not os.path.isdir(folder):
        raise ParameterError(f"{output}: the folder {folder} does not exist; make it first")
    if not os.access(folder, os.W_OK):
        raise ParameterError(f"{output}: no permission to write in the folder {folder}; name another file")


def write(tables: Iterable[pa.Table], schema: pa.Schema, output: str, format_: Format, shown: Iterable[str]) -> None:
    """Write tables of one schema one after the other, as they come.

    Parameters
    ----------
    output
        File, its suffix picks the format; ``-`` prints in ``format_``. A file appears under its name when it is whole.
    shown
        Columns of the printed table; files, csv and json have all of them.
    """
    if output == "-":
        _print(tables, schema, format_, list(shown))
        return
    part = f"{output}.part"
    if output.endswith(".parquet"):
        import pyarrow.parquet as pq

        with pq.ParquetWriter(part, schema) as parquet:
            for table in tables:
                parquet.write_table(table)
    else:
        with open(part, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            if output.endswith(".csv"):
                _csv(tables, schema, file)
            else:
                for table in tables:
                    for row in table.to_pylist():
                        file.write(json.dumps(row, ensure_ascii=False, default=_iso) + "\n")
    os.replace(part, output)


def show(row: Mapping[str, Any], format_: Format) -> None:
    """Print one object: its names and values, one a line."""
    if format_ is Format.JSON:
        print(json.dumps(row, indent=2))
    elif format_ is Format.CSV:
        writer = csv.writer(sys.stdout)
        writer.writerow(row)
        writer.writerow(row.values())
    else:
        width = max(map(len, row))
        for name, value in row.items():
            print(f"{name:{width}}  {_cell(value)}")


def _print(tables: Iterable[pa.Table], schema: pa.Schema, format_: Format, shown: list[str]) -> None:
    if format_ is Format.CSV:
        _csv(tables, schema, sys.stdout)
        return
    rows = [row for table in tables for row in table.to_pylist()]
    if format_ is Format.JSON:
        print(json.dumps(rows, indent=2, ensure_ascii=True, default=_iso))
        return
    cells = [[_cell(row[name]) for name in shown] for row in rows]
    types = [schema.field(name).type for name in shown]
    right = [pa.types.is_integer(type_) or pa.types.is_floating(type_) for type_ in types]
    widths = [max(len(name), *(len(row[i]) for row in cells), 0) for i, name in enumerate(shown)]
    for line in [shown, *cells]:
        columns = zip(line, widths, right, strict=True)
        padded = [cell.rjust(width) if number else cell.ljust(width) for cell, width, number in columns]
        print("  ".join(padded).rstrip())


def _csv(tables: Iterable[pa.Table], schema: pa.Schema, file: Any) -> None:
    writer = csv.writer(file)
    writer.writerow(schema.names)
    for table in tables:
        for row in table.to_pylist():
            writer.writerow(["" if row[name] is None else _text(row[name]) for name in schema.names])


def _iso(when: datetime.datetime) -> str:
    return when.isoformat()


def _text(value: Any) -> Any:
    """A value for a CSV: a text that a spreadsheet would compute gets an apostrophe in front, numbers stay."""
    if not isinstance(value, str):
        return value
    formula = "'" if FORMULA.match(value) else ""
    return formula + CONTROL.sub("\N{REPLACEMENT CHARACTER}", value)


def printable(text: str) -> str:
    """The text without what would steer a terminal; the wide spaces of East Asian titles stay."""
    return "".join(
        letter if letter.isprintable() or unicodedata.category(letter) == "Zs" else "\N{REPLACEMENT CHARACTER}"
        for letter in text
    )


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.2f}"
    text = printable(str(value))
    if len(text) > WIDEST_CELL:
        half = WIDEST_CELL // 2 - 1
        text = f"{text[:half]}…{text[-half:]}"
    return text
