"""Which files are songs, and what is said of them without decoding."""

from __future__ import annotations

import hashlib
import io
import os
import tracemalloc
import zlib
from pathlib import Path

import fsspec
import mutagen.id3
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from mutagen.flac import FLAC, Picture
from mutagen.wave import WAVE

from pipeline.audio import tags
from pipeline.audio.tags import Tags, read_tags
from pipeline.catalog import Entry, digest, local_copy, walk
from pipeline.errors import AudioError, CatalogError
from tests import zoo


def names(entries: list[Entry], folder: Path) -> list[str]:
    return [os.path.relpath(entry.path, folder) for entry in entries]


@pytest.fixture
def song(tmp_path: Path) -> Path:
    path = tmp_path / "song.flac"
    soundfile.write(path, np.sin(np.arange(8000) / 9), 8000)
    return path


def test_a_folder_is_searched_wholly_and_only_audio_is_taken(tmp_path: Path) -> None:
    (tmp_path / "b" / "c.mp3").mkdir(parents=True)
    for name in ("z.MP3", "a.txt", "b/x.flac", "b/cover.jpg", "b/c.mp3/deep.m4a", "b/film.MKV", ".hidden.ogg", "mp3"):
        (tmp_path / name).write_bytes(b"12345")
    found = walk([str(tmp_path)])
    assert names(found, tmp_path) == [".hidden.ogg", "b/c.mp3/deep.m4a", "b/film.MKV", "b/x.flac", "z.MP3"]
    assert {entry.size_bytes for entry in found} == {5}
    assert found[0].modified_ns == (tmp_path / ".hidden.ogg").stat().st_mtime_ns


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


def test_links_are_not_followed_below_a_folder(song: Path, tmp_path: Path) -> None:
    (tmp_path / "music").mkdir()
    (tmp_path / "music" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "music" / "self.mp3").symlink_to(tmp_path / "music" / "self.mp3")
    (tmp_path / "music" / "linked.flac").symlink_to(song)
    with pytest.raises(CatalogError, match=r"no audio file in this folder \(3 symbolic links are not followed"):
        walk([str(tmp_path / "music")])
    (tmp_path / "shortcut").symlink_to(tmp_path, target_is_directory=True)
    assert names(walk([str(tmp_path / "shortcut")]), tmp_path) == ["shortcut/song.flac"]


