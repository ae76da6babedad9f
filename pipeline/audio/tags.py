"""Title, artist and album of a local file, from its tags."""

from __future__ import annotations

import io
import logging
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from pipeline.paths import open_regular, printable_path

log = logging.getLogger(__name__)

_TAG_CHARACTERS = 500  # longer titles are an attack or a mistake
_TAG_BYTES = 1 << 16  # of one ID3 frame, before and after decompression; longer frames are skipped


@dataclass(frozen=True, slots=True)
class Tags:
    """A file's tags, None where it has none: untrusted text of at most 500 characters each.

    Each is a column of the songs table.

    Parameters
    ----------
    track
        The number of the track on its medium.
    year
        Of the release.
    isrc
        International Standard Recording Code, 12 letters and digits.
    musicbrainz_recording_id, acoustid
        UUIDs: of the recording in MusicBrainz, of the fingerprint in AcoustID.
    """

    title: str | None = None
    artist: str | None = None
    album: str | None = None
    album_artist: str | None = None
    track: int | None = None
    year: int | None = None
    isrc: str | None = None
    musicbrainz_recording_id: str | None = None
    acoustid: str | None = None


def read_tags(path: str) -> Tags:
    """Title, artist and album of a local file.

    No file makes this fail: tags that cannot be read are None. Line breaks, terminal escapes and the like are kept as
    the file has them; code that prints them must quote them.
    """
    try:
        with open_regular(path) as (fd, _), open(fd, "rb", closefd=False) as file:
            head = file.read(12)
            if head[:3] == b"ID3" or (head[:4] in (b"RIFF", b"RF64", b"FORM") and head[8:11] in (b"WAV", b"AIF")):
                found = _id3(file, _id3_offset(file, head))
            else:
                found = _mutagen(file)
            return found if found != Tags() else _id3v1(file)
    except Exception as error:  # each parser raises its own; a song without a title is still a song
        log.debug("%s: tags unreadable: %s", printable_path(path), error)
        return Tags()


# One name for each family of tags: Vorbis comments and APE, MP4, ASF.
_TITLE = ("title", "\xa9nam", "Title")
_ARTIST = ("artist", "\xa9ART", "Author", "Artist")
_ALBUM = ("album", "\xa9alb", "WM/AlbumTitle", "Album")


def _mutagen(file: IO[bytes]) -> Tags:
    """Read the tags of every format but those with ID3, with mutagen.

    mutagen's ID3 reader decompresses frames without a bound and takes quadratic time over a text of NULs: a file of
    200 kB takes hours and gigabytes. So ID3 is read here.
    """
    import mutagen  # 30 ms that identifying a clip does not pay
    from mutagen import asf, flac, monkeysaudio, mp4, musepack, oggflac, oggopus, oggvorbis, wavpack

    file.seek(0)
    kinds = [flac.FLAC, oggvorbis.OggVorbis, oggopus.OggOpus, oggflac.OggFLAC, mp4.MP4, asf.ASF]
    parsed = mutagen.File(file, options=[*kinds, monkeysaudio.MonkeysAudio, musepack.Musepack, wavpack.WavPack])

    def first(names: Sequence[str]) -> str | None:
        for name in names:
            try:
                value = parsed[name]
                return _bounded(str(value[0] if isinstance(value, list) else value))
            except Exception:  # a missing key, and whatever odd values raise
                continue
        return None

    return Tags(first(_TITLE), first(_ARTIST), first(_ALBUM))


def _bounded(text: str) -> str | None:
    """A tag's text without surrogates and NULs, of bounded length; None if nothing is left."""
    text = text[: 4 * _TAG_CHARACTERS].replace("\0", " ").strip()[:_TAG_CHARACTERS]
    return text.encode("utf-8", "replace").decode("utf-8") or None


def _id3_offset(file: IO[bytes], head: bytes) -> int:
    """Where the ID3 tag of a file starts: at its front, or in a chunk of a WAV or AIFF; -1 without one."""
    if head[:3] == b"ID3":
        return 0
    offset, aiff = 12, head[:4] == b"FORM"
    for _ in range(1000):
        file.seek(offset)
        chunk = file.read(8)
        if len(chunk) < 8:
            break
        if chunk[:4].lower() == b"id3 ":
            return offset + 8
        n = int.from_bytes(chunk[4:], "big" if aiff else "little")
        offset += 8 + n + n % 2
    return -1


