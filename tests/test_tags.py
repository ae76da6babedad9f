"""Tags: those of every family, the first that says something, from files that may hold anything."""

from __future__ import annotations

import dataclasses
import io
import struct
import subprocess
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import mutagen
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutagen import apev2, asf, id3, mp4
from mutagen.aiff import AIFF
from mutagen.dsdiff import DSDIFF
from mutagen.dsf import DSF
from mutagen.flac import FLAC, Picture, VCFLACDict
from mutagen.ogg import OggPage
from mutagen.trueaudio import TrueAudio
from mutagen.wave import WAVE

from pipeline.audio import tags
from pipeline.audio.tags import Tags, read_tags
from tests import zoo

MBID, ACOUSTID = "8f3471b5-7e6a-48da-86a9-c1c07a0f47ae", "22c61b2f-6e3f-4b1e-8bcf-1d2a3b4c5d6e"
FULL = Tags("Été 夜", "Ann", "Album", "Various", 3, 1999, "USRC17607839", MBID, ACOUSTID)
TEXTS = {
    "title": "Été 夜",
    "artist": "Ann",
    "album": "Album",
    "albumartist": "Various",
    "tracknumber": "3/12",
    "date": "1999-05-01",
    "isrc": "US-RC1-76-07839",
    "musicbrainz_trackid": MBID,
    "musicbrainz_releasetrackid": "00000000-0000-0000-0000-000000000000",
    "acoustid_id": ACOUSTID,
}
ENCODED = {
    "a.mp3": "-b:a 64k -write_id3v2 0 -write_xing 0",
    "a.flac": "",
    "a.ogg": "-c:a libvorbis",
    "a.opus": "-c:a libopus -ar 48000",
    "a.oga": "-c:a flac",
    "a.m4a": "-b:a 64k",
    "a.wma": "-c:a wmav2",
    "a.aac": "-c:a aac",
    "a.wv": "",
    "a.tta": "",
    "a.wav": "",
    "rf64.wav": "-rf64 always",
    "a.aiff": "",
    "a.mka": "-c:a libvorbis",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files without tags."""
    folder = tmp_path_factory.mktemp("untagged")
    zoo.encode(folder, zoo.stereo()[: zoo.RATE // 4], ENCODED)
    return folder


def id3_frames(target: Any) -> None:
    """Fill an ID3 tag as MusicBrainz Picard does."""
    names = {"title": "TIT2", "artist": "TPE1", "album": "TALB", "albumartist": "TPE2", "tracknumber": "TRCK",
             "date": "TDRC", "isrc": "TSRC"}  # fmt: skip
    for name, frame in names.items():
        target.add(getattr(id3, frame)(encoding=1, text=TEXTS[name]))
    target.add(id3.UFID(owner="http://musicbrainz.org", data=MBID.encode()))
    target.add(id3.TXXX(encoding=0, desc="Acoustid Id", text=ACOUSTID))
    target.add(id3.APIC(encoding=0, mime="image/png", type=3, desc="", data=bytes(range(256)) * 400))


def write_id3(path: Path) -> None:
    tag = id3.ID3()
    id3_frames(tag)
    tag.save(path)


def write_id3_of_2_2(path: Path) -> None:
    """Frames of three letters, which mutagen does not write."""
    names = {"title": b"TT2", "artist": b"TP1", "album": b"TAL", "albumartist": b"TP2", "tracknumber": b"TRK",
             "date": b"TYE", "isrc": b"TRC"}  # fmt: skip
    frames = [(name, b"\1" + TEXTS[key].encode("utf-16") + b"\0\0") for key, name in names.items()]
    frames.append((b"UFI", b"http://musicbrainz.org\0" + MBID.encode()))
    frames.append((b"TXX", b"\0Acoustid Id\0" + ACOUSTID.encode()))
    body = b"".join(name + len(data).to_bytes(3, "big") + data for name, data in frames)
    size = bytes((0, 0, len(body) >> 7, len(body) & 0x7F))
    path.write_bytes(b"ID3\2\0\0" + size + body + path.read_bytes())


def write_id3_inside(kind: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        file = kind(path)
        file.add_tags()
        id3_frames(file.tags)
        file.save()

    return write


def write_comments(path: Path) -> None:
    file = mutagen.File(path)
    assert file is not None
    file.update({**TEXTS, "artist": ["Ann", "Bob"]})
    file.save()


def write_ape(path: Path) -> None:
    names = {"albumartist": "Album Artist", "tracknumber": "Track", "date": "Year"}
    tag = apev2.APEv2()
    for name, text in {**TEXTS, "artist": ["Ann", "Bob"]}.items():
        tag[names.get(name, name)] = text
    tag["Cover Art (Front)"] = apev2.APEValue(bytes(range(256)) * 400, apev2.BINARY)
    tag.save(path)


def write_mp4(path: Path) -> None:
    file = mp4.MP4(path)
    file["\xa9nam"], file["\xa9ART"], file["\xa9alb"] = TEXTS["title"], ["Ann", "Bob"], TEXTS["album"]
    file["aART"], file["trkn"], file["\xa9day"] = TEXTS["albumartist"], [(3, 12)], TEXTS["date"]
    free = {"ISRC": "isrc", "MusicBrainz Track Id": "musicbrainz_trackid", "Acoustid Id": "acoustid_id"}
    for name, key in free.items():
        file[f"----:com.apple.iTunes:{name}"] = TEXTS[key].encode()
    file["covr"] = [mp4.MP4Cover(bytes(100_000))]
    file.save()


def write_asf(path: Path) -> None:
    file = asf.ASF(path)
    names = {"title": "Title", "album": "WM/AlbumTitle", "albumartist": "WM/AlbumArtist", "date": "WM/Year",
             "isrc": "WM/ISRC", "musicbrainz_trackid": "MusicBrainz/Track Id",
             "acoustid_id": "Acoustid/Id"}  # fmt: skip
    file.update({name: TEXTS[key] for key, name in names.items()})
    file["Author"] = ["Ann", "Bob"]
    file["WM/TrackNumber"] = asf.ASFDWordAttribute(3)
    file.save()


def write_by_ffmpeg(path: Path) -> None:
    names = {"albumartist": "album_artist", "tracknumber": "track"}
    words = [word for key, text in TEXTS.items() for word in ("-metadata", f"{names.get(key, key)}={text}")]
    ffmpeg, tagged = imageio_ffmpeg.get_ffmpeg_exe(), path.with_name(f"tagged{path.suffix}")
    subprocess.run([ffmpeg, "-v", "error", "-i", str(path), "-c", "copy", *words, str(tagged)], check=True)
    tagged.replace(path)


FAMILIES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "ID3 of MP3": ("a.mp3", write_id3),
    "ID3 of version 2.2": ("a.mp3", write_id3_of_2_2),
    "ID3 of AAC": ("a.aac", write_id3),
    "ID3 of True Audio": ("a.tta", write_id3_inside(TrueAudio)),
    "ID3 of WAV": ("a.wav", write_id3_inside(WAVE)),
    "ID3 of AIFF": ("a.aiff", write_id3_inside(AIFF)),
    "comments of FLAC": ("a.flac", write_comments),
    "comments of Ogg Vorbis": ("a.ogg", write_comments),
    "comments of Opus": ("a.opus", write_comments),
    "comments of Ogg FLAC": ("a.oga", write_comments),
    "APEv2 of MP3": ("a.mp3", write_ape),
    "APEv2 of AAC": ("a.aac", write_ape),
    "APEv2 of WavPack": ("a.wv", write_ape),
    "MP4": ("a.m4a", write_mp4),
    "ASF": ("a.wma", write_asf),
    "Matroska": ("a.mka", write_by_ffmpeg),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tags_of_each_family_are_read(family: str, made: Path, tmp_path: Path) -> None:
    name, write = FAMILIES[family]
    path = tmp_path / name
    path.write_bytes((made / name).read_bytes())
    assert read_tags(str(path)) == Tags()
    write(path)
    assert read_tags(str(path)) == FULL


def tagged_dsd(path: Path) -> None:
    if path.suffix == ".dsf":
        fmt = struct.pack("<4sQIIIIIIQII", b"fmt ", 52, 1, 0, 2, 2, 2_822_400, 1, 4096 * 8, 4096, 0)
        data = b"data" + struct.pack("<Q", 12 + 8192) + bytes(8192)
        path.write_bytes(b"DSD " + struct.pack("<QQQ", 28, 28 + len(fmt) + len(data), 0) + fmt + data)
        write_id3_inside(DSF)(path)
    else:

        def chunk(name: bytes, body: bytes) -> bytes:
            return name + struct.pack(">Q", len(body)) + body

        channels = chunk(b"CHNL", b"\0\2SLFTSRGT")
        sound = chunk(b"PROP", b"SND " + chunk(b"FS  ", struct.pack(">I", 2_822_400)) + channels)
        body = b"DSD " + chunk(b"FVER", b"\1\5\0\0") + sound + chunk(b"DSD ", bytes(8192))
        path.write_bytes(chunk(b"FRM8", body))
        write_id3_inside(DSDIFF)(path)


@pytest.mark.parametrize("name", ["a.dsf", "a.dff"])
def test_the_tags_of_dsd_are_read(name: str, tmp_path: Path) -> None:
    tagged_dsd(tmp_path / name)
    assert read_tags(str(tmp_path / name)) == FULL


@pytest.mark.parametrize("magic", [b"MAC \x96\x0f\0\0", b"MPCKSH", b"MP+\7", b"OFR \x0c\0\0\0", b"tBaK\0\0"])
def test_formats_that_have_their_tag_at_the_end_are_read(magic: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.ape"
    path.write_bytes(magic.ljust(3000, b"\1"))
    write_ape(path)
    old = b"TAG" + b"Cut off".ljust(30, b"\0") + bytes(95)
    path.write_bytes(zoo.id3((b"TIT2", b"\3Foreign")) + path.read_bytes() + old)
    assert read_tags(str(path)) == FULL


def test_the_comments_of_speex_are_read(tmp_path: Path) -> None:
    comments = VCFLACDict()
    comments.update(TEXTS)
    head = struct.pack(
        "<8s20sIIIIIIIIIIIII", b"Speex   ", b"1.2", 1, 80, 16000, 1, 4, 1, -1 & 0xFFFFFFFF, 320, 0, 1, 0, 0, 0
    )
    pages = [OggPage(), OggPage()]
    for number, packet in enumerate((head, comments.write(framing=False))):
        pages[number].packets, pages[number].sequence, pages[number].serial = [packet], number, 7
    pages[0].first = pages[1].last = True
    (tmp_path / "a.spx").write_bytes(b"".join(page.write() for page in pages))
    assert read_tags(str(tmp_path / "a.spx")) == FULL


def chunk(name: bytes, body: bytes, order: str = "<") -> bytes:
    return name + struct.pack(f"{order}I", len(body)) + body + bytes(len(body) % 2)


@pytest.mark.parametrize("name", ["a.wav", "rf64.wav"])
@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
def test_the_list_of_texts_in_a_wav_is_read(name: str, encoding: str, made: Path, tmp_path: Path) -> None:
    texts = {b"INAM": "Été", b"IART": "Ann", b"IPRD": "Album", b"ITRK": "3", b"ICRD": "1999-05-01"}
    info = b"INFO" + b"".join(chunk(key, text.encode(encoding) + b"\0") for key, text in texts.items())
    (tmp_path / "a.wav").write_bytes((made / name).read_bytes() + chunk(b"LIST", info))
    assert read_tags(str(tmp_path / "a.wav")) == Tags("Été", "Ann", "Album", track=3, year=1999)


def test_the_texts_in_an_aiff_are_read(made: Path, tmp_path: Path) -> None:
    texts = chunk(b"NAME", b"Song", ">") + chunk(b"AUTH", b"Ann", ">")
    (tmp_path / "a.aiff").write_bytes((made / "a.aiff").read_bytes() + texts)
    assert read_tags(str(tmp_path / "a.aiff")) == Tags("Song", "Ann")


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("encoding", [0, 1, 2, 3])
def test_id3_of_each_version_and_encoding_is_read(version: int, encoding: int, tmp_path: Path) -> None:
    text = "Café" if encoding == 0 else "Café 日本"
    tag = id3.ID3()
    tag.add(id3.TIT2(encoding=encoding, text=[text, "second"]))
    tag.add(id3.TPE1(encoding=encoding, text=text[::-1]))
    tag.save(tmp_path / "a.mp3", v2_version=version, v1=0, v23_sep=None)
    assert read_tags(str(tmp_path / "a.mp3")) == Tags(text, text[::-1])


def test_id3_of_odd_taggers_is_read(tmp_path: Path) -> None:
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
    one_nul = "One NUL".encode("utf-16") + b"\0"  # a text of two bytes a letter needs two
    assert tag(3, 0, b"TIT2\0\0\0" + bytes([len(one_nul) + 1]) + b"\0\0\1" + one_nul) == Tags("One NUL")
    without_mark = "Mark".encode("utf-16-le")
    assert tag(3, 0, b"TIT2\0\0\0" + bytes([len(without_mark) + 1]) + b"\0\0\1" + without_mark) == Tags("Mark")
    assert tag(3, 0, b"") == Tags()


def old_tag(title: bytes, artist: bytes = b"") -> bytes:
    return b"TAG" + title.ljust(30, b"\0") + artist.ljust(30) + bytes(65)


def test_the_first_tag_that_says_something_counts_for_each_field(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    audio = (made / "a.mp3").read_bytes()
    path.write_bytes(audio + old_tag(b"Old", b"Band"))
    assert read_tags(str(path)) == Tags("Old", "Band")
    ape = apev2.APEv2()
    ape["Title"], ape["Album"] = "Behind", "Album"
    ape.save(path)
    path.write_bytes(path.read_bytes() + old_tag(b"Old", b"Band"))
    assert read_tags(str(path)) == Tags("Behind", "Band", "Album")
    blank = zoo.id3((b"TIT2", b"\3 \0 "), (b"TPE1", b"\3\0Second value"))
    path.write_bytes(blank + zoo.id3((b"TIT2", b"\3Second tag")) + path.read_bytes())
    assert read_tags(str(path)) == Tags("Second tag", "Second value", "Album")


def test_a_short_ape_tag_is_not_taken_for_an_old_one(made: Path, tmp_path: Path) -> None:
    """At 131 bytes its APETAGEX has TAG where that of ID3v1 would be."""
    path = tmp_path / "a.mp3"
    body = b"\x03\0\0\0\0\0\0\0Title\0Yes" + (131 - 32 - 32 - 17 - 8 - 5).to_bytes(4, "little") + bytes(4) + b"Note\0"
    body = body.ljust(131 - 64, b"x")
    ends = [
        b"APETAGEX" + struct.pack("<IIII", 2000, len(body) + 32, 2, flags) + bytes(8) for flags in (0xA0 << 24, 1 << 31)
    ]
    path.write_bytes((made / "a.mp3").read_bytes() + ends[0] + body + ends[1])
    assert path.read_bytes()[-131:-123] == b"APETAGEX"
    assert read_tags(str(path)) == Tags("Yes")


def test_the_comments_of_flac_count_more_than_an_id3_tag_in_front(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    path.write_bytes((made / "a.flac").read_bytes())
    flac = FLAC(path)
    flac.update({"title": "Right", "artist": "Ann"})
    flac.save()
    path.write_bytes(zoo.id3((b"TIT2", b"\3Foreign"), (b"TALB", b"\3Front")) + path.read_bytes())
    assert read_tags(str(path)) == Tags("Right", "Ann", "Front")


def test_strange_values_are_cleaned(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    path.write_bytes((made / "a.flac").read_bytes())

    def read(**texts: Any) -> Tags:
        flac = FLAC(path)
        flac.clear()
        flac.update(texts)
        flac.save()
        return read_tags(str(path))

    picture = Picture()
    picture.data = bytes(3 << 20)
    flac = FLAC(path)
    flac.add_picture(picture)
    flac.save()
    got = read(title="\x1b[31m=HYPERLINK(1)<script>\r\n", artist="x" * 100_000, album="\0 \0")
    assert got == Tags("\x1b[31m=HYPERLINK(1)<script>", "x" * 500)
    assert read(artist=["", " ", "Two"], tracknumber="A1", date="0000", isrc="none", acoustid_id="x") == Tags(
        artist="Two"
    )
    assert read(tracknumber="07", date="1 May 1999", isrc="usrc17607839") == Tags(track=7, year=1999, isrc=FULL.isrc)
    assert read(date="19990501") == Tags(year=1999)
    assert read(tracknumber="0", date="12345", musicbrainz_trackid=f" {MBID.upper()}\0") == Tags(
        musicbrainz_recording_id=MBID
    )


# ---------------------------------------------------------------- damage, and what is made to do harm


def short(got: Tags) -> bool:
    return all(value is None or 0 < len(str(value)) <= 500 for value in dataclasses.astuple(got))


def test_damaged_tags_are_no_tags(made: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    assert read_tags(str(tmp_path / "gone.mp3")) == Tags()
    assert read_tags(str(tmp_path)) == Tags()
    for name in ("a.flac", "a.m4a", "a.wma", "a.ogg", "a.wav"):
        whole = (made / name).read_bytes()
        for _ in range(40):
            data = bytearray(whole)
            for at in rng.integers(0, 400, 4):
                data[at] = rng.integers(256)
            (tmp_path / name).write_bytes(data)
            assert short(read_tags(str(tmp_path / name)))


@given(st.sampled_from([2, 3, 4]), st.integers(0, 255), st.binary(max_size=300))
def test_any_bytes_in_an_id3_tag_give_short_text_or_nothing(version: int, flags: int, body: bytes) -> None:
    for frame in (b"", b"TIT2\0\0\0\x20\0\x80", b"TIT2\0\0\0\x20\0\x0b\0\0\0\1", b"TT2\0\0\x20"):
        data = b"ID3" + bytes((version, 0, flags, 0, 0, 2, 0x20)) + frame + body
        try:
            pairs = list(tags._id3(io.BytesIO(data.ljust(400, b"\0"))))
        except mutagen.MutagenError:
            continue
        assert all(isinstance(name, str) and isinstance(text, str) for name, text in pairs)


def synchsafe(n: int) -> bytes:
    return bytes((n >> 21 & 0x7F, n >> 14 & 0x7F, n >> 7 & 0x7F, n & 0x7F))


def test_decompression_bombs_and_endless_texts_are_left_out(tmp_path: Path) -> None:
    bomb = zlib.compress(b"\3" + b"\0x" * 5_000_000)
    small = zlib.compress(bytes(20_000_000))[:2000]
    for body, flags in ((bytes(4) + bomb, 0x09), (bytes(4) + small, 0x09), (b"\3" + bytes(3_000_000), 0)):
        path = tmp_path / "a.mp3"
        path.write_bytes(zoo.id3((b"TIT2", body), (b"TPE1", b"\3Ann"), flags=0) + bytes(1000))
        tracemalloc.start()
        read_tags(str(path))
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
        tracemalloc.stop()
        path.write_bytes(zoo.id3((b"TIT2", body), flags=flags) + zoo.id3((b"TPE1", b"\3Ann")) + bytes(1000))
        assert read_tags(str(path)) == Tags(artist="Ann")


def test_a_tag_that_keeps_a_parser_busy_is_given_up_and_the_tags_before_it_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tags, "_LIMIT_S", 0.5)
    frames = (b"TXXX" + bytes(6)) * 1_500_000  # mutagen copies what is left of a tag for each: hours
    busy = b"ID3\3\0\0" + synchsafe(len(frames)) + frames
    (tmp_path / "a.mp3").write_bytes(zoo.id3((b"TIT2", b"\3First")) + busy + bytes(1000))
    assert read_tags(str(tmp_path / "a.mp3")) == Tags("First")


HOSTILE = {
    "a tag of 256 MB": b"ID3\4\0\0\x7f\x7f\x7f\x7fTIT2\0\0\0\3\0\0\3Hi",
    "frames in frames": zoo.id3((b"CHAP", b"x\0" + bytes(16) + b"CHAP" * 1000)),
    "4 billion comments": b"fLaC\x84\0\0\x0c\4\0\0\0test\xff\xff\xff\xff",
    "a comment of 4 GB": b"fLaC\x84\0\0\x10\4\0\0\0test\1\0\0\0\xff\xff\xff\xff",
    "blocks without end": b"fLaC" + bytes(4) * 100_000,
    "atoms in atoms": b"\0\0\0\x10ftypM4A \0\0\0\0" + b"".join(
        struct.pack(">I4s", 8 * n, b"moov") for n in range(50_000, 0, -1)
    ),
    "an atom of 1 EB": b"\0\0\0\x10ftypM4A \0\0\0\0\0\0\0\1moov\x0f" + bytes(7) + bytes(100),
    "atoms without number": b"\0\0\0\x10ftypM4A \0\0\0\0" + struct.pack(">I4s", 8_000_008, b"moov")
    + struct.pack(">I4s", 8, b"free") * 200_000,
    "4 billion items": bytes(500) + b"APETAGEX" + struct.pack("<IIII", 2000, 200, 0xFFFFFFFF, 0) + bytes(8),
    "an item of 4 GB": bytes(500) + b"\xff\xff\xff\xff" + bytes(4) + b"Title\0x" + b"APETAGEX"
    + struct.pack("<IIII", 2000, 47, 1, 0) + bytes(8),
    "a tag before the file": b"\xff\xfb\x90\0" + b"APETAGEX" + struct.pack("<IIII", 2000, 0xFFFFFFFF, 1, 0) + bytes(8),
    "chunks of nothing": b"RIFF\xff\xff\xff\xffWAVE" + bytes(800_000),
    "lists in lists": b"RIFF\xff\xff\xff\xffWAVE" + b"LIST\xff\xff\xff\xffINFO" * 50_000,
    "pages without end": (b"OggS\0\2" + bytes(20) + b"\0") * 50_000,
    "objects without end": bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c") + b"\xff" * 14 + bytes(100_000),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_sizes_counts_and_nesting_that_lie_cost_nothing(what: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(HOSTILE[what])
    tracemalloc.start()
    assert read_tags(str(tmp_path / "a")).title is None
    assert tracemalloc.get_traced_memory()[1] < 60_000_000
    tracemalloc.stop()
