"""`listen --log`: what each input played, as JSON lines: songs, unknown stretches, and the time without a stream."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLUMNS = (
    *("event", "input", "start", "end", "title", "artist", "isrc", "musicbrainz_recording_id", "acoustid", "song_id"),
    *("song_path", "song_start_s", "song_end_s", "votes", "confidence", "speed", "pitch", "tempo", "message"),
)


class ListeningLog:
    """A file to which rows are appended, each when its event is over.

    The file is opened for each row, so that it may be moved away (logrotate). A row that cannot be written, since the
    disk is full, is kept and written before the next one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting = b""

    def write(
        self, event: str, input_: str, start: float, end: float, matches: Sequence[Mapping[str, Any]], message: str
    ) -> None:
        """Append one row.

        Parameters
        ----------
        event
            ``started``, ``song``, ``unknown``, ``offline`` or ``stopped``.
        start, end
            In seconds since 1970.
        matches
            Of a song: its rows as those of `identify`, by start.

        Raises
        ------
        OSError
            If the row cannot be written; it is then written with the next one.
        """
        row: dict[str, Any] = dict.fromkeys(COLUMNS)
        if matches:
            row |= {name: value for name, value in matches[0].items() if name in row}
            row["song_end_s"] = round(matches[-1]["song_end_s"], 3)
            row["song_start_s"] = round(row["song_start_s"], 3)
            row["votes"] = sum(match["votes"] for match in matches)
            row["confidence"] = round(max(match["confidence"] for match in matches), 4)
        row |= {"event": event, "input": input_, "start": _iso(start), "end": _iso(end), "message": message or None}
        self._waiting += json.dumps(row, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"
        _append(self._path, self._waiting)
        self._waiting = b""


def _append(path: Path, lines: bytes) -> None:
    """Append whole lines to a file, or nothing."""
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":  # a machine that went down left a part of a line
            lines = b"\n" + lines
        try:
            while lines:
                lines = lines[os.write(fd, lines) :]
        except OSError:
            os.ftruncate(fd, size)
            raise
    finally:
        os.close(fd)


def _iso(time_s: float) -> str:
    return datetime.datetime.fromtimestamp(time_s, datetime.UTC).isoformat(timespec="milliseconds")
