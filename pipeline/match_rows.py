"""The rows of an identify run: a table with a row for each match, and for the stretches in which nothing is known."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.matching.types import Match
from pipeline.paths import printable_path
from pipeline.store import Snapshot

# The ends of a match are right within some two seconds: a shorter gap says nothing.
SHORTEST_GAP_S = 2.0

MATCHES = pa.schema(
    [
        ("clip", pa.string()),
        ("status", pa.string()),
        ("song_id", pa.int32()),
        ("song_path", pa.string()),
        ("title", pa.string()),
        ("artist", pa.string()),
        ("clip_start_s", pa.float64()),
        ("clip_end_s", pa.float64()),
        ("song_start_s", pa.float64()),
        ("song_end_s", pa.float64()),
        ("votes", pa.int32()),
        ("confidence", pa.float64()),
        ("speed", pa.float64()),
        ("pitch", pa.float64()),
        ("tempo", pa.float64()),
        ("message", pa.string()),
        ("isrc", pa.string()),
        ("musicbrainz_recording_id", pa.string()),
        ("acoustid", pa.string()),
    ]
)
# The columns that say of a song what its tags do.
TAGS = ("title", "artist", "isrc", "musicbrainz_recording_id", "acoustid")


@dataclass(slots=True)
class ClipResult:
    """What is known of one clip so far.

    Parameters
    ----------
    path
        As the user gave it.
    message
        Why it failed.
    remark
        Why nothing can be told of it, if it is unknown.
    sounds_s
        Seconds at which it begins and ends to sound; no match is longer.
    """

    path: str
    matches: list[Match] = field(default_factory=list)
    duration_s: float = 0.0
    message: str = ""
    remark: str = ""
    sounds_s: tuple[float, float] = (0.0, math.inf)


@dataclass(frozen=True, slots=True)
class BatchRows:
    """The rows of a batch of clips.

    Parameters
    ----------
    table
        In the schema `MATCHES`.
    audio_s
        Seconds of audio that were decoded.
    busy_s
        Seconds of wall time that the worker took.
    failures
        Clips that could not be read.
    duration_s
        The length of each clip that could be read, by its path as the table has it.
    """

    table: pa.Table
    audio_s: float
    busy_s: float
    failures: int
    duration_s: dict[str, float]


def match_table(
    clip: str,
    matches: Sequence[Match],
    snapshot: Snapshot,
    sounds_s: tuple[float, float] = (0.0, math.inf),
    remark: str = "",
) -> pa.Table:
    """The rows of one clip in which these matches were found, in the schema `MATCHES`.

    Parameters
    ----------
    sounds_s
        Seconds at which the clip begins and ends to sound; no match is longer.
    remark
        Why nothing can be told of the clip, if there is no match.
    """
    return results_table([ClipResult(clip, list(matches), remark=remark, sounds_s=sounds_s)], snapshot)


def results_table(clips: Sequence[ClipResult], snapshot: Snapshot) -> pa.Table:
    """The rows of some clips, in the schema `MATCHES`: clip by clip, each by the start of its matches."""
    songs = _songs(snapshot, {match.song_id for clip in clips for match in clip.matches})
    return pa.Table.from_pylist([row for clip in clips for row in _rows(clip, songs)], schema=MATCHES)


def _songs(snapshot: Snapshot, song_ids: set[int]) -> dict[int, dict[str, Any]]:
    """What the rows say of some songs, by song id."""
    if not song_ids:
        return {}
    table = snapshot.songs(["song_id", "path", "duration_s", *TAGS], song_ids)
    return {row["song_id"]: row for row in table.to_pylist()}


def _rows(clip: ClipResult, songs: dict[int, dict[str, Any]]) -> list[dict[str, object]]:
    path = printable_path(clip.path)
    if clip.message:
        return [{"clip": path, "status": "failed", "message": clip.message}]
    if not clip.matches:
        return [{"clip": path, "status": "unknown", "message": clip.remark or None}]
    return [
        {
            "clip": path,
            "status": "matched",
            "song_path": songs[match.song_id]["path"],
            **{name: songs[match.song_id][name] for name in TAGS},
            **dataclasses.asdict(_within_bounds(match, clip.sounds_s, songs[match.song_id]["duration_s"])),
            "tempo": match.speed,
        }
        for match in sorted(clip.matches, key=lambda match: match.clip_start_s)
    ]


def _within_bounds(match: Match, sounds_s: tuple[float, float], song_s: float) -> Match:
    """The match without what lies outside of its song, or where the clip is silent.

    Parameters
    ----------
    song_s
        Duration of the song.
    """

    def in_clip(song_time_s: float) -> float:
        return match.clip_start_s + (song_time_s - match.song_start_s) / match.speed

    def in_song(clip_time_s: float) -> float:
        return match.song_start_s + (clip_time_s - match.clip_start_s) * match.speed

    start_s = max(match.clip_start_s, sounds_s[0], in_clip(0.0))
    end_s = min(match.clip_end_s, sounds_s[1], in_clip(song_s))
    if not start_s < end_s:
        return match
    return dataclasses.replace(
        match,
        clip_start_s=start_s + 0.0,  # no -0.0
        clip_end_s=end_s,
        song_start_s=max(in_song(start_s), 0.0) + 0.0,
        song_end_s=min(in_song(end_s), song_s),
    )


def with_gaps(rows: BatchRows) -> pa.Table:
    """The table of a batch, and a row for each stretch of a recording in which nothing is known.

    Parameters
    ----------
    rows
        As `identification.identify_entries` gives them.

    Returns
    -------
    pyarrow.Table
        In the schema `MATCHES`. A stretch is ``unknown`` with ``clip_start_s`` and ``clip_end_s``, at least
        `SHORTEST_GAP_S` long; of a recording in which nothing was found it is the whole.
    """
    found: list[dict[str, Any]] = []
    for clip, of_clip in itertools.groupby(rows.table.to_pylist(), key=lambda row: row["clip"]):
        known_s, duration_s = 0.0, rows.duration_s.get(clip, 0.0)
        for row in of_clip:
            if row["status"] == "matched":
                found += [*_gap(clip, known_s, row["clip_start_s"]), row]
                known_s = max(known_s, row["clip_end_s"])
            elif row["status"] == "unknown":
                found.append(row | {"clip_start_s": 0.0, "clip_end_s": duration_s})
                known_s = duration_s
            else:
                found.append(row)
        found += _gap(clip, known_s, duration_s)
    return pa.Table.from_pylist(found, schema=MATCHES)


def _gap(clip: str, start_s: float, end_s: float) -> list[dict[str, Any]]:
    """The row of a gap, if it is long enough."""
    if end_s - start_s < SHORTEST_GAP_S:
        return []
    return [{"clip": clip, "status": "unknown", "clip_start_s": start_s, "clip_end_s": end_s}]
