"""Damage to a store on a disk: which problems `check` reports, and what a repair restores."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.cli import run
from pipeline.errors import StoreError
from pipeline.store import Store, delta_log, postings, stage
from pipeline.store.postings import ShardPostings
from pipeline.store.schema import NEXT_FRAME, NEXT_SONG_ID, PINS, SCHEMAS
from pipeline.store.songs import read_songs, write_songs
from pipeline.store.storage import Location
from tests.fakes import make_song

N_SONGS = 12


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Two commits, then compacted, then one more: a large file and a small one of each kind."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setattr(postings, "PART_ROWS", 512)
    monkeypatch.setattr(postings, "DIRECTORY_ROWS", 1000)
    store = Store.create(str(tmp_path / "library.songprint"))
    songs = [make_song(number) for number in range(1, N_SONGS + 1)]
    for name, batch in (("a", songs[:5]), ("b", songs[5:11])):
        store.commit([stage(store.url, name, batch)])
    store.compact(grace_hours=0)
    store.commit([stage(store.url, "c", songs[11:])])
    return store


def everything(store: Store) -> tuple[list[int], list[tuple[int, ...]], dict[int, list[int]]]:
    """All song ids, postings and peaks of a store."""
    snapshot = store.snapshot()
    ids = snapshot.songs(["song_id"])["song_id"].to_pylist()
    hashes = np.unique(np.concatenate([make_song(number).hashes.hash for number in range(1, N_SONGS + 1)]))
    found = snapshot.postings(hashes)
    rows = list(zip(found.hash.tolist(), found.song_id.tolist(), found.offset.tolist(), strict=True))
    return ids, rows, {song_id: peaks.bin.tolist() for song_id, peaks in snapshot.constellations(ids).items()}


def largest(store: Store, table: str) -> Path:
    return max((Path(store.url) / name for name in store.snapshot().files(table)), key=lambda path: path.stat().st_size)


def flip(path: Path, at: float) -> None:
    """Flip one bit, at a place between the start (0) and the end (1) of a file."""
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 4
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def replace_postings(store: Store, change: Callable[[ShardPostings], ShardPostings]) -> None:
    """Put other postings in place of the large file's, and let the log agree."""
    location = Location.of(store.url)
    version = delta_log.load(location, "postings")
    old = next(file for file in version.files if largest(store, "postings").as_posix().endswith(file.name))
    found = postings.from_table(pq.read_table(largest(store, "postings"), partitioning=None))
    new = postings.write(
        location, "postings/shard=0/other-0000.parquet", iter([change(found)]), json.dumps(store.settings.to_dict())
    )
    assert new is not None
    version = delta_log.commit(location, version, [new], [old])
    songs = delta_log.load(location, "songs")
    delta_log.commit(location, songs, numbers={PINS["postings"]: version.number})


def one_posting(hash_: int, position: int) -> ShardPostings:
    return ShardPostings(np.array([hash_], np.int32), np.array([position], np.int32))


def with_unknown_song(found: ShardPostings) -> ShardPostings:
    return postings.sort(postings.join([found, one_posting(7, 2_000_000)]))


def one_less(found: ShardPostings) -> ShardPostings:
    return postings.take(found, slice(1, None))


def unsorted(found: ShardPostings) -> ShardPostings:
    return postings.take(found, slice(None, None, -1))


def wrong_settings(store: Store) -> None:
    metadata = Path(store.url) / "songprint.json"
    metadata.write_text(metadata.read_text().replace('"hop": 512', '"hop": 256'))


DAMAGES: dict[str, tuple[Callable[[Store], None], str]] = {
    "a missing postings file": (lambda store: largest(store, "postings").unlink(), r"postings/.*/c.*is missing"),
    "a missing peaks file": (lambda store: largest(store, "constellations").unlink(), r"constellations/.*is missing"),
    "a missing songs file": (lambda store: largest(store, "songs").unlink(), r"songs/.*: the file is missing"),
    "a truncated file": (lambda store: cut(largest(store, "postings")), r"postings/.*c.* bytes, its table's log says"),
    "a flipped byte in a page of postings": (lambda store: flip(largest(store, "postings"), 0.3), r"postings/.*c.*sum"),
    "a flipped byte in a page of peaks": (lambda store: flip(largest(store, "constellations"), 0.3), r"const.*/c.*sum"),
    "a flipped byte in a page of songs": (lambda store: flip(largest(store, "songs"), 0.1), r"songs/.*checksum"),
    "a posting of an unknown song": (
        lambda store: replace_postings(store, with_unknown_song),
        r"postings/.*other.*: it has rows at frame 2000000 of shard 0, and no song was ever given that",
    ),
    "a wrong count": (
        lambda store: replace_postings(store, one_less),
        r"postings: song \d+ \(/music/\d+.flac\) has \d+ rows where \d+ belong",
    ),
    "an unsorted file": (lambda store: replace_postings(store, unsorted), r"postings/.*: its rows are not sorted"),
    "settings that disagree": (wrong_settings, r"songs: its settings are not those of songprint.json"),
}  # fmt: skip


