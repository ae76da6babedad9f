"""The whole road on formula music: files of any format to a store, noisy clips to their songs, on Dask workers."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import psutil
import pyarrow as pa
import pytest
from numpy.typing import NDArray

import pipeline
from jobs.cli import run
from pipeline import Store, indexing
from pipeline.execution import dask_executor
from pipeline.execution.dask_executor import DaskExecutor
from pipeline.simulation import acoustics, encoding
from tests.conftest import FormulaLibrary

ROOT = Path(__file__).parents[1]
SONG_COLUMNS = ["song_id", "path", "title", "artist", "duration_s", "landmarks", "digest"]


@pytest.fixture(scope="module")
def workers() -> Iterator[DaskExecutor]:
    with dask_executor.local(2) as opened:
        yield opened


@pytest.fixture(scope="module")
def store(library: FormulaLibrary, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The library, indexed in this process: what every other way of running is held against."""
    store = Store.open_or_create(str(tmp_path_factory.mktemp("indexed") / "store"))
    report = pipeline.index([str(library.folder)], store)
    assert report.added == len(library.paths)
    assert not report.failures
    return store


@pytest.fixture(scope="module")
def clips(
    library: FormulaLibrary, out_of_library: NDArray[np.float32], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[str, float] | None]:
    """Clips by path, with the song and the second where they start in it, or nothing for an out-of-library clip."""
    folder = tmp_path_factory.mktemp("clips")
    truth: dict[str, tuple[str, float] | None] = {}
    for song, song_path in enumerate(library.paths):
        start_s = 3.0 + song
        # Each clip in another format than its song.
        suffix = Path(library.paths[song - 1]).suffix
        path = str(folder / f"{song:02d}{suffix}")
        samples = library.clean(song, start_s, 4.0) if song % 2 else library.noisy(song, start_s, 6.0)
        encoding.write(path, samples)
        truth[path] = (song_path, start_s)
    for name, samples in (
        ("99 foreign.wav", out_of_library),
        ("98 noisy.wav", acoustics.recording(out_of_library, 10.0, seed=3)),
    ):
        encoding.write(folder / name, samples)
        truth[str(folder / name)] = None
    return truth


def contents(store: Store) -> dict[str, Any]:
    """All that a store holds, in one order, without when and where."""
    snapshot = store.snapshot()
    songs = snapshot.songs(SONG_COLUMNS).sort_by("song_id")
    peaks = snapshot.constellations(songs["song_id"].to_pylist())
    landmarks = np.unique(np.concatenate([_hashes(path) for path in songs["path"].to_pylist()]))
    postings = snapshot.postings(landmarks)
    return {
        "songs": songs.to_pylist(),
        "postings": [postings.hash.tolist(), postings.song_id.tolist(), postings.offset.tolist()],
        "peaks": {
            song_id: (found.frame.tolist(), found.bin.tolist(), found.level.tolist())
            for song_id, found in peaks.items()
        },
    }


def _hashes(path: str) -> NDArray[np.int32]:
    return pipeline.fingerprint(path, pipeline.Settings()).hashes.hash


def verdicts(rows: list[dict[str, Any]], truth: dict[str, tuple[str, float] | None]) -> dict[str, str]:
    """Of each clip, what its first row is: right, missed (not named, though the library has it) or wrong."""
    found: dict[str, str] = {}
    for row in rows:
        expected = truth[row["clip"]]
        if row["status"] != "matched":
            verdict = "right" if expected is None else "missed"
        else:
            place = (row["song_path"], pytest.approx(row["song_start_s"] - row["clip_start_s"], abs=0.25))
            verdict = "right" if expected == place else "wrong"
        found.setdefault(row["clip"], verdict)
    return found


def test_noisy_clips_of_other_formats_are_named_at_their_place_and_others_are_not(
    store: Store, clips: dict[str, tuple[str, float] | None]
) -> None:
    rows = pipeline.identify(list(clips), store).to_pylist()
    found = verdicts(rows, clips)
    assert set(found) == set(clips)
    assert "wrong" not in found.values()
    missed = [clip for clip, verdict in found.items() if verdict == "missed"]
    assert len(missed) <= 1, missed  # of six under voices at 10 dB; every clean one is named
    matched = [row for row in rows if row["status"] == "matched"]
    assert min(row["confidence"] for row in matched) > 0.5
    assert all(row["title"] and row["artist"] for row in matched if not row["song_path"].endswith(".wav"))


