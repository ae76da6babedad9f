"""Matches for people: on a terminal, as a cue sheet for a player, as a label track for Audacity."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

import pipeline
from jobs.cli import run
from jobs.output import recordings
from jobs.output.audacity import audacity
from jobs.output.cue import cue
from jobs.output.jams import jams
from jobs.output.summary import summarize
from pipeline.errors import ParameterError
from pipeline.match_rows import MATCHES
from pipeline.simulation import encoding, music
from pipeline.store import Store


def row(clip: str, start_s: float, end_s: float, **more: object) -> dict[str, object]:
    song = {"song_path": "/music/07 Rain.flac", "song_start_s": 61.0, "song_end_s": 61.0 + end_s - start_s}
    return {
        "clip": clip, "status": "matched", "clip_start_s": start_s, "clip_end_s": end_s,
        "confidence": 0.98, "speed": 1.0, "pitch": 1.0, "tempo": 1.0, **song, **more,
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


def test_a_cue_sheet_remarks_a_pitch_and_a_tempo_that_are_not_the_songs_own() -> None:
    sheet = cue("mix.wav", [TABLES[1].to_pylist()[0] | {"pitch": 1.05946, "tempo": 1.0}])
    assert "    REM PITCH 1.0595\n    INDEX" in sheet
    assert "TEMPO" not in sheet


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


GAP = {"clip": "a/mix.mp3", "status": "unknown", "clip_start_s": 42.5, "clip_end_s": 60.0}
IN_JAMS = pa.Table.from_pylist([{**ROWS[0], "song_id": 7, "votes": 40}, GAP], schema=MATCHES).to_pylist()


def test_a_jams_file_has_a_segment_for_each_match_and_gap_and_the_songs_beside_them() -> None:
    made = json.loads(jams("a/mix.mp3", IN_JAMS, 61.5))
    assert made["file_metadata"] == {"title": "mix.mp3", "duration": 61.5, "jams_version": "0.3.5"}
    (annotation,) = made["annotations"]
    assert (annotation["namespace"], annotation["time"], annotation["duration"]) == ("segment_open", 0.0, 61.5)
    name = 'Anna - The "Best" of\N{REPLACEMENT CHARACTER}us'
    assert annotation["data"] == [
        {"time": 0.0, "duration": 42.5, "value": name, "confidence": 0.98},
        {"time": 42.5, "duration": 17.5, "value": "unknown", "confidence": None},
    ]
    assert [match["song_id"] for match in annotation["sandbox"]["matches"]] == [7, None]
    assert annotation["sandbox"]["matches"][0]["title"] == ROWS[0]["title"]


@pytest.mark.filterwarnings("ignore:Passing a schema:DeprecationWarning")  # jams calls jsonschema in the old way
def test_the_package_jams_takes_what_is_written(tmp_path: Path) -> None:
    package = pytest.importorskip("jams")
    (tmp_path / "mix.jams").write_text(jams("a/mix.mp3", IN_JAMS, 61.5), encoding="utf-8")
    loaded = package.load(str(tmp_path / "mix.jams"), validate=True, strict=True)
    assert loaded.validate()
    (annotation,) = loaded.search(namespace="segment_open")
    intervals, values = annotation.to_interval_values()
    assert intervals.tolist() == [[0.0, 42.5], [42.5, 60.0]]
    assert values[1] == "unknown"


def test_a_jams_file_knows_how_long_its_recording_is(tmp_path: Path) -> None:
    encoding.write(tmp_path / "song.wav", music.song(1, 20.0))
    store = Store.create(str(tmp_path / "store"))
    pipeline.index(tmp_path / "song.wav", store)
    output = str(tmp_path / "sheets") + "/"
    clip = str(tmp_path / "song.wav")
    assert run(["identify", clip, "--store", store.url, "--format", "jams", "--output", output, "--quiet"]) == 0
    made = json.loads((tmp_path / "sheets" / "song.wav.jams").read_text(encoding="utf-8"))
    assert made["file_metadata"]["duration"] == pytest.approx(20.0, abs=0.01)
    assert [one["song_path"] for one in made["annotations"][0]["sandbox"]["matches"]] == [clip]
