"""Label tracks for Audacity: the matches of a recording as labels under its waveform."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from jobs.output.text import song_name


def audacity(clip: str, rows: Iterable[Mapping[str, Any]], duration_s: float = 0.0) -> str:
    """A label track: start, end and label of each match or gap, separated by tabs."""
    return "".join(f"{row['clip_start_s']:.6f}\t{row['clip_end_s']:.6f}\t{song_name(row)}\n" for row in rows)
