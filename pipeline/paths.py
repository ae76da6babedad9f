"""Paths: local names and URLs, how they are printed, and how a regular file is opened."""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from pipeline.errors import AudioError, NotTried, ParameterError, RemoteError

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
"""The extra of songprint that installs what a scheme needs."""

PathLike: TypeAlias = str | os.PathLike[str]
"""A path as users give it: text (also a URL), or a `pathlib.Path` of a local file or folder."""
Paths: TypeAlias = PathLike | Iterable[PathLike]
"""One path, or any number of them."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_URL_IN_PATH = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/(?!/)")  # Path("s3://bucket") drops a slash


def path_text(path: PathLike, argument: str = "path") -> str:
    """The text of a path.

    Parameters
    ----------
    argument
        What the caller calls it, for the error.

    Raises
    ------
    ParameterError
        If it is no path, a URL in a `pathlib.Path`, which changes it, or a URL of nothing.
    """
    text = path if isinstance(path, str) else os.fspath(path) if isinstance(path, os.PathLike) else None
    if not isinstance(text, str):
        raise ParameterError(f"{argument}: {path!r:.80} is no path; give a str or a pathlib.Path")
    if text is not path and _URL_IN_PATH.match(text):
        raise ParameterError(f"{argument}: {path!r} has lost a slash of its URL; give URLs as str")
    scheme = text.partition(":")[0]
    if _URL.fullmatch(text) or (scheme in _EXTRAS and _URL_IN_PATH.match(text)):
        raise ParameterError(f"{argument}: {text!r} is no whole URL; it looks like {scheme}://bucket/folder")
    return text


def path_list(paths: Paths, argument: str = "paths") -> list[str]:
    """The texts of one path or of several.

    Parameters
    ----------
    paths
        A path, or an iterable of paths: a list, a column of pandas, a generator.

    Raises
    ------
    ParameterError
        As `path_text`; also if it is neither.

    Examples
    --------
    >>> path_list("Music"), path_list(["Music", "More"])
    (['Music'], ['Music', 'More'])
    """
    if isinstance(paths, str | os.PathLike):
        return [path_text(paths, argument)]
    if isinstance(paths, bytes) or not isinstance(paths, Iterable):
        raise ParameterError(f"{argument}: {paths!r:.80} is no path; give a str, a pathlib.Path, or a list of them")
    return [path_text(path, argument) for path in paths]


def is_url(path: str) -> bool:
    """Whether a path is an fsspec URL (``s3://...``) and not a local path; ``file://`` is one too."""
    return _URL.match(path) is not None


# How often s3fs makes a request that fails, each time with 5 tries of botocore of up to 20 s and pauses between them.
S3_TRIES = 2


def filesystem(url: str, **options: Any) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the name of the URL in it.

    Parameters
    ----------
    options
        For the file system, as fsspec takes them.

    Raises
    ------
    RemoteError
        If no package serves the scheme; and, from each method of the file system, if it does not answer.
    """
    import fsspec  # 55 ms, which runs on local files do not pay

    scheme = url.partition("://")[0].lower()
    if scheme not in fsspec.available_protocols():
        raise RemoteError(f"{url}: unknown scheme {scheme}://; give a local path, or a URL such as s3://… or gs://…")
    try:
        files, name = fsspec.url_to_fs(url, **options)
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        how = f"pip install 'songprint[{extra}]'" if extra else str(error)
        raise RemoteError(f"{url}: {scheme}:// needs a package that is not installed: {how}") from error
    except Exception as error:  # every object store's client has its own
        raise remote_error(url, error) from error
    if getattr(files, "retries", 0) > S3_TRIES:
        files.retries = S3_TRIES
    return _RemoteFiles(files, url), name


class _RemoteFiles:
    """A file system of fsspec whose clients' own errors become a `RemoteError`; errors that Python has stay."""

    def __init__(self, files: Any, url: str) -> None:
        self._files = files
        self._url = url

    @property
    def unwrapped(self) -> Any:
        """The file system of fsspec, for libraries that take one."""
        return self._files

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._files, name)
        return functools.partial(self._call, attribute) if callable(attribute) else attribute

    def _call(self, method: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return method(*arguments, **options)
        except Exception as error:
            ours = type(error).__module__ == "builtins" and not isinstance(error, ConnectionError | TimeoutError)
            if ours:
                raise
            raise remote_error(self._url, error) from error


def remote_error(url: str, error: Exception) -> RemoteError:
    """The error for a remote file system, with the first line of what its client says."""
    said = next(iter(str(error).splitlines()), "").rstrip(".") or type(error).__name__
    if "Credential" in type(error).__name__:
        hint = "set them in the environment, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for s3://"
    else:
        hint = "check the URL, the network and the environment (AWS_ENDPOINT_URL for s3://), then run the same again"
    return RemoteError(f"{url}: {said}; {hint}")


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


def path_is_gone(path: str) -> bool:
    r"""Whether surely nothing lies under a local path, given as Python has it or as `printable_path` made it.

    A folder that may not be searched, and a file server that does not answer, leave it open: that is ``False``.

    >>> path_is_gone("/no/such\xe9file")
    True
    """
    as_bytes = re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), os.fsencode(path))
    for name in {os.fsencode(path), as_bytes}:
        try:
            os.lstat(name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError):
            return False
        return False
    return True


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


def audio_error(path: str, reason: str, kind: type[AudioError] = AudioError) -> AudioError:
    """The error for a file, as one printable line, whatever bytes the path or a decoder's message holds."""
    line = f"{printable_path(path)}: {reason}"
    return kind("".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line))


@contextlib.contextmanager
def open_regular(path: str) -> Iterator[tuple[int, int]]:
    """Open a regular file for reading; devices and pipes, which would hang a reader, are not opened at all.

    Yields
    ------
    fd, size
        The descriptor, which is closed at the end, and the bytes of the file.

    Raises
    ------
    NotTried
        If the file is not regular or cannot be opened, with the reason.
    """
    try:
        # Checked twice: opening a device can already do something, and the name may lead elsewhere once it is open.
        _require_regular(path, os.stat(path))
        flags = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        fd = os.open(path, os.O_RDONLY | flags)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        raise audio_error(path, getattr(error, "strerror", None) or str(error), NotTried) from None
    try:
        status = os.fstat(fd)
        _require_regular(path, status)
        yield fd, status.st_size
    finally:
        os.close(fd)


def _require_regular(path: str, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise audio_error(path, "a folder, or one that cannot be listed; a file is needed", NotTried)
    if not stat.S_ISREG(status.st_mode):
        raise audio_error(path, "a pipe, socket or device; only regular files are read", NotTried)
