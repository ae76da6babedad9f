"""The matches of a long run as a folder of part files, one a batch: a run that was interrupted goes on behind them.

`--output matches.parquet/` makes the folder; pandas, Polars, DuckDB, Spark and Dask read it as one table.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from jobs.output import tables
from jobs.output.formats import FILES
from pipeline.errors import ParameterError

# What the run was. Readers of such folders skip names that start with an underscore.
RUN = "_run.json"


def is_dataset(output: str) -> bool:
    """Whether an output is a folder of parts: it ends in a slash."""
    return output.endswith(("/", os.sep))


def open_dataset(output: str, run: Mapping[str, Any]) -> set[str]:
    """Make the folder, or open one to go on with it; the clips that are done.

    Parameters
    ----------
    output
        As given, for instance ``matches.parquet/``: the suffix is the format of the parts.
    run
        What the matches depend on; a folder of a run with other values is refused.

    Returns
    -------
    set of str
        The clips that have rows in the parts.

    Raises
    ------
    ParameterError
        If the suffix is unknown, or the folder holds something else.
    """
    folder = Path(output)
    tables.check_output(str(folder))
    folder.mkdir(exist_ok=True)
    about = folder / RUN
    if not about.exists():
        if any(folder.iterdir()):
            raise ParameterError(f"{output}: the folder holds other things; give a new one")
        about.write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")
    later = {"gaps": False, "pitch_range": 0.0, "tempo_range": 0.0}  # options that a run did not have at first
    before = later | json.loads(about.read_text(encoding="utf-8"))
    if odd := [f"{name} {before.get(name)}, not {run[name]}" for name in run if before.get(name) != run[name]]:
        raise ParameterError(f"{output}: holds answers of another run ({', '.join(odd)}); give another folder")
    read_column = FILES[folder.suffix].read_column
    return {clip for part in _parts(folder) for clip in read_column(part, "clip")}


def write(matches: Iterable[pa.Table], schema: pa.Schema, output: str, bom: bool = False) -> None:
    """Write each table as the next part, which has its name only when it is complete."""
    folder = Path(output)
    number = max((int(part.stem.rpartition("-")[2]) for part in _parts(folder)), default=0)
    for number, table in enumerate(matches, start=number + 1):  # noqa: B020  goes on counting
        part = folder / f"part-{number:06d}{folder.suffix}"
        tables.write([table], schema, str(part), "table", None, bom)


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"part-*{folder.suffix}"))
