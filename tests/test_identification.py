"""How clips become batches, and when a clip is a recording."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

import pipeline
from pipeline import Store, catalog
from pipeline.catalog import Entry
from pipeline.execution.executor import Progress
from pipeline.identification import CLIPS_A_TASK, CLIPS_AT_ONCE, halve, identify_entries, plan
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
