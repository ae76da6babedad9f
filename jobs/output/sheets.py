"""The answers of `identify` as people use them: a table that fits a terminal, cue sheets, label tracks for Audacity.

A cue sheet knows only where a track starts; its end and the confidence stand beside it as remarks. A sheet and a label
track belong to one recording.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from jobs.options import AnswerFormat
from jobs.output.tables import printable
from pipeline.errors import ParameterError

CUE_FRAMES = 75
"""To a second: the unit of a cue sheet's times, from the sectors of a CD."""

SUFFIXES = {AnswerFormat.CUE: ".cue", AnswerFormat.AUDACITY: ".txt"}
COMPACT = pa.schema([(name, pa.string()) for name in ("clip", "from", "to", "song", "at")]).append(
    pa.field("confidence", pa.float64())
).append(pa.field("speed", pa.float64()))  # fmt: skip

Row = dict[str, Any]


def compact(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The answers with times as people read them, and nothing said twice."""
    for table in tables:
        shown = []
        for clip, rows in _by_clip([table]):
            for place, row in enumerate(rows):
                line: Row = {"clip": "" if place else clip}
                if row["status"] == "matched":
                    line |= {"from": minutes(row["clip_start_s"]), "to": minutes(row["clip_end_s"]), "song": song(row)}
                    line |= {"at": minutes(row["song_start_s"]), "confidence": row["confidence"]}
                    line |= {"speed": row["speed"] if row["speed"] != 1.0 else None}
                else:
                    line["song"] = row["status"] + (f": {row['message']}" if row["message"] else "")
                shown.append(line)
        yield pa.Table.from_pylist(shown, schema=COMPACT)


def check(format_: AnswerFormat, output: str, n_clips: int) -> None:
    """Refuse several recordings where only one has room, before the work begins."""
    if not os.path.isdir(output) and n_clips != 1:
        raise ParameterError(
            f"{n_clips} recordings, and a sheet in --format {format_} is of one: give --output an existing folder"
        )


def write(tables: Iterable[pa.Table], format_: AnswerFormat, output: str) -> None:
    """Write a sheet for each recording in which something was found.

    Parameters
    ----------
    output
        An existing folder, where each sheet has its recording's name and a suffix; a file; or ``-`` to print.
    """
    make = cue if format_ is AnswerFormat.CUE else audacity
    taken: set[str] = set()
    for clip, rows in _by_clip(tables):
        matched = [row for row in rows if row["status"] == "matched"]
        if not matched:
            continue
        sheet = make(clip, matched)
        if output == "-":
            print(sheet, end="")
            continue
        path = _free(os.path.join(output, os.path.basename(clip)), SUFFIXES[format_], taken)
        path = path if os.path.isdir(output) else output
        part = f"{path}.part"
        with open(part, "w", encoding="utf-8", errors="replace") as file:
            file.write(sheet)
        os.replace(part, path)


def cue(clip: str, rows: Iterable[Row]) -> str:
    """A cue sheet: one track for each match, in the order of their starts."""
    name = os.path.basename(clip)
    kind = "MP3" if name.lower().endswith(".mp3") else "WAVE"  # the word for all that is neither MP3 nor AIFF
    lines = [f'TITLE "{_quoted(name)}"', f'FILE "{_quoted(name)}" {kind}']
    for number, row in enumerate(rows, start=1):
        lines += [f"  TRACK {number:02d} AUDIO", f'    TITLE "{_quoted(row["title"] or _stem(row))}"']
        if row["artist"]:
            lines.append(f'    PERFORMER "{_quoted(row["artist"])}"')
        lines.append(f"    REM END {_cue_time(row['clip_end_s'])}")
        lines.append(f"    REM CONFIDENCE {row['confidence']:.3f}")
        lines.append(f"    INDEX 01 {_cue_time(row['clip_start_s'])}")
    return "\n".join(lines) + "\n"


def audacity(clip: str, rows: Iterable[Row]) -> str:
    """A label track: start, end and label of each match, separated by tabs."""
    return "".join(f"{row['clip_start_s']:.6f}\t{row['clip_end_s']:.6f}\t{song(row)}\n" for row in rows)


def minutes(seconds: float) -> str:
    """A time as ``m:ss``, or ``h:mm:ss``.

    >>> minutes(61.4), minutes(3600)
    ('1:01', '1:00:00')
    """
    whole = round(seconds)
    hours, rest = divmod(abs(whole), 3600)
    sign = "-" if whole < 0 else ""
    return f"{sign}{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{sign}{rest // 60}:{rest % 60:02d}"


def _by_clip(tables: Iterable[pa.Table]) -> Iterator[tuple[str, list[Row]]]:
    rows = (row for table in tables for row in table.to_pylist())
    for clip, of_clip in itertools.groupby(rows, key=lambda row: str(row["clip"])):
        yield clip, list(of_clip)


def _stem(row: Row) -> str:
    return os.path.splitext(os.path.basename(str(row["song_path"])))[0]


def song(row: Row) -> str:
    """What a song is called: artist and title, or the name of its file."""
    words = [row["artist"], row["title"] or _stem(row)]
    return printable(" - ".join(str(word) for word in words if word))


def _quoted(text: str) -> str:
    """What may stand between quotation marks: the format has no way to escape one."""
    return printable(text).replace('"', "'")


def _cue_time(seconds: float) -> str:
    frames = round(seconds * CUE_FRAMES)
    return f"{frames // (60 * CUE_FRAMES):02d}:{frames // CUE_FRAMES % 60:02d}:{frames % CUE_FRAMES:02d}"


def _free(path: str, suffix: str, taken: set[str]) -> str:
    """A name that no earlier recording of this run has; two folders may hold files of one name."""
    for number in itertools.count(1):
        name = f"{path}{suffix}" if number == 1 else f"{path} ({number}){suffix}"
        if name not in taken:
            taken.add(name)
            return name
    raise AssertionError
