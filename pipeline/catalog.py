"""Which songs there are: walk folders and object stores, and what can be said of a file without decoding it.

Paths are carried as Python gives them: bytes of a name that are no UTF-8 travel as lone surrogates, so that the file
can be opened again, also by another process. A table or a message takes `pipeline.paths.shown` of a path.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import logging
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.audio import formats
from pipeline.errors import AudioError, CatalogError
from pipeline.paths import filesystem, is_url, opened, shown

log = logging.getLogger(__name__)


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
    with opened(path) as (fd, _), open(fd, "rb", closefd=False) as file:
        try:
            return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise AudioError(f"{shown(path)}: {error.strerror}") from None


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
            fs, name = filesystem(path)
            fs.get_file(name, local)
        except Exception as error:  # every object store's client has its own
            raise AudioError(f"{shown(path)}: not fetched: {_reason(error)}") from None
        try:
            yield local
        except AudioError as error:  # its words are of a copy that is gone
            raise AudioError(str(error).replace(local, shown(path))) from error


def _local(path: str) -> list[Entry]:
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise CatalogError(f"{shown(path)}: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISDIR(status.st_mode):
        if not stat.S_ISREG(status.st_mode):
            raise CatalogError(f"{shown(path)}: a pipe, socket or device; only regular files are read")
        if not _has_suffix(path) and not _sniffed(path):
            raise CatalogError(f"{shown(path)}: not an audio file; give one, or a folder that holds some")
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
            log.warning("%s: cannot be listed: %s", shown(folder), error.strerror)
            entries.append(Entry(folder, 0, 0))
    if not entries:
        hint = f" ({links} symbolic links are not followed: give what they lead to)" if links else ""
        raise CatalogError(f"{shown(path)}: no audio file in this folder{hint}")
    return entries


def _sniffed(path: str) -> bool:
    try:
        return formats.is_audio(path)
    except AudioError as error:
        raise CatalogError(str(error)) from None


def _remote(url: str) -> list[Entry]:
    try:
        fs, root = filesystem(url)
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


def _reason(error: Exception) -> str:
    """The first line of an error, or its kind where it has no words."""
    if isinstance(error, FileNotFoundError):
        return "does not exist"
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _has_suffix(path: str) -> bool:
    """Whether a name is an audio file's; ``._x.mp3`` is not: macOS keeps a file's attributes under such names."""
    name = path.rpartition("/")[2]
    return (
        not name.startswith("._") and "." in name and "." + name.lower().rpartition(".")[2] in formats.SUFFIXES
    )  # "..mp3" is one too
