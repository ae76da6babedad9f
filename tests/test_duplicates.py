"""A library with planted duplicates: each is found, for what it is, and nothing else is."""

from __future__ import annotations

import itertools
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import pipeline
from jobs.cli import run
from pipeline import Store
from pipeline.audio.resampling import at_speed
from pipeline.duplicate_detection import HALF_RANGE, SONG_MASK, Pair, _keys_at_speed, _spanning_pairs, duplicates
from pipeline.errors import ParameterError
from pipeline.fingerprinting.landmarks import Postings
from pipeline.overlap import CELL_BITS, COMMON, EXCERPT, IDENTICAL, SAME, SHIFTED, Overlap, Span, classify
from pipeline.simulation import encoding, music
from pipeline.store import Snapshot
from tests import naive

pytestmark = pytest.mark.usefixtures("whole_stores")

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
    groups = {frozenset((row["song_id"], row["other_id"])): row["group"] for row in found.values()}
    assert len(set(groups.values())) == 4
    for pair, row in zip(groups, found.values(), strict=True):
        assert groups[pair] == (-min(pair) if row["kind"] == COMMON else min(pair))


def test_copies_of_copies_are_one_group(store: Store, tmp_path: Path) -> None:
    songs = {Path(row["path"]).name: row["path"] for row in store.snapshot().songs(["path"]).to_pylist()}
    encoding.write(tmp_path / "part of 2.wav", music.song(2, 50.0)[10 * RATE : 30 * RATE])
    three = Store.open_or_create(str(tmp_path / "store"))
    pipeline.index([songs["2.flac"], songs["2 without its intro.ogg"], str(tmp_path / "part of 2.wav")], three)
    rows = duplicates(three.snapshot()).to_pylist()
    first = min(row["song_id"] for row in rows)
    assert [(row["group"], row["song_id"]) for row in rows] == [(first, first)] * 2, "two rows connect three songs"


def test_a_library_without_songs_has_no_duplicates(tmp_path: Path) -> None:
    empty = Store.open_or_create(str(tmp_path / "store"))
    assert len(duplicates(empty.snapshot(), speed_range=2.0)) == 0


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
    assert "4 pairs and 4 groups in 11 songs" in printed.err
    assert Store.open(store.url).snapshot().n_songs == before


def test_exact_copies_are_listed_with_what_to_choose_by(store: Store, tmp_path: Path) -> None:
    songs = {Path(row["path"]).name: row["path"] for row in store.snapshot().songs(["path"]).to_pylist()}
    mine = Store.create(str(tmp_path / "store"))
    for name in ("a.flac", "b.flac", "c.flac"):
        shutil.copy(songs["0.flac"], tmp_path / name)
    pipeline.index([str(tmp_path / "a.flac"), str(tmp_path / "b.flac"), songs["copy of 0.opus"]], mine)
    rows = {row["kind"]: row for row in duplicates(mine).to_pylist()}
    assert set(rows) == {IDENTICAL, SAME}
    copy, same = rows[IDENTICAL], rows[SAME]
    assert (Path(copy["song_path"]).name, Path(copy["other_path"]).name) == ("a.flac", "b.flac")
    assert copy["group"] == same["group"]
    sides = {same[f"{side}format"]: (same[f"{side}bitrate_kbps"], same[f"{side}size_bytes"]) for side in ("", "other_")}
    assert {format_: size for format_, (_, size) in sides.items()} == {
        "flac": (tmp_path / "a.flac").stat().st_size,
        "opus": Path(songs["copy of 0.opus"]).stat().st_size,
    }
    assert sides["opus"][0] == pytest.approx(48, rel=0.5)
    assert sides["flac"][0] > 2 * sides["opus"][0]
    assert same["duration_s"] == pytest.approx(same["other_duration_s"], abs=0.1) == pytest.approx(50, abs=0.1)

    command = ["duplicates", "--store", mine.url, "--quiet"]
    assert run([*command, "--accept", str(copy["group"])]) == 0
    assert duplicates(mine).num_rows == 0
    assert run([*command, "--accept", "77"]) == 1
    mine.compact(grace_hours=0)
    taken_in = Store.create(str(tmp_path / "other"))
    taken_in.absorb(mine)
    assert duplicates(taken_in).num_rows == 0
    pipeline.index([str(tmp_path / "c.flac")], mine)
    assert duplicates(mine).num_rows == 3, "a file has come to the group"
    assert mine.check() == []