def test_dask_workers_give_what_this_process_gives(
    store: Store,
    library: FormulaLibrary,
    clips: dict[str, tuple[str, float] | None],
    workers: DaskExecutor,
    tmp_path: Path,
) -> None:
    spread = Store.open_or_create(str(tmp_path / "store"))
    report = pipeline.index([str(library.folder)], spread, workers)
    assert report.added == len(library.paths)
    assert contents(spread) == contents(store)
    here, there = pipeline.identify(list(clips), store), pipeline.identify(list(clips), spread, executor=workers)
    assert here.equals(there)


def test_indexing_again_adds_nothing(store: Store, library: FormulaLibrary, tmp_path: Path) -> None:
    twice = tmp_path / "store"
    shutil.copytree(store.url.removeprefix("file://"), twice)
    before = contents(Store.open(str(twice)))
    report = pipeline.index([str(library.folder)], Store.open(str(twice)))
    assert (report.added, report.present) == (0, len(library.paths))
    moved = tmp_path / "moved"
    shutil.copytree(library.folder, moved)
    os.utime(moved / Path(library.paths[0]).name, (1, 1))
    report = pipeline.index([str(moved)], Store.open(str(twice)))
    assert (report.added, report.present) == (0, len(library.paths))
    assert contents(Store.open(str(twice))) == before


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
def test_an_interrupted_run_goes_on_where_it_stopped(
    store: Store, library: FormulaLibrary, how: signal.Signals, tmp_path: Path
) -> None:
    url = str(tmp_path / "store")
    command = [sys.executable, "-m", "jobs", "index", str(library.folder), "--store", url, "--workers", "2"]
    running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    staged = tmp_path / "store"
    while running.poll() is None and not any(path.suffix == ".parquet" for path in staged.rglob("*")):
        time.sleep(0.05)  # until work is under way, whatever the machine's speed
    running.send_signal(how)
    _, said = running.communicate()
    if how is not signal.SIGKILL and running.returncode != 0:
        assert running.returncode == 128 + how, said
        assert "leaked" not in said
        assert "Run the same command again" in said
        assert "Traceback" not in said
    assert run(["index", str(library.folder), "--store", url, "--workers", "1", "--quiet"]) == 0
    assert contents(Store.open(url)) == contents(store)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=lambda how: how.name)
