"""The store through its public methods: what is committed is read back, also when other jobs write meanwhile."""

from __future__ import annotations

import dataclasses
import functools
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from deltalake import transaction
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.errors import ConfigMismatch, ParameterError, StoreError
from pipeline.fingerprinting.landmarks import Hashes
from pipeline.fingerprinting.peaks import Peaks
from pipeline.fingerprinting.settings import Settings
from pipeline.store import Snapshot, StagedSong, Store, compaction, delta_log, directory, lookup, postings, stage
from pipeline.store.schema import PINS, SCHEMAS
from pipeline.store.storage import Location
from tests import naive
from tests.fakes import make_song
from tests.long_history import deleted_long_ago

pytestmark = pytest.mark.usefixtures("whole_stores")

# Hashes of 8 bits, so that songs share hashes.
random_song = functools.partial(make_song, n_peaks=200, n_frames=2000, n_bins=1025, n_hashes=300)


def fill(store: Store, *batches: Sequence[StagedSong]) -> list[int]:
    """Add songs, one staged batch after the other, in one commit."""
    return store.commit(
        [stage(store.url, f"batch-{i}-{batch[0].tags.title}", batch) for i, batch in enumerate(batches)]
    )


def rows(snapshot: Snapshot, hashes: Iterable[int] = range(256)) -> list[tuple[int, int, int]]:
    found = snapshot.postings(np.array(sorted(hashes), np.int32))
    return list(zip(found.hash.tolist(), found.song_id.tolist(), found.offset.tolist(), strict=True))


def expected(songs: dict[int, StagedSong], hashes: Iterable[int] = range(256)) -> Any:
    contents = {
        song_id: list(zip(song.hashes.hash.tolist(), song.hashes.offset.tolist(), strict=True))
        for song_id, song in songs.items()
    }
    return naive.postings(contents, set(hashes))


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(str(tmp_path / "library.songprint"))


def test_songs_come_back_as_they_were_staged(store: Store) -> None:
    songs = [random_song(name) for name in "abcde"]
    assert fill(store, songs[:2], songs[2:]) == [1, 2, 3, 4, 5]
    snapshot = store.snapshot()
    assert snapshot.n_songs == 5
    assert snapshot.songs(["title", "song_id"]).to_pydict() == {"title": list("abcde"), "song_id": [1, 2, 3, 4, 5]}
    assert snapshot.songs()["landmarks"].to_pylist() == [300] * 5
    assert rows(snapshot) == expected(dict(enumerate(songs, start=1)))
    peaks = snapshot.constellations([3, 1, 99, 0, -1])
    assert list(peaks) == [1, 3]
    np.testing.assert_array_equal(peaks[3].frame, songs[2].peaks.frame)
    np.testing.assert_array_equal(peaks[3].bin, songs[2].peaks.bin)
    np.testing.assert_array_equal(peaks[3].level, songs[2].peaks.level)
    assert peaks[3].bin.dtype == peaks[3].frame.dtype == np.int32


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=4), min_size=1, max_size=4),
    part_rows=st.integers(1, 90),
    file_rows=st.integers(20, 200),
    staged_rows=st.integers(1, 40),
    directory_rows=st.sampled_from([1, 50, 1 << 30]),
    shard_frames=st.sampled_from([1, 3000, 5000, 1 << 28]),
    queried=st.sets(st.integers(0, 40)),
    removed=st.sets(st.integers(1, 8)),
    compacted=st.booleans(),
)
def test_a_lookup_gives_the_same_as_a_list_of_all_postings(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[list[int]],
    part_rows: int,
    file_rows: int,
    staged_rows: int,
    directory_rows: int,
    shard_frames: int,
    queried: set[int],
    removed: set[int],
    compacted: bool,
) -> None:
    store = Store.create(str(tmp_path_factory.mktemp("stores") / "s"), shard_frames=shard_frames)
    everything: dict[int, StagedSong] = {}
    with pytest.MonkeyPatch.context() as patch:  # sizes at which a handful of postings has every kind of border
        patch.setattr(postings, "PART_ROWS", part_rows)
        patch.setattr(lookup, "PART_ROWS", part_rows)
        patch.setattr(postings, "FILE_ROWS", file_rows)
        patch.setattr(postings, "STAGED_ROWS", staged_rows)
        patch.setattr(postings, "DIRECTORY_ROWS", directory_rows)
        for module in ("staging", "append", "compaction"):
            patch.setattr(f"pipeline.store.{module}.SAMPLE_STEP", 8)
        for i, batch in enumerate(sizes):
            songs = [random_song(f"{i}-{j}", n_hashes=size, hash_bits=5) for j, size in enumerate(batch)]
            everything |= dict(zip(fill(store, songs), songs, strict=True))
        store.remove(removed)
        if compacted:
            store.compact()
        assert store.check() == []
        left = {song_id: song for song_id, song in everything.items() if song_id not in removed}
        snapshot = store.snapshot()
        assert rows(snapshot, queried) == expected(left, queried)
        swept = list(snapshot.sweep())
        columns = [(part.hash.tolist(), part.song_id.tolist(), part.offset.tolist()) for part in swept]
        found = [row for part in columns for row in zip(*part, strict=True)]
        assert found == expected(left)
        assert len({h for part in swept for h in set(part.hash.tolist())}) == sum(
            len(set(part.hash.tolist())) for part in swept
        ), "a hash is in two parts"


