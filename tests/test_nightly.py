"""One path, one song: a store follows a folder that changes, whatever is done to it."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from jobs.cli import run
from pipeline import Store, catalog, index, indexing
from pipeline.audio import ffmpeg
from pipeline.execution.executor import Died
from pipeline.simulation import encoding
from tests.nightly import RATE, Folder, contents, made_anew, night, samples

pytestmark = pytest.mark.usefixtures("whole_stores")


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture
def music(tmp_path: Path) -> Path:
    """Three songs, the first with a copy."""
    folder = tmp_path / "music"
    (folder / "sub").mkdir(parents=True)
    for seed, name in enumerate(("one.flac", "two.flac", "sub/three.flac")):
        write(folder / name, seed)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(str(tmp_path / "store"))


def write(path: Path, seed: int, title: str = "a title") -> None:
    encoding.write(path, samples(seed), RATE, title=title, artist=str(seed))
    touch(path)


def touch(path: Path) -> None:
    """Give it a time of change that it never had: the clock of a file system may stand still between two changes."""
    touch.count = getattr(touch, "count", 0) + 1  # type: ignore[attr-defined]
    os.utime(path, ns=(1, touch.count * 10**9))  # type: ignore[attr-defined]


def songs(store: Store) -> dict[str, tuple[int, str]]:
    """Song id and title, by path."""
    rows = store.snapshot().songs(["path", "song_id", "title"]).to_pylist()
    found = {row["path"]: (row["song_id"], row["title"]) for row in rows}
    assert len(found) == len(rows), "two songs under one path"
    return found


def postings_files(store: Store) -> tuple[str, ...]:
    return store.snapshot().files("postings")


def test_after_thirty_nights_the_store_equals_one_made_anew(tmp_path: Path) -> None:
    folder, store = Folder(tmp_path / "music", 1), Store.create(str(tmp_path / "store"))
    rng = np.random.default_rng(1)
    for number in range(29):
        night(folder.path, store, commit_at_once=bool(rng.integers(2)))
        if number % 10 == 9:
            store.compact(grace_hours=0)
        folder.day(int(rng.integers(1, 8)))
    night(folder.path, store, commit_at_once=True)
    assert contents(store) == made_anew(folder.path, tmp_path / "anew")
    assert store.check() == []


def test_a_retagged_file_keeps_its_song_and_its_postings(music: Path, store: Store) -> None:
    index([str(music)], store)
    before, files = songs(store), postings_files(store)
    write(music / "one.flac", 0, "another title")
    report = index([str(music)], store)
    assert (report.added, report.retagged, report.present) == (0, 1, 2)
    one = str(music / "one.flac")
    assert songs(store) == before | {one: (before[one][0], "another title")}
    assert postings_files(store) == files
    assert index([str(music)], store).present == 3


def test_a_file_that_was_retagged_and_moved_is_the_same_song(music: Path, store: Store) -> None:
    index([str(music)], store)
    song_id, _ = songs(store)[str(music / "one.flac")]
    (music / "one.flac").unlink()
    write(music / "sub" / "01 one.flac", 0, "One")
    report = index([str(music)], store)
    assert (report.added, report.retagged, report.moved) == (0, 1, 1)
    assert songs(store)[str(music / "sub" / "01 one.flac")] == (song_id, "One")
    assert len(songs(store)) == 3


def test_a_copy_with_other_tags_is_another_song(music: Path, store: Store) -> None:
    index([str(music)], store)
    write(music / "copy.flac", 0, "of one")
    assert index([str(music)], store).added == 1
    assert len(songs(store)) == 4


def test_other_audio_under_a_path_replaces_the_song(music: Path, store: Store) -> None:
    index([str(music)], store)
    before = songs(store)
    write(music / "two.flac", 7, "seven")
    report = index([str(music)], store)
    assert (report.added, report.replaced) == (1, 1)
    two = str(music / "two.flac")
    assert songs(store) == before | {two: (4, "seven")}
    assert store.check() == []


def test_names_that_were_swapped_are_swapped(music: Path, store: Store) -> None:
    index([str(music)], store)
    before, files = songs(store), postings_files(store)
    (music / "one.flac").rename(music / "x")
    (music / "two.flac").rename(music / "one.flac")
    (music / "x").rename(music / "two.flac")
    touch(music / "one.flac")
    touch(music / "two.flac")
    report = index([str(music)], store)
    assert (report.added, report.replaced, report.moved) == (0, 0, 2)
    one, two = str(music / "one.flac"), str(music / "two.flac")
    assert songs(store) == before | {one: before[two], two: before[one]}
    assert postings_files(store) == files


def test_every_path_of_a_content_is_remembered_and_a_move_prefers_the_file_name(
    music: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    index([str(music)], store)
    for name in ("a copy.flac", "sub/one.flac"):
        shutil.copyfile(music / "one.flac", music / name)
    report = index([str(music)], store)
    assert (report.added, report.present) == (0, 5)
    (row,) = [row for row in store.snapshot().songs().to_pylist() if row["other_paths"]]
    assert row["other_paths"] == [str(music / "a copy.flac"), str(music / "sub" / "one.flac")]
    with monkeypatch.context() as patch:
        patch.setattr(catalog, "digest", lambda path: pytest.fail(f"{path} was read again"))
        assert index([str(music)], store).present == 5
    (music / "one.flac").unlink()
    assert index([str(music)], store).moved == 1
    assert songs(store)[str(music / "sub" / "one.flac")][0] == row["song_id"]
    write(music / "sub" / "one.flac", 9)
    assert index([str(music)], store).replaced == 0
    assert songs(store)[str(music / "a copy.flac")][0] == row["song_id"]
    (music / "a copy.flac").unlink()
    shutil.copyfile(music / "two.flac", music / "z.flac")
    index([str(music)], store, prune=True)
    assert contents(store) == made_anew(music, music.parent / "anew")


def test_songs_whose_file_is_gone_are_listed_and_pruned(
    music: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = music.parent / "outside.flac"
    write(outside, 5)
    index([str(music), str(outside)], store)
    (music / "two.flac").unlink()
    outside.unlink()
    assert run(["songs", "--missing", "--store", store.url, "--format", "json"]) == 0
    listed = {row["path"] for row in json.loads(capsys.readouterr().out)}
    assert listed == {str(music / "two.flac"), str(outside)}
    assert run(["index", str(music), "--store", store.url]) == 0
    assert "1 song without a file: `songs --missing` lists them" in capsys.readouterr().err
    assert run(["index", str(music), "--store", store.url, "--prune"]) == 0
    assert "1 song has no file any more, to be removed." in capsys.readouterr().err
    assert set(songs(store)) == {str(music / "one.flac"), str(music / "sub" / "three.flac"), str(outside)}


def test_a_folder_that_is_not_there_or_not_mounted_loses_no_song(
    music: Path, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = music / "disk"
    disk.mkdir()
    write(disk / "four.flac", 4)
    other = music.parent / "other"
    other.mkdir()
    write(other / "five.flac", 5)
    real = os.path.ismount
    with monkeypatch.context() as patch:
        patch.setattr(os.path, "ismount", lambda path: path == str(disk) or real(path))
        index([str(music), str(other)], store)
    everything = songs(store)
    (disk / "four.flac").unlink()  # the disk is not mounted: an empty folder is left
    (other / "five.flac").unlink()
    command = ["index", "--store", store.url, "--prune"]
    assert run([*command, str(music), str(other)]) == 0
    assert "other: no audio file there; is it mounted? No song below it is removed" in capsys.readouterr().err
    assert songs(store) == everything
    disk.rmdir()
    assert run([*command, str(music)]) == 0
    assert songs(store) == everything
    assert run([*command, str(other)]) == 1
    shutil.rmtree(other)
    assert run([*command, str(music), str(other)]) == 1
    assert songs(store) == everything


def test_a_folder_that_cannot_be_searched_loses_no_song(
    music: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    index([str(music)], store)
    everything = songs(store)
    shutil.rmtree(music / "sub")
    real = os.lstat

    def lstat(path: Any, **options: Any) -> os.stat_result:
        if b"sub/" in os.fsencode(path):
            raise PermissionError(13, "Permission denied", path)
        return real(path, **options)

    monkeypatch.setattr(os, "lstat", lstat)
    assert index([str(music)], store, prune=True).removed == 0
    assert songs(store) == everything


def test_a_file_that_failed_is_tried_again_when_it_changes_or_on_request(
    music: Path, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (music / "broken.mp3").write_bytes(b"this is no music" * 1000)
    listed = tmp_path / "failures.csv"
    command = ["index", str(music), "--store", store.url, "--strict", "--failures", str(listed)]
    assert run(command) == 1
    first = listed.read_text()
    assert "broken.mp3" in first
    capsys.readouterr()
    assert run(command) == 0
    said = capsys.readouterr().err
    assert "1 file failed before and did not change; --retry tries again." in said
    assert "broken.mp3" not in said
    assert listed.read_text() == first
    assert run([*command, "--retry"]) == 1
    touch(music / "broken.mp3")
    assert run(command) == 1
    assert run(command) == 0
    (music / "broken.mp3").unlink()
    write(music / "broken.flac", 8)
    assert run([*command, "--prune"]) == 0
    assert listed.read_text().count("\n") == 1


def test_only_what_lies_in_the_file_is_remembered_of_a_failure(
    music: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    (music / "broken.mp3").write_bytes(bytes(range(256)) * 100)
    with monkeypatch.context() as patch:
        patch.setattr(ffmpeg, "_ffmpeg", lambda: "/no/ffmpeg")
        assert len(index([str(music)], store).failures) == 1
        assert len(index([str(music)], store).failures) == 1
    assert len(index([str(music)], store, limit_s=50.0).failures) == 1
    assert len(index([str(music)], store, limit_s=20.0).failed_before) == 1
    assert len(index([str(music)], store).failures) == 1, "it had a limit then"
    assert len(index([str(music)], store, limit_s=50.0).failed_before) == 1
    (Path(store.url) / "failures.parquet").write_bytes(b"torn")
    assert len(index([str(music)], store).failures) == 1
    assert store.check() == []


def test_a_file_that_kills_its_worker_is_not_tried_again(
    music: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deadly:
        workers = 1

        def require_visible(self, paths: Iterable[str]) -> None: ...

        def map(self, task: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
            return [task(item) for item in items]

        def as_completed(self, task: Callable[[Any], Any], items: Iterable[Any]) -> Any:
            yield from (Died(item, "killed") for item in items)

    monkeypatch.setattr(indexing, "open_executor", lambda executor: Deadly())
    assert len(index([str(music)], store).failures) == 3
    assert len(index([str(music)], store).failed_before) == 3


def test_content_that_moved_before_its_old_name_was_taken_is_kept(
    music: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old name comes first, in a commit of its own: the run finds the content later, and takes it once more."""
    index([str(music)], store)
    (music / "one.flac").rename(music / "z.flac")
    write(music / "one.flac", 9)
    touch(music / "z.flac")
    night(music, store, commit_at_once=True)
    assert set(songs(store)) == {str(music / name) for name in ("one.flac", "two.flac", "sub/three.flac", "z.flac")}
    assert contents(store) == made_anew(music, music.parent / "anew")


