"""Where files lie: one folder, local or behind an fsspec URL, and atomic writes of files into it.

Local files are read without memory maps and without fetching ahead: a query reads many small pieces, for which both
take a tenth more CPU.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import SongprintError, StoreError
from pipeline.paths import PathLike, filesystem, is_url, modified_s, path_text, remote_error

TEMPORARY = ".tmp-"
# What pyarrow raises for a damaged file.
DAMAGE = (pa.ArrowException, OSError, UnicodeDecodeError)


class Unreadable(StoreError):
    """The operating system does not give a file, which may be whole: a failed disk or server, no permission."""


# Each method has a branch for local files in place of fsspec's DirFileSystem. One file system for both would make every
# command import fsspec (some 40 ms), and reading half of the row groups of a file take 1.4 ms instead of 0.9. Writing
# and deleting would still need the branch, for the sync to the disk, the rename and the empty folders.
@dataclass(frozen=True)
class Location:
    """A folder that holds a store; picklable. It holds no credentials: those stay in the environment.

    Parameters
    ----------
    url
        Path of a local folder, or an fsspec URL such as ``s3://bucket/library``, without a slash at the end.
    """

    url: str

    @classmethod
    def of(cls, store: PathLike) -> Location:
        """The location for a path or URL as users give it."""
        url = path_text(store, "store").removeprefix("file://")
        return cls(url.rstrip("/")) if is_url(url) else cls(os.path.abspath(url))

    @property
    def local(self) -> bool:
        """Whether this is a folder of this machine."""
        return not is_url(self.url)

    def path(self, name: str = "") -> str:
        """The full path or URL of a file, given by its name inside the store."""
        return f"{self.url}/{name}" if name else self.url

    def _remote(self) -> Any:
        return filesystem(self.url, use_listings_cache=False)[0]

    def exists(self, name: str = "") -> bool:
        """Whether the store has this file or folder."""
        with reading(self.path(name)):
            if not self.local:
                return bool(self._remote().exists(self.path(name)))
            try:  # os.path.exists says no when the disk does not answer
                os.stat(self.path(name))
            except (FileNotFoundError, NotADirectoryError):
                return False
        return True

    def read(self, name: str) -> bytes:
        """The bytes of a file; `FileNotFoundError` if there is none."""
        with reading(self.path(name)):
            if self.local:
                with open(self.path(name), "rb") as file:
                    return file.read()
            return bytes(self._remote().cat_file(self.path(name)))

    def read_ranges(self, path: str, starts: Sequence[int], ends: Sequence[int]) -> list[bytes]:
        """The bytes of an object between each start and end, in one request."""
        with reading(path):
            found = self._remote().cat_ranges([path] * len(starts), list(starts), list(ends), on_error="raise")
        return [bytes(part) for part in found]

    def size(self, name: str) -> int:
        """Bytes of a file; `FileNotFoundError` if there is none."""
        with reading(self.path(name)):
            return os.path.getsize(self.path(name)) if self.local else int(self._remote().size(self.path(name)))

    def files(self, folder: str = "") -> Iterator[tuple[str, int, float]]:
        """Name inside the store, bytes, and time of change (seconds since 1970) of every file below a folder."""
        with reading(self.path(folder)):
            yield from self._local_files(folder) if self.local else self._remote_files(folder)

    def _local_files(self, folder: str) -> Iterator[tuple[str, int, float]]:
        def on_error(error: OSError) -> None:  # os.walk leaves out what it cannot list
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                raise error

        for parent, _, names in os.walk(self.path(folder), onerror=on_error):
            for name in names:
                path = os.path.join(parent, name)
                try:
                    status = os.stat(path)
                except FileNotFoundError:  # another job has deleted it
                    continue
                yield os.path.relpath(path, self.url).replace(os.sep, "/"), status.st_size, status.st_mtime

    def _remote_files(self, folder: str) -> Iterator[tuple[str, int, float]]:
        remote = self._remote()
        root = remote._strip_protocol(self.url)
        for path, info in remote.find(self.path(folder), detail=True).items():
            yield path[len(root) + 1 :], int(info["size"]), modified_s(info)

    def delete(self, name: str) -> None:
        """Delete a file, if it exists."""
        try:
            os.unlink(self.path(name)) if self.local else self._remote().rm_file(self.path(name))
        except FileNotFoundError:
            return
        except OSError as error:
            raise write_error(self.path(name), error) from error

    def delete_folder(self, name: str) -> None:
        """Delete a local folder if it exists and is empty; object stores have no folders."""
        if self.local:
            with suppress(OSError):
                os.rmdir(self.path(name))

    def delete_empty_folders(self, name: str) -> None:
        """Delete a local folder and those in it, as far as they are empty."""
        if self.local:
            for parent, _, _ in os.walk(self.path(name), topdown=False):
                with suppress(OSError):
                    os.rmdir(parent)

    def write(self, name: str, data: bytes) -> None:
        """Write a file at once; readers see the old bytes or the new."""

        def write(file: Any) -> None:
            file.write(data)

        self.write_with(name, write)

    def write_with(self, name: str, write: Callable[[Any], None]) -> tuple[str, int]:
        """Let ``write`` fill a temporary file, and rename it when it is complete and on the disk.

        Parameters
        ----------
        name
            Inside the store; ``{crc}`` in it becomes the checksum of the contents, as `checksum` computes it.

        Returns
        -------
        name, size
            The final name, and bytes written.

        Raises
        ------
        StoreError
            If the file cannot be written; the temporary file is deleted.
        """
        folder = os.path.dirname(self.path(name)) if self.local else tempfile.gettempdir()
        temporary = f"{folder}/{TEMPORARY}{uuid.uuid4().hex}"
        try:
            make_folder(folder)
            with open(temporary, "wb") as raw:
                file = _ChecksumWriter(raw)
                write(file)
                raw.flush()
                size = raw.tell()
                if self.local:
                    sync_file(raw)
            name = name.replace("{crc}", f"{file.crc:08x}")
            if self.local:
                os.replace(temporary, self.path(name))
                sync_folder(folder)
            else:  # an object appears when its upload is complete
                self._remote().put_file(temporary, self.path(name))
                os.unlink(temporary)
        except BaseException as error:
            with suppress(OSError):
                os.unlink(temporary)
            if isinstance(error, OSError):
                raise write_error(self.path(name), error) from error
            raise
        return name, size

    def checksum(self, name: str) -> str:
        """CRC-32 of a file's contents, as `write_with` puts it into names."""
        crc = 0
        with (
            reading(self.path(name)),
            open(self.path(name), "rb") if self.local else self._remote().open(self.path(name), "rb") as file,
        ):
            while block := file.read(1 << 20):
                crc = zlib.crc32(block, crc)
        return f"{crc:08x}"

    @contextmanager
    def parquet(
        self, name: str, metadata: pq.FileMetaData | None = None, checksums: bool = False
    ) -> Iterator[pq.ParquetFile]:
        """Open a Parquet file of the store; with its ``metadata`` the footer is not read again.

        With ``checksums`` every page that is read is compared with its checksum.

        Raises
        ------
        StoreError
            If the file is missing or is not Parquet.
        Unreadable
            If the operating system does not give it.
        """
        path = self.path(name)
        try:
            if self.local:
                with pq.ParquetFile(
                    path, metadata=metadata, pre_buffer=False, page_checksum_verification=checksums
                ) as file:
                    yield file
            else:
                with (
                    self._remote().open(path, "rb", cache_type="none") as raw,
                    pq.ParquetFile(
                        raw, metadata=metadata, pre_buffer=True, page_checksum_verification=checksums
                    ) as file,
                ):
                    yield file
        except FileNotFoundError as error:
            raise StoreError(f"{path}: the file is missing; `songprint check --repair` says what is lost") from error
        except DAMAGE as error:
            if is_of_system(error):
                raise _unreadable(path, error) from error
            raise StoreError(
                f"{path}: the file is damaged ({error}); `songprint check --repair` says what is lost"
            ) from error
        except Exception as error:
            if self.local or isinstance(error, SongprintError):
                raise
            raise remote_error(path, error) from error

    def storage_options(self) -> dict[str, str]:
        """What Delta's object store needs to know of fsspec's; it does not read fsspec's settings."""
        options = DELTA_OPTIONS.get(self.url.partition("://")[0])
        return {} if self.local or options is None else {k: v for k, v in options(self._remote()).items() if v}


