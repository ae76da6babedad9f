"""`remove`, `compact` and `check` from the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from jobs.cli import run
from pipeline.fingerprinting.settings import Settings
from pipeline.simulation import encoding, music
from pipeline.store import Store
from tests.fakes import make_song
from tests.test_check import flip, largest, store

pytestmark = pytest.mark.usefixtures("whole_stores")

__all__ = ["store"]  # a fixture


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    rows = json.loads(capsys.readouterr().out)
    assert isinstance(rows, list)
    return rows


def test_songs_are_removed_by_id_path_or_glob(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    assert (
        run(["remove", "3", "/music/5.flac", "./music/6.*", "*/1[01].*", "--store", store.url, "--format", "json"]) == 0
    )
    assert [row["song_id"] for row in lines(capsys)] == [3, 5, 6, 10, 11]
    assert store.snapshot().songs(["song_id"])["song_id"].to_pylist() == [1, 2, 4, 7, 8, 9, 12]


def test_results_are_not_written_to_a_url(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["songs", "--store", store.url, "--output", "s3://bucket/songs.csv"]) == 1
    assert "s3://bucket/songs.csv: results are written to local files only" in capsys.readouterr().err


def test_a_song_that_is_not_there_stops_the_removal(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["remove", "3", "nothing.mp3", "--store", store.url]) == 1
    assert capsys.readouterr().err.startswith("CatalogError: nothing.mp3: the store has no such song")
    assert store.snapshot().n_songs == 12


def test_compact_gives_the_space_of_removed_songs_back(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    def on_disk() -> int:
        return sum(path.stat().st_size for path in Path(store.url).rglob("*.parquet") if "_delta_log" not in path.parts)

    before = on_disk()
    assert run(["remove", "*", "--store", store.url]) == 0
    capsys.readouterr()
    assert run(["compact", "--grace-hours", "0", "--store", store.url, "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["postings_dropped"] == sum(make_song(number).landmarks for number in range(1, 13))
    assert report["bytes_deleted"] >= before - on_disk() == before


def test_check_says_what_is_wrong_and_repair_mends_it(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "--store", store.url, "--format", "json"]) == 0
    assert lines(capsys) == []
    damaged = largest(store, "postings")
    flip(damaged, 0.5)
    assert run(["check", "--store", store.url, "--format", "json"]) == 1
    assert [row["place"] for row in lines(capsys)] == [damaged.relative_to(store.url).as_posix()]
    assert run(["check", "--repair", "--store", store.url, "--format", "json"]) == 0
    assert lines(capsys) == []
    assert run(["check", "--store", store.url]) == 0


def test_repair_lists_the_songs_to_index_again(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    largest(store, "constellations").unlink()
    assert run(["check", "--repair", "--store", store.url, "--format", "json"]) == 0
    assert lines(capsys) == [{"place": "lost", "problem": f"/music/{number}.flac"} for number in range(1, 12)]


def test_a_new_store_takes_settings_which_stats_shows_and_another_run_may_not_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoding.write(tmp_path / "song.wav", music.song(1, 10.0))
    command = ["index", str(tmp_path / "song.wav"), "--store", str(tmp_path / "store"), "--quiet", "--setting"]
    for wrong, reason in (("hop=many", "a whole number is needed, as hop=512"), ("hip=3", "there is none called hip")):
        assert run([*command, wrong]) == 1
        assert reason in capsys.readouterr().err
    assert not (tmp_path / "store").exists()
    assert run([*command, "peaks_per_s=40", "--setting", "fan_out=3"]) == 0
    assert run(["stats", "--store", str(tmp_path / "store"), "--format", "json"]) == 0
    chosen = {"peaks_per_s": 40, "fan_out": 3}
    assert json.loads(capsys.readouterr().out)["settings"] == Settings().to_dict() | chosen
    assert run(["stats", "--store", str(tmp_path / "store")]) == 0
    assert re.search(r"^settings\.peaks_per_s +40$", capsys.readouterr().out, re.MULTILINE)
    assert run([*command, "peaks_per_s=50"]) == 1
    assert capsys.readouterr().err.startswith("ConfigMismatch: ")
    assert run(command[:-1]) == 0
