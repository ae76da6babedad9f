"""SQL over a store: what it selects is what songprint reads, in the same version."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.cli import run
from pipeline.errors import ParameterError
from pipeline.sql import connect, select
from pipeline.store import Store, stage
from tests.fakes import make_song
from tests.test_object_store import bucket

pytestmark = pytest.mark.usefixtures("whole_stores")

__all__ = ["bucket"]  # a fixture

pytest.importorskip("duckdb")
REMOVED = 2


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Songs 1 to 11 of two commits in a folder with a quotation mark, without the second."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    return fill(Store.create(str(tmp_path / "it's a store")))


def fill(store: Store) -> Store:
    for name, numbers in (("a", range(1, 6)), ("b", range(6, 12))):
        store.commit([stage(store.url, name, [make_song(number) for number in numbers])])
    store.remove([REMOVED])
    return store


def postings_of_all() -> list[tuple[int, int, int]]:
    """Song, hash and offset of each posting of the songs that are left."""
    songs = {number: make_song(number).hashes for number in range(1, 12) if number != REMOVED}
    return sorted(
        (number, hash_, offset)
        for number, hashes in songs.items()
        for hash_, offset in zip(hashes.hash.tolist(), hashes.offset.tolist(), strict=True)
    )


def test_the_views_have_the_songs_that_are_in_the_store_and_their_rows_alone(store: Store) -> None:
    connection = connect(store)
    songs = connection.sql("SELECT song_id, path, landmarks FROM songs ORDER BY song_id").fetchall()
    expected = store.snapshot().songs(["song_id", "path", "landmarks"]).to_pylist()
    assert songs == [tuple(row.values()) for row in expected]
    assert connection.sql('SELECT song_id, hash, "offset" FROM postings ORDER BY ALL').fetchall() == postings_of_all()
    peaks = connection.sql("SELECT song_id, bin, frame_step FROM constellations ORDER BY song_id").fetchall()
    for song_id, bins, steps in peaks:
        song = make_song(song_id).peaks
        assert bins == song.bin.tolist()
        np.testing.assert_array_equal(np.cumsum(steps), song.frame)
    assert [song_id for song_id, *_ in peaks] == [number for number in range(1, 12) if number != REMOVED]


def test_the_postings_of_one_hash_are_those_that_a_search_reads(store: Store) -> None:
    hash_ = make_song(7).hashes.hash[:1]
    found = store.snapshot().postings(hash_)
    rows = (
        connect(store)
        .execute('SELECT song_id, "offset" FROM postings WHERE hash = ? ORDER BY ALL', [int(hash_[0])])
        .fetchall()
    )
    assert rows == list(zip(found.song_id.tolist(), found.offset.tolist(), strict=True))


def test_later_commits_do_not_change_the_views(store: Store) -> None:
    connection = connect(store.snapshot())
    store.commit([stage(store.url, "c", [make_song(12)])])
    store.remove([3])
    store.compact()
    assert connection.sql("SELECT count(*), max(song_id) FROM songs").fetchall() == [(10, 11)]
    assert connection.sql("SELECT count(*) FROM postings").fetchall() == [(len(postings_of_all()),)]
    assert connect(store).sql("SELECT count(*), max(song_id) FROM songs").fetchall() == [(10, 12)]


def test_an_empty_store_has_views_without_rows(tmp_path: Path) -> None:
    connection = connect(Store.create(str(tmp_path / "store")))
    assert connection.sql("SELECT * FROM songs JOIN constellations USING (song_id)").fetchall() == []
    assert connection.sql('SELECT hash, song_id, "offset" FROM postings').fetchall() == []


def test_a_store_behind_a_url_is_read_through_fsspec(bucket: str) -> None:
    connection = connect(fill(Store.create(f"{bucket}/sql.songprint")))
    assert connection.sql('SELECT song_id, hash, "offset" FROM postings ORDER BY ALL').fetchall() == postings_of_all()


def test_columns_have_names_and_types_that_every_output_has(store: Store) -> None:
    query = (
        "SELECT a.song_id, b.song_id, sum(b.landmarks) AS landmarks, 1.5 AS half, [1, 2] AS list "
        "FROM songs a JOIN songs b USING (song_id) GROUP BY ALL ORDER BY ALL LIMIT 1"
    )
    schema, tables = select(connect(store), query)
    assert {field.name: str(field.type) for field in schema if field.name != "list"} == {
        "song_id": "int32",
        "song_id_1": "int32",
        "landmarks": "int64",
        "half": "double",
    }
    (row,) = [row for table in tables for row in table.to_pylist()]
    assert row == {"song_id": 1, "song_id_1": 1, "landmarks": make_song(1).landmarks, "half": 1.5, "list": [1, 2]}


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELCT 1", r'^query: Parser Error: syntax error at or near "SELCT"$'),
        ("SELECT nope FROM songs", r'^query: .*"nope" not found'),
        ("SELECT song_id FROM song", r"^query: .*song does not exist"),
        ("SELECT sum(1e30::HUGEINT) FROM songs", r"^query: "),
        ("SELECT INTERVAL 1 DAY AS day", r"^query: column day is a .*; cast it: day::VARCHAR"),
        ("SELECT 'a'::BLOB AS bytes", r"^query: column bytes is a binary"),
    ],
)
def test_a_query_that_fails_is_one_sentence(query: str, message: str, store: Store) -> None:
    with pytest.raises(ParameterError, match=message):
        list(select(connect(store), query)[1])


def test_the_command_prints_and_writes_what_is_selected(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = "SELECT song_id, title FROM songs WHERE song_id < 4 ORDER BY song_id"
    rows = [{"song_id": 1, "title": "1"}, {"song_id": 3, "title": "3"}]
    assert run(["sql", query, "--store", store.url, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == rows
    assert run(["sql", query, "--store", store.url]) == 0
    assert capsys.readouterr().out.split() == ["song_id", "title", "1", "1", "3", "3"]
    assert run(["sql", query, "--store", store.url, "--output", str(tmp_path / "rows.parquet")]) == 0
    assert pq.read_table(tmp_path / "rows.parquet").to_pylist() == rows
    assert run(["sql", "DROP VIEW postings", "--store", store.url, "--format", "csv"]) == 0
    assert run(["sql", "SELECT 1 FROM nothing", "--store", store.url]) == 1
    assert "ParameterError: query: Catalog Error" in capsys.readouterr().err


def test_without_duckdb_one_sentence_says_what_to_install(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(ParameterError, match=r"pip install 'songprint\[sql\]'"):
        connect(store)