def test_songs_are_laid_end_to_end_in_shards(tmp_path: Path) -> None:
    store = Store.create(str(tmp_path / "s"), shard_frames=4_500)
    songs = [random_song(name) for name in "abcde"]
    fill(store, songs[:3], songs[3:])
    placed = store.snapshot().songs(["shard", "first_frame", "n_frames"]).to_pydict()
    lengths = [song.n_frames for song in songs]
    assert placed["n_frames"] == lengths
    assert placed["shard"] == [0, 0, 1, 1, 2]
    assert placed["first_frame"] == [0, lengths[0], 0, lengths[2], 0]
    assert [shard.number for shard in store.snapshot().shards] == [0, 1, 2]
    assert {path.parent.name for path in live_files(store, "postings")} == {"shard=0", "shard=1", "shard=2"}


def test_a_large_file_has_a_directory_that_other_readers_do_not_see(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postings, "DIRECTORY_ROWS", 1)
    song = random_song("a", n_hashes=5_000, hash_bits=16)
    fill(store, [song])
    (path,) = live_files(store, "postings")
    file = postings.PostingsFile(Location.of(store.url), path.relative_to(store.url).as_posix())
    assert file.directory is not None
    assert file.mapped
    table = pq.read_table(path, partitioning=None)
    np.testing.assert_array_equal(table["hash"].to_numpy(), np.sort(song.hashes.hash))
    first, count = file.find(np.arange(-5, 1 << 17, dtype=np.int32))
    np.testing.assert_array_equal(count[5 : 5 + (1 << 16)], np.bincount(song.hashes.hash, minlength=1 << 16))
    read = np.empty(5_000, np.int32)
    file.read_positions(first, count, read)
    np.testing.assert_array_equal(read, table["position"].to_numpy())


@given(counts=st.lists(st.integers(0, 200_000), min_size=1, max_size=700), low=st.integers(0, 1 << 20))
def test_a_directory_says_where_each_hash_begins(counts: list[int], low: int) -> None:
    hashes = np.arange(low, low + len(counts), dtype=np.int32)
    made = directory.build(low, low + len(counts) - 1, [(hashes, np.array(counts, np.int64))])
    data = np.frombuffer(made.to_bytes(), np.uint8)
    assert directory.place_of(made.metadata(64)) == (64, len(data))
    read = directory.from_bytes(made.metadata(64), data)
    first, count = read.find(np.arange(low - 2, low + len(counts) + 2).astype(np.int32))
    assert count.tolist() == [0, 0, *counts, 0, 0]
    assert first[2:-2].tolist() == [sum(counts[:i]) for i in range(len(counts))]


def test_postings_that_another_tool_rewrote_are_found(store: Store) -> None:
    songs = [random_song(name, n_hashes=900) for name in "ab"]
    fill(store, songs)
    (path,) = live_files(store, "postings")
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table, path, compression="snappy", row_group_size=100)
    location = Location.of(store.url)
    version = delta_log.load(location, "postings")
    (old,) = version.files
    delta_log.commit(location, version, [], [old])
    version = delta_log.load(location, "postings")
    new = dataclasses.replace(old, size_bytes=path.stat().st_size)
    version = delta_log.commit(location, version, [new])
    delta_log.commit(location, delta_log.load(location, "songs"), numbers={PINS["postings"]: version.number})
    assert rows(store.snapshot()) == expected({1: songs[0], 2: songs[1]})
    fill(store, [random_song("c")])
    store.compact()
    assert rows(store.snapshot()) == expected({1: songs[0], 2: songs[1], 3: random_song("c")})
    assert store.check() == []


