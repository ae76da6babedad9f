"""Two files: whether they hold the same recording, where and at which speed; and the fingerprint of one as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pipeline
from jobs.cli import run
from pipeline.audio.resampling import at_speed
from pipeline.comparison import compare
from pipeline.errors import AudioError, ParameterError
from pipeline.fingerprinting.landmarks import Hashes
from pipeline.overlap import COMMON, EXCERPT, MAX_PAIRS, SAME, SHIFTED, find_line, shared_frames
from pipeline.simulation import encoding, music
from tests import naive

RATE = music.SAMPLE_RATE
SONG_S = 40.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One song, what was made of it, and another song."""
    folder = tmp_path_factory.mktemp("files")
    song, other = music.song(1, SONG_S), music.song(2, SONG_S)
    made = {
        "song.flac": song,
        "copy.opus": song,
        "part.ogg": song[10 * RATE : 28 * RATE],
        "mix.flac": np.concatenate([other[: 15 * RATE], song, other[-5 * RATE :]]),
        "intro.flac": np.concatenate([song[: 8 * RATE], music.song(3, SONG_S)]),
        "other.flac": other,
        "silence.wav": np.zeros(5 * RATE, np.float32),
    }
    for name, samples in made.items():
        encoding.write(folder / name, samples)
    for speed in (0.96, 1.004, 1.033):
        encoding.write(folder / f"at {speed}.flac", at_speed(song, 1 / speed))
    return folder


@pytest.mark.parametrize(
    ("name", "kind", "same", "span", "other_span"),
    [
        ("song.flac", SAME, True, (0, 40), (0, 40)),
        ("copy.opus", SAME, True, (0, 40), (0, 40)),
        ("part.ogg", EXCERPT, True, (10, 28), (0, 18)),
        ("mix.flac", SHIFTED, True, (0, 40), (15, 55)),
        ("intro.flac", COMMON, False, (0, 8), (0, 8)),
    ],
)
def test_a_file_is_compared_with_what_was_made_of_it(
    name: str, kind: str, same: bool, span: Any, other_span: Any, folder: Path
) -> None:
    found = compare(folder / "song.flac", folder / name)
    assert (found.kind, found.same) == (kind, same)
    row = found.spans.to_pylist()[0]
    assert (row["start_s"], row["end_s"]) == pytest.approx(span, abs=0.6)
    assert (row["other_start_s"], row["other_end_s"]) == pytest.approx(other_span, abs=0.6)
    assert row["speed"] == pytest.approx(1.0, abs=1e-3)
    swapped = compare(folder / name, folder / "song.flac").spans.to_pylist()[0]
    assert (swapped["other_start_s"], swapped["other_end_s"]) == pytest.approx((row["start_s"], row["end_s"]), abs=0.6)
    assert swapped["share"] == pytest.approx(row["other_share"], abs=0.05)


@pytest.mark.parametrize("speed", [0.96, 1.004, 1.033])
def test_another_speed_is_found_and_measured(speed: float, folder: Path) -> None:
    found = compare(folder / "song.flac", folder / f"at {speed}.flac")
    assert found.kind == SAME
    (row,) = found.spans.to_pylist()
    assert row["speed"] == pytest.approx(speed, abs=5e-4)
    assert row["other_end_s"] == pytest.approx(SONG_S / speed, abs=0.6)
    assert row["other_share"] == pytest.approx(1.0, abs=0.03)
    back = compare(folder / f"at {speed}.flac", folder / "song.flac").spans.to_pylist()[0]
    assert back["speed"] == pytest.approx(1 / speed, abs=5e-4)


def test_other_speeds_are_left_out_when_the_range_is_zero(folder: Path) -> None:
    assert not compare(folder / "song.flac", folder / "at 1.033.flac", speed_range=0.0).same


def test_two_songs_are_not_the_same_at_any_speed(folder: Path) -> None:
    found = pipeline.compare(folder / "song.flac", folder / "other.flac", speed_range=8.0)
    assert (found.kind, found.same, found.spans.num_rows) == (None, False, 0)


