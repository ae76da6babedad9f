from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from jobs.cli import run
from pipeline import evaluation, synthesis
from pipeline.evaluation import ROWS, Plan


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    """Three songs, of which the store has two."""
    folder = tmp_path_factory.mktemp("music")
    for seed in (1, 2, 3):
        synthesis.write(folder / f"{seed}.wav", synthesis.song(seed, 20.0, 22050), 22050)
    store = str(tmp_path_factory.mktemp("store") / "store")
    assert run(["index", str(folder / "1.wav"), str(folder / "2.wav"), "--store", store, "--workers", "1", "-q"]) == 0
    return folder, store


def test_evaluate_finds_the_users_songs_and_names_no_stranger(music, tmp_path, capfd):
    folder, store = music
    kept = tmp_path / "clips.csv"
    arguments = ["evaluate", str(folder), "--store", store, "--conditions", "clean,codec,room10,speed2"]
    arguments += ["--lengths", "3,5", "--quiet", "--format", "json"]
    assert run([*arguments, "--output", str(kept)]) == 0
    printed = capfd.readouterr().out
    assert len(kept.read_text().splitlines()) == 1 + 5 * 4 * 2  # two songs asked twice, the third as a stranger only
    recall, *_ = json.JSONDecoder().raw_decode(printed)
    assert {row["condition"] for row in recall} == {"clean", "codec", "room10", "speed2"}
    assert all(row["right_percent"] == 100.0 for row in recall if row["condition"] == "clean")
    assert run([*arguments, "--output", str(tmp_path / "again.csv")]) == 0
    again = [line.rsplit(",", 1)[0] for line in (tmp_path / "again.csv").read_text().splitlines()]
    assert again == [line.rsplit(",", 1)[0] for line in kept.read_text().splitlines()]  # all but the time it took


@pytest.mark.parametrize(("option", "value"), [("--conditions", "clean,underwater"), ("--lengths", "1,long")])
def test_evaluate_refuses_what_it_does_not_know(music, option, value, capfd):
    folder, store = music
    assert run(["evaluate", str(folder), "--store", store, option, value]) == 1
    assert option in capfd.readouterr().err


def row(**values):
    blank = dict.fromkeys(ROWS.names)
    return blank | {"condition": "clean", "length_s": 1.0, "hidden": False, "match_s": 0.1, "outcome": "right"} | values


def test_the_tables_count_what_was_answered():
    rows = [row(confidence=0.95)] * 3 + [row(outcome="unknown")]
    rows += [row(hidden=True, outcome="unknown")] * 9 + [row(hidden=True, outcome="wrong", confidence=0.93)]
    table = pa.Table.from_pylist(rows, schema=ROWS)
    (recall,) = evaluation.recall(table).to_pylist()
    assert (recall["right"], recall["wrong"], recall["unknown"], recall["right_percent"]) == (3, 0, 1, 75.0)
    (strangers,) = evaluation.strangers(table).to_pylist()
    assert (strangers["clips"], strangers["named"], strangers["named_percent"]) == (10, 1, 10.0)
    (bin_,) = evaluation.reliability(table).to_pylist()
    assert (bin_["answers"], bin_["stated"], bin_["observed"]) == (4, 0.945, 0.75)


def test_the_time_to_match_is_a_line_over_the_length():
    table = pa.Table.from_pylist([row(length_s=s, match_s=0.2 + 0.03 * s) for s in (1.0, 2.0, 5.0, 10.0)], schema=ROWS)
    line = evaluation.timing(table).to_pylist()[0]
    assert (line["fixed_s"], line["per_second_s"]) == pytest.approx((0.2, 0.03), abs=1e-6)


@pytest.mark.parametrize("condition", evaluation.CONDITIONS)
def test_a_degraded_clip_is_as_long_as_the_clip(condition):
    rate = 11025
    samples = synthesis.song(4, 4.0, rate)
    heard = evaluation.degrade(samples, condition, 1.0, np.zeros(0, np.float32), rate, np.random.default_rng(1))
    assert abs(len(heard) - (len(samples) - rate)) < 0.02 * rate
    assert np.isfinite(heard).all()
    assert Plan().conditions == evaluation.CONDITIONS