def test_songs_with_a_jingle_in_common_can_be_accepted_until_another_one_has_it(store: Store, tmp_path: Path) -> None:
    songs = {Path(row["path"]).name: row["path"] for row in store.snapshot().songs(["path"]).to_pylist()}
    mine = Store.create(str(tmp_path / "store"))
    encoding.write(tmp_path / "part.flac", music.song(13, 50.0)[: 12 * RATE])  # of one song, without its jingle
    fourteen = np.concatenate([music.song(100, 50.0)[: 9 * RATE], music.song(14, 50.0)[: 40 * RATE]])
    encoding.write(tmp_path / "14.ogg", fourteen)
    paths = [songs["jingle and 13.flac"], songs["jingle and 14.flac"], *map(str, tmp_path.glob("*.*"))]
    pipeline.index(paths, mine)
    common, _, *others = sorted(duplicates(mine).to_pylist(), key=lambda row: row["group"])
    assert (common["kind"], {row["kind"] for row in others}) == (COMMON, {EXCERPT, SAME})
    assert run(["duplicates", "--store", mine.url, "--quiet", "--accept", str(common["group"])]) == 0
    assert sorted(duplicates(mine).to_pylist(), key=lambda row: row["group"]) == others

    shutil.copy(songs["jingle and 14.flac"], tmp_path / "copy.flac")
    pipeline.index([str(tmp_path / "copy.flac")], mine)
    assert sorted(row["kind"] for row in duplicates(mine).to_pylist()) == [EXCERPT, IDENTICAL, SAME]

    jingle = music.song(100, 50.0)[: 9 * RATE]
    encoding.write(tmp_path / "jingle and 15.flac", np.concatenate([jingle, music.song(15, 30.0)]))
    pipeline.index([str(tmp_path / "jingle and 15.flac")], mine)
    assert [row["group"] for row in duplicates(mine).to_pylist() if row["kind"] == COMMON] == [common["group"]] * 3


def test_a_recording_at_another_speed_is_found_and_measured(store: Store, tmp_path: Path) -> None:
    songs = {Path(row["path"]).name: row["path"] for row in store.snapshot().songs(["path"]).to_pylist()}
    faster = {"4 % faster.flac": music.song(0, 50.0), "part.flac": music.song(1, 50.0)[12 * RATE : 32 * RATE]}
    for name, samples in faster.items():
        encoding.write(tmp_path / name, at_speed(samples, 1 / 1.04))
    mine = Store.create(str(tmp_path / "store"))
    pipeline.index([str(tmp_path / "part.flac"), *(songs[f"{n}.flac"] for n in (0, 1, 2)), str(tmp_path)], mine)
    assert len(duplicates(mine)) == 0
    rows = {row["kind"]: row for row in duplicates(mine, speed_range=5.0).to_pylist()}
    assert set(rows) == {SAME, EXCERPT}
    whole, part = rows[SAME], rows[EXCERPT]
    rises = Path(whole["other_path"]).name == "4 % faster.flac"
    assert whole["speed"] == pytest.approx(1.04 if rises else 1 / 1.04, abs=1e-3)
    assert min(whole["share"], whole["other_share"]) > 0.95
    sides = {
        Path(part[f"{side}path"]).name: (part[f"{of}start_s"], part[f"{of}end_s"])
        for side, of in (("song_", ""), ("other_", "other_"))
    }
    assert sides["part.flac"] == pytest.approx((0, 20 / 1.04), abs=1.0)
    assert sides["1.flac"] == pytest.approx((12, 32), abs=1.0)
    with pytest.raises(ParameterError, match="speed_range is 50"):
        duplicates(mine, speed_range=50.0)


