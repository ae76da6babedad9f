"""Which songs there are: walk folders and object stores, and what can be said of a file without decoding it.

Paths are carried as Python gives them: bytes of a name that are no UTF-8 travel as lone surrogates, so that the file
can be opened again, also by another process. A table or a message takes `pipeline.audio.shown` of a path.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import io
import logging
import os
import re
import stat
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

from pipeline import audio
from pipeline.errors import AudioError, CatalogError

log = logging.getLogger(__name__)

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_TAG_CHARACTERS = 500  # longer titles are somebody's attack, or a mistake
_TAG_BYTES = 1 << 16  # of one ID3 frame, before and after decompression; longer ones are passed over


@dataclass(frozen=True, slots=True)
class Entry:
    """A file to index or to identify.

    Parameters
    ----------
    path
        As given, or the folder as given with the rest below it; or a URL.
    size_bytes, modified_ns
        As the file system says; 0 where it does not.
    """

    path: str
    size_bytes: int
    modified_ns: int


@dataclass(frozen=True, slots=True)
class Tags:
    """What a file says of itself; None where it says nothing. Strangers' text, at most 500 characters each."""

    title: str | None = None
    artist: str | None = None
    album: str | None = None


def walk(paths: Sequence[str]) -> list[Entry]:
    """Find the audio files under some paths.

    Parameters
    ----------
    paths
        Files and folders, local or as fsspec URLs. Below a folder (searched wholly) a file counts by its suffix
        (`pipeline.audio.SUFFIXES`, upper or lower case), and everything else is passed over without a word. A file
        given by itself counts also if its first bytes look like audio.

    Returns
    -------
    list of Entry
        Sorted by path; a path that is reached twice is there once. Symbolic links *below* a folder are not followed:
        what lies outside the folder is not touched, and no link leads in a circle. (The given path itself may be a
        link.) A folder that cannot be listed becomes an entry too: decoding it fails with the reason, so that it is
        told with the other failures instead of being lost.

    Raises
    ------
    CatalogError
        If a path does not exist, or leads to no audio file at all.
    """
    found: dict[str, Entry] = {}
    for path in paths:
        entries = _remote(path) if is_url(path) else _local(path)
        found.update((entry.path, entry) for entry in entries)
    return [found[path] for path in sorted(found)]


def is_there(path: str) -> bool:
    r"""Whether there is something under a local path, given as Python has it or as `pipeline.audio.shown` made it.

    >>> is_there("/no/such\\xe9file")
    False
    """
    as_bytes = re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), os.fsencode(path))
    return os.path.exists(path) or os.path.exists(as_bytes)


def folders(entries: Sequence[Entry]) -> list[str]:
    """Where the first and the last file are, absolute: what a process that can see the music surely sees."""
    paths = [entry.path for entry in (*entries[:1], *entries[-1:])]
    return list(dict.fromkeys(os.path.dirname(path if is_url(path) else os.path.abspath(path)) for path in paths))


def digest(path: str) -> str:
    """Hash of a local file's bytes, as ``sha256sum`` prints it.

    SHA-256 because processors have instructions for it: 1.6 GB/s here, BLAKE2b 0.7, so 5 ms of a song that takes
    250 ms to decode.

    Raises
    ------
    AudioError
        If the file cannot be read.
    """
    with audio.opened(path) as (fd, _), open(fd, "rb", closefd=False) as file:
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise AudioError(f"{audio.shown(path)}: {error.strerror}") from None


def tags(path: str) -> Tags:
    """Title, artist and album of a local file.

    Nothing in a file makes this fail: tags that cannot be read are None. Line breaks, terminal escapes and the like
    are kept, since they are what the file says; whoever shows them must quote them.
    """
    try:
        with audio.opened(path) as (fd, _), open(fd, "rb", closefd=False) as file:
            head = file.read(12)
            if head[:3] == b"ID3" or (head[:4] in (b"RIFF", b"RF64", b"FORM") and head[8:11] in (b"WAV", b"AIF")):
                found = _id3(file, _id3_offset(file, head))
            else:
                found = _mutagen(file)
            return found if found != Tags() else _id3v1(file)
    except Exception as error:  # every parser of every format has its own; a song is worth more than its title
        log.debug("%s: tags unreadable: %s", audio.shown(path), error)
        return Tags()


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[str]:
    """A local file with a path's content: the path itself, or for a URL a temporary copy, gone at the end.

    Raises
    ------
    AudioError
        If the object cannot be fetched.
    """
    if not is_url(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="songprint-") as folder:
        local = os.path.join(folder, "audio")
        try:
            fs, name = _filesystem(path)
            fs.get_file(name, local)
        except Exception as error:  # every object store's client has its own
            raise AudioError(f"{audio.shown(path)}: not fetched: {_reason(error)}") from None
        try:
            yield local
        except AudioError as error:  # its words are of a copy that is gone
            raise AudioError(str(error).replace(local, audio.shown(path))) from error


def is_url(path: str) -> bool:
    """Whether a path is an fsspec URL (``s3://...``) and not a local path; ``file://`` is one too."""
    return _URL.match(path) is not None


# ---------------------------------------------------------------------------------------------------- walking