def test_a_song_that_is_there_is_not_added_twice(store: Store) -> None:
    a, b, c = (random_song(name) for name in "abc")
    assert fill(store, [a, b, a]) == [1, 2]
    assert fill(store, [b, c]) == [3]
    assert fill(store, [a]) == []
    assert rows(store.snapshot()) == expected({1: a, 2: b, 3: c})


def test_a_commit_that_ran_already_changes_nothing(store: Store) -> None:
    songs = [random_song("a"), random_song("b")]
    manifest = stage(store.url, "batch", songs)
    again = stage(store.url, "batch", songs)
    assert manifest == again == pickle.loads(pickle.dumps(manifest))
    assert store.commit([manifest]) == [1, 2]
    assert store.commit([manifest]) == []
    assert not list((Path(store.url) / "staging").iterdir())


def test_the_same_songs_give_the_same_bytes(tmp_path: Path) -> None:
    contents = []
    for name in ("one", "two"):
        store = Store.create(str(tmp_path / name))
        fill(store, [random_song("a"), random_song("b")], [random_song("c")])
        files = sorted((tmp_path / name).glob("[pc]*s/**/*.parquet"))
        contents.append([(path.relative_to(tmp_path / name), path.read_bytes()) for path in files])
    assert len(contents[0]) == 2
    assert contents[0] == contents[1]


def test_a_snapshot_stays_what_it_was(store: Store) -> None:
    a, b = random_song("a"), random_song("b")
    fill(store, [a])
    before = store.snapshot()
    travelled = pickle.loads(pickle.dumps(before))
    fill(store, [b])
    store.remove([1])
    for snapshot in (before, travelled):
        assert rows(snapshot) == expected({1: a})
        assert snapshot.songs(["title"]).to_pylist() == [{"title": "a"}]
    assert rows(store.snapshot()) == expected({2: b})
    assert list(store.snapshot().constellations([1, 2])) == [2]


def test_a_removed_song_can_come_back_under_a_new_id(store: Store) -> None:
    a, b = random_song("a"), random_song("b")
    fill(store, [a, b])
    assert store.remove([1, 7]) == 1
    assert store.remove([1]) == 0
    assert fill(store, [a]) == [3]
    assert rows(store.snapshot()) == expected({2: b, 3: a})


def test_tags_and_paths_change_without_touching_postings(store: Store) -> None:
    fill(store, [random_song("a")], [random_song("b")])
    fill(store, [random_song("c")])
    files = {path: path.stat().st_mtime_ns for path in Path(store.url).glob("postings/**/*.parquet")}
    assert store.update([3, 1, 50], {"path": ["/new/c", "/new/a", "/new/x"], "title": [None, "A", "x"]}) == 2
    assert store.snapshot().songs(["path", "title"]).to_pydict() == {
        "path": ["/new/a", "/music/b.flac", "/new/c"],
        "title": ["A", "b", None],
    }
    assert files == {path: path.stat().st_mtime_ns for path in Path(store.url).glob("postings/**/*.parquet")}
    with pytest.raises(ParameterError, match="'digest' cannot be changed"):
        store.update([1], {"digest": ["x"]})


def test_a_path_that_is_not_unicode_is_kept_readable(store: Store) -> None:
    fill(store, [dataclasses.replace(random_song("a"), path="/music/\udce9.flac")])
    assert store.snapshot().songs(["path"]).to_pylist() == [{"path": "/music/\\udce9.flac"}]


def test_stats_add_up(store: Store) -> None:
    songs = [random_song(name) for name in "abc"]
    fill(store, songs)
    stats = store.snapshot().stats()
    assert (stats["songs"], stats["postings"], stats["hours"]) == (3, 900, 0.05)
    assert stats["postings_per_second"] == 5.0
    counts = np.bincount(np.concatenate([song.hashes.hash for song in songs]))
    assert stats["hashes"] == np.count_nonzero(counts)
    assert stats["largest_hash"] == counts.max()
    assert 0 < stats["hash_skew"] < 0.1
    assert stats["files"] == 3


