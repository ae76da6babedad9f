"""Tables to standard output or to a file, in any format of the table of formats."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

import pyarrow as pa

from jobs.output.formats import FILES, PRINTED
from pipeline.errors import ParameterError
from pipeline.paths import is_url


def check_output(output: str) -> None:
    """Refuse an output that no format has, before the work begins rather than after it."""
    if output == "-":
        return
    if not output.endswith(tuple(FILES)):
        raise ParameterError(f"{output}: --output takes a name that ends in {', '.join(FILES)}, or - to print")
    check_folder(output)


def check_local(output: str) -> None:
    """Refuse a URL."""
    if is_url(output):
        raise ParameterError(f"{output}: results are written to local files only; name one")


def check_folder(output: str) -> None:
    """Refuse a file whose folder is not there, or may not be written to."""
    check_local(output)
    folder = os.path.dirname(os.path.abspath(output))
    if not os.path.isdir(folder):
        raise ParameterError(f"{output}: the folder {folder} does not exist; make it first")
    if not os.access(folder, os.W_OK):
        raise ParameterError(f"{output}: no permission to write in the folder {folder}; name another file")


def write(
    tables: Iterable[pa.Table],
    schema: pa.Schema,
    output: str = "-",
    format_: str = "table",
    columns: Sequence[str] | None = None,
    bom: bool = False,
) -> None:
    """Write tables of one schema one after the other, as they come.

    Parameters
    ----------
    output
        File, its suffix picks the format; ``-`` prints in ``format_``. A file has its name only when it is complete.
    format_
        A name in `PRINTED`.
    columns
        Those of the table on a terminal, all when ``None``; other formats have all of them.
    bom
        Begin a CSV with a byte order mark, by which Excel knows UTF-8.
    """
    columns = schema.names if columns is None else columns
    if output == "-":
        if bom:
            print("\ufeff", end="")
        PRINTED[format_].write(tables, schema, sys.stdout, columns)
        return
    chosen = next(one for suffix, one in FILES.items() if output.endswith(suffix))
    part = f"{output}.part"
    with _opened(part, chosen.binary, bom) as file:
        chosen.write(tables, schema, file, columns)
    os.replace(part, output)


def write_object(row: Mapping[str, Any], format_: str) -> None:
    """Print one object: its names and values."""
    PRINTED[format_].write_object(row, sys.stdout)


def check_bom(bom: bool, output: str) -> None:
    """Refuse a byte order mark in what is no CSV."""
    if bom and not output.rstrip("/").endswith("csv"):
        raise ParameterError("--bom is for CSV: give --format csv, or --output a name that ends in .csv")


def _opened(path: str, binary: bool, bom: bool) -> IO[Any]:
    if binary:
        return open(path, "wb")
    return open(path, "w", newline="", encoding="utf-8-sig" if bom else "utf-8", errors="surrogateescape")
