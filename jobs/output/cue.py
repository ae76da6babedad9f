"""Cue sheets: the matches of a recording as the tracks of a player.

A cue sheet knows only where a track starts. Its end and the confidence are remarks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from jobs.output.text import printable, song_title

CUE_FRAMES = 75
"""To a second: the unit of a cue sheet's times, from the sectors of a CD."""


UNKNOWN_S = 10.0
"""A gap that lasts longer is a track: else the song before it would play on in it."""


def cue(clip: str, rows: Iterable[Mapping[str, Any]], duration_s: float = 0.0) -> str:
    """A cue sheet: one track for each match, and for each longer gap, in the order of their starts."""
    name = os.path.basename(clip)
    kind = "MP3" if name.lower().endswith(".mp3") else "WAVE"  # the word for all that is neither MP3 nor AIFF
    lines = [f'TITLE "{_quoted(name)}"', f'FILE "{_quoted(name)}" {kind}']
    tracks = [row for row in rows if row["status"] == "matched" or row["clip_end_s"] - row["clip_start_s"] > UNKNOWN_S]
    for number, row in enumerate(tracks, start=1):
        title = song_title(row) if row["status"] == "matched" else "Unknown"
        lines += [f"  TRACK {number:02d} AUDIO", f'    TITLE "{_quoted(title)}"']
        if row["artist"]:
            lines.append(f'    PERFORMER "{_quoted(row["artist"])}"')
        lines.append(f"    REM END {_cue_time(row['clip_end_s'])}")
        if row["confidence"] is not None:
            lines.append(f"    REM CONFIDENCE {row['confidence']:.3f}")
        lines += [
            f"    REM {name.upper()} {row[name]:.4f}" for name in ("pitch", "tempo") if row[name] not in (None, 1.0)
        ]
        lines.append(f"    INDEX 01 {_cue_time(row['clip_start_s'])}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """The text for between quotation marks: the format has no way to escape one."""
    return printable(text).replace('"', "'")


def _cue_time(seconds: float) -> str:
    frames = round(seconds * CUE_FRAMES)
    return f"{frames // (60 * CUE_FRAMES):02d}:{frames // CUE_FRAMES % 60:02d}:{frames % CUE_FRAMES:02d}"
