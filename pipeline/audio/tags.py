"""Title, artist and other tags of a local file.

mutagen reads them, and ffmpeg those of the containers that mutagen does not know. Files are untrusted: mutagen gets a
file that gives so many bytes and no more, frames of ID3 that are small, and some seconds.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from pipeline.audio import formats
from pipeline.audio.decoder import Source
from pipeline.execution.timeouts import within
from pipeline.paths import open_regular, printable_path

log = logging.getLogger(__name__)

_TAG_CHARACTERS = 500  # longer titles are an attack or a mistake
_FRAME_BYTES = 1 << 16  # of a text in ID3; longer ones are left out
_COMPRESSED_BYTES = 1 << 11  # of a compressed one, which may become a thousand times as long
_READ_BYTES = 1 << 24  # of a file: its tags with a cover image
_READS = 50_000
_LIMIT_S = 5.0  # wall seconds for the tags of one file, which take about a millisecond
_COMMENTS = 1000  # comments of Vorbis that are kept

Pairs: TypeAlias = Iterable[tuple[str, str]]
"""Names of a tag's texts, in the spelling of its family, and the texts."""


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
    """The tags of a local file.

    A file may have several tags: that of its container comes first, then ID3v2, APEv2 and ID3v1. Each field is taken
    from the first tag in which it is not blank, and of several values it has the first.

    No file makes this fail: tags that cannot be read are None. Line breaks, terminal escapes and the like are kept as
    the file has them; code that prints them must quote them.
    """
    found: dict[str, Any] = {}
    try:
        with open_regular(path) as (fd, size):
            # A descriptor of its own: a reader that hangs may outlive this call.
            within(_LIMIT_S, partial(_collect, os.dup(fd), size, found))
    except Exception as error:  # a song without a title is still a song
        log.debug("%s: tags unreadable: %s", printable_path(path), error)
    return Tags(**found)


def _collect(fd: int, size: int, found: dict[str, Any]) -> None:
    """Fill in the fields that a file's tags have."""
    with open(fd, "rb") as file:
        for read in _readers(file.fileno(), size, found):
            with contextlib.suppress(Exception):  # each parser raises its own; the next tag may be intact
                for name, text in read():
                    field, clean = _FIELDS.get(_letters(name), ("", _text))
                    if field and field not in found and (value := clean(text)) is not None:
                        found[field] = value


# ---------------------------------------------------------------- what a file has, in order


def _readers(fd: int, size: int, found: Mapping[str, Any]) -> Iterator[Callable[[], Pairs]]:
    """What reads each tag of a file, the one that counts most first."""
    kind, start = formats.kind_of(fd, size)
    if kind in ("wav", "aiff"):
        yield from _riff_readers(fd, start, size, big=kind == "aiff")
    elif kind in _CONTAINERS:
        yield partial(_CONTAINERS[kind], _BoundedFile(fd, start, size))
    if kind in _APE:
        yield partial(_ape, fd, size)
    at = 0
    while (stop := formats.after_id3(fd, at, tags=1)) > at:
        yield partial(_id3, _BoundedFile(fd, at, size))
        at = stop
    if kind in ("mp3", "aac", "tta", "flac", "unknown"):
        yield partial(_ape, fd, size)
    if kind in (*_APE, "mp3", "aac", "tta", "flac", "unknown"):
        yield partial(_id3v1, fd, size)
    if kind in ("matroska", "mov", "avi", "other", "unknown") and not found:
        yield partial(_by_ffmpeg, Source(fd, size, kind, start))


def _riff_readers(fd: int, start: int, size: int, big: bool) -> Iterator[Callable[[], Pairs]]:
    """The tags of a WAV or AIFF: ID3 in a chunk, then chunks of texts."""
    texts: list[tuple[bytes, int, int]] = []
    for name, at, n in formats.chunks(fd, start + 12, size, big):
        if name.lower() == b"id3 ":
            yield partial(_id3, _BoundedFile(fd, at, size))
        elif name == b"LIST" and formats.pread(fd, 4, at) == b"INFO":
            texts += formats.chunks(fd, at + 4, at + n, big)
        elif big:
            texts.append((name, at, n))
    yield lambda: [
        (name.decode("latin-1"), _plain_text(formats.pread(fd, min(n, _FRAME_BYTES), at)))
        for name, at, n in texts
        if _letters(name.decode("latin-1")) in _FIELDS
    ]