def test_an_empty_store_gives_no_rows(store: Store) -> None:
    snapshot = store.snapshot()
    assert snapshot.n_songs == 0
    assert rows(snapshot) == []
    assert snapshot.constellations([1]) == {}
    assert snapshot.songs().num_rows == 0
    assert snapshot.stats()["postings"] == 0


def test_what_is_no_store_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store here"):
        Store.open(str(tmp_path / "nowhere"))
    (tmp_path / "song.mp3").write_bytes(b"x")
    with pytest.raises(StoreError, match=r"holds other things \(song.mp3\)"):
        Store.create(str(tmp_path))
    made = Store.create(str(tmp_path / "s"), Settings(hop=256))
    with pytest.raises(StoreError, match="there is a store already"):
        Store.create(made.url)
    with pytest.raises(ConfigMismatch, match="hop 256, this job asks for 512"):
        Store.open_or_create(made.url, Settings())
    assert Store.open_or_create(made.url).settings == Settings(hop=256)


def test_misuse_is_refused_in_a_sentence(store: Store) -> None:
    with pytest.raises(ParameterError, match="sorted and unique"):
        store.snapshot().postings(np.array([2, 1], np.int32))
    with pytest.raises(ParameterError, match="batch name"):
        stage(store.url, "../x", [random_song("a")])
    with pytest.raises(ParameterError, match="no song"):
        stage(store.url, "x", [])
    with pytest.raises(ParameterError, match="no column 'speed'"):
        store.snapshot().songs(["speed"])
    falling = Peaks(np.array([2, 1], np.int32), np.array([1, 1], np.int32), np.array([0, 0], np.int8))
    unsorted = dataclasses.replace(random_song("a"), peaks=falling)
    with pytest.raises(ParameterError, match="sorted by frame"):
        stage(store.url, "x", [unsorted])
    negative: NDArray[np.int32] = np.array([-1], np.int32)
    with pytest.raises(ParameterError, match="not negative"):
        stage(store.url, "x", [dataclasses.replace(random_song("a"), hashes=Hashes(negative, -negative))])