def test_pipes_in_a_folder_are_passed_over(song: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp3")
    assert names(walk([str(tmp_path)]), tmp_path) == ["song.flac"]
    with pytest.raises(CatalogError, match=r"pipe\.mp3: .* only regular files"):
        walk([str(tmp_path / "pipe.mp3")])
    with pytest.raises(AudioError, match="only regular files"):  # one that took a song's place since
        digest(str(tmp_path / "pipe.mp3"))
    assert read_tags(str(tmp_path / "pipe.mp3")) == Tags()


def test_a_folder_that_cannot_be_listed_is_told_as_an_entry(
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


def test_tags_are_read_from_each_family(song: Path, tmp_path: Path) -> None:
    flac = FLAC(song)
    flac.update({"title": "Été", "artist": ["One", "Two"], "album": ""})
    flac.save()
    assert read_tags(str(song)) == Tags("Été", "One", None)
    soundfile.write(tmp_path / "a.wav", np.zeros(100), 8000)
    wave = WAVE(tmp_path / "a.wav")
    wave.add_tags()
    wave.tags.add(mutagen.id3.TIT2(encoding=3, text="Wave"))
    wave.save()
    assert read_tags(str(tmp_path / "a.wav")) == Tags("Wave", None, None)


def test_strange_tags_are_kept_as_text_of_bounded_length(song: Path) -> None:
    flac = FLAC(song)
    flac.update({"title": "\x1b[31m=HYPERLINK(1)<script>\r\n", "artist": "x" * 100_000, "album": "\0 \0"})
    picture = Picture()
    picture.data = bytes(3 << 20)
    flac.add_picture(picture)
    flac.save()
    got = read_tags(str(song))
    assert got.title == "\x1b[31m=HYPERLINK(1)<script>"
    assert got.artist == "x" * 500
    assert got.album is None


def test_damaged_tags_are_no_tags(song: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    assert read_tags(str(tmp_path / "gone.mp3")) == Tags()
    assert read_tags(str(tmp_path)) == Tags()
    flac = FLAC(song)
    flac["title"] = "T"
    flac.save()
    whole = song.read_bytes()
    broken = tmp_path / "broken.flac"
    for _ in range(200):
        data = bytearray(whole)
        for at in rng.integers(0, 400, 4):
            data[at] = rng.integers(256)
        broken.write_bytes(data)
        got = read_tags(str(broken))
        assert all(value is None or len(value) <= 500 for value in (got.title, got.artist, got.album))


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("encoding", [0, 1, 2, 3])
def test_id3_is_read_as_mutagen_writes_it(version: int, encoding: int, tmp_path: Path) -> None:
    text = "Café" if encoding == 0 else "Café 日本"
    tag = mutagen.id3.ID3()
    tag.add(mutagen.id3.APIC(encoding=0, mime="image/png", type=3, desc="", data=bytes(range(256)) * 2000))
    tag.add(mutagen.id3.TIT2(encoding=encoding, text=[text, "second"]))
    tag.add(mutagen.id3.TPE1(encoding=encoding, text=text[::-1]))
    tag.save(tmp_path / "a.mp3", v2_version=version, v1=0, v23_sep=None)
    assert read_tags(str(tmp_path / "a.mp3")) == Tags(text, text[::-1], None)
    wave = (tmp_path / "a.mp3").read_bytes()
    data = b"RIFF\0\0\0\0WAVEdata\3\0\0\0abc\0id3 " + len(wave).to_bytes(4, "little") + wave
    (tmp_path / "a.wav").write_bytes(data)
    assert read_tags(str(tmp_path / "a.wav")) == Tags(text, text[::-1], None)


def test_id3_of_other_kinds_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"

    def tag(version: int, flags: int, body: bytes) -> Tags:
        size = bytes((0, 0, len(body) >> 7, len(body) & 0x7F))
        path.write_bytes(b"ID3" + bytes((version, 0, flags)) + size + body)
        return read_tags(str(path))

    assert tag(2, 0, b"TT2\0\0\6\0Hello" + b"TP1\0\0\4\0You" + bytes(9)) == Tags("Hello", "You")
    assert tag(3, 0x80, b"TIT2\0\0\0\7\0\0\1\xff\x00\xfea\0b\0") == Tags("ab")  # unsynchronised
    assert tag(3, 0x40, b"\0\0\0\6" + bytes(6) + b"TIT2\0\0\0\2\0\0\0A") == Tags("A")  # extended header
    packed = zlib.compress(b"\3Packed")
    assert tag(3, 0, b"TIT2\0\0\0" + bytes([len(packed) + 4]) + b"\0\x80\0\0\0\7" + packed) == Tags("Packed")
    assert tag(4, 0, b"TIT2\0\0\0" + bytes([len(packed) + 4]) + b"\0\x09\0\0\0\7" + packed) == Tags("Packed")
    itunes = b"APIC\0\0\1\x2c\0\0" + b"\1" * 300  # 300 as four plain bytes, where v2.4 wants four times seven bits
    assert tag(4, 0, itunes + b"TALB\0\0\0\2\0\0\3C") == Tags(album="C")
    assert tag(4, 0, b"TIT2\0\0\0\2\0\4\0X") == Tags()  # encrypted
    assert tag(3, 0, b"") == Tags()


@given(st.sampled_from([2, 3, 4]), st.integers(0, 255), st.binary(max_size=300))
def test_any_bytes_in_an_id3_tag_give_short_text_or_nothing(version: int, flags: int, body: bytes) -> None:
    for frame in (b"", b"TIT2\0\0\0\x20\0\x80", b"TIT2\0\0\0\x20\0\x0b\0\0\0\1", b"TT2\0\0\x20"):
        file = io.BytesIO(b"ID3" + bytes((version, 0, flags, 0, 0, 2, 0x7F)) + frame + body)
        got = tags._id3(file, 0)
        assert all(value is None or 0 < len(value) <= 500 for value in (got.title, got.artist, got.album))


def test_the_old_tag_at_the_end_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.mp3").write_bytes(bytes(500) + b"TAG" + b"Old".ljust(30, b"\0") + b"Band".ljust(30) + bytes(65))
    assert read_tags(str(tmp_path / "a.mp3")) == Tags("Old", "Band", None)


def test_a_decompression_bomb_and_endless_texts_cost_nothing(tmp_path: Path) -> None:
    bomb = zlib.compress(b"\3" + b"\0x" * 5_000_000)
    for body, flags in ((bytes(4) + bomb, 0x09), (b"\3" + bytes(3_000_000), 0)):
        path = tmp_path / "a.mp3"
        path.write_bytes(zoo.id3((b"TIT2", body), flags=flags) + bytes(1000))
        tracemalloc.start()
        assert read_tags(str(path)).title in (None, "x")
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
        tracemalloc.stop()