def test_what_cannot_be_compared_is_refused(folder: Path) -> None:
    with pytest.raises(AudioError, match=r"silence.wav: no landmarks in 5.0 s"):
        compare(folder / "song.flac", folder / "silence.wav")
    with pytest.raises(ParameterError, match="speed_range is 50 %"):
        compare(folder / "song.flac", folder / "song.flac", 50)


HASHES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 99)), max_size=30)


@given(song=HASHES, clip=HASHES)
def test_shared_frames_are_all_pairs_of_equal_hashes(song: list[tuple[int, int]], clip: list[tuple[int, int]]) -> None:
    a, b = (Hashes(*np.array(rows, np.int32).reshape(-1, 2).T) for rows in (song, clip))
    found = shared_frames(a, b)
    assert sorted(zip(found[0].tolist(), found[1].tolist(), strict=True)) == naive.shared_frames(song, clip)


def test_a_hash_that_is_everywhere_takes_no_memory() -> None:
    n = 5000
    steady = Hashes(np.append(np.zeros(n, np.int32), 7), np.arange(n + 1, dtype=np.int32))
    assert n * n > MAX_PAIRS
    assert [frames.tolist() for frames in shared_frames(steady, Hashes(np.int32([7]), np.int32([3])))] == [[n], [3]]
    assert len(shared_frames(steady, steady)[0]) <= MAX_PAIRS


@pytest.mark.parametrize("slope", [-0.004, 0.0, 0.005])
def test_the_slope_of_a_line_is_found_among_chance_pairs(slope: float, rng: np.random.Generator) -> None:
    song = np.sort(rng.integers(0, 8000, 400))
    clip = np.round(song * (1 + slope) + 300 + rng.normal(0, 0.5, 400)).astype(np.int64)
    noise = rng.integers(0, 8000, (2, 2000))
    line = find_line((np.concatenate([song, noise[0]]), np.concatenate([clip, noise[1]])))
    assert line.slope == pytest.approx(slope, abs=1e-4)


def test_the_command_exits_with_0_for_the_same_recording_and_with_3_for_another(
    folder: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    song = str(folder / "song.flac")
    assert run(["same", song, str(folder / "part.ogg"), "--format", "json"]) == 0
    (row,) = json.loads(capfd.readouterr().out)
    assert (row["path"], row["other_path"], row["kind"]) == (song, str(folder / "part.ogg"), EXCERPT)
    assert run(["same", song, str(folder / "other.flac"), "--format", "csv"]) == 3
    shown = capfd.readouterr()
    assert shown.out.splitlines() == [
        "path,other_path,kind,share,start_s,end_s,other_share,other_start_s,other_end_s,peaks_share,speed"
    ]
    assert shown.err == "not the same recording\n"
    assert run(["same", song, str(folder / "intro.flac"), "--output", str(tmp_path / "spans.csv")]) == 3
    assert "common intro or jingle" in (tmp_path / "spans.csv").read_text()
    assert run(["same", song, str(folder / "none.flac")]) == 1
    assert "none.flac: No such file" in capfd.readouterr().err


def test_a_printed_fingerprint_is_what_the_library_makes(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["print", str(folder / "part.ogg")]) == 0
    printed = json.loads(capfd.readouterr().out)
    found = pipeline.fingerprint(folder / "part.ogg")
    assert printed["hashes"] == {"hash": found.hashes.hash.tolist(), "frame": found.hashes.offset.tolist()}
    assert printed["peaks"]["frame"] == found.peaks.frame.tolist()
    assert printed["peaks"]["bin"] == found.peaks.bin.tolist()
    assert printed["peaks"]["level"] == found.peaks.level.tolist()
    assert pipeline.Settings.from_dict(printed["settings"]) == pipeline.Settings()
    assert (printed["duration_s"], printed["sample_rate"], printed["channels"]) == (
        pytest.approx(18.0, abs=0.1),
        RATE,
        1,
    )
    assert run(["print", str(folder / "none.flac")]) == 1