_FRAMES = {b"TIT2": "title", b"TT2": "title", b"TPE1": "artist", b"TP1": "artist", b"TALB": "album", b"TAL": "album"}
_ENCODINGS = ("latin-1", "utf-16", "utf-16-be", "utf-8")


def _id3(file: IO[bytes], start: int) -> Tags:
    """Title, artist and album of an ID3v2 tag, in time and memory that do not grow with the tag.

    References
    ----------
    id3.org: ID3 tag version 2.2.0, 2.3.0 and 2.4.0; section 3.3 and 4 of each.
    """
    if start < 0:
        return Tags()
    file.seek(start)
    head = file.read(10)
    if len(head) < 10 or head[:3] != b"ID3" or head[3] not in (2, 3, 4):
        return Tags()
    version, flags, size = head[3], head[5], _synchsafe(head[6:10])
    at, end = start + 10, start + 10 + size
    if flags & 0x80 and version < 4:  # every FF 00 in the tag stands for FF
        file = io.BytesIO(file.read(min(size, 16 << 20)).replace(b"\xff\x00", b"\xff"))
        at, end = 0, min(size, 16 << 20)
    if flags & 0x40 and version > 2:  # an extended header
        file.seek(at)
        word = file.read(4)
        at += _synchsafe(word) if version == 4 else 4 + int.from_bytes(word, "big")
    letters = 3 if version == 2 else 4
    header = 6 if version == 2 else 10
    found: dict[str, str | None] = {}
    for _ in range(2000):
        if at + header > end or len(found) == 3:
            break
        file.seek(at)
        frame = file.read(header)
        name, word = frame[:letters], frame[letters : 2 * letters]
        if len(frame) < header or not _FRAME_NAME.fullmatch(name):
            break  # padding
        length = int.from_bytes(word, "big")
        if version == 4 and _follows(file, at + header + _synchsafe(word), end):
            length = _synchsafe(word)  # else plain bytes, as an old iTunes wrote it
        if name in _FRAMES and length <= _TAG_BYTES and _FRAMES[name] not in found:
            file.seek(at + header)
            text = _text(file.read(length), frame[9] if version > 2 else 0, version)
            if text is not None:
                found[_FRAMES[name]] = text
        at += header + length
    return Tags(found.get("title"), found.get("artist"), found.get("album"))


_FRAME_NAME = re.compile(rb"[A-Z][A-Z0-9]{2,3}")


def _follows(file: IO[bytes], at: int, end: int) -> bool:
    """Whether at this place of an ID3v2.4 tag a frame, padding or the end comes."""
    file.seek(at)
    name = file.read(4)
    return at >= end or name == bytes(4) or _FRAME_NAME.fullmatch(name) is not None


def _text(data: bytes, flags: int, version: int) -> str | None:
    """The first text of a text frame."""
    compressed, encrypted, grouped = (0x80, 0x40, 0x20) if version == 3 else (0x08, 0x04, 0x40)
    if flags & encrypted:
        return None
    skip = (1 if flags & grouped else 0) + (4 if flags & (compressed if version == 3 else 0x01) else 0)
    data = data[skip:]
    if version == 4 and flags & 0x02:
        data = data.replace(b"\xff\x00", b"\xff")
    if flags & compressed:
        try:
            data = zlib.decompressobj().decompress(data, _TAG_BYTES)
        except zlib.error:
            return None
    if not data or data[0] >= len(_ENCODINGS):
        return None
    text = data[1 : 1 + 8 * _TAG_CHARACTERS].decode(_ENCODINGS[data[0]], "replace")
    return _bounded(text.split("\0", 1)[0])


def _id3v1(file: IO[bytes]) -> Tags:
    """The 128 bytes at the end of an old MP3."""
    file.seek(max(0, file.seek(0, io.SEEK_END) - 128))
    tag = file.read(128)
    if len(tag) < 128 or tag[:3] != b"TAG":
        return Tags()
    title, artist, album = (_bounded(tag[at : at + 30].split(b"\0", 1)[0].decode("latin-1")) for at in (3, 33, 63))
    return Tags(title, artist, album)


def _synchsafe(word: bytes) -> int:
    """ID3's whole numbers: seven bits of each byte."""
    number = 0
    for byte in word:
        number = number << 7 | byte & 0x7F
    return number