LANDMARKS = st.tuples(st.sampled_from([8, 9, 150, 151, 157, 1023]), st.integers(-1, 1), st.sampled_from([1, 2, 11, 12]))


@given(
    landmarks=st.lists(st.tuples(LANDMARKS, st.integers(1, 4), st.integers(0, 400)), max_size=40),
    cuts=st.sets(st.integers(0, 39), max_size=3),
    speed=st.sampled_from([1.0, 1.005, 1.02, 1.05, 1.2]),
)
@example(landmarks=[((9, 0, 11), 2, 50), ((9, 0, 12), 1, 100)], cuts={1}, speed=1.05)  # one bin in two parts
def test_hashes_meet_those_of_songs_that_play_faster(landmarks: Any, cuts: set[int], speed: float) -> None:
    postings = sorted((bin_ << 13 | aside + 127 << 5 | ahead - 1, *at) for (bin_, aside, ahead), *at in landmarks)
    rows = np.array(postings, np.int32).reshape(-1, 3)
    hashes = sorted({postings[cut][0] for cut in cuts if cut < len(postings)})  # where parts begin
    edges = np.searchsorted(rows[:, 0], [0, *hashes, 1 << 30])
    parts = [Postings(*rows[low:high].T) for low, high in itertools.pairwise(edges.tolist())]
    snapshot = cast(Snapshot, SimpleNamespace(sweep=lambda: iter(parts)))
    found = np.concatenate([np.zeros(0, np.int64), *_keys_at_speed(snapshot, speed, 10_000)])
    expected = [
        (song, other, distance + HALF_RANGE >> CELL_BITS)
        for song, other, distance in naive.pairs_at_speed(postings, speed)
    ]
    assert sorted((key >> 42, key >> 21 & SONG_MASK, key & SONG_MASK) for key in found.tolist()) == sorted(expected)


def test_repeats_of_a_pair_are_one_row_with_its_spans(tmp_path: Path) -> None:
    song = music.song(1, 40.0)
    other = np.concatenate([song[: 10 * RATE], music.song(2, 20.0), song[20 * RATE : 30 * RATE]])
    for name, samples in (("song", song), ("other", other)):
        encoding.write(tmp_path / f"{name}.flac", samples)
    mine = Store.create(str(tmp_path / "store"))
    pipeline.index([str(tmp_path / "other.flac"), str(tmp_path / "song.flac")], mine)
    (row,) = duplicates(mine).to_pylist()
    spans = [[float(word) for word in re.split("[-=]", span)] for span in row["spans"].split("; ")]
    assert np.array(spans) == pytest.approx(np.array([[0, 10, 0, 10], [30, 40, 20, 30]]), abs=1.0)
    assert (row["start_s"], row["end_s"], row["other_start_s"], row["other_end_s"]) == pytest.approx(
        (0, 40, 0, 30), abs=1.0
    )


def test_a_group_of_n_songs_has_n_less_one_rows() -> None:
    span = [Span(0.0, 10.0, 0.0, 0.9)]
    same, common = Overlap(1.0, SAME, 1.0, 1.0, span), Overlap(1.0, COMMON, 0.1, 0.1, span)
    every = [Pair(one, two, SAME, same) for one, two in itertools.combinations(range(1, 7), 2)]
    jingles = [Pair(one, two, COMMON, common) for one, two in itertools.combinations(range(6, 10), 2)]
    kept = _spanning_pairs([*every, *jingles], dict.fromkeys(range(1, 7), 1))
    assert {(pair.song_id, pair.other_id) for pair in kept if pair.kind == SAME} == {(1, n) for n in range(2, 7)}
    assert len(kept) == 5 + 3
