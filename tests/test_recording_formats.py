"""Matches for people: on a terminal, as a cue sheet for a player, as a label track for Audacity."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from jobs.output import recordings
from jobs.output.audacity import audacity
from jobs.output.cue import cue
from jobs.output.summary import summarize
from pipeline.errors import ParameterError
from pipeline.identification import MATCHES


def row(clip: str, start_s: float, end_s: float, **more: object) -> dict[str, object]:
    song = {"song_path": "/music/07 Rain.flac", "song_start_s": 61.0, "song_end_s": 61.0 + end_s - start_s}
    return {
        "clip": clip, "status": "matched", "clip_start_s": start_s, "clip_end_s": end_s,
        "confidence": 0.98, "speed": 1.0, **song, **more,
    }  # fmt: skip


ROWS = [
    row("a/mix.mp3", 0.0, 42.5, title='The "Best" of\tus', artist="Anna"),
    row("a/mix.mp3", 3661.0, 3700.0, speed=1.04),
    {"clip": "b/talk.wav", "status": "unknown"},
    {"clip": "b/torn.wav", "status": "failed", "message": "no samples"},
    row("b/mix.mp3", 1.0, 2.0, title="Other"),
]
TABLES = [pa.Table.from_pylist(ROWS[:1], schema=MATCHES), pa.Table.from_pylist(ROWS[1:], schema=MATCHES)]


def test_a_cue_sheet_has_a_track_for_each_match_and_no_quotation_mark_inside_a_name() -> None:
    assert cue("a/mix.mp3", TABLES[0].to_pylist()) == (
        'TITLE "mix.mp3"\n'
        'FILE "mix.mp3" MP3\n'
        "  TRACK 01 AUDIO\n"
        "    TITLE \"The 'Best' of\N{REPLACEMENT CHARACTER}us\"\n"
        '    PERFORMER "Anna"\n'
        "    REM END 00:42:38\n"
        "    REM CONFIDENCE 0.980\n"
        "    INDEX 01 00:00:00\n"
    )


def test_a_cue_sheet_counts_minutes_beyond_the_hour() -> None:
    assert "INDEX 01 61:01:00" in cue("mix.wav", TABLES[1].to_pylist()[:1])


def test_a_label_track_has_one_line_per_match_separated_by_tabs() -> None:
    assert audacity("a/mix.mp3", TABLES[1].to_pylist()[:1]) == "3661.000000\t3700.000000\t07 Rain\n"


def test_each_recording_has_a_sheet_of_its_own_even_under_one_name(tmp_path: Path) -> None:
    recordings.write(TABLES, "audacity", str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mix.mp3 (2).txt", "mix.mp3.txt"]
    assert len((tmp_path / "mix.mp3.txt").read_text().splitlines()) == 2


def test_several_recordings_need_a_folder(tmp_path: Path) -> None:
    recordings.check("cue", str(tmp_path), 3)
    recordings.check("cue", "-", 1)
    with pytest.raises(ParameterError, match="3 recordings, and a sheet in --format cue is of one"):
        recordings.check("cue", "-", 3)


def test_a_folder_for_sheets_is_made_and_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    folder = f"{tmp_path / 'new' / 'sheets'}/"
    recordings.check("cue", folder, 3)
    recordings.write(TABLES, "cue", folder)
    assert sorted(path.name for path in Path(folder).iterdir()) == ["mix.mp3 (2).cue", "mix.mp3.cue"]
    (tmp_path / "taken").touch()
    with pytest.raises(ParameterError, match="taken/: a file, not a folder"):
        recordings.check("cue", f"{tmp_path / 'taken'}/", 1)
    with pytest.raises(ParameterError, match="nowhere does not exist; make it first"):
        recordings.check("cue", str(tmp_path / "nowhere" / "one.cue"), 1)


def test_the_terminal_shows_each_recording_once_with_times_as_people_read_them() -> None:
    shown = [row for table in summarize(TABLES) for row in table.to_pylist()]
    assert [row["clip"] for row in shown] == ["a/mix.mp3", "a/mix.mp3", "b/talk.wav", "b/torn.wav", "b/mix.mp3"]
    assert (shown[1]["from"], shown[1]["to"], shown[1]["speed"]) == ("1:01:01", "1:01:40", 1.04)
    assert [row["song"] for row in shown[2:4]] == ["unknown", "failed: no samples"]
