"""A library with planted duplicates: each is found, for what it is, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pipeline
from jobs.cli import run
from pipeline import Store
from pipeline.duplicate_detection import COMMON, EXCERPT, SAME, SHIFTED, Span, classify, duplicates, find_candidates
from pipeline.simulation import encoding, music

RATE = music.SAMPLE_RATE


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("music")

    def cut(seed: int, start_s: float, stop_s: float) -> np.ndarray:
        return music.song(seed, 50.0)[round(start_s * RATE) : round(stop_s * RATE)]

    for seed in range(6):
        encoding.write(folder / f"{seed}.flac", cut(seed, 0, 50))
    encoding.write(folder / "copy of 0.opus", cut(0, 0, 50) * np.float32(1.02), bitrate="48k")
    encoding.write(folder / "excerpt of 1.mp3", cut(1, 17.3, 37.3))
    encoding.write(folder / "2 without its intro.ogg", cut(2, 5.21, 50))
    jingle = cut(100, 0, 9)
    for seed in (3, 4):
        encoding.write(folder / f"jingle and {seed + 10}.flac", np.concatenate([jingle, cut(seed + 10, 0, 40)]))
    store = Store.open_or_create(str(tmp_path_factory.mktemp("store") / "store"))
    pipeline.index([str(folder)], store)
    return store


def test_each_planted_pair_is_found_for_what_it_is_and_no_other(store: Store) -> None:
    found = {
        frozenset((Path(row["song_path"]).name, Path(row["other_path"]).name)): row
        for row in duplicates(store.snapshot()).to_pylist()
    }
    kinds = {
        frozenset(("0.flac", "copy of 0.opus")): SAME,
        frozenset(("1.flac", "excerpt of 1.mp3")): EXCERPT,
        frozenset(("2.flac", "2 without its intro.ogg")): SHIFTED,
        frozenset(("jingle and 13.flac", "jingle and 14.flac")): COMMON,
    }
    assert {pair: row["kind"] for pair, row in found.items()} == kinds
    excerpt = found[frozenset(("1.flac", "excerpt of 1.mp3"))]
    sides = [(excerpt[f"{side}start_s"], excerpt[f"{side}end_s"], excerpt[f"{side}share"]) for side in ("", "other_")]
    whole, part = sorted(sides, key=lambda side: side[2])
    assert whole == pytest.approx((17.3, 37.3, 0.4), abs=1.0)
    assert part == pytest.approx((0.0, 20.0, 1.0), abs=1.0)
    groups = [row["group"] for row in found.values()]
    assert sum(group is None for group in groups) == 1
    assert len(set(groups)) == 4


def test_copies_of_copies_are_one_group(store: Store, tmp_path: Path) -> None:
    songs = {Path(row["path"]).name: row["path"] for row in store.snapshot().songs(["path"]).to_pylist()}
    encoding.write(tmp_path / "part of 2.wav", music.song(2, 50.0)[10 * RATE : 30 * RATE])
    three = Store.open_or_create(str(tmp_path / "store"))
    pipeline.index([songs["2.flac"], songs["2 without its intro.ogg"], str(tmp_path / "part of 2.wav")], three)
    rows = duplicates(three.snapshot()).to_pylist()
    assert len(rows) == 3
    assert {row["group"] for row in rows} == {min(row["song_id"] for row in rows)}


def test_a_library_without_songs_has_no_duplicates(tmp_path: Path) -> None:
    empty = Store.open_or_create(str(tmp_path / "store"))
    assert find_candidates(empty.snapshot()) == {}
    assert len(duplicates(empty.snapshot())) == 0


@pytest.mark.parametrize(
    ("spans", "lengths", "expected"),
    [
        ([Span(0, 199, 0.5, 0.6)], (200, 200), SAME),
        ([Span(0, 100, 0.0, 0.6), Span(110, 200, 0.5, 0.6)], (200, 201), SAME),
        ([Span(5, 200, -5.0, 0.6)], (200, 195), SHIFTED),
        ([Span(0, 200, 0.0, 0.6)], (200, 260), SHIFTED),
        ([Span(60, 90, -60.0, 0.6)], (200, 30), EXCERPT),
        ([Span(0, 12, 0.0, 0.6)], (200, 180), COMMON),
    ],
)
def test_the_kind_follows_from_the_seconds_that_are_shared(
    spans: list[Span], lengths: tuple[float, float], expected: str
) -> None:
    assert classify(spans, *lengths) == expected


def test_the_command_lists_pairs_and_deletes_nothing(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    before = store.snapshot().n_songs
    assert run(["duplicates", "--store", store.url, "--format", "csv"]) == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 1 + 4
    assert "4 pairs and 3 groups in 11 songs" in printed.err
    assert Store.open(store.url).snapshot().n_songs == before
