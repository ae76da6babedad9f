"""Tags: title, artist and album of every family, from files that may hold anything."""

from __future__ import annotations

import io
import tracemalloc
import zlib
from pathlib import Path

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
from tests import zoo


@pytest.fixture
def song(tmp_path: Path) -> Path:
    path = tmp_path / "song.flac"
    soundfile.write(path, np.sin(np.arange(8000) / 9), 8000)
    return path


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
