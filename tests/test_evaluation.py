from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.stats

from jobs.cli import run
from pipeline import Query, Store, index
from pipeline.errors import CatalogError
from pipeline.evaluation import conditions, experiment, metrics
from pipeline.evaluation.conditions import RATE, Plan
from pipeline.evaluation.experiment import ROWS
from pipeline.fingerprinting.peaks import Peaks
from pipeline.fingerprinting.settings import Settings
from pipeline.matching.types import Match
from pipeline.simulation import acoustics, encoding, music


@pytest.fixture(scope="module")
def folder_and_store(tmp_path_factory):
    """Three songs, of which the store has two."""
    folder = tmp_path_factory.mktemp("music")
    for seed in (1, 2, 3):
        encoding.write(folder / f"{seed}.wav", music.song(seed, 20.0, 22050), 22050)
    store = str(tmp_path_factory.mktemp("store") / "store")
    assert run(["index", str(folder / "1.wav"), str(folder / "2.wav"), "--store", store, "--workers", "1", "-q"]) == 0
    return folder, store


@pytest.fixture(scope="module")
def surroundings():
    return conditions.make_surroundings()


def test_evaluate_finds_the_users_songs_names_no_other_and_says_how_it_was_made(folder_and_store, tmp_path, capfd):
    folder, store = folder_and_store
    kept = tmp_path / "clips.csv"
    arguments = ["evaluate", str(folder), "--store", store, "--conditions", "clean,room10,speed2"]
    arguments += ["--lengths", "3,5", "--quiet", "--format", "json"]
    assert run([*arguments, "--output", str(kept), "--pictures", str(tmp_path / "pictures")]) == 0
    printed = json.loads(capfd.readouterr().out)
    assert len(kept.read_text().splitlines()) == 1 + 5 * 3 * 2  # two songs twice, the third not in the store
    assert [row["condition"] for row in printed["recall"][::2]] == ["clean", "room10", "speed2"]
    assert all(row["right_percent"] == 100.0 for row in printed["recall"] if row["condition"] == "clean")
    assert printed["out_of_library"][-1]["condition"] == "all"
    assert (printed["out_of_library"][-1]["clips"], printed["out_of_library"][-1]["named"]) == (18, 0)
    assert len(printed["confidence"]) == 10
    assert {row["what"]: row["how"] for row in printed["made"]}["rooms"] == (acoustics.room_simulator() or "formula")
    beside = {row["what"]: (row["article"], row["ours"]) for row in printed["article"]}
    recalled = {row["length_s"]: row["right_percent"] for row in printed["recall"] if row["condition"] == "room10"}
    assert beside["recall of 5 s, noisy microphone, %"] == (100.0, recalled[5.0])
    assert beside["fingerprints, MB a song"] == (8.4, printed["storage"][-1]["mb_per_song"])
    drawn = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert drawn == ["confidence.png", "recall.png", "time.png"]
    assert run([*arguments, "--output", str(tmp_path / "again.csv")]) == 0
    first, again = (pd.read_csv(path).drop(columns="match_s") for path in (kept, tmp_path / "again.csv"))
    pd.testing.assert_frame_equal(first, again)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--conditions", "clean,underwater"),
        ("--conditions", "speed50"),
        ("--lengths", "1,long"),
        ("--lengths", "0"),
        ("--hide", "genre"),
    ],
)
def test_evaluate_refuses_what_it_does_not_know(folder_and_store, option, value, capfd):
    folder, store = folder_and_store
    assert run(["evaluate", str(folder), "--store", store, option, value]) == 1
    assert option.strip("-") in capfd.readouterr().err