def _plain_text(data: bytes) -> str:
    """A text whose encoding is nowhere stated: UTF-8, or else what Windows uses in the West."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


class _BoundedFile:
    """A file from some byte on, that is read up to `_READ_BYTES` and `_READS` times."""

    def __init__(self, fd: int, start: int, size: int) -> None:
        self._fd, self._start, self._size = fd, start, size - start
        self._at = self._bytes = self._reads = 0

    def read(self, n: int = -1) -> bytes:
        n = max(0, min(self._size - self._at, n if n >= 0 else self._size))
        self._bytes += n
        self._reads += 1
        if self._bytes > _READ_BYTES or self._reads > _READS:
            raise OSError("its tags are too large")
        data = formats.pread(self._fd, n, self._start + self._at)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if at < 0:
            raise OSError(errno.EINVAL, "before the beginning of the file")
        self._at = at
        return at

    def tell(self) -> int:
        return self._at


# ---------------------------------------------------------------- the families of tags


def _id3(file: Any, load_v1: bool = False) -> Pairs:
    from mutagen import id3

    return _id3_texts(id3.ID3(file, known_frames=_id3_frames(), translate=False, load_v1=load_v1))


def _id3_texts(tag: Any) -> Iterator[tuple[str, str]]:
    for frame in tag.values():
        if frame.FrameID == "UFID":
            yield frame.owner, frame.data.decode("ascii", "replace")
        else:
            name = frame.desc if frame.FrameID == "TXXX" else frame.FrameID
            yield from ((name, str(text)) for text in frame.text)


def _id3v1(fd: int, size: int) -> Pairs:
    n = 131  # the tag, and what tells it from the end of a tag of APE
    return _id3(io.BytesIO(formats.pread(fd, n, max(0, size - n))), load_v1=True)


@functools.cache
def _id3_frames() -> Mapping[str, Any]:
    """The frames of ID3 that are read, by their names in versions 2.2, 2.3 and 2.4: no images, and no large ones."""
    from mutagen import id3

    class Bounded(id3.Frame):  # type: ignore[misc]  # mutagen has no types
        @classmethod
        def _fromData(cls, header: Any, tflags: int, data: bytes) -> Any:  # noqa: N802  as mutagen calls it
            # mutagen decompresses without a bound, and takes quadratic time over a text of NULs.
            compressed = tflags & (cls.FLAG24_COMPRESS if header.version >= header._V24 else cls.FLAG23_COMPRESS)
            if len(data) > (_COMPRESSED_BYTES if compressed else _FRAME_BYTES):
                raise id3.ID3JunkFrameError(f"{len(data)} bytes")
            return super()._fromData(header, tflags, data)

    names = {"TIT2": "TT2", "TPE1": "TP1", "TALB": "TAL", "TPE2": "TP2", "TRCK": "TRK", "TDRC": "", "TYER": "TYE",
             "TSRC": "TRC", "UFID": "UFI", "TXXX": "TXX"}  # fmt: skip
    frames = {}
    for name, old in names.items():
        frames[name] = frames[old or name] = type(name, (Bounded, getattr(id3, name)), {})
    return frames


def _ape(fd: int, size: int) -> Iterator[tuple[str, str]]:
    from mutagen import apev2

    for name, value in apev2.APEv2(_BoundedFile(fd, 0, size)).items():
        if isinstance(value, apev2.APETextValue):
            yield name, str(value)


@functools.cache
def _comments() -> Any:
    """The class of Vorbis comments as FLAC has them; only those that are read are kept."""
    from mutagen import flac

    class Comments(flac.VCFLACDict):  # type: ignore[misc]  # mutagen has no types
        def append(self, pair: tuple[str, str]) -> None:
            if _letters(pair[0]) in _FIELDS and len(self) < _COMMENTS:
                super().append(pair)

    return Comments


def _flac(file: Any) -> Iterator[tuple[str, str]]:
    """The comments of FLAC, read without the images beside them."""
    file.seek(4)
    for _ in range(1000):
        head = file.read(4)
        if len(head) < 4:
            return
        length = int.from_bytes(head[1:], "big")
        if head[0] & 0x7F == 4:
            yield from list(_comments()(file.read(length)))
        else:
            file.seek(length, io.SEEK_CUR)
        if head[0] & 0x80:
            return


def _ogg(file: Any) -> Pairs:
    import mutagen
    from mutagen import oggflac, oggopus, oggspeex, oggtheora, oggvorbis

    kinds = [oggvorbis.OggVorbis, oggopus.OggOpus, oggflac.OggFLAC, oggspeex.OggSpeex, oggtheora.OggTheora]
    return list(mutagen.File(file, options=kinds).tags)


def _mp4(file: Any) -> Iterator[tuple[str, str]]:
    from mutagen import mp4

    for name, values in (mp4.MP4(file).tags or {}).items():
        for value in values if isinstance(values, list) and name != "covr" else ():
            text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
            yield name.rpartition(":")[2], str(text[0] if isinstance(text, tuple) else text)


def _asf(file: Any) -> Iterator[tuple[str, str]]:
    from mutagen import asf

    for name, value in asf.ASF(file).tags:
        if value.TYPE not in (asf.GUID, asf.BYTEARRAY):
            yield name, str(value)


def _dsd(file: Any) -> Pairs:
    """The ID3 tag inside a file of DSD samples."""
    from mutagen import dsdiff, dsf

    kind = dsf.DSF if file.read(4) == b"DSD " else dsdiff.DSDIFF
    file.seek(0)
    return _id3_texts(kind(file, known_frames=_id3_frames(), translate=False).tags or {})


def _by_ffmpeg(source: Source) -> Pairs:
    from pipeline.audio import ffmpeg  # the store imports this module, and no decoder

    return ffmpeg.read_metadata(source)


_CONTAINERS: Mapping[str, Callable[[Any], Pairs]] = {
    "flac": _flac, "ogg": _ogg, "opus": _ogg, "mp4": _mp4, "mov": _mp4, "asf": _asf, "dsf": _dsd, "dff": _dsd,
}  # fmt: skip
_APE = ("monkeys", "wavpack", "musepack", "tak", "optimfrog")  # their own tag is an APEv2


# ---------------------------------------------------------------- names and texts


def _letters(name: str) -> str:
    """A name without case, spaces and signs, in which families and taggers differ."""
    return re.sub(r"[^a-z0-9]", "", name[:100].lower())


def _text(text: str) -> str | None:
    """The first value that is not blank, without surrogates, of bounded length."""
    for value in text[: 4 * _TAG_CHARACTERS].split("\0"):
        if value := value.strip().strip("\ufeff")[:_TAG_CHARACTERS].strip():
            return value.encode("utf-8", "replace").decode("utf-8")
    return None


def _number(text: str) -> int | None:
    """The track in "3", "03" or "3/12"; none in "0"."""
    number = re.match(r"\s*0*([1-9][0-9]{0,4})(?![0-9])", text)
    return int(number[1]) if number else None


def _year(text: str) -> int | None:
    """The year of a date: "1999-05-01", "19990501", "1 May 1999"."""
    year = re.search(r"(?<![0-9])([12][0-9]{3})(?=([01][0-9][0-3][0-9])?(?![0-9]))", text[:_TAG_CHARACTERS])
    return int(year[1]) if year else None


def _isrc(text: str) -> str | None:
    code = re.search(r"[A-Z]{2}[A-Z0-9]{3}[0-9]{7}", re.sub(r"[-. ]", "", text[:_TAG_CHARACTERS]).upper())
    return code[0] if code else None


def _uuid(text: str) -> str | None:
    found = re.search(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text[:_TAG_CHARACTERS].lower())
    return found[0] if found else None


# Names as `_letters` gives them: Vorbis and APE, ID3, MP4, ASF, RIFF and AIFF, ffmpeg.
_NAMES: Mapping[str, tuple[Callable[[str], Any], str]] = {
    "title": (_text, "title tit2 nam inam name"),
    "artist": (_text, "artist tpe1 art author iart auth"),
    "album": (_text, "album talb alb wmalbumtitle iprd"),
    "album_artist": (_text, "albumartist tpe2 aart wmalbumartist"),
    "track": (_number, "track tracknumber trck trkn wmtracknumber itrk iprt"),
    "year": (_year, "date year tdrc tyer day wmyear icrd"),
    "isrc": (_isrc, "isrc tsrc wmisrc"),
    "musicbrainz_recording_id": (_uuid, "musicbrainztrackid musicbrainzrecordingid httpmusicbrainzorg"),
    "acoustid": (_uuid, "acoustid acoustidid"),
}
_FIELDS = {name: (field, clean) for field, (clean, names) in _NAMES.items() for name in names.split()}
