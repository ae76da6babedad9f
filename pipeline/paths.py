"""What a path is: a local name or a URL, how it is shown, and how a regular file is opened."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
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
    import fsspec  # 55 ms that local files need not pay

    found: tuple[Any, str] = fsspec.url_to_fs(url, **options)
    return found


def is_there(path: str) -> bool:
    r"""Whether there is something under a local path, given as Python has it or as `shown` made it.

    >>> is_there("/no/such\\xe9file")
    False
    """
    as_bytes = re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), os.fsencode(path))
    return os.path.exists(path) or os.path.exists(as_bytes)


def shown(path: str) -> str:
    r"""A path as text that every table and message can hold.

    A name on disk is bytes; Python carries the bytes that are no UTF-8 as lone surrogates, with which the file can be
    opened again but which neither Parquet nor a terminal takes. Here they become ``\xNN``.

    Examples
    --------
    >>> shown("Caf\udce9.mp3")
    'Caf\\xe9.mp3'
    """
    try:
        return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a lone surrogate that stands for no byte
        return path.encode("utf-8", "backslashreplace").decode("utf-8")


def audio_error(path: str, reason: str) -> AudioError:
    """One line, whatever bytes the path or a decoder's words hold."""
    line = f"{shown(path)}: {reason}"
    return AudioError("".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line))


@contextlib.contextmanager
def opened(path: str) -> Iterator[tuple[int, int]]:
    """Descriptor and size of a regular file; devices and pipes, which would hang a reader, are not opened at all.

    Raises
    ------
    AudioError
        If the file is not regular or cannot be opened, with the reason.
    """
    try:
        # Asked twice: opening a device can already do something, and the name may lead elsewhere by now.
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
