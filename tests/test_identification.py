"""How clips become batches, and when a clip is a recording."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pipeline
from jobs.cli import run
from pipeline import Store, catalog
from pipeline.catalog import Entry
from pipeline.execution.executor import Progress
from pipeline.identification import CLIPS_A_TASK, CLIPS_AT_ONCE, _sounding_s, halve, identify_entries, plan
from pipeline.matching.types import Query
from pipeline.simulation import encoding, music


def entries(sizes: list[int]) -> list[Entry]:
    return [Entry(f"{place:04d}.mp3", size, 0) for place, size in enumerate(sizes)]


def test_batches_keep_the_order_and_leave_nothing_out(rng: np.random.Generator) -> None:
    clips = entries(rng.integers(0, 3_000_000, 1000).tolist())
    batches = plan(clips, None, Query(), 3, None)  # type: ignore[arg-type]
    assert [entry for batch in batches for entry in batch.entries] == clips
    assert len(batches) > 3


def test_a_few_clips_are_one_batch() -> None:
    assert len(plan(entries([50_000] * (CLIPS_A_TASK // 2)), None, Query(), 4, None)) == 1  # type: ignore[arg-type]


def test_no_worker_is_without_clips_while_another_has_many() -> None:
    batches = plan(entries([0] * CLIPS_AT_ONCE), None, Query(), 4, None)  # type: ignore[arg-type]
    assert [len(batch.entries) for batch in batches] == [CLIPS_AT_ONCE // 4] * 4


def test_clips_that_are_asked_at_once_are_in_one_batch() -> None:
    batches = plan(entries([0] * 2 * CLIPS_AT_ONCE), None, Query(), 1, None)  # type: ignore[arg-type]
    assert [len(batch.entries) for batch in batches] == [CLIPS_AT_ONCE] * 2


def test_a_day_of_audio_is_a_batch_of_its_own() -> None:
    batches = plan(entries([10**9, 50_000, 10**9]), None, Query(), 4, None)  # type: ignore[arg-type]
    assert [len(batch.entries) for batch in batches] == [1, 2]


def test_a_batch_is_halved_to_find_the_clip_that_kills() -> None:
    (batch,) = plan(entries([1, 2, 3]), None, Query(), 1, None)  # type: ignore[arg-type]
    halves = halve(batch)
    assert [len(half.entries) for half in halves] == [1, 2]
    assert halve(dataclasses.replace(batch, entries=batch.entries[:1])) == [halve(batch)[0]]


@pytest.fixture(scope="module")
def jingles(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with two songs of six seconds, and their recordings beside it: a jingle, one in silence, a programme."""
    folder = tmp_path_factory.mktemp("jingles")
    (folder / "songs").mkdir()
    for seed in (1, 2):
        encoding.write(folder / "songs" / f"{seed}.wav", music.song(seed, 6.0))
    store = Store.open_or_create(str(folder / "store"))
    pipeline.index([str(folder / "songs")], store)
    rate = music.SAMPLE_RATE
    silence = np.zeros(4 * rate, np.float32)
    quiet = np.zeros(rate // 2, np.float32)
    other = music.song(1001, 14.0)
    encoding.write(folder / "alone.flac", np.concatenate([silence, music.song(1, 6.0), silence]))
    encoding.write(folder / "late.flac", np.concatenate([music.song(1, 6.0)[4 * rate :], music.song(1001, 5.0)]))
    pieces = [other, music.song(1, 6.0), other, music.song(2, 6.0), quiet, other[: 3 * rate]]
    encoding.write(folder / "programme.flac", np.concatenate(pieces))
    encoding.write(folder / "unknown.flac", music.song(1002, 9.0))
    return store


def rows_of(name: str, store: Store) -> list[dict[str, Any]]:
    path = os.path.join(os.path.dirname(store.url), name)
    rows: list[dict[str, Any]] = pipeline.identify([path], store).to_pylist()
    return rows


def test_a_match_lies_inside_its_song_and_where_the_clip_sounds(jingles: Store) -> None:
    (alone,) = rows_of("alone.flac", jingles)
    assert (alone["clip_start_s"], alone["clip_end_s"]) == pytest.approx((4.5, 10.0), abs=0.1)  # it starts so late
    (late,) = rows_of("late.flac", jingles)
    assert late["clip_end_s"] == pytest.approx(2.0, abs=0.1)
    for row in (alone, late, *rows_of("programme.flac", jingles)):
        assert row["song_end_s"] <= 6.0
        for name in ("clip_start_s", "song_start_s"):
            assert row[name] >= 0
            assert math.copysign(1, row[name]) == 1
        length_s = (row["clip_end_s"] - row["clip_start_s"]) * row["speed"]
        assert row["song_end_s"] - row["song_start_s"] == pytest.approx(length_s, abs=1e-6)


def test_a_silent_clip_sounds_nowhere_and_an_empty_one_too() -> None:
    assert _sounding_s(np.zeros(1000, np.float32), 100) == (0.0, 10.0)
    assert _sounding_s(np.zeros(0, np.float32), 100) == (0.0, 0.0)
    assert _sounding_s(np.repeat([0, 1, 0], 100).astype(np.float32), 100) == (1.0, 2.0)


def test_what_lies_between_matches_is_a_row_when_it_is_wanted(
    jingles: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = [os.path.join(os.path.dirname(jingles.url), name) for name in ("programme.flac", "unknown.flac")]
    page = tmp_path / "page.html"
    command = ["identify", *clips, "--store", jingles.url, "--format", "json"]
    assert run(command) == 0
    plain = json.loads(capsys.readouterr().out)
    assert [row["status"] for row in plain] == ["matched", "matched", "unknown"]
    assert run([*command, "--gaps", "--report", str(page)]) == 0
    printed = capsys.readouterr()
    rows = json.loads(printed.out)
    assert [row["status"] for row in rows] == ["unknown", "matched", "unknown", "matched", "unknown", "unknown"]
    assert [row for row in rows if row["status"] == "matched"] == plain[:2]
    spans = [(row["clip_start_s"], row["clip_end_s"]) for row in rows]
    ends = [0, 14, 20, 34, 40, 43.5]
    assert spans == [pytest.approx(span, abs=2.0) for span in (*itertools.pairwise(ends), (0, 9))]
    assert "1 matched, 1 unknown, 0 failed" in printed.err
    assert '"matched":1,"unknown":1,"failed":0' in page.read_text()
    assert '"unknown","matched","unknown","matched","unknown"' in page.read_text()


def test_a_cue_sheet_gives_longer_gaps_a_track(jingles: Store, capsys: pytest.CaptureFixture[str]) -> None:
    path = os.path.join(os.path.dirname(jingles.url), "programme.flac")
    assert run(["identify", path, "--store", jingles.url, "--format", "cue", "--quiet"]) == 0
    shown = capsys.readouterr().out
    titles = [line.split('"')[1] for line in shown.splitlines() if line.startswith("    TITLE")]
    assert titles == ["Unknown", "1", "Unknown", "2"]
    assert run(["identify", path, "--store", jingles.url, "--format", "audacity", "--quiet"]) == 0
    assert [line.split("\t")[2] for line in capsys.readouterr().out.splitlines()] == ["1", "2"]
    assert run(["identify", path, "--store", jingles.url, "--format", "audacity", "--gaps", "--quiet"]) == 0
    labels = [line.split("\t")[2] for line in capsys.readouterr().out.splitlines()]
    assert labels == ["unknown", "1", "unknown", "2", "unknown"]


def test_a_long_recording_is_seen_to_go_on(tmp_path: Path) -> None:
    encoding.write(tmp_path / "song.wav", music.song(1, 20.0))
    store = Store.open_or_create(str(tmp_path / "store"))
    pipeline.index([str(tmp_path / "song.wav")], store)
    for name in ("evening.flac", "night.flac"):
        encoding.write(tmp_path / name, np.tile(music.song(1, 20.0), 6))
    seen: list[Progress] = []
    recordings = catalog.walk([str(tmp_path / name) for name in ("evening.flac", "night.flac")])
    assert len(list(identify_entries(recordings, store, progress=seen.append))) == 1
    shares = [progress.share for progress in seen]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert any(0.1 < share < 0.4 for share in shares)
    assert any(0.6 < share < 0.9 for share in shares)
