"""Paths: local names and URLs, how they are printed, and how a regular file is opened."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import stat
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.errors import AudioError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def is_url(path: str) -> bool:
    """Whether a path is an fsspec URL (``s3://...``) and not a local path; ``file://`` is one too."""
    return _URL.match(path) is not None


def filesystem(url: str, **options: Any) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the name of the URL in it.

    Parameters
    ----------
    options
        For the file system, as fsspec takes them.
    """
    import fsspec  # 55 ms, which runs on local files do not pay

    found: tuple[Any, str] = fsspec.url_to_fs(url, **options)
    return found


# Under which key a file system gives the time of the last change: the first that is there counts.
_MODIFIED_KEYS = ("mtime", "LastModified", "last_modified", "modified", "created")


def modified_s(info: Mapping[str, Any]) -> float:
    """When a remote file was last changed.

    Parameters
    ----------
    info
        What the file system says of the file (fsspec's ``info``); each kind of object store has a key of its own.

    Returns
    -------
    float
        Seconds since 1970; 0.0 where the file system does not say.

    Examples
    --------
    >>> modified_s({"size": 5, "LastModified": datetime.datetime(1970, 1, 2, tzinfo=datetime.UTC)})
    86400.0
    """
    modified = next((info[key] for key in _MODIFIED_KEYS if key in info), 0.0)
    if isinstance(modified, datetime.datetime):
        return modified.timestamp()
    return float(modified) if isinstance(modified, int | float) else 0.0


def path_exists(path: str) -> bool:
    r"""Whether something lies under a local path, given as Python has it or as `printable_path` made it.

    >>> path_exists("/no/such\\xe9file")
    False
    """
    as_bytes = re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), os.fsencode(path))
    return os.path.exists(path) or os.path.exists(as_bytes)


def printable_path(path: str) -> str:
    r"""A path as text that every table and message can hold.

    A name on disk is bytes. Python turns bytes that are not UTF-8 into lone surrogates. With these the file can be
    opened again, but neither Parquet nor a terminal takes them. Here they become ``\xNN``.

    Examples
    --------
    >>> printable_path("Caf\udce9.mp3")
    'Caf\\xe9.mp3'
    """
    try:
        return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a lone surrogate that stands for no byte
        return path.encode("utf-8", "backslashreplace").decode("utf-8")


def audio_error(path: str, reason: str) -> AudioError:
    """The error for a file, as one printable line, whatever bytes the path or a decoder's message holds."""
    line = f"{printable_path(path)}: {reason}"
    return AudioError("".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line))


@contextlib.contextmanager
def open_regular(path: str) -> Iterator[tuple[int, int]]:
    """Open a regular file for reading; devices and pipes, which would hang a reader, are not opened at all.

    Yields
    ------
    fd, size
        The descriptor, which is closed at the end, and the bytes of the file.

    Raises
    ------
    AudioError
        If the file is not regular or cannot be opened, with the reason.
    """
    try:
        # Checked twice: opening a device can already do something, and the name may lead elsewhere once it is open.
        _require_regular(path, os.stat(path))
        flags = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        fd = os.open(path, os.O_RDONLY | flags)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        raise audio_error(path, getattr(error, "strerror", None) or str(error)) from None
    try:
        status = os.fstat(fd)
        _require_regular(path, status)
        yield fd, status.st_size
    finally:
        os.close(fd)


def _require_regular(path: str, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise audio_error(path, "a folder, or one that cannot be listed; a file is needed")
    if not stat.S_ISREG(status.st_mode):
        raise audio_error(path, "a pipe, socket or device; only regular files are read")
