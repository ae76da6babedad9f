"""The whole life of a store behind an S3 URL, on a server on loopback that the test starts itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import pipeline
from jobs.cli import run
from pipeline.errors import StoreError
from pipeline.simulation import encoding, music
from pipeline.store import Store, byte_ranges, postings, stage
from pipeline.store.storage import Location
from tests.fakes import make_song
from tests.test_check import everything
from tests.test_upgrade import GOLDEN

pytest.importorskip("s3fs")
pytest.importorskip("moto.server")

import s3fs

from tests.object_store import BUCKET, serve


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URL of an empty bucket."""
    with serve():
        yield f"s3://{BUCKET}"


def objects(store: Store) -> list[str]:
    """Names of the stored objects, without the logs."""
    root = store.url.removeprefix("s3://") + "/"
    fs = s3fs.S3FileSystem(use_listings_cache=False)
    return sorted(name.removeprefix(root) for name in fs.find(root) if "/_delta_log/" not in name)


def test_a_store_lives_behind_a_url_as_in_a_folder(bucket: str, tmp_path: Path) -> None:
    contents = []
    for url in (f"{bucket}/library.songprint", str(tmp_path / "library.songprint")):
        store = Store.open_or_create(url)
        assert store.commit([stage(store.url, "a", [make_song(n) for n in range(1, 6)])]) == [1, 2, 3, 4, 5]
        assert store.commit([stage(store.url, "b", [make_song(n) for n in range(5, 12)])]) == [6, 7, 8, 9, 10, 11]
        before = store.snapshot()
        assert store.remove([3]) == 1
        assert store.update([4], {"path": ["/moved/4.flac"]}) == 1
        contents.append([everything(store), store.snapshot().stats() | {"bytes": 0, "bytes_per_hour": 0}])
        assert store.compact().postings_dropped > 0
        assert before.n_songs == 11
        assert len(before.postings(make_song(3).hashes.hash[:1])) > 0, "a reader of the old version goes on"
        assert store.compact(grace_hours=0).bytes_waiting == 0
        assert store.check() == []
        contents[-1].append(everything(Store.open(url)))
        assert len(store.snapshot().files("postings")) == 1
    assert contents[0] == contents[1]
    stored = Store.open(f"{bucket}/library.songprint")
    snapshot = stored.snapshot()
    live = {name for table in ("songs", "postings", "constellations") for name in snapshot.files(table)}
    assert objects(stored) == sorted(live | {"songprint.json"})


def test_songs_and_clips_behind_a_url_give_the_rows_of_a_folder(bucket: str, tmp_path: Path) -> None:
    """The songs are indexed and the clips identified where they are, in a store of two shards."""
    fs = s3fs.S3FileSystem()
    for seed in range(3):
        encoding.write(tmp_path / f"{seed}.flac", music.song(seed, 15.0))
        encoding.write(tmp_path / f"clip{seed}.wav", music.song(seed, 15.0)[-4 * music.SAMPLE_RATE :])
        fs.put(str(tmp_path / f"{seed}.flac"), f"{bucket}/songs/{seed}.flac")
        fs.put(str(tmp_path / f"clip{seed}.wav"), f"{bucket}/clips/clip{seed}.wav")
    rows = []
    for root, songs, clips in ((bucket, f"{bucket}/songs", f"{bucket}/clips"), (str(tmp_path), *[str(tmp_path)] * 2)):
        store = Store.create(f"{root}/sung.songprint", shard_frames=700)
        files = [f"{songs}/{seed}.flac" for seed in range(3)]
        assert pipeline.index(files, store).added == 3
        assert store.snapshot().shard_numbers == (0, 1)
        store.compact(grace_hours=0)
        found = pipeline.identify([f"{clips}/clip{seed}.wav" for seed in range(3)], store).to_pylist()
        rows.append([row | {name: row[name].rpartition("/")[2] for name in ("clip", "song_path")} for row in found])
    assert rows[0] == rows[1]
    assert [row["song_path"] for row in rows[0]] == ["0.flac", "1.flac", "2.flac"]


