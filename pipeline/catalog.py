"""Which songs there are: walk folders and object stores, and what can be said of a file without decoding it.

Paths are carried as Python gives them: bytes of a name that are no UTF-8 travel as lone surrogates, so that the file
can be opened again, also by another process. A table or a message takes `pipeline.paths.printable_path` of a path.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.audio import formats
from pipeline.errors import AudioError, CatalogError, NotTried, SongprintError
from pipeline.paths import Paths, filesystem, is_url, modified_s, open_regular, path_is_gone, path_list, printable_path

log = logging.getLogger(__name__)

_KINDS_SHOWN = 5


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
class Found:
    """The audio files under some paths, and how many others there are.

    Parameters
    ----------
    entries
        Sorted by path, each path once.
    passed_over
        How many files of each other suffix (in lower case, ``""`` for none) a search of folders passed over; hidden
        ones are not counted.
    """

    entries: list[Entry]
    passed_over: Counter[str]


def walk(paths: Paths) -> list[Entry]:
    """The entries of `find`."""
    return find(paths).entries


def find(paths: Paths) -> Found:
    """Find the audio files under some paths.

    Parameters
    ----------
    paths
        A file or folder, or several of them, local or as fsspec URLs. A folder is searched recursively: files with one
        of the suffixes in `pipeline.audio.formats.SUFFIXES` (upper or lower case) are taken, all others are counted. A
        file given by itself is taken whatever its suffix, unless its first bytes are those of something else: decoders
        know more formats than we do. Among paths that lead to audio, one that does not (a cover image or a broken link
        that a shell's ``*`` names) is a warning.

    Returns
    -------
    Found
        Symbolic links *below* a folder are not followed: nothing outside the folder is read, and no link leads in a
        circle. (The given path itself may be a link.) A folder that cannot be listed becomes an entry too: decoding it
        fails with the reason, so that it is listed with the other failures.

    Raises
    ------
    CatalogError
        If a path does not exist, or none leads to an audio file.
    """
    found: dict[str, Entry] = {}
    without: list[_NoAudio] = []
    passed_over: Counter[str] = Counter()
    for path in path_list(paths):
        try:
            entries = _remote(path, passed_over) if is_url(path) else _local(path, passed_over)
        except _NoAudio as error:
            without.append(error)
        else:
            found.update((entry.path, entry) for entry in entries)
    if without and not found:
        raise CatalogError(str(without[0]))
    for reason in without:
        log.warning("%s", reason)
    return Found([found[path] for path in sorted(found)], passed_over)


class _NoAudio(CatalogError):
    """A path that is there, and leads to no audio file."""


def folders(entries: Sequence[Entry]) -> list[str]:
    """The folders of the first and the last file, absolute: every process that can read the music sees these."""
    paths = [entry.path for entry in (*entries[:1], *entries[-1:])]
    return list(dict.fromkeys(os.path.dirname(path if is_url(path) else os.path.abspath(path)) for path in paths))


def absolute(path: str) -> str:
    """A path that means the same in every process and folder; of a URL, the form that `walk` gives."""
    if not is_url(path):
        return os.path.abspath(path)
    fs, name = filesystem(path)
    return str(fs.unstrip_protocol(name))


def is_below(path: str, folder: str) -> bool:
    """Whether an absolute path is a folder, or lies in it, at any depth."""
    return path == folder or path.startswith(folder.rstrip("/\\") + ("/" if is_url(folder) else os.sep))


class MountPoints:
    """The mount points of file systems, each folder looked at once."""

    def __init__(self) -> None:
        self._of: dict[str, str] = {}

    def of(self, path: str) -> str | None:
        """The mount point of the file system that a local file is on; ``None`` for a URL."""
        if is_url(path):
            return None
        folders = []
        folder = os.path.dirname(os.path.abspath(path))
        while folder not in self._of and not os.path.ismount(folder) and os.path.dirname(folder) != folder:
            folders.append(folder)
            folder = os.path.dirname(folder)
        found = self._of.setdefault(folder, folder)
        self._of |= dict.fromkeys(folders, found)
        return found


def gone_paths(paths: Iterable[str], mount_points: Iterable[str]) -> set[str]:
    """Those of some paths of songs under which there is surely no file any more.

    Parameters
    ----------
    mount_points
        Of file systems that songs were on. What lies below one that is not mounted is not gone.
    """
    unmounted = [folder for folder in mount_points if not os.path.ismount(folder)]
    gone: set[str] = set()
    remote: dict[str, list[str]] = {}
    for path in paths:
        if is_url(path):
            remote.setdefault(path.rpartition("/")[0], []).append(path)
        elif path_is_gone(path) and not any(is_below(path, folder) for folder in unmounted):
            gone.add(path)
    for folder, files in remote.items():
        try:
            fs, name = filesystem(folder, use_listings_cache=False)
            there = set(fs.ls(name, detail=False))
        except FileNotFoundError:
            there = set()
        except (SongprintError, OSError) as error:
            log.warning("%s", error)
            continue
        gone.update(path for path in files if filesystem(path)[1] not in there)
    return gone


def digest(path: str) -> str:
    """Hash of a local file's bytes, as ``sha256sum`` prints it.

    SHA-256 because processors have instructions for it: 1.6 GB/s against 0.7 for BLAKE2b. A song takes 5 ms, and
    250 ms to decode.

    Raises
    ------
    NotTried
        If the file cannot be read.
    """
    with open_regular(path) as (fd, _), open(fd, "rb", closefd=False) as file:
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise NotTried(f"{printable_path(path)}: {error.strerror}") from None


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[str]:
    """A local file with a path's content: the path itself, or for a URL a temporary copy, deleted at the end.

    Raises
    ------
    NotTried
        If the object cannot be fetched.
    """
    if not is_url(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="songprint-") as folder:
        local = os.path.join(folder, "audio")
        try:
            fs, name = filesystem(path)
            fs.get_file(name, local)
        except Exception as error:
            reason = _reason(error).removeprefix(f"{path}: ")
            raise NotTried(f"{printable_path(path)}: not fetched: {reason}") from None
        try:
            yield local
        except AudioError as error:  # its message names the copy, which is deleted
            raise type(error)(str(error).replace(local, printable_path(path))) from error


def _local(path: str, passed_over: Counter[str]) -> list[Entry]:
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        if os.path.islink(path):
            raise _NoAudio(f"{printable_path(path)}: a link that leads nowhere") from None
        raise CatalogError(f"{printable_path(path)}: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISDIR(status.st_mode):
        if not stat.S_ISREG(status.st_mode):
            raise _NoAudio(f"{printable_path(path)}: a pipe, socket or device; only regular files are read")
        if not _has_suffix(path) and not _looks_like_audio(path):
            raise _NoAudio(f"{printable_path(path)}: not an audio file; give one, or a folder that holds some")
        return [Entry(path, status.st_size, status.st_mtime_ns)]
    entries: list[Entry] = []
    others: Counter[str] = Counter()
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
                    elif not _has_suffix(item.name):
                        _count(item.name, others)
                    elif item.is_file(follow_symlinks=False):
                        with contextlib.suppress(FileNotFoundError):  # deleted since it was listed
                            seen = item.stat(follow_symlinks=False)
                            entries.append(Entry(item.path, seen.st_size, seen.st_mtime_ns))
        except FileNotFoundError:  # the folder itself was deleted
            continue
        except OSError as error:
            log.warning("%s: cannot be listed: %s", printable_path(folder), error.strerror)
            entries.append(Entry(folder, 0, 0))
    passed_over.update(others)
    if not entries:
        hint = f" ({links} symbolic links are not followed: give what they lead to)" if links else ""
        kinds = f"; it has {kinds_text(others)}" if others else ""
        raise _NoAudio(f"{printable_path(path)}: no audio file in this folder{hint}{kinds}")
    return entries


def kinds_text(passed_over: Counter[str]) -> str:
    """How many files of which suffixes, the most frequent ones.

    >>> kinds_text(Counter({".jpg": 12, ".txt": 1, "": 3}))
    '16 other files (12 .jpg, 3 without suffix, 1 .txt)'
    """
    shown = [f"{count} {suffix or 'without suffix'}" for suffix, count in passed_over.most_common(_KINDS_SHOWN)]
    more = ", ..." if len(passed_over) > _KINDS_SHOWN else ""
    total = passed_over.total()
    return printable_path(f"{total:,} other file{'s' if total > 1 else ''} ({', '.join(shown)}{more})")


def _count(name: str, passed_over: Counter[str]) -> None:
    """Count a file that is no audio by its name."""
    if not name.startswith("."):
        passed_over[os.path.splitext(name)[1].lower()] += 1


def _looks_like_audio(path: str) -> bool:
    try:
        return formats.is_audio(path)
    except AudioError as error:
        raise CatalogError(str(error)) from None


def _remote(url: str, passed_over: Counter[str]) -> list[Entry]:
    try:
        fs, root = filesystem(url)
        if fs.isfile(root):  # given by itself
            return [_entry(fs, root, fs.info(root))]
        infos: dict[str, dict[str, Any]] = fs.find(root, detail=True)
    except Exception as error:
        raise CatalogError(f"{url}: {_reason(error).removeprefix(f'{url}: ')}") from None
    others: Counter[str] = Counter()
    entries = []
    for name, info in infos.items():
        if info.get("type") != "file":
            continue
        if _has_suffix(name):
            entries.append(_entry(fs, name, info))
        else:
            _count(name.rpartition("/")[2], others)
    passed_over.update(others)
    if not entries:
        raise _NoAudio(f"{url}: no audio file there{f'; it has {kinds_text(others)}' if others else ''}")
    return entries


def _entry(fs: Any, name: str, info: dict[str, Any]) -> Entry:
    return Entry(fs.unstrip_protocol(name), int(info.get("size") or 0), round(modified_s(info) * 1e9))


def _reason(error: Exception) -> str:
    """The first line of an error's message, or its class where the message is empty."""
    if isinstance(error, FileNotFoundError):
        return "does not exist"
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _has_suffix(path: str) -> bool:
    """Whether a name is an audio file's; ``._x.mp3`` is not: macOS keeps a file's attributes under such names."""
    name = path.rpartition("/")[2]
    if name.startswith("._") or "." not in name:
        return False
    return "." + name.lower().rpartition(".")[2] in formats.SUFFIXES  # not `splitext`: "..mp3" counts too
