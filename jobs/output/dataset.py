"""Answers of days as a folder of part files: each batch is there as soon as it is done, and never asked again.

`--output answers.parquet/` makes the folder; pandas, Polars, DuckDB, Spark and Dask read it as one table.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from jobs.options import Format
from jobs.output import tables
from pipeline.errors import ParameterError

# Readers of such folders pass over names that start so.
RUN = "_run.json"


def wanted(output: str) -> bool:
    """Whether an output is a folder of parts: it ends in a slash."""
    return output.endswith(("/", os.sep))


def answered(output: str, run: Mapping[str, Any]) -> set[str]:
    """Make the folder, or go on with one.

    Parameters
    ----------
    output
        As given, for instance ``answers.parquet/``: the suffix is the format of the parts.
    run
        What decides about answers; a folder with those of another query is refused.

    Returns
    -------
    set of str
        The clips that the parts have answers of.

    Raises
    ------
    ParameterError
        If the suffix is unknown, or the folder holds something else.
    """
    folder = Path(output)
    tables.check_output(str(folder))
    folder.mkdir(exist_ok=True)
    note = folder / RUN
    if not note.exists():
        if any(folder.iterdir()):
            raise ParameterError(f"{output}: the folder holds other things; give a new one")
        note.write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")
    before = json.loads(note.read_text(encoding="utf-8"))
    if odd := [f"{name} {before.get(name)}, not {run[name]}" for name in run if before.get(name) != run[name]]:
        raise ParameterError(f"{output}: holds answers of another run ({', '.join(odd)}); give another folder")
    return {clip for part in _parts(folder) for clip in _clips(part)}


def write(answers: Iterable[pa.Table], schema: pa.Schema, output: str) -> None:
    """Write each table as the next part, which appears when it is whole."""
    folder = Path(output)
    number = max((int(part.stem.rpartition("-")[2]) for part in _parts(folder)), default=0)
    for number, table in enumerate(answers, start=number + 1):  # noqa: B020  goes on counting
        part = folder / f"part-{number:06d}{folder.suffix}"
        tables.write([table], schema, str(part), Format.TABLE, schema.names)


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"part-*{folder.suffix}"))


def _clips(part: Path) -> Iterator[str]:
    if part.suffix == ".parquet":
        import pyarrow.parquet as pq

        yield from pq.read_table(part, columns=["clip"])["clip"].to_pylist()
        return
    with part.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = csv.DictReader(file) if part.suffix == ".csv" else map(json.loads, file)
        yield from (row["clip"] for row in rows)
