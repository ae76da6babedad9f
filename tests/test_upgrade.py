"""Stores of earlier formats: a golden one of each opens for ever, and format 2 is converted whatever happens."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from jobs.cli import run
from pipeline.audio.tags import Tags
from pipeline.errors import StoreError
from pipeline.matching.search import find_matches
from pipeline.matching.types import Query
from pipeline.simulation import music
from pipeline.sql import connect
from pipeline.store import Store, metadata, stage, upgrade
from pipeline.store.schema import SCHEMAS
from tests.fakes import make_song
from tests.test_faults import FAULTS, Died, Fault

GOLDEN = Path(__file__).parent / "data"
# Song ids of the golden stores, and the seed of the formula song that each holds. Song 2 was removed.
SEEDS = {1: 0, 3: 2, 4: 3, 5: 4}

Contents = tuple[dict[str, list[Any]], list[tuple[int, int, int]], dict[int, tuple[list[int], list[int], list[int]]]]


def expected_contents() -> Contents:
    """What the golden store of format 2 holds, read without songprint."""
    store = GOLDEN / "format-2.songprint"
    tables = {name: pq.read_table(DeltaTable(str(store / name)).file_uris()) for name in SCHEMAS}
    songs = [row for row in tables["songs"].sort_by("song_id").to_pylist() if row["status"] == "indexed"]
    rows = tables["postings"].to_pylist()
    postings = [(row["hash"], row["song_id"], row["offset"]) for row in rows if row["song_id"] in SEEDS]
    peaks = {
        row["song_id"]: (np.cumsum(row["frame_step"]).tolist(), row["bin"], row["level"])
        for row in tables["constellations"].to_pylist()
        if row["song_id"] in SEEDS
    }
    columns = ("song_id", "path", "title", "artist", "digest", "landmarks", "duration_s")
    return (
        {name: [row[name] for row in songs] for name in columns},
        sorted(postings),
        peaks,
    )


def contents(store: Store) -> Contents:
    snapshot = store.snapshot()
    columns = ("song_id", "path", "title", "artist", "digest", "landmarks", "duration_s")
    found = snapshot.postings(np.arange(1 << 23, dtype=np.int32))
    peaks = snapshot.constellations(SEEDS)
    return (
        snapshot.songs(columns).to_pydict(),
        list(zip(found.hash.tolist(), found.song_id.tolist(), found.offset.tolist(), strict=True)),
        {song_id: (one.frame.tolist(), one.bin.tolist(), one.level.tolist()) for song_id, one in peaks.items()},
    )


def copied(name: str, to: Path) -> str:
    shutil.copytree(GOLDEN / name, to)
    return str(to)


def test_a_store_of_format_2_is_refused_with_the_command_that_converts_it() -> None:
    store = str(GOLDEN / "format-2.songprint")
    with pytest.raises(StoreError, match=f"has format 2, .* reads 3; `songprint upgrade --store {store}` converts it"):
        Store.open(store)


def test_format_2_is_converted_without_the_audio(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = copied("format-2.songprint", tmp_path / "s")
    assert run(["upgrade", "--store", url, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["songs"] == len(SEEDS)
    store = Store.open(url)
    assert store.check() == []
    assert contents(store) == expected_contents()
    assert sorted(path.name for path in tmp_path.joinpath("s").iterdir()) == ["format-3", "songprint.json"]
    assert run(["upgrade", "--store", url]) == 0, "it has nothing to do"
    rate = store.settings.sample_rate
    for song_id, seed in SEEDS.items():
        (matches,) = find_matches([music.song(seed, 20.0, rate)[5 * rate : 9 * rate]], store.snapshot(), Query())
        assert [match.song_id for match in matches] == [song_id]


def test_a_converted_store_lives_on(tmp_path: Path) -> None:
    url = copied("format-2.songprint", tmp_path / "s")
    Store.upgrade(url)
    other = Store.create(str(tmp_path / "other"))
    assert len(other.absorb(Store.open(url))) == len(SEEDS)
    store = Store.open(url)
    store.remove([3])
    store.compact(grace_hours=0)
    assert store.absorb(other) == [6], "the song that was removed comes back under a new id"
    assert store.check() == []
    (tmp_path / "s" / "songprint.json").write_text("{}")
    assert Store.repair(url).done == ("songprint.json: written again with the settings of the tables",)
    assert Store.open(url).snapshot().songs(["song_id"])["song_id"].to_pylist() == [1, 4, 5, 6]


def test_a_golden_store_of_format_3_opens(tmp_path: Path) -> None:
    store = Store.open(copied("format-3.songprint", tmp_path / "s"))
    assert store.check() == []
    (songs, postings, peaks), (found_songs, found_postings, found_peaks) = expected_contents(), contents(store)
    assert (found_postings, found_peaks) == (postings, peaks)
    assert found_songs == songs


def test_columns_that_were_added_later_are_null_and_come_with_the_next_commit(tmp_path: Path) -> None:
    url = copied("format-3.songprint", tmp_path / "s")
    store = Store.open(url)
    later = ["album_artist", "track", "year", "isrc", "musicbrainz_recording_id", "acoustid"]
    assert store.snapshot().songs(later).to_pylist() == [dict.fromkeys(later)] * len(SEEDS)
    assert connect(store).sql("SELECT count(*), count(year) FROM songs").fetchall() == [(len(SEEDS), 0)]
    tags = Tags("A", "B", "C", "D", 5, 1999, "ISRC", "MBID", "ACID")
    store.commit([stage(url, "new", [dataclasses.replace(make_song("new"), tags=tags)])])
    assert [field.name for field in DeltaTable(f"{url}/songs").schema().fields] == SCHEMAS["songs"].names
    expected = [*[dict.fromkeys(later)] * len(SEEDS), {name: getattr(tags, name) for name in later}]
    for _ in range(2):
        assert store.check() == []
        assert store.snapshot().songs(later).to_pylist() == expected
        assert connect(store).sql("SELECT path FROM songs WHERE year = 1999").fetchall() == [("/music/new.flac",)]
        read = polars.scan_delta(f"{url}/songs").filter(polars.col("status") == "indexed").sort("song_id")
        assert read.select(later).collect().to_dicts() == expected
        store.compact(grace_hours=0)
    assert store.update([1], {"track": [7], "acoustid": ["x"]}) == 1
    other = Store.create(str(tmp_path / "other"))
    other.absorb(store)
    assert other.snapshot().songs(["track", "acoustid"])[:1].to_pylist() == [{"track": 7, "acoustid": "x"}]


def test_two_jobs_that_add_the_columns_at_once_add_their_songs(tmp_path: Path) -> None:
    url = copied("format-3.songprint", tmp_path / "s")
    manifests = [stage(url, name, [make_song(name)]) for name in "abc"]
    with ThreadPoolExecutor(3) as pool:
        added = list(pool.map(lambda manifest: Store.open(url).commit([manifest]), manifests))
    assert sorted(itertools.chain(*added)) == [6, 7, 8]
    assert Store.open(url).check() == []


def test_a_conversion_that_fails_at_any_moment_goes_on(tmp_path: Path) -> None:
    url = copied("format-2.songprint", tmp_path / "undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        fault = Fault(patch, 0, None)
        Store.upgrade(url)
    expected = expected_contents()
    every = np.random.default_rng(3).permutation(range(1, fault.moments + 1))
    for at in every[: max(3, FAULTS // 2)].tolist():
        url = copied("format-2.songprint", tmp_path / str(at))
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Died):
            Fault(patch, at, None)
            Store.upgrade(url)
        Store.upgrade(url)
        assert contents(Store.open(url)) == expected
        assert Store.open(url).check() == []
        assert not (Path(url) / "songs").exists()
        shutil.rmtree(url)


def test_a_conversion_that_is_killed_goes_on(tmp_path: Path, rng: np.random.Generator) -> None:
    expected = expected_contents()
    for turn in range(max(1, FAULTS // 10)):
        url = copied("format-2.songprint", tmp_path / str(turn))
        code = f"from pipeline.store import Store; print('ready', flush=True); Store.upgrade({url!r})"
        child = subprocess.Popen(
            [sys.executable, "-c", code], cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        child.stdout.readline()
        try:
            child.wait(rng.exponential(0.15))
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        Store.upgrade(url)
        assert contents(Store.open(url)) == expected
        shutil.rmtree(url)


def test_songs_that_were_added_during_a_conversion_are_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store of format 2 changes once more before the conversion is done: it starts again."""
    url = copied("format-2.songprint", tmp_path / "s")
    log = Path(url) / "songs" / "_delta_log"
    runs = []
    convert = upgrade._convert

    def meanwhile(*arguments: Any) -> Any:
        runs.append(convert(*arguments))
        if len(runs) == 1:
            last = max(log.glob("*.json"))
            entry = json.loads(last.read_text().splitlines()[0])
            (log / f"{int(last.stem) + 1:020d}.json").write_text(
                json.dumps({"commitInfo": entry.get("commitInfo", {})})
            )
        return runs[-1]

    monkeypatch.setattr(upgrade, "_convert", meanwhile)
    Store.upgrade(url)
    assert len(runs) == 2
    assert contents(Store.open(url)) == expected_contents()


def test_a_store_of_an_unknown_format_is_not_converted(tmp_path: Path) -> None:
    url = copied("format-2.songprint", tmp_path / "s")
    (tmp_path / "s" / metadata.NAME).write_text('{"format": 1, "settings": {}}')
    with pytest.raises(StoreError, match="has format 1, this songprint reads 3"):
        Store.upgrade(url)