def test_a_writer_that_lost_the_race_tries_again(store: Store) -> None:
    """Another job commits while this one merges: both are in, and no id is given twice."""
    a, b = random_song("a"), random_song("b")

    def meanwhile(task: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        assert fill(store, [b]) == [2]
        return [task(item) for item in items]

    assert store.commit([stage(store.url, "slow", [a])], map=meanwhile) == [1]
    assert rows(store.snapshot()) == expected({1: a, 2: b})


def test_a_twin_that_another_writer_added_meanwhile_is_left_out(store: Store) -> None:
    a = random_song("a")

    def meanwhile(task: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        assert fill(store, [a]) == [2]
        return [task(item) for item in items]

    assert store.commit([stage(store.url, "slow", [a])], map=meanwhile) == []
    assert rows(store.snapshot()) == expected({2: a})


def test_a_writer_that_died_before_its_commit_leaves_nothing_that_counts(store: Store) -> None:
    a, b = random_song("a"), random_song("b")

    def die(task: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        for item in items:
            task(item)
        raise KeyboardInterrupt

    manifest = stage(store.url, "batch-0-a", [a])
    with pytest.raises(KeyboardInterrupt):
        store.commit([manifest], map=die)
    fill(store, [b])
    assert rows(store.snapshot()) == expected({2: b})
    assert store.commit([manifest]) == [3]
    assert rows(store.snapshot()) == expected({2: b, 3: a})


def test_writers_in_many_threads_lose_nothing(store: Store) -> None:
    songs = [random_song(f"{i:02d}") for i in range(16)]

    def work(writer: int) -> list[int]:
        return [song_id for song in songs[writer::4] for song_id in fill(Store.open(store.url), [song])]

    with ThreadPoolExecutor(4) as threads:
        ids = [song_id for added in threads.map(work, range(4)) for song_id in added]
    assert sorted(ids) == list(range(1, 17))
    by_title = {song.tags.title: song for song in songs}
    snapshot = store.snapshot()
    table = snapshot.songs(["song_id", "title"]).to_pydict()
    assert rows(snapshot) == expected(
        {song_id: by_title[title] for song_id, title in zip(table["song_id"], table["title"], strict=True)}
    )


def live_files(store: Store, table: str) -> list[Path]:
    return [Path(store.url) / name for name in store.snapshot().files(table)]


def long_ago(store: Store) -> None:
    """All files become years old, in place of a night."""
    for path in Path(store.url).rglob("*.*"):
        os.utime(path, (1_600_000_000, 1_600_000_000))


def die(*args: Any) -> Any:
    raise KeyboardInterrupt


def test_a_log_is_not_shortened_past_the_version_that_is_pinned(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer commits its postings while a compaction ends; the entry that is pinned has not changed for months."""
    fill(store, [random_song("a")])
    store.compact(grace_hours=0)
    long_ago(store)
    location = Location.of(store.url)
    delete_leftovers = compaction._delete_leftovers

    def meanwhile(*args: Any) -> Any:
        for table in PINS:
            delta_log.commit(location, delta_log.load(location, table))
        return delete_leftovers(*args)

    monkeypatch.setattr(compaction, "_delete_leftovers", meanwhile)
    store.compact()
    assert rows(store.snapshot()) == expected({1: random_song("a")})
    assert store.check() == []


def log_files(store: Store) -> list[str]:
    return sorted(path.name for path in Path(store.url).rglob("_delta_log/*"))


def test_the_logs_keep_what_readers_within_the_grace_need_and_no_more(store: Store) -> None:
    """Two days pass between commits; who opened the version of the day before can still read all of it.

    A log begins with the last but one checkpoint before that version: the last may turn out to be lost.
    """
    location = Location.of(store.url)

    def versions() -> dict[str, int]:
        return {table: delta_log.load(location, table).number for table in SCHEMAS}

    for name in "ab":
        fill(store, [random_song(name)])
    store.compact()
    first = versions()
    fill(store, [random_song("c")])
    store.compact()
    last = versions()
    long_ago(store)
    kept = store.snapshot()
    left = [Path(store.url, table, "_delta_log", f"{number:020d}.json#1") for table, number in last.items()]
    left.append(Path(store.url, "songs/_delta_log/_commit_0b5a.json.tmp"))  # killed while Delta wrote
    for path in left:
        path.write_bytes(b"half")
        os.utime(path, (1_600_000_000, 1_600_000_000))
    fill(store, [random_song("d")])
    Path(store.url, "songs/_delta_log/_commit_1c6b.json.tmp").write_bytes(b"being written")
    store.compact()
    assert rows(kept) == expected({n: random_song(name) for n, name in enumerate("abc", 1)})
    for table, number in first.items():
        log = Path(store.url, table, "_delta_log")
        assert min(log.glob("*.json")).name == f"{number:020d}.json", "older entries are of no use"
        assert delta_log.load(location, table, last[table]).number == last[table]
    assert not any(path.exists() for path in left)
    assert "_commit_1c6b.json.tmp" in log_files(store)
    store.compact(grace_hours=0)
    assert "_commit_1c6b.json.tmp" not in log_files(store)
    for table in SCHEMAS:
        log = Path(store.url, table, "_delta_log")
        before, newest = sorted(log.glob("*.checkpoint.parquet"))
        assert min(log.glob("*.json")).name[:20] == before.name[:20]
        newest.write_bytes(newest.read_bytes()[:100])
    assert rows(Store.open(store.url).snapshot()) == expected(
        {n: random_song(name) for n, name in enumerate("abcd", 1)}
    )
    assert store.check() == []


def test_a_checkpoint_that_cannot_be_read_does_not_cost_the_entries_before_it(store: Store) -> None:
    fill(store, [random_song("a")])
    store.compact(grace_hours=0)
    fill(store, [random_song("b")])
    write = delta_log._write_checkpoint

    def torn(location: Location, table: str, handle: Any) -> None:
        write(location, table, handle)
        path = Path(location.path(delta_log._checkpoint(table, handle.version())))
        path.write_bytes(path.read_bytes()[:-50])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delta_log, "_write_checkpoint", torn)
        store.compact(grace_hours=0)
    assert rows(Store.open(store.url).snapshot()) == expected({1: random_song("a"), 2: random_song("b")})


def test_compact_merges_small_files_and_drops_what_does_not_count(store: Store) -> None:
    songs = [random_song(f"{i}") for i in range(8)]
    for song in songs:
        fill(store, [song])
    store.remove([2, 5])
    left = {i: song for i, song in enumerate(songs, start=1) if i not in (2, 5)}
    old = store.snapshot()
    assert rows(old) == expected(left)
    report = store.compact()
    assert report.postings_dropped == 600
    assert (report.files_before, report.files_after) == (24, 3)
    assert report.bytes_after < report.bytes_before / 2
    assert (report.bytes_deleted, report.bytes_waiting > 0) == (0, True)
    compacted = store.snapshot()
    assert rows(compacted) == expected(left) == rows(old)
    assert list(compacted.constellations(range(10))) == list(left) == list(old.constellations(range(10)))
    assert compacted.songs(["song_id", "title"]).equals(old.songs(["song_id", "title"]))
    report = store.compact(grace_hours=0)
    assert (report.files_before, report.files_after, report.bytes_waiting) == (3, 3, 0)
    assert report.bytes_deleted > 0
    on_disk = {path for path in Path(store.url).rglob("*.parquet") if "_delta_log" not in path.parts}
    assert on_disk == {path for table in ("songs", "postings", "constellations") for path in live_files(store, table)}
    assert fill(store, [songs[1], songs[0]]) == [9]
    assert rows(store.snapshot()) == expected(left | {9: songs[1]})


def test_compact_leaves_large_files_alone_for_small_ones(store: Store) -> None:
    fill(store, [random_song("large", n_hashes=30_000)])
    large = set(live_files(store, "postings"))
    for name in "abc":
        fill(store, [random_song(name)])
    store.compact()
    assert large < set(live_files(store, "postings"))
    assert len(live_files(store, "postings")) == 2
    fill(store, [random_song("medium", n_hashes=5_000)])
    store.compact()
    assert len(live_files(store, "postings")) == 1
    assert store.snapshot().n_songs == 5


def test_compact_cleans_what_dead_jobs_left_but_not_before_its_time(store: Store) -> None:
    stage(store.url, "abandoned", [random_song("a")])
    torn = Path(store.url) / "postings" / ".tmp-0123"
    torn.write_bytes(b"half")
    stray = Path(store.url) / "postings" / "shard=0" / "0000000009-0000.parquet"
    stray.parent.mkdir()
    stray.write_bytes(b"never committed")
    assert store.compact().bytes_deleted == 0
    assert store.compact(grace_hours=0).bytes_deleted > 0
    assert not torn.exists()
    assert not stray.exists()
    assert list((Path(store.url) / "staging").iterdir()) == []
    for hours in (-1, 169):
        with pytest.raises(ParameterError, match=f"hours of grace are {hours}; they must be 0 to 168"):
            store.compact(grace_hours=hours)


def test_a_job_that_is_overtaken_by_compact_merges_again(store: Store) -> None:
    """Its reserved ids were declared void, since it cannot be distinguished from a job that died."""
    a, b = random_song("a"), random_song("b")
    fill(store, [b])
    runs = []

    def meanwhile(task: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        if not runs:
            store.compact()
        runs.append([task(item) for item in items])
        return runs[-1]

    assert store.commit([stage(store.url, "slow", [a])], map=meanwhile) == [3]
    assert len(runs) == 2
    assert rows(store.snapshot()) == expected({1: b, 3: a})
    assert store.compact().postings_dropped == 300
    assert rows(store.snapshot()) == expected({1: b, 3: a})


def test_a_commit_and_a_compaction_at_once_keep_each_others_work(store: Store) -> None:
    songs = [random_song(name) for name in "abc"]
    for song in songs[:2]:
        fill(store, [song])

    def meanwhile(task: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        if store.snapshot().n_songs == 2:
            fill(store, [songs[2]])
            store.remove([1])
        return [task(item) for item in items]

    store.compact(map=meanwhile)
    assert rows(store.snapshot()) == expected({2: songs[1], 3: songs[2]})
    store.compact(grace_hours=0)
    assert rows(store.snapshot()) == expected({2: songs[1], 3: songs[2]})


def test_two_compactions_at_once_do_the_work_once(store: Store) -> None:
    songs = [random_song(name) for name in "abc"]
    for song in songs:
        fill(store, [song])
    overtaken = []

    def meanwhile(task: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        if not overtaken:
            overtaken.append(True)
            store.compact()
        return [task(item) for item in items]

    store.compact(map=meanwhile)
    assert len(live_files(store, "postings")) == 1
    assert rows(store.snapshot()) == expected(dict(enumerate(songs, start=1)))


def test_the_earlier_of_two_compactions_keeps_what_the_later_one_merged_across_its_end(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order in which the model found that a compaction may drop ids behind its own end: `tests.commit_model`."""
    songs = [random_song(name) for name in "abcd"]
    fill(store, songs[:2])
    fill(store, songs[2:3])
    store.remove([1])
    indexed_songs = compaction._indexed_songs

    def meanwhile(*args: Any) -> Any:  # the first one has set its fence, and nothing else
        found = indexed_songs(*args)
        monkeypatch.setattr(compaction, "_indexed_songs", indexed_songs)
        fill(store, songs[3:])
        store.compact()
        return found

    monkeypatch.setattr(compaction, "_indexed_songs", meanwhile)
    store.compact()
    left = expected({2: songs[1], 3: songs[2], 4: songs[3]})
    assert rows(store.snapshot()) == left
    store.compact(grace_hours=0)
    assert rows(store.snapshot()) == left


def test_files_that_a_compaction_replaced_before_it_died_stay_while_songs_pin_them(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It replaced files of the tables long ago; who has opened the store since has the songs of before, and those."""
    for name in "ab":
        fill(store, [random_song(name)])
    monkeypatch.setattr(transaction, "RemoveAction", deleted_long_ago)
    with monkeypatch.context() as patch:
        patch.setattr(compaction, "_rewrite_songs", die)
        with pytest.raises(KeyboardInterrupt):
            store.compact()
    long_ago(store)
    kept = store.snapshot()
    assert store.compact().bytes_deleted == 0
    assert rows(kept) == expected({1: random_song("a"), 2: random_song("b")})
    assert list(kept.constellations([1, 2])) == [1, 2]
    long_ago(store)
    report = store.compact()
    assert (report.bytes_deleted > 0, report.bytes_waiting) == (True, 0)


def test_a_log_that_was_cut_short_halfway_is_cut_short_by_the_next_compaction(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        fill(store, [random_song(name)])
        store.compact()
    deleted: list[str] = []
    delete = Location.delete

    def some(location: Location, name: str) -> None:
        deleted.append(name) if not deleted else die()
        delete(location, name)

    with monkeypatch.context() as patch:
        patch.setattr(compaction, "_delete_leftovers", lambda *args: (0, 0))
        patch.setattr(Location, "delete", some)
        with pytest.raises(KeyboardInterrupt):
            store.compact(grace_hours=0)
    assert [Path(name).name for name in deleted] == [f"{0:020d}.json"]
    for hours in (24, 0):
        store.compact(grace_hours=hours)
        assert rows(store.snapshot()) == expected({n: random_song(name) for n, name in enumerate("abc", 1)})
    assert not [name for name in log_files(store) if name.startswith(f"{2:020d}")]


def test_a_store_takes_in_another_without_the_audio(tmp_path: Path) -> None:
    a, b, c, d = (random_song(name) for name in "abcd")
    one, two = Store.create(str(tmp_path / "one")), Store.create(str(tmp_path / "two"))
    fill(one, [a, b])
    fill(two, [d])
    fill(two, [c])
    two.remove([1])
    two.compact()
    fill(two, [b])
    assert one.absorb(two) == [3]
    assert one.absorb(two) == []
    assert rows(one.snapshot()) == expected({1: a, 2: b, 3: c})
    assert one.snapshot().songs(["title", "duration_s"]).to_pylist()[2] == {"title": "c", "duration_s": 60.0}
    np.testing.assert_array_equal(one.snapshot().constellations([3])[3].frame, c.peaks.frame)
    with pytest.raises(ConfigMismatch, match=r"hop 512, .*three has 256"):
        one.absorb(Store.create(str(tmp_path / "three"), Settings(hop=256)))


def test_a_query_does_not_import_what_it_does_not_use(store: Store) -> None:
    fill(store, [random_song("a")])
    code = f"""
import sys
import numpy as np
from pipeline.store import Store
snapshot = Store.open({store.url!r}).snapshot()
assert len(snapshot.postings(np.arange(256, dtype=np.int32))) == 300
assert snapshot.constellations([1]) and snapshot.songs(["path"]).to_pylist()
late = {{"fsspec", "dask", "distributed", "polars"}} & set(sys.modules)
assert not late, late
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_a_store_is_opened_by_a_path_as_by_its_text(tmp_path: Path) -> None:
    made = Store.create(tmp_path / "store")
    assert Store.exists(tmp_path / "store")
    assert Store.open(tmp_path / "store").url == Store.open_or_create(str(tmp_path / "store")).url == made.url
    with pytest.raises(ParameterError, match="store: 7 is no path"):
        Store.open(7)  # type: ignore[arg-type]