def test_a_run_that_is_stopped_while_it_starts_leaves_no_process(
    library: FormulaLibrary, how: signal.Signals, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "jobs", "index", str(library.folder), "--store", str(tmp_path / "store")]
    running = subprocess.Popen([*command, "--workers", "2"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    process = psutil.Process(running.pid)
    started: list[psutil.Process] = []
    while running.poll() is None and not started:  # the first process that Dask starts: the others are to come
        started = process.children()
        time.sleep(0.01)
    running.send_signal(how)
    _, said = running.communicate()
    assert running.returncode == 128 + how, said
    assert re.fullmatch(r"Interrupted; .*\n", said)
    psutil.wait_procs(started)  # for ever, if one is left


def test_what_is_staged_is_committed_when_a_run_is_stopped(
    library: FormulaLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, done = indexing.index_batch, []

    def stop_at_the_third(batch: indexing.IndexBatch) -> indexing.BatchReport:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(batch)
        return real(batch)

    store = Store.create(str(tmp_path / "store"))
    monkeypatch.setattr(indexing, "index_batch", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        pipeline.index(library.paths[:4], store)
    monkeypatch.undo()
    assert store.snapshot().songs(["path"])["path"].to_pylist() == list(library.paths[:2])
    assert pipeline.index(library.paths[:4], store).added == 2
    assert store.check() == []


def test_a_run_in_the_background_of_a_script_is_not_stopped_by_ctrl_c(library: FormulaLibrary, tmp_path: Path) -> None:
    """The shell has it ignored then: Ctrl-C is meant for what runs in front."""
    url = str(tmp_path / "store")
    command = [sys.executable, "-m", "jobs", "index", str(library.folder), "--store", url, "--workers", "2"]
    ignoring = ["sh", "-c", 'trap "" INT; exec "$@"', "-", *command]
    running = subprocess.Popen(ignoring, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while running.poll() is None and not any((tmp_path / "store").rglob("*.parquet")):
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate()
    assert running.returncode == 0, said
    assert Store.open(url).snapshot().n_songs == len(library.paths)


def test_a_broken_file_is_a_row_and_the_rest_go_on(
    library: FormulaLibrary, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "music"
    folder.mkdir()
    shutil.copy(library.paths[0], folder)
    (folder / "broken.mp3").write_bytes(b"this is no music" * 1000)
    (folder / "empty.flac").touch()
    encoding.write(folder / "silent.wav", np.zeros(5 * 22050, np.float32))
    url, failures = str(tmp_path / "store"), tmp_path / "failures.csv"
    command = ["index", str(folder), "--store", url, "--failures", str(failures)]
    assert run(command) == 0
    assert "1 song added" in capsys.readouterr().err
    with failures.open(newline="") as file:
        rows = {Path(row["path"]).name: row["reason"] for row in csv.DictReader(file)}
    assert set(rows) == {"broken.mp3", "empty.flac", "silent.wav"}
    assert all(rows.values())
    assert run([*command, "--strict"]) == 0, "what failed before and did not change fails no run again"
    assert run([*command, "--strict", "--retry"]) == 1

    assert run(["identify", str(folder), "--store", url, "--format", "json"]) == 0
    answers = {Path(row["clip"]).name: row for row in json.loads(capsys.readouterr().out)}
    assert answers["broken.mp3"]["status"] == "failed"
    assert answers["broken.mp3"]["message"]
    assert answers[Path(library.paths[0]).name]["status"] == "matched"
    assert answers["silent.wav"]["status"] == "unknown"


def test_the_tables_say_the_same_in_every_format(store: Store, tmp_path: Path) -> None:
    url = store.url
    read = {}
    for suffix in (".csv", ".jsonl", ".parquet"):
        path = tmp_path / f"songs{suffix}"
        assert run(["songs", "--store", url, "--output", str(path)]) == 0
        if suffix == ".csv":
            with path.open(newline="") as file:
                read[suffix] = [row["digest"] for row in csv.DictReader(file)]
        elif suffix == ".jsonl":
            read[suffix] = [json.loads(line)["digest"] for line in path.read_text().splitlines()]
        else:
            import pyarrow.parquet as pq

            table: pa.Table = pq.read_table(path)
            read[suffix] = table["digest"].to_pylist()
    assert read[".csv"] == read[".jsonl"] == read[".parquet"]
    assert len(read[".csv"]) == store.snapshot().n_songs


def test_lines_about_failures_have_fields_and_a_merge_speaks_of_no_audio(
    library: FormulaLibrary, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.mp3").write_bytes(b"this is no music" * 1000)
    command = ["index", str(tmp_path / "broken.mp3"), library.paths[0], "--store", str(tmp_path / "one"), "--log-json"]
    assert run(command) == 0
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (failure,) = [line for line in lines if "path" in line]
    assert (failure["path"], failure["level"]) == (str(tmp_path / "broken.mp3"), "warning")
    assert failure["message"] == f"{failure['path']}: {failure['reason']}"
    command = ["identify", str(tmp_path / "broken.mp3"), "--store", str(tmp_path / "one")]
    assert run([*command, "--log-json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (failed,) = [line for line in lines if "path" in line]
    assert (failed["path"], failed["reason"], failed["level"]) == (failure["path"], failure["reason"], "warning")
    assert run(command) == 0
    assert "broken.mp3" not in capsys.readouterr().err  # the table has it
    assert run(["index", str(tmp_path / "one"), "--store", str(tmp_path / "two")]) == 0
    said = capsys.readouterr().err
    assert "1 song added without audio, 0 already there" in said
    assert re.search(r"^The store has 1 song, ", said, re.MULTILINE)
    assert "real time" not in said


def test_a_stream_of_a_film_is_chosen_and_its_identifiers_come_with_each_match(
    library: FormulaLibrary, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film, store = tmp_path / "films" / "film.mkv", str(tmp_path / "store")
    film.parent.mkdir()
    (film.parent / "poster.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    words = [word for path in library.paths[:2] for word in ("-i", str(path))]
    tags = ["-metadata", "ISRC=US-RC1-76-07839", "-metadata", "ACOUSTID_ID=22c61b2f-6e3f-4b1e-8bcf-1d2a3b4c5d6e"]
    options = ["-map", "0:a", "-map", "1:a", "-c:a", "flac", "-ar", "44100", *tags]
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *words, *options, str(film)], check=True)
    assert run(["index", str(film.parent), "--store", store, "--stream", "2", "--log-json"]) == 0
    assert '"passed_over": 1,' in capsys.readouterr().err
    rows = []
    for options in ([str(library.paths[1])], [str(film), "--stream", "2"], [str(film)], [str(film), "--stream", "3"]):
        assert run(["identify", *options, "--store", store, "--format", "json", "--quiet"]) == 0
        rows += json.loads(capsys.readouterr().out)
    assert [row["status"] for row in rows] == ["matched", "matched", "unknown", "failed"]
    assert rows[3]["message"] == "no audio stream 3; it has 2"
    for row in rows[:2]:
        identifiers = [row[name] for name in ("isrc", "musicbrainz_recording_id", "acoustid")]
        assert identifiers == ["USRC17607839", None, "22c61b2f-6e3f-4b1e-8bcf-1d2a3b4c5d6e"]
    assert run(["songs", "--store", store, "--format", "json"]) == 0
    (song,) = json.loads(capsys.readouterr().out)
    assert (song["isrc"], song["year"]) == ("USRC17607839", None)

    part = str(library.paths[1])
    assert run(["same", part, str(film), "--quiet", "--speed-range", "0"]) == 3
    assert run(["same", part, str(film), "--quiet", "--other-stream", "2"]) == 0
    assert run(["same", str(film), part, "--quiet", "--stream", "2"]) == 0
    capsys.readouterr()
    for number, status in (("2", "matched"), ("1", "unknown")):
        listen = ["listen", "--store", store, "--input", str(film), "--stream", number, "--format", "json"]
        assert run([*listen, "--quiet"]) == 0
        assert [row["status"] for row in json.loads(capsys.readouterr().out)] == [status]


def test_a_file_in_place_of_the_demos_folder_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert run(["demo", "--folder", str(tmp_path / "file")]) == 1
    assert re.fullmatch(r"ParameterError: .*file: a file; --folder takes a folder.*\n", capsys.readouterr().err)


def test_the_demo_names_every_clip_and_leaves_its_store(demo_folder: Path) -> None:
    shown = (demo_folder.parent / "output.txt").read_text()
    verdicts = [line.split()[-1] for line in shown.splitlines() if line[:2].isdigit() and "." in line[:4]]
    assert len(verdicts) == 13
    assert verdicts.count("right") >= 12, shown
    assert "wrong" not in verdicts, shown
    assert str(demo_folder / "store") in shown
    assert str(demo_folder / "report.html") in shown
    assert "<title>" in (demo_folder / "report.html").read_text(encoding="utf-8")
    assert Store.open(str(demo_folder / "store")).snapshot().n_songs == 24


def test_a_moved_library_keeps_its_songs(library: FormulaLibrary, store: Store, tmp_path: Path) -> None:
    shutil.copytree(library.folder, tmp_path / "old")
    mine = Store.create(str(tmp_path / "store"))
    first = pipeline.index([str(tmp_path / "old")], mine)
    files = mine.snapshot().files("postings")
    (tmp_path / "old").rename(tmp_path / "new")
    again = pipeline.index([str(tmp_path / "new")], mine)
    assert (again.added, again.present, again.moved) == (0, first.added, first.added)
    assert mine.snapshot().files("postings") == files
    assert {Path(path).parts[len(tmp_path.parts)] for path in mine.snapshot().songs(["path"])["path"].to_pylist()} == {
        "new"
    }
    shutil.copytree(tmp_path / "new", tmp_path / "copy")
    copied = pipeline.index([str(tmp_path / "copy")], mine)
    assert (copied.added, copied.present, copied.moved) == (0, first.added, 0)


def test_another_store_is_a_path_too(library: FormulaLibrary, store: Store, tmp_path: Path) -> None:
    half = Store.create(str(tmp_path / "half"))
    pipeline.index(list(library.paths[:5]), half)
    report = pipeline.index([store.url], half)
    assert (report.added, report.present) == (len(library.paths) - 5, 5)
    whole, merged = store.snapshot(), half.snapshot()
    assert sorted(merged.songs(["digest"])["digest"].to_pylist()) == sorted(
        whole.songs(["digest"])["digest"].to_pylist()
    )
    assert run(["index", store.url, half.url, "--store", str(tmp_path / "new"), "--quiet"]) == 0
    assert Store.open(str(tmp_path / "new")).snapshot().songs(SONG_COLUMNS).equals(whole.songs(SONG_COLUMNS))