def _s3_options(files: Any) -> dict[str, str | None]:
    """Of s3fs, in the names of Delta's S3 client."""
    client = dict(files.client_kwargs)
    endpoint = files.endpoint_url or client.get("endpoint_url") or os.environ.get("AWS_ENDPOINT_URL")
    region = client.get("region_name") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return {
        "aws_access_key_id": files.key or client.get("aws_access_key_id"),
        "aws_secret_access_key": files.secret or client.get("aws_secret_access_key"),
        "aws_session_token": files.token or client.get("aws_session_token"),
        "aws_endpoint_url": endpoint,
        "aws_region": region,
        "aws_skip_signature": "true" if files.anon else None,
        "aws_allow_http": "true" if (endpoint or "").startswith("http://") else None,
        "retry_timeout": "120s",
    }


# An object store whose settings Delta must be told is one entry: its scheme, and a function from fsspec's file system
# to Delta's options. Without an entry Delta finds its settings in the environment by itself.
DELTA_OPTIONS: dict[str, Callable[[Any], dict[str, str | None]]] = {"s3": _s3_options, "s3a": _s3_options}


class _ChecksumWriter:
    """A file that is written from start to end, with the CRC-32 of what was written."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.crc = 0

    def write(self, data: Any) -> int:
        self.crc = zlib.crc32(data, self.crc)
        return int(self._file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


MORE_FILES = "allow this process more open files, for instance with `ulimit -n 1024`"


def write_error(path: str, error: Exception) -> StoreError:
    """The error for a file of the store that cannot be written: disk full, read-only, no permission."""
    return StoreError(
        f"{path}: cannot be written: {reason(error)}; what was finished is in the store: put that right and "
        "run the same command again"
    )


def reason(error: BaseException) -> str:
    """What an error says, in one line, and how to have more open files where there are too few."""
    words = re.sub(r"\x1b\[\d+m|↳", "", getattr(error, "strerror", None) or str(error))  # delta-rs draws a tree
    line = ": ".join(part.strip() for part in words.splitlines() if part.strip())
    return f"{line}; {MORE_FILES}" if os.strerror(errno.EMFILE) in line else line


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Raise `Unreadable` where a file or folder cannot be read; that there is none stays a `FileNotFoundError`."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise _unreadable(path, error) from error
    except Exception as error:
        if not is_url(path) or isinstance(error, SongprintError):
            raise
        raise remote_error(path, error) from error


def is_of_system(error: BaseException) -> bool:
    """Whether an error is one of the operating system or the network; for a damaged file pyarrow raises `OSError`."""
    return isinstance(error, OSError) and (error.errno is not None or type(error) is not OSError)


def _unreadable(path: str, error: BaseException) -> Unreadable:
    return Unreadable(f"{path}: cannot be read: {reason(error)}; put that right and run the same command again")


def make_folder(path: str) -> None:
    """Make a local folder, and those above it, so that their names survive a power cut."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    make_folder(parent)
    with suppress(FileExistsError):
        os.mkdir(path)
    sync_folder(parent)


def sync_file(file: Any) -> None:
    """Force the bytes of a file to the disk."""
    os.fsync(file.fileno())


def sync_folder(folder: str) -> None:
    """Make the names in a local folder survive a power cut, where its file system can do that."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # it may not be listed; on Windows there is no such call
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)
