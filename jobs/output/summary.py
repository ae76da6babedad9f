"""The rows of `identify` as a table that fits a terminal: times as people read them, and nothing repeated."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from jobs.output.text import minutes, song_name

SUMMARY = pa.schema([(name, pa.string()) for name in ("clip", "from", "to", "song", "at")]).append(
    pa.field("confidence", pa.float64())
).append(pa.field("speed", pa.float64())).append(pa.field("pitch", pa.float64()))  # fmt: skip

Row = dict[str, Any]


def summarize(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Tables of `identify` in the schema `SUMMARY`: a clip is named in its first row only."""
    for table in tables:
        lines = []
        for clip, rows in rows_by_clip([table]):
            for place, row in enumerate(rows):
                line: Row = {"clip": "" if place else clip}
                if row["clip_start_s"] is not None:
                    line["from"], line["to"] = minutes(row["clip_start_s"]), minutes(row["clip_end_s"])
                if row["status"] == "matched":
                    line["song"], line["at"] = song_name(row), minutes(row["song_start_s"])
                    line["confidence"] = row["confidence"]
                    line["speed"] = row["speed"] if row["speed"] != 1.0 else None
                    line["pitch"] = row["pitch"] if row["pitch"] != 1.0 else None
                else:
                    line["song"] = row["status"] + (f": {row['message']}" if row["message"] else "")
                lines.append(line)
        yield pa.Table.from_pylist(lines, schema=SUMMARY)


def rows_by_clip(tables: Iterable[pa.Table]) -> Iterator[tuple[str, list[Row]]]:
    """Each clip and its rows; all rows of a clip follow each other."""
    rows = (row for table in tables for row in table.to_pylist())
    for clip, of_clip in itertools.groupby(rows, key=lambda row: str(row["clip"])):
        yield clip, list(of_clip)
