"""Which files are songs, their digests, and local copies."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import fsspec
import numpy as np
import pytest
import soundfile

from pipeline.audio.tags import Tags, read_tags
from pipeline.catalog import Entry, digest, find, local_copy, walk
from pipeline.errors import AudioError, CatalogError


def names(entries: list[Entry], folder: Path) -> list[str]:
    return [os.path.relpath(entry.path, folder) for entry in entries]


@pytest.fixture
def song(tmp_path: Path) -> Path:
    path = tmp_path / "song.flac"
    soundfile.write(path, np.sin(np.arange(8000) / 9), 8000)
    return path


def test_a_folder_is_searched_recursively_and_only_audio_is_taken(tmp_path: Path) -> None:
    (tmp_path / "b" / "c.mp3").mkdir(parents=True)
    for name in ("z.MP3", "a.txt", "b/x.flac", "b/cover.jpg", "b/c.mp3/deep.m4a", "b/film.MKV", ".hidden.ogg", "mp3"):
        (tmp_path / name).write_bytes(b"12345")
    found = walk([str(tmp_path)])
    assert names(found, tmp_path) == [".hidden.ogg", "b/c.mp3/deep.m4a", "b/film.MKV", "b/x.flac", "z.MP3"]
    assert {entry.size_bytes for entry in found} == {5}
    assert found[0].modified_ns == (tmp_path / ".hidden.ogg").stat().st_mtime_ns


def test_files_of_other_kinds_are_counted(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("a.mp3", "b/cover.JPG", "b/back.jpg", "notes", ".DS_Store", "._a.mp3"):
        (tmp_path / name).write_bytes(b"12345")
    assert find([str(tmp_path)]).passed_over == {".jpg": 2, "": 1}
    (tmp_path / "a.mp3").unlink()
    with pytest.raises(CatalogError, match=r"in this folder; it has 3 other files \(2 \.jpg, 1 without suffix\)$"):
        walk([str(tmp_path)])


@pytest.mark.parametrize("name", ["a.shn", "a.mod", "a.XM", "a.dff", "a.m4r", "a.mpga", "a.awb", "a.f4v"])
def test_suffixes_of_formats_that_ffmpeg_reads_are_found_in_folders(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    assert names(walk([str(tmp_path)]), tmp_path) == [name]


def test_paths_given_twice_or_inside_each_other_are_found_once_and_sorted(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("b/2.mp3", "1.mp3", "3.mp3"):
        (tmp_path / name).touch()
    found = walk([str(tmp_path / "b"), str(tmp_path), str(tmp_path / "3.mp3"), str(tmp_path)])
    assert names(found, tmp_path) == ["1.mp3", "3.mp3", "b/2.mp3"]


def test_paths_are_as_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "a.mp3").touch()
    monkeypatch.chdir(tmp_path)
    assert [entry.path for entry in walk(["m"])] == [os.path.join("m", "a.mp3")]
    assert [entry.path for entry in walk(["m/"])] == ["m/a.mp3"]


def test_a_file_given_by_itself_is_known_by_its_first_bytes(song: Path, tmp_path: Path) -> None:
    bare = song.rename(tmp_path / "track01")
    assert [entry.path for entry in walk([str(bare)])] == [str(bare)]
    (tmp_path / "notes").write_text("hello")
    with pytest.raises(CatalogError, match=r"notes: not an audio file; give one, or a folder"):
        walk([str(tmp_path / "notes")])
    (tmp_path / "empty.mp3").touch()  # it says that it is audio: decoding will say what is wrong
    assert len(walk([str(tmp_path / "empty.mp3")])) == 1


def test_what_is_not_there_or_holds_no_audio_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"none: No such file"):
        walk([str(tmp_path / "none")])
    with pytest.raises(CatalogError, match=r"no audio file in this folder$"):
        walk([str(tmp_path)])
    with pytest.raises(CatalogError, match="null"):
        walk(["a\0b"])


def test_what_is_no_audio_is_passed_over_with_a_warning_when_other_paths_are(
    song: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cover.jpg").write_bytes(b"\xff\xd8\xff\xe0\x00\x10JFIF\x00")
    (tmp_path / "scans").mkdir()
    (tmp_path / "broken.flac").symlink_to(tmp_path / "deleted.flac")
    os.mkfifo(tmp_path / "pipe.wav")
    given = [str(tmp_path / name) for name in ("cover.jpg", "scans", "broken.flac", "pipe.wav")]
    assert [entry.path for entry in walk([*given, str(song)])] == [str(song)]
    assert [message.partition(": ")[2] for message in caplog.messages] == [
        "not an audio file; give one, or a folder that holds some",
        "no audio file in this folder",
        "a link that leads nowhere",
        "a pipe, socket or device; only regular files are read",
    ]
    with pytest.raises(CatalogError, match="No such file"):
        walk([str(song), str(tmp_path / "mistyped.flac")])


def test_links_are_not_followed_below_a_folder(song: Path, tmp_path: Path) -> None:
    (tmp_path / "music").mkdir()
    (tmp_path / "music" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "music" / "self.mp3").symlink_to(tmp_path / "music" / "self.mp3")
    (tmp_path / "music" / "linked.flac").symlink_to(song)
    with pytest.raises(CatalogError, match=r"no audio file in this folder \(3 symbolic links are not followed"):
        walk([str(tmp_path / "music")])
    (tmp_path / "shortcut").symlink_to(tmp_path, target_is_directory=True)
    assert names(walk([str(tmp_path / "shortcut")]), tmp_path) == ["shortcut/song.flac"]


def test_pipes_in_a_folder_are_skipped(song: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp3")
    assert names(walk([str(tmp_path)]), tmp_path) == ["song.flac"]
    with pytest.raises(CatalogError, match=r"pipe\.mp3: .* only regular files"):
        walk([str(tmp_path / "pipe.mp3")])
    with pytest.raises(AudioError, match="only regular files"):  # one that took a song's place since
        digest(str(tmp_path / "pipe.mp3"))
    assert read_tags(str(tmp_path / "pipe.mp3")) == Tags()


def test_a_folder_that_cannot_be_listed_becomes_an_entry(
    song: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "locked").mkdir()
    real = os.scandir

    def scandir(path: str) -> object:
        if path.endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert names(walk([str(tmp_path)]), tmp_path) == ["locked", "song.flac"]
    with pytest.raises(AudioError, match=r"locked: a folder, or one that cannot be listed"):
        digest(str(tmp_path / "locked"))


@pytest.mark.parametrize(
    "name", ["new\nline.mp3", "-rf.mp3", "a:b.mp3", "caf\udce9.mp3", "日本.mp3", "x" * 251 + ".mp3", " .mp3"]
)
def test_odd_names_are_found_and_can_be_opened(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"abc")
    (found,) = walk([str(tmp_path)])
    assert os.path.basename(found.path) == name
    assert digest(found.path) == hashlib.sha256(b"abc").hexdigest()
    assert read_tags(found.path) == Tags()


def test_object_stores_are_walked_and_fetched(song: Path) -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe({"/bucket/a b/one.flac": song.read_bytes(), "/bucket/two.MP3": b"12", "/bucket/notes.txt": b"no"})
    try:
        found = walk(["memory://bucket"])
        assert [entry.path for entry in found] == ["memory:///bucket/a b/one.flac", "memory:///bucket/two.MP3"]
        assert found[1].size_bytes == 2
        assert found[1].modified_ns > 1e18
        assert walk([entry.path for entry in found]) == found
        with local_copy(found[0].path) as local:
            assert digest(local) == digest(str(song))
        assert not os.path.exists(local)
        with pytest.raises(CatalogError, match="no audio file there"):
            walk(["memory://nothing"])
        with pytest.raises(AudioError, match=r"memory:///bucket/gone\.mp3: not fetched: does not exist"), \
                local_copy("memory:///bucket/gone.mp3"):  # fmt: skip
            pass
    finally:
        fs.rm("/bucket", recursive=True)
    with pytest.raises(CatalogError, match="nosuch"):
        walk(["nosuch://x"])


def test_a_local_copy_of_a_local_file_is_the_file_itself() -> None:
    with local_copy("a/b.mp3") as path:
        assert path == "a/b.mp3"


def test_the_digest_is_of_the_content_alone(song: Path, tmp_path: Path) -> None:
    before = digest(str(song))
    moved = song.rename(tmp_path / "other.flac")
    os.utime(moved, (1, 1))
    assert digest(str(moved)) == before == hashlib.sha256(moved.read_bytes()).hexdigest()
    moved.write_bytes(moved.read_bytes() + b"x")
    assert digest(str(moved)) != before
    with pytest.raises(AudioError, match=r"gone: No such file"):
        digest(str(tmp_path / "gone"))
