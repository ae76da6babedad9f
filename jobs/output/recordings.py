"""Files of one recording each: cue sheets, label tracks, JAMS."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import pyarrow as pa

from jobs.output.formats import RECORDINGS
from jobs.output.summary import rows_by_clip
from jobs.output.tables import check_folder, check_local
from pipeline.errors import ParameterError


def check(format_: str, output: str, n_clips: int) -> None:
    """Refuse several recordings for an output of one, before the work begins; make a folder that ends in a slash."""
    if output == "-" and n_clips == 1:
        return
    check_local(output)
    if output.endswith(("/", os.sep)):
        if os.path.exists(output.rstrip("/" + os.sep)) and not os.path.isdir(output):
            raise ParameterError(f"{output}: a file, not a folder; name another")
        os.makedirs(output, exist_ok=True)
    elif not os.path.isdir(output):
        if n_clips != 1:
            raise ParameterError(
                f"{n_clips} recordings, and a sheet in --format {format_} is of one: "
                "give --output a folder, as sheets/ (it is made)"
            )
        check_folder(output)


def write(
    tables: Iterable[pa.Table], format_: str, output: str, durations_s: Mapping[str, float] = MappingProxyType({})
) -> None:
    """Write a file for each recording in which something was found.

    Parameters
    ----------
    format_
        A name in `RECORDINGS`.
    output
        A folder that is there, where each file has its recording's name and a suffix; a file; or ``-`` to print.
    durations_s
        The length of each recording, known at the latest when its table comes.
    """
    chosen = RECORDINGS[format_]
    taken: set[str] = set()
    for clip, rows in rows_by_clip(tables):
        if not any(row["status"] == "matched" for row in rows):
            continue
        text = chosen.text(clip, rows, durations_s.get(clip, 0.0))
        if output == "-":
            print(text, end="")
            continue
        path = _free_name(os.path.join(output, os.path.basename(clip)), chosen.suffix, taken)
        path = path if os.path.isdir(output) else output
        part = f"{path}.part"
        with open(part, "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
        os.replace(part, path)


def _free_name(path: str, suffix: str, taken: set[str]) -> str:
    """A name that no earlier recording of this run has; two folders may hold files of one name."""
    for number in itertools.count(1):
        name = f"{path}{suffix}" if number == 1 else f"{path} ({number}){suffix}"
        if name not in taken:
            taken.add(name)
            return name
    raise AssertionError