def _local(path: str) -> list[Entry]:
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise CatalogError(f"{audio.shown(path)}: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISDIR(status.st_mode):
        if not stat.S_ISREG(status.st_mode):
            raise CatalogError(f"{audio.shown(path)}: a pipe, socket or device; only regular files are read")
        if not _has_suffix(path) and not _sniffed(path):
            raise CatalogError(f"{audio.shown(path)}: not an audio file; give one, or a folder that holds some")
        return [Entry(path, status.st_size, status.st_mtime_ns)]
    entries: list[Entry] = []
    links = 0
    folders = [path]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as items:
                for item in items:
                    if item.is_symlink():
                        links += 1
                    elif item.is_dir(follow_symlinks=False):
                        folders.append(item.path)
                    elif _has_suffix(item.name) and item.is_file(follow_symlinks=False):
                        with contextlib.suppress(FileNotFoundError):  # gone since it was listed
                            seen = item.stat(follow_symlinks=False)
                            entries.append(Entry(item.path, seen.st_size, seen.st_mtime_ns))
        except FileNotFoundError:  # the folder itself is gone
            continue
        except OSError as error:
            log.warning("%s: cannot be listed: %s", audio.shown(folder), error.strerror)
            entries.append(Entry(folder, 0, 0))
    if not entries:
        hint = f" ({links} symbolic links are not followed: give what they lead to)" if links else ""
        raise CatalogError(f"{audio.shown(path)}: no audio file in this folder{hint}")
    return entries


def _sniffed(path: str) -> bool:
    try:
        return audio.is_audio(path)
    except AudioError as error:
        raise CatalogError(str(error)) from None


def _remote(url: str) -> list[Entry]:
    try:
        fs, root = _filesystem(url)
        if fs.isfile(root):  # given by itself
            return [_entry(fs, root, fs.info(root))]
        infos: dict[str, dict[str, Any]] = fs.find(root, detail=True)
    except Exception as error:  # every object store's client has its own
        raise CatalogError(f"{url}: {_reason(error)}") from None
    entries = [
        _entry(fs, name, info) for name, info in infos.items() if _has_suffix(name) and info.get("type") == "file"
    ]
    if not entries:
        raise CatalogError(f"{url}: no audio file there")
    return entries


def _entry(fs: Any, name: str, info: dict[str, Any]) -> Entry:
    modified = next(
        (info[key] for key in ("mtime", "LastModified", "last_modified", "modified", "created") if key in info), 0
    )
    seconds = modified.timestamp() if isinstance(modified, datetime.datetime) else modified
    modified_ns = round(seconds * 1e9) if isinstance(seconds, int | float) else 0
    return Entry(fs.unstrip_protocol(name), int(info.get("size") or 0), modified_ns)


def _filesystem(url: str) -> tuple[Any, str]:
    import fsspec  # 55 ms that local files need not pay

    fs, name = fsspec.core.url_to_fs(url)
    return fs, name


def _reason(error: Exception) -> str:
    """The first line of an error, or its kind where it has no words."""
    if isinstance(error, FileNotFoundError):
        return "does not exist"
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _has_suffix(path: str) -> bool:
    """Whether a name is an audio file's; ``._x.mp3`` is not: macOS keeps a file's attributes under such names."""
    name = path.rpartition("/")[2]
    return (
        not name.startswith("._") and "." in name and "." + name.lower().rpartition(".")[2] in audio.SUFFIXES
    )  # "..mp3" is one too


# ---------------------------------------------------------------------------------------------------- tags

# One name for each family of tags: Vorbis comments and APE, MP4, ASF.
_TITLE = ("title", "\xa9nam", "Title")
_ARTIST = ("artist", "\xa9ART", "Author", "Artist")
_ALBUM = ("album", "\xa9alb", "WM/AlbumTitle", "Album")


def _mutagen(file: IO[bytes]) -> Tags:
    """What mutagen reads, in every format but those with ID3.

    Its ID3 reader decompresses frames without a bound and takes quadratic time over a text of NULs: a file of 200 kB
    keeps it busy for hours and takes gigabytes. So ID3 is read here.
    """
    import mutagen  # 30 ms that identifying a clip need not pay
    from mutagen import asf, flac, monkeysaudio, mp4, musepack, oggflac, oggopus, oggvorbis, wavpack

    file.seek(0)
    kinds = [flac.FLAC, oggvorbis.OggVorbis, oggopus.OggOpus, oggflac.OggFLAC, mp4.MP4, asf.ASF]
    held = mutagen.File(file, options=[*kinds, monkeysaudio.MonkeysAudio, musepack.Musepack, wavpack.WavPack])

    def first(names: Sequence[str]) -> str | None:
        for name in names:
            try:
                value = held[name]
                return _bounded(str(value[0] if isinstance(value, list) else value))
            except Exception:  # a missing key, and whatever odd values do
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
            length = _synchsafe(word)  # else as an old iTunes wrote it
        if name in _FRAMES and length <= _TAG_BYTES and _FRAMES[name] not in found:
            file.seek(at + header)
            text = _text(file.read(length), frame[9] if version > 2 else 0, version)
            if text is not None:
                found[_FRAMES[name]] = text
        at += header + length
    return Tags(**found)


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
    return Tags(*(_bounded(tag[at : at + 30].split(b"\0", 1)[0].decode("latin-1")) for at in (3, 33, 63)))


def _synchsafe(word: bytes) -> int:
    """ID3's whole numbers: seven bits of each byte."""
    number = 0
    for byte in word:
        number = number << 7 | byte & 0x7F
    return number
