"""data/README.md agrees with the code, and its examples run: other tools read what songprint reads."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.fingerprinting.landmarks import unpack
from pipeline.fingerprinting.settings import Settings
from pipeline.store import Store, metadata
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


def test_the_page_names_the_format_and_every_setting() -> None:
    assert set(re.findall(r"format\"?:? (\d+)", README)) == {str(metadata.FORMAT)}
    (sentence,) = re.findall(r"`settings` says how samples became hashes:(.*?)\.", README, re.S)
    assert re.findall(r"`(\w+)`", sentence) == [field.name for field in dataclasses.fields(Settings)]


def described(field: pa.Field) -> str:
    """The type of a column in the words of the page."""
    if pa.types.is_list(field.type):
        return f"list of {field.type.value_type}"
    words = {pa.float64(): "float64", pa.timestamp("us", tz="UTC"): "timestamp (µs, UTC)"}
    return words.get(field.type, str(field.type)) + (", may be null" if field.nullable else "")


@pytest.mark.parametrize("table", SCHEMAS)
def test_the_page_has_the_columns_of_each_table_and_their_types(table: str) -> None:
    (section,) = re.findall(rf"### `{table}`\n(.*?)(?=\n##|\Z)", README, re.S)
    columns = [
        (name, row[1])
        for row in re.findall(r"^\| (`[^|]*`) \| ([^|]*?) \|", section, re.M)
        for name in re.findall(r"`(\w+)`", row[0])
    ]
    assert columns == [(field.name, described(field)) for field in SCHEMAS[table]]


def test_the_page_says_what_is_in_a_hash() -> None:
    hash_ = 123_456_789 & ((1 << 23) - 1)
    anchor, aside, ahead = (int(value[0]) for value in unpack(np.array([hash_], np.int32)))
    formulas = [
        re.search(pattern, README) for pattern in (r"`(hash >> 13)`", r"`(\(hash >> 5[^`]*)`", r"`(\(hash & 31[^`]*)`")
    ]
    assert [eval(found.group(1), {"hash": hash_}) for found in formulas if found] == [anchor, aside, ahead]