def test_a_run_names_the_song_that_a_file_is_a_copy_of(
    music: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    index([str(music)], store)
    shutil.copyfile(music / "one.flac", music / "copy.flac")
    assert run(["index", str(music), "--store", store.url, "-v", "--log-json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (line,) = [line for line in lines if "song_path" in line]
    one = str(music / "one.flac")
    expected = {"path": str(music / "copy.flac"), "song_id": songs(store)[one][0], "song_path": one}
    assert {name: line[name] for name in expected} == expected
    assert run(["remove", str(music / "copy.flac"), "--store", store.url]) == 1
    assert "this file is the same as song" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["{folder}/Café.flac", "*/Café.fl*"])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_both_unicode_forms_of_a_name_are_one_name(music: Path, store: Store, word: str, form: Any) -> None:
    other: Any = {"NFC": "NFD", "NFD": "NFC"}[form]
    write(music / unicodedata.normalize(other, "Café.flac"), 6)
    index([str(music)], store)
    assert run(["remove", unicodedata.normalize(form, word.format(folder=music)), "--store", store.url]) == 0
    assert len(songs(store)) == 3


def test_another_job_that_removes_a_retagged_song_meanwhile_loses_nothing(
    music: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    index([str(music)], store)
    write(music / "one.flac", 0, "another title")
    write(music / "new.flac", 11)
    real = indexing.Store.commit_files

    def commit_files(self: Store, manifests: Any, found: Any, map: Any = map, prune: bool = False) -> Any:  # noqa: A002
        def meanwhile(task: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
            self.remove([1])
            return [task(item) for item in items]

        return real(self, manifests, found, meanwhile if manifests else map, prune)

    monkeypatch.setattr(Store, "commit_files", commit_files)
    index([str(music)], store)
    assert contents(store) == made_anew(music, music.parent / "anew")
    assert store.check() == []


def test_objects_that_are_gone_are_pruned_too(store: Store, music: Path) -> None:
    fs = fsspec.filesystem("memory")
    for name in ("one.flac", "two.flac", "sub/three.flac"):
        fs.pipe(f"/bucket/{name}", (music / name).read_bytes())
    try:
        assert index("memory://bucket", store).added == 3
        fs.rm("/bucket/sub/three.flac")
        fs.mv("/bucket/one.flac", "/bucket/sub/one.flac")
        report = index("memory://bucket", store, prune=True)
        assert (report.added, report.moved, report.removed) == (0, 1, 1)
        assert set(songs(store)) == {"memory:///bucket/two.flac", "memory:///bucket/sub/one.flac"}
    finally:
        fs.rm("/bucket", recursive=True)