def test_positions_are_fetched_in_runs_and_once(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postings, "DIRECTORY_ROWS", 1)
    monkeypatch.setattr(byte_ranges, "BLOCK_BYTES", 256)
    store = Store.create(f"{bucket}/ranges")
    store.commit([stage(store.url, "a", [make_song(n) for n in range(1, 13)])])
    fetched: list[int] = []
    read_ranges = Location.read_ranges

    def counted(location: Location, path: str, starts: list[int], ends: list[int]) -> list[bytes]:
        fetched.extend(end - start for start, end in zip(starts, ends, strict=True))
        return read_ranges(location, path, starts, ends)

    monkeypatch.setattr(Location, "read_ranges", counted)
    snapshot = store.snapshot()
    assert [shard.rows for shard in snapshot.shards] == [sum(make_song(n).landmarks for n in range(1, 13))]
    fetched.clear()  # the directory
    few = np.unique(make_song(3).hashes.hash)[:5]
    assert len(snapshot.postings(few)) >= 5
    size = snapshot.size()["bytes_per_posting"] * snapshot.size()["postings"]
    assert 0 < sum(fetched) < size / 2, "much more was read than was asked for"
    fetched.clear()
    assert len(snapshot.postings(few)) >= 5
    assert fetched == []
    every = snapshot.postings(np.unique(np.concatenate([make_song(n).hashes.hash for n in range(1, 13)])))
    assert len(every) == snapshot.size()["postings"]
    assert len(fetched) < 8, "neighbours were fetched one by one"


def test_format_2_is_converted_behind_a_url(bucket: str) -> None:
    fs = s3fs.S3FileSystem()
    fs.put(str(GOLDEN / "format-2.songprint"), f"{bucket}/old", recursive=True)
    done = Store.upgrade(f"{bucket}/old")
    assert done is not None
    assert done.songs == 4
    assert Store.open(f"{bucket}/old").check() == []
    assert Store.open(f"{bucket}/old").snapshot().size()["songs"] == 4
    left = {name.removeprefix("music/old/").partition("/")[0] for name in fs.find(f"{bucket}/old")}
    assert left == {"format-3", "songprint.json"}


def test_damage_behind_a_url_is_found_and_repaired(bucket: str) -> None:
    store = Store.create(f"{bucket}/damaged")
    store.commit([stage(store.url, "a", [make_song(n) for n in range(1, 6)])])
    before = everything(store)
    name = store.snapshot().files("postings")[0]
    fs = s3fs.S3FileSystem()
    data = bytearray(fs.cat_file(f"{store.url}/{name}"))
    data[len(data) // 2] ^= 1
    fs.pipe_file(f"{store.url}/{name}", bytes(data))
    assert [problem.place for problem in store.check()] == [name]
    fs.rm_file(f"{store.url}/{name}")
    with pytest.raises(StoreError, match="the file is missing"):
        everything(store)
    assert [problem.what for problem in store.check()] == ["the file is missing"]
    assert Store.repair(store.url).lost == ()
    assert everything(store) == before


def test_writers_of_an_object_store_lose_nothing(bucket: str) -> None:
    store = Store.create(f"{bucket}/busy")

    def work(writer: int) -> list[int]:
        numbers = range(1 + writer * 2, 3 + writer * 2)
        return [
            song_id
            for number in numbers
            for song_id in Store.open(store.url).commit([stage(store.url, f"{number}", [make_song(number)])])
        ]

    with ThreadPoolExecutor(2) as threads:
        ids = [song_id for added in threads.map(work, range(2)) for song_id in added]
    assert sorted(ids) == list(range(1, 5))
    assert store.check() == []
    assert store.snapshot().n_songs == 4


def test_a_missing_store_is_reported_in_a_sentence(bucket: str) -> None:
    with pytest.raises(StoreError, match="s3://music/nothing: there is no store here"):
        Store.open(f"{bucket}/nothing")
    s3fs.S3FileSystem().pipe_file(f"{bucket}/other/song.mp3", b"x")
    with pytest.raises(StoreError, match="holds other things"):
        Store.create(f"{bucket}/other")
    assert np.array_equal(s3fs.S3FileSystem().cat_file(f"{bucket}/other/song.mp3"), b"x")


def test_a_server_that_is_down_or_credentials_that_are_missing_are_one_sentence(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    s3fs.S3FileSystem.clear_instance_cache()
    commands = (["songs", "--store", f"{bucket}/x"], ["index", f"{bucket}/x", "--store", str(tmp_path / "store")])
    with monkeypatch.context() as patch:
        for name, value in (("ACCESS_KEY_ID", ""), ("SECRET_ACCESS_KEY", ""), ("EC2_METADATA_DISABLED", "true")):
            patch.setenv(f"AWS_{name}", value)
        for command in commands:
            assert run(command) == 1
            assert re.fullmatch(r"RemoteError: s3://music/x: .*redentials; set them .*\n", capsys.readouterr().err)
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    for command in commands:
        assert run(command) == 1
        assert re.fullmatch(
            r"RemoteError: s3://music/x: .*127\.0\.0\.1:9.*; check the URL.*\n", capsys.readouterr().err
        )
    s3fs.S3FileSystem.clear_instance_cache()