def test_a_store_that_nobody_touched_is_whole(store: Store) -> None:
    assert store.check() == []
    repair = Store.repair(store.url)
    assert (repair.done, repair.lost) == ((), ())


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named_with_its_file_and_repaired(store: Store, name: str) -> None:
    before = everything(store)
    damage, sentence = DAMAGES[name]
    damage(store)
    problems = Store.open(store.url).check()
    assert any(re.search(sentence, str(problem)) for problem in problems), problems
    assert all("`songprint check --repair`" in str(problem) for problem in problems)
    repair = Store.repair(store.url)
    repaired = Store.open(store.url)
    assert repaired.check() == []
    after = everything(repaired)
    if "songs" in name:  # which songs these were is recorded nowhere else
        assert after[0] == [12]
        assert "index the library again" in repair.done[0]
    elif "peaks" in name:
        assert set(repair.lost) == {f"/music/{song_id}.flac" for song_id in set(before[0]) - set(after[0])}
        assert 12 in after[0]
        assert (len(after[0]) > 1) == ("missing" not in name)  # row groups that can be read are kept
        assert after[1] == [row for row in before[1] if row[1] in after[0]]
    else:
        assert (repair.lost, after) == ((), before)


def test_no_flipped_bit_passes_the_check_and_changes_what_is_read(store: Store, rng: np.random.Generator) -> None:
    before = everything(store)
    snapshot = store.snapshot()
    for table in ("songs", "postings", "constellations"):
        for name in snapshot.files(table):
            path = Path(store.url) / name
            whole = path.read_bytes()
            for at in np.concatenate([rng.random(8), 1 - rng.random(8) / 8]):  # footers are small
                flip(path, at)
                if not store.check():  # what names the writer, say, in the footer
                    assert everything(store) == before
                path.write_bytes(whole)


def test_songs_that_were_lost_can_be_indexed_again(store: Store) -> None:
    flip(largest(store, "constellations"), 0.3)
    lost = Store.repair(store.url).lost
    assert lost
    songs = [make_song(int(Path(path).stem)) for path in lost]
    assert len(store.commit([stage(store.url, "again", songs)])) == len(lost)
    assert store.check() == []
    assert store.snapshot().n_songs == N_SONGS


