"""The one table of output formats. Another one is a module beside this one, an entry here, a line in docs/COMMANDS.md.

The choices of ``--format``, the suffixes of ``--output``, and what reads part files again all come from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

import pyarrow as pa

from jobs.output import csv_rows, json_rows, parquet_rows, terminal
from jobs.output.audacity import audacity
from jobs.output.cue import cue
from jobs.output.jams import jams

Write: TypeAlias = Callable[[Iterable[pa.Table], pa.Schema, IO[Any], Sequence[str]], None]
"""Takes tables of one schema as they come, the schema, an open file, and the columns that a person wants to see;
formats for machines write all columns."""


@dataclass(frozen=True, slots=True)
class PrintedFormat:
    """Rows on standard output; its key is a choice of ``--format`` of every command that prints a table.

    Parameters
    ----------
    write
        Writes rows.
    write_object
        Writes one object, its names and values.
    """

    write: Write
    write_object: Callable[[Mapping[str, Any], IO[Any]], None]


@dataclass(frozen=True, slots=True)
class FileFormat:
    """Rows in a file; its key is the suffix by which ``--output`` picks it.

    Parameters
    ----------
    write
        Writes rows.
    read_column
        The values of one text column of such a file: a run in part files goes on behind the clips that it finds.
    binary
        Whether the file is opened for bytes, else for UTF-8.
    """

    write: Write
    read_column: Callable[[Path, str], Iterator[str]]
    binary: bool = False


@dataclass(frozen=True, slots=True)
class RecordingFormat:
    """The matches of one recording; its key is a choice of ``--format`` of `identify` alone.

    Parameters
    ----------
    text
        Makes the text of a file: takes the recording's path, its rows (also those of gaps when they are wanted), and
        its length in seconds.
    suffix
        Of the files.
    gaps
        Whether rows of gaps are always wanted.
    """

    text: Callable[[str, Iterable[Mapping[str, Any]], float], str]
    suffix: str
    gaps: bool = False


FORMATS: dict[str, PrintedFormat | FileFormat | RecordingFormat] = {
    "table": PrintedFormat(terminal.write, terminal.write_object),
    "json": PrintedFormat(json_rows.write, json_rows.write_object),
    "csv": PrintedFormat(csv_rows.write, csv_rows.write_object),
    ".csv": FileFormat(csv_rows.write, csv_rows.read_column),
    ".jsonl": FileFormat(json_rows.write_lines, json_rows.read_column),
    ".parquet": FileFormat(parquet_rows.write, parquet_rows.read_column, binary=True),
    "cue": RecordingFormat(cue, ".cue", gaps=True),
    "audacity": RecordingFormat(audacity, ".txt"),
    "jams": RecordingFormat(jams, ".jams"),
}

PRINTED = {name: one for name, one in FORMATS.items() if isinstance(one, PrintedFormat)}
FILES = {suffix: one for suffix, one in FORMATS.items() if isinstance(one, FileFormat)}
RECORDINGS = {name: one for name, one in FORMATS.items() if isinstance(one, RecordingFormat)}
