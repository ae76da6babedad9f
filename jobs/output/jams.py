"""JAMS: the matches of a recording as annotations in the JSON form of music research (Humphrey et al., 2014)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from jobs.output.text import song_name
from pipeline import __version__

JAMS_VERSION = "0.3.5"
"""Of the schema."""

# Every other column is said by the observation itself, or by the file.
COLUMNS = ("song_id", "song_path", "title", "artist", "song_start_s", "song_end_s", "votes", "speed", "pitch", "tempo")


def jams(clip: str, rows: Iterable[Mapping[str, Any]], duration_s: float = 0.0) -> str:
    """A JAMS file with one annotation, of the namespace ``segment_open``: a segment with its song for each row.

    What a segment cannot hold is in the annotation's sandbox, ``matches``, in the same order.
    """
    rows = list(rows)
    observations = [
        {
            "time": row["clip_start_s"],
            "duration": row["clip_end_s"] - row["clip_start_s"],
            "value": song_name(row),
            "confidence": row["confidence"],
        }
        for row in rows
    ]
    annotation = {
        "namespace": "segment_open",
        "annotation_metadata": {"annotation_tools": f"songprint {__version__}", "data_source": "program"},
        "data": observations,
        "time": 0.0,
        "duration": duration_s,
        "sandbox": {"matches": [{name: row.get(name) for name in COLUMNS} for row in rows]},
    }
    file = {
        "file_metadata": {"title": os.path.basename(clip), "duration": duration_s, "jams_version": JAMS_VERSION},
        "annotations": [annotation],
        "sandbox": {"path": clip},
    }
    return json.dumps(file, indent=2) + "\n"