@pytest.mark.parametrize("table", SCHEMAS)
def test_a_file_that_cannot_be_read_for_the_moment_is_not_given_up(
    table: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything(store)
    lost = str(largest(store, table))
    opened = pq.ParquetFile.__init__

    def fail(file: pq.ParquetFile, source: str, **options: bool) -> None:
        if str(source) == lost:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        opened(file, source, **options)

    with monkeypatch.context() as patch:
        patch.setattr(pq.ParquetFile, "__init__", fail)
        with pytest.raises(StoreError, match=re.escape(f"{lost}: cannot be read: Input/output error; put that right")):
            Store.repair(store.url)
    assert Store.repair(store.url).done == ()
    assert everything(store) == before


def test_a_commit_that_a_power_cut_tore_is_taken_back(store: Store) -> None:
    before = everything(store)
    log = Path(store.url) / "songs" / "_delta_log"
    store.remove([3])
    torn = max(log.glob("*.json"))
    torn.write_bytes(torn.read_bytes()[:20])
    assert everything(store) == before
    assert store.check() == []
    assert store.remove([3]) == 1  # writes the entry anew
    assert everything(store)[0] == [number for number in before[0] if number != 3]
    assert store.check() == []


@pytest.mark.parametrize("left", [0, 20])
def test_a_torn_commit_does_not_keep_a_repair_from_its_own(store: Store, left: int) -> None:
    before = everything(store)
    largest(store, "postings").unlink()
    log = Path(store.url) / "postings" / "_delta_log"
    torn = log / f"{int(max(log.glob('*.json')).stem) + 1:020d}.json"
    torn.write_bytes(max(log.glob("*.json")).read_bytes()[:left])
    repair = Store.repair(store.url)
    assert f"postings/_delta_log/{torn.name}: deleted; a power cut tore this commit" in repair.done
    assert everything(store) == before
    assert store.check() == []


def test_a_log_that_lost_a_pinned_version_is_repaired_from_the_peaks(store: Store) -> None:
    before = everything(store)
    max((Path(store.url) / "postings" / "_delta_log").glob("*.json")).unlink()
    assert any("its log ends at version" in problem.what for problem in store.check())
    assert Store.repair(store.url).lost == ()
    assert everything(store) == before
    assert store.check() == []


@pytest.mark.parametrize("left", ["checkpoint", "hint", "half"])
def test_what_a_power_cut_leaves_of_a_checkpoint_is_not_needed(store: Store, left: str) -> None:
    before = everything(store)
    log = Path(store.url) / "songs" / "_delta_log"
    checkpoint = max(log.glob("*.checkpoint.parquet"))
    if left == "hint":
        checkpoint.unlink()
    else:
        checkpoint.write_bytes(checkpoint.read_bytes()[: 500 if left == "half" else 0])
    assert everything(store) == before
    assert store.check() == []
    assert store.remove([3]) == 1


def test_a_damaged_checkpoint_is_kept_when_the_log_has_not_its_contents(store: Store) -> None:
    log = Path(store.url) / "songs" / "_delta_log"
    checkpoint = max(log.glob("*.checkpoint.parquet"))
    checkpoint.write_bytes(b"PAR1")
    min(log.glob("*.json")).unlink()
    with pytest.raises(StoreError, match="cannot read"):
        store.snapshot()
    assert checkpoint.exists()


def test_lost_store_metadata_is_written_again(store: Store) -> None:
    (Path(store.url) / "songprint.json").write_text("{}")
    with pytest.raises(StoreError, match="check --repair` restores it"):
        Store.open(store.url)
    assert Store.repair(store.url).done == ("songprint.json: written again with the settings of the tables",)
    assert Store.open(store.url).check() == []


@pytest.mark.parametrize(("version", "way_out"), [(0, "index the music again"), (4, "or a newer one")])
def test_another_format_is_refused_with_the_way_out(store: Store, version: int, way_out: str) -> None:
    metadata = Path(store.url) / "songprint.json"
    metadata.write_text(json.dumps({"format": version, "settings": {"unknown": "of another format"}}))
    with pytest.raises(StoreError, match=f"the store has format {version}, this songprint reads 3; .*{way_out}"):
        Store.open(store.url)
    with pytest.raises(StoreError, match=f"format {version}"):
        Store.repair(store.url)


def test_leftovers_of_dead_jobs_are_no_problem(store: Store) -> None:
    """Postings of an id that was reserved, and never committed: no snapshot has them, and `compact` drops them."""
    location = Location.of(store.url)
    songs = delta_log.load(location, "songs")
    frame = songs.numbers[NEXT_FRAME]
    delta_log.commit(location, songs, numbers={NEXT_SONG_ID: N_SONGS + 2, NEXT_FRAME: frame + 100})
    text = json.dumps(store.settings.to_dict())
    name = f"postings/shard=0/{N_SONGS + 1:010d}-0000.parquet"
    file = postings.write(location, name, iter([one_posting(7, frame + 3)]), text)
    assert file is not None
    delta_log.commit(location, delta_log.load(location, "postings"), [file])
    assert store.check() == []
    assert store.compact().postings_dropped == 1
    assert store.check() == []


def test_an_untrusted_store_cannot_lead_out_of_its_folder(store: Store) -> None:
    log = max((Path(store.url) / "postings" / "_delta_log").glob("*.json"))
    log.write_text(re.sub(r'"path":"[^"]*"', '"path":"../../elsewhere.parquet"', log.read_text()))
    with pytest.raises(StoreError, match=r"names a file that is not in its folder: .*elsewhere.parquet"):
        everything(store)


def test_an_untrusted_store_cannot_take_all_memory(store: Store) -> None:
    location = Location.of(store.url)
    version = delta_log.load(location, "songs")
    rows = read_songs(location, version)
    huge = rows.set_column(0, rows.schema.field(0), pa.array([2_000_000_000 + i for i in range(len(rows))], pa.int32()))
    delta_log.commit(location, version, [write_songs(location, huge)], version.files)
    with pytest.raises(StoreError, match="song ids that no songprint gave"):
        everything(store)


def test_postings_of_impossible_songs_count_nowhere(store: Store, tmp_path: Path) -> None:
    before = everything(store)

    def with_impossible_songs(found: ShardPostings) -> ShardPostings:
        positions = (-1, -7, 5_000_000, 2_000_000_000)
        return postings.sort(postings.join([found, *(one_posting(int(found.hash[9]), at) for at in positions)]))

    replace_postings(store, with_impossible_songs)
    assert everything(store) == before
    other = Store.create(str(tmp_path / "other"))
    assert len(other.absorb(store)) == N_SONGS
    assert everything(other)[1] == before[1]
    assert other.check() == []


@pytest.mark.parametrize("what", ["postings", "postings/_delta_log"])
def test_postings_that_are_wholly_gone_are_made_from_the_peaks(
    store: Store, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store.remove([3])
    before = everything(store)
    shutil.rmtree(Path(store.url) / what)
    assert run(["check", "--store", store.url]) == 1
    said = capsys.readouterr().err
    assert re.fullmatch(r"StoreError: .*postings/_delta_log: it is gone; `songprint check --repair` says .*\n", said)
    assert run(["check", "--store", store.url, "--repair"]) == 0
    assert everything(store) == before
    assert store.check() == []
    store.commit([stage(store.url, "more", [make_song(77)])])
    store.compact(grace_hours=0)
    assert store.check() == []


@pytest.mark.parametrize("table", ["songs", "constellations"])
def test_other_tables_that_are_wholly_gone_have_a_way_back_too(
    store: Store, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(Path(store.url) / table)
    assert run(["check", "--store", store.url, "--repair"]) == 1
    assert f"bring {table}/ back from a backup, or index the music into a new store" in capsys.readouterr().err
