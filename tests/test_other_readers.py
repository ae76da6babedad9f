"""The examples of data/README.md, as they stand there: other tools read what songprint reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.fingerprinting.landmarks import unpack
from pipeline.store import Store
from pipeline.store.schema import SCHEMAS
from tests.fakes import make_song
from tests.test_check import store

__all__ = ["store"]  # a fixture

README = (Path(__file__).parents[1] / "data" / "README.md").read_text(encoding="utf-8")
EXAMPLES = {name: next(code for code in re.findall(r"```python\n(.*?)```", README, re.S) if name in code)
            for name in ("duckdb", "polars", "to_pandas")}  # fmt: skip


def run(name: str, **names: Any) -> dict[str, Any]:
    if name != "to_pandas":
        pytest.importorskip(name)
    exec(EXAMPLES[name], names)
    return names


def test_duckdb_counts_what_songprint_counts(store: Store) -> None:
    store.remove([2])
    songs = {number: make_song(number) for number in range(1, 13) if number != 2}
    assert run("duckdb", store=store.url)["per_song"] == [
        (number, song.path, song.landmarks, len(np.unique(song.hashes.hash))) for number, song in songs.items()
    ]


def test_polars_finds_where_a_hash_occurs(store: Store) -> None:
    song = make_song(5)
    some_hash = int(song.hashes.hash[100])
    found = store.snapshot().postings(np.array([some_hash], np.int32))
    where = run("polars", store=store.url, some_hash=some_hash)["where"]
    assert where["song_id"].to_list() == found.song_id.tolist()
    np.testing.assert_allclose(where["second"].to_numpy(), found.offset * store.settings.frame_s)
    assert song.path in where["path"].to_list()


def test_pandas_reads_the_peaks_of_a_song(store: Store) -> None:
    names = run("to_pandas", store=store.url, some_song=7)
    np.testing.assert_array_equal(names["frames"], make_song(7).peaks.frame)
    np.testing.assert_array_equal(names["bins"], make_song(7).peaks.bin)


def test_the_page_has_every_column_and_says_what_is_in_a_hash() -> None:
    for schema in SCHEMAS.values():
        for field in schema:
            assert f"`{field.name}`" in README
    hash_ = 123_456_789 & ((1 << 23) - 1)
    anchor, aside, ahead = (int(value[0]) for value in unpack(np.array([hash_], np.int32)))
    formulas = [
        re.search(pattern, README) for pattern in (r"`(hash >> 13)`", r"`(\(hash >> 5[^`]*)`", r"`(\(hash & 31[^`]*)`")
    ]
    assert [eval(found.group(1), {"hash": hash_}) for found in formulas if found] == [anchor, aside, ahead]