def test_songs_shorter_than_the_clips_are_one_sentence(folder_and_store, tmp_path, capfd):
    _, store = folder_and_store
    encoding.write(tmp_path / "short.wav", music.song(4, 2.0, 22050), 22050)
    assert run(["evaluate", str(tmp_path), "--store", store, "--lengths", "5", "--conditions", "clean"]) == 1
    assert "no clip could be cut" in capfd.readouterr().err
    longer = ["evaluate", str(tmp_path), "--store", store, "--lengths", "1", "--conditions", "clean", "--stream", "2"]
    assert run(longer) == 1
    assert "short.wav: no audio stream 2; it has 1" in capfd.readouterr().err


def test_a_seed_draws_the_same_surroundings_and_another_draws_others(surroundings):
    again, other = conditions.make_surroundings(seed=1), conditions.make_surroundings(seed=2)
    assert np.array_equal(surroundings.noise, again.noise)
    assert all(np.array_equal(one, two) for one, two in zip(surroundings.rooms, again.rooms, strict=True))
    assert not np.array_equal(surroundings.noise, other.noise)


def test_recorded_noise_is_never_silent_and_silent_recordings_are_left_out(tmp_path, rng):
    bursts = np.zeros(2 * 22050, np.float32)
    bursts[:22050] = rng.standard_normal(22050) / 10  # one second of two
    encoding.write(tmp_path / "bursts.wav", bursts, 22050)
    encoding.write(tmp_path / "silence.wav", np.zeros(22050, np.float32), 22050)
    noise = conditions.make_surroundings([str(tmp_path)]).noise
    assert np.sqrt(np.mean(noise**2)) == pytest.approx(1.0, abs=1e-3)
    level = np.sqrt(np.mean(noise[: 50 * RATE].reshape(-1, RATE // 10) ** 2, axis=1))
    assert np.mean(level > 0.4) > 0.9
    (tmp_path / "bursts.wav").unlink()
    with pytest.raises(CatalogError, match="none of 1 recordings of noise can be heard"):
        conditions.make_surroundings([str(tmp_path)])


def row(**values):
    blank = dict.fromkeys(ROWS.names)
    return blank | {"condition": "clean", "length_s": 1.0, "hidden": False, "match_s": 0.1, "outcome": "right"} | values


def test_the_tables_count_the_outcomes():
    rows = [row(confidence=0.95)] * 3 + [row(outcome="unknown")]
    rows += [row(hidden=True, outcome="unknown")] * 9 + [row(hidden=True, outcome="wrong", confidence=0.93)]
    table = pa.Table.from_pylist(rows, schema=ROWS)
    (recall,) = metrics.recall(table).to_pylist()
    assert (recall["right"], recall["wrong"], recall["unknown"], recall["right_percent"]) == (3, 0, 1, 75.0)
    foreign, total = metrics.out_of_library(table).to_pylist()
    assert foreign | {"condition": "all"} == total
    assert (foreign["clips"], foreign["named"], foreign["named_percent"]) == (10, 1, 10.0)
    assert (foreign["low_percent"], foreign["high_percent"]) == (1.79, 40.42)
    *empty, bin_ = metrics.reliability(table).to_pylist()
    assert (bin_["above"], bin_["answers"], bin_["stated"], bin_["observed"]) == (0.9, 4, 0.945, 0.75)
    assert [(one["answers"], one["stated"], one["observed"]) for one in empty] == [(0, None, None)] * 9


@pytest.mark.parametrize(("right", "clips"), [(0, 1), (1, 1), (3, 8), (97, 100), (0, 4000)])
def test_the_interval_is_that_of_scipy(right, clips):
    low, high = metrics.wilson(np.array([right]), np.array([clips]))
    level = 2 * scipy.stats.norm.cdf(1.96) - 1
    expected = scipy.stats.binomtest(right, clips).proportion_ci(level, method="wilson")
    assert (low[0], high[0]) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_time_to_match_is_a_line_over_the_length():
    usual = [row(length_s=s, match_s=0.2 + 0.03 * s) for s in (1.0, 2.0, 5.0, 10.0) for _ in range(3)]
    rest = [row(length_s=5.0, match_s=9.0, hidden=True), row(match_s=9.0, condition="speed2")] * 4
    rest.append(row(match_s=9.0))  # one slow clip is no line
    line = metrics.timing(pa.Table.from_pylist(usual + rest, schema=ROWS)).to_pylist()[0]
    assert (line["fixed_ms"], line["per_second_ms"]) == pytest.approx((200, 30), abs=1e-6)


def test_without_the_library_rooms_are_by_formula_and_the_output_says_so(monkeypatch):
    monkeypatch.setattr(acoustics, "room_simulator", lambda: None)
    surroundings = conditions.make_surroundings(seed=3)
    how = metrics.provenance(Plan(seed=3), surroundings, Query()).to_pylist()
    assert {"what": "rooms", "how": "formula"} in how
    assert len({room.tobytes() for room in surroundings.rooms}) == len(surroundings.rooms)


def test_a_broken_song_is_a_line_and_the_rest_go_on(folder_and_store, tmp_path, capfd):
    folder, store = folder_and_store
    (tmp_path / "broken.wav").write_bytes(b"RIFF no sound in here" * 100)
    arguments = ["evaluate", str(tmp_path), str(folder / "1.wav"), "--store", store]
    assert run([*arguments, "--lengths", "3", "--conditions", "clean", "--format", "json"]) == 0
    printed = capfd.readouterr()
    assert "broken.wav" in printed.err
    assert json.loads(printed.out)["recall"][0]["clips"] == 1


def test_pictures_need_matplotlib_and_say_so_before_the_work(folder_and_store, tmp_path, monkeypatch, capfd):
    folder, store = folder_and_store
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert run(["evaluate", str(folder), "--store", store, "--pictures", str(tmp_path / "pictures")]) == 1
    assert "pip install 'songprint[evaluation]'" in capfd.readouterr().err


def test_a_copy_in_the_library_is_no_false_positive_and_a_right_answer(tmp_path, surroundings):
    other = tmp_path / "music"
    other.mkdir()
    samples = music.song(1, 20.0, 22050)
    encoding.write(other / "1.wav", samples, 22050)
    encoding.write(other / "louder.wav", samples * 1.2, 22050)  # another file, the same recording
    encoding.write(other / "2.wav", music.song(2, 20.0, 22050), 22050)
    store = Store.open_or_create(str(tmp_path / "store"))
    index([str(other)], store)
    plan = Plan(("clean",), (3.0, 5.0))
    rows = experiment.evaluate([str(other)], store.snapshot(), Query(), plan, surroundings)
    outcomes = rows.to_pandas().groupby([rows["clip"].to_pandas().str.split("/").str[-1], "hidden"]).outcome.unique()
    assert {key: list(values) for key, values in outcomes.items()} == {
        ("1.wav", False): ["right"],
        ("1.wav", True): ["copy"],
        ("louder.wav", False): ["right"],
        ("louder.wav", True): ["copy"],
        ("2.wav", False): ["right"],
        ("2.wav", True): ["unknown"],
    }
    assert metrics.out_of_library(rows)["clips"].to_pylist() == [2, 2]
    assert sum(metrics.reliability(rows)["answers"].to_pylist()) == 6


def test_hidden_with_its_artist_a_clip_is_not_found_in_another_song_of_it(tmp_path, surroundings):
    other = tmp_path / "music"
    other.mkdir()
    samples = music.song(1, 20.0, 22050)
    made = (("1", samples, "one"), ("long", np.tile(samples, 3), "one"), ("2", samples[::-1], "two"))
    for name, part, artist in made:
        encoding.write(other / f"{name}.mp3", part, 22050, artist=artist)
    store = Store.open_or_create(str(tmp_path / "store"))
    index([str(other)], store)
    outcomes = {}
    for hide in ("song", "artist"):
        plan = Plan(("clean",), (5.0,), clips=2, hide=hide)
        rows = experiment.evaluate([str(other / "1.mp3")], store, plan=plan, surroundings=surroundings)
        outcomes[hide] = [row["outcome"] for row in rows.to_pylist() if row["hidden"]]
        assert len(rows) == 4
    assert outcomes == {"song": ["copy", "copy"], "artist": ["unknown", "unknown"]}


def test_candidates_that_are_not_named_count_in_the_reliability_of_candidates():
    rows = [row(confidence=0.95, best_confidence=0.95, best_right=True)]
    rows += [row(hidden=True, outcome="unknown", best_confidence=0.25, best_right=right) for right in (False, None)]
    rows += [row(outcome="unknown", best_confidence=0.24, best_right=True), row(hidden=True, outcome="unknown")]
    table = pa.Table.from_pylist(rows, schema=ROWS)
    assert sum(metrics.reliability(table)["answers"].to_pylist()) == 1
    counted = {one["above"]: (one["answers"], one["right"]) for one in metrics.candidate_reliability(table).to_pylist()}
    assert {above: counts for above, counts in counted.items() if counts[0]} == {0.2: (2, 1), 0.9: (1, 1)}
    (cell,) = metrics.out_of_library_by_length(table).to_pylist()
    assert (cell["condition"], cell["length_s"], cell["clips"], cell["named"]) == ("clean", 1.0, 3, 0)


def test_out_of_library_clips_alone_have_no_recall_and_no_time():
    rows = pa.Table.from_pylist([row(hidden=True, outcome="unknown")] * 2, schema=ROWS)
    assert (metrics.recall(rows).num_rows, metrics.timing(rows).num_rows) == (0, 0)
    assert metrics.out_of_library(rows).num_rows == 2


@pytest.mark.parametrize("condition", [*conditions.CONDITIONS, "room-5", "noise-10", "speed3", "pitch2", "tempo10"])
def test_a_degraded_clip_is_as_long_as_the_clip(condition, surroundings):
    samples = music.song(4, 4.0, RATE)
    degraded = conditions.degrade(samples, condition, 1.0, surroundings, np.random.default_rng(1))
    assert abs(len(degraded) - (len(samples) - RATE)) < 0.02 * RATE
    assert np.isfinite(degraded).all()


@pytest.mark.parametrize("snr_db", [10, 0, -5])
def test_noise_has_the_level_that_the_condition_says(snr_db, surroundings):
    samples = music.song(4, 4.0, RATE)
    degraded = conditions.degrade(samples, f"noise{snr_db}", 1.0, surroundings, np.random.default_rng(1))
    noise = degraded - samples[RATE:]
    assert 20 * np.log10(np.std(samples[RATE:]) / np.std(noise)) == pytest.approx(snr_db, abs=0.1)


def test_a_copy_that_is_found_at_a_repeat_is_a_copy_all_the_same(rng):
    """Music repeats itself: of a copy, another place may answer than the one where the clip is from."""
    settings = Settings()
    frame = np.sort(rng.integers(0, 2000, 5000)).astype(np.int32)
    peaks = Peaks(frame, rng.integers(8, 1000, 5000).astype(np.int32), np.zeros(5000, np.int8))
    other = Peaks(frame, rng.permutation(peaks.bin), peaks.level)
    library = SimpleNamespace(settings=settings, constellations=lambda ids: {id_: songs[id_] for id_ in ids})
    songs = {1: peaks, 2: peaks, 3: other}
    known = {song_id: {"path": f"{song_id}.mp3", "duration_s": 2000 * settings.frame_s} for song_id in songs}

    def trial(song_id: int, song_start_s: float) -> experiment.Trial:
        match = Match(song_id, 0.0, 2.0, song_start_s, song_start_s + 2.0, 50, 0.99, 1.0)
        return experiment.Trial("clean", 2.0, True, 30.0, match, True, 0.1)

    trials = [trial(2, 30.0), trial(2, 50.0), trial(3, 30.0)]
    copies = experiment._copies(trials, 1, library, known)
    assert [experiment._row(one, 1, copies, known)["outcome"] for one in trials] == ["copy", "copy", "wrong"]
