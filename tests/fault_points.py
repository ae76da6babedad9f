"""Every call by which a store reaches the disk, one by one: counted, made to fail, or recorded.

`intercept` lets a handler see each call of Python and of Delta below one folder. `Faults` is a handler that makes one
of them fail, `Recorder` one that writes down what each changed, for `power_cuts`.

A point is one such call. A call that reads can fail in one way, a call that changes something in two to four. What
leaves the same on the disk is tried once: the end of the process right before a call is its end right after the call
before.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.store_jobs import Died


@dataclass(frozen=True, slots=True)
class Call:
    """A call of one function that reads or changes what is on the disk.

    Parameters
    ----------
    name
        Of the function.
    path
        The file or folder.
    to
        The new name, of a rename.
    data
        The bytes, of a write.
    """

    name: str
    path: str
    to: str = ""
    data: bytes = b""

    @property
    def changes(self) -> bool:
        """Whether it changes what is on the disk."""
        return self.name in CHANGES


# fsync changes nothing that a process can see: what it is for is the subject of `power_cuts`.
CHANGES = ("create", "write", "rename", "unlink", "mkdir", "rmdir", "delta create", "delta commit", "delta checkpoint")
# What each can do instead of what it should.
KINDS = {
    "error": "the call fails and does nothing",
    "error after": "the call fails, and yet has done it",
    "end": "the process ends right after it",
    "torn, error": "half of the data is written, then the disk is full",
    "torn, end": "half of the data is written, then the process ends",
    "inside, end": "the process ends while Delta writes: the first of several files is there",
}

Do = Callable[[], Any]
# What is called in place of each call: it is given the call and what would do it, and returns the result.
Handler = Callable[[Call, Do], Any]


class _WrittenFile:
    """A file that is open for writing; each write is a call, and not buffered."""

    def __init__(self, file: io.FileIO, path: str, handle: Handler) -> None:
        self._file = file
        self._path = path
        self._handle = handle

    def write(self, data: Any) -> int:
        whole = bytes(data)
        if not whole:
            return 0
        return int(self._handle(Call("write", self._path, data=whole), lambda: self._file.write(whole)))

    def __enter__(self) -> _WrittenFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class _Listing:
    """The entries of a folder by name, as `os.scandir` gives them."""

    def __init__(self, entries: Sequence[Any]) -> None:
        self._entries = iter(entries)

    def __iter__(self) -> Iterator[Any]:
        return self._entries

    def __next__(self) -> Any:
        return next(self._entries)

    def __enter__(self) -> _Listing:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def close(self) -> None:
        pass


@contextmanager
def intercept(root: str, handle: Handler) -> Iterator[None]:
    """Let a handler see each call on files below a folder; nothing waits for the disk, and names are not random."""
    below = root + os.sep
    count = iter(range(1 << 30))
    depth = 0

    def handled(call: Call, do: Do) -> Any:
        nonlocal depth
        inside = call.path == root or call.path.startswith(below)
        if depth or not inside:
            return do()

        def done() -> Any:  # what a call calls belongs to it
            nonlocal depth
            depth += 1
            try:
                return do()
            finally:
                depth -= 1

        return handle(call, done)

    def of_path(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def called(path: Any, *args: Any, **options: Any) -> Any:
            place = os.fspath(path) if isinstance(path, str | os.PathLike) else ""
            return handled(Call(name, str(place)), lambda: real(path, *args, **options))

        return called

    def of_descriptor(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def called(descriptor: int, *args: Any, **options: Any) -> Any:
            return handled(Call(name, os.readlink(f"/proc/self/fd/{descriptor}")), lambda: real(descriptor, *args))

        return called

    def of_table(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def called(table: Any, *args: Any, **options: Any) -> Any:
            return handled(Call(name, table.path), lambda: real(table, *args, **options))

        return called

    def of_alterer(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def called(alterer: Any, *args: Any, **options: Any) -> Any:
            return handled(Call(name, alterer.table.path), lambda: real(alterer, *args, **options))

        return called

    real_open, real_scandir, real_replace = builtins.open, os.scandir, os.replace
    real_init, real_create = deltalake.DeltaTable.__init__, deltalake.DeltaTable.create

    def open_(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        place = str(file)
        if "w" not in mode or not place.startswith(below):
            return handled(Call("open", place), lambda: real_open(file, mode, *args, **options))
        opened = handled(Call("create", place), lambda: real_open(file, mode, buffering=0))
        return _WrittenFile(opened, place, handled)

    def scandir(path: Any = ".") -> Any:
        def listed() -> Any:
            with real_scandir(path) as entries:
                return _Listing(sorted(entries, key=lambda entry: str(entry.name)))

        return handled(Call("list", str(path)), listed)

    def replace(old: str, new: str) -> None:
        handled(Call("rename", old, to=new), lambda: real_replace(old, new))

    def init(table: Any, table_uri: str, *args: Any, **options: Any) -> None:
        table.path = str(table_uri)
        handled(Call("delta open", table.path), lambda: real_init(table, table_uri, *args, **options))

    def create(path: str, *args: Any, **options: Any) -> Any:
        return handled(Call("delta create", path), lambda: real_create(path, *args, **options))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builtins, "open", open_)
        patch.setattr(os, "scandir", scandir)
        patch.setattr(os, "replace", replace)
        for name in ("unlink", "rmdir", "mkdir", "stat"):
            patch.setattr(os, name, of_path(name, getattr(os, name)))
        patch.setattr(os, "open", of_path("open", os.open))
        patch.setattr(os, "preadv", of_descriptor("read", os.preadv))
        patch.setattr(os, "fsync", of_descriptor("fsync", lambda descriptor: None))
        patch.setattr(pa, "memory_map", of_path("open", pa.memory_map))
        patch.setattr(pq.ParquetFile, "__init__", _of_parquet(pq.ParquetFile.__init__, handled))
        patch.setattr(deltalake.DeltaTable, "__init__", init)
        patch.setattr(deltalake.DeltaTable, "create", create)
        for name, method in (
            ("delta commit", "create_write_transaction"),
            ("delta checkpoint", "create_checkpoint"),
            ("delta read", "update_incremental"),
            ("delta read", "get_add_actions"),
            ("delta read", "transaction_version"),
            ("delta list", "vacuum"),
        ):
            patch.setattr(deltalake.DeltaTable, method, of_table(name, getattr(deltalake.DeltaTable, method)))
        alter = deltalake.table.TableAlterer
        patch.setattr(alter, "add_columns", of_alterer("delta commit", alter.add_columns))
        patch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=next(count)))
        yield


def _of_parquet(real: Callable[..., None], handle: Handler) -> Callable[..., None]:
    def init(file: Any, source: Any, *args: Any, **options: Any) -> None:
        place = source if isinstance(source, str) else ""
        handle(Call("read", place), lambda: real(file, source, *args, **options))

    return init


def log_files(table: str) -> list[Path]:
    """The files of a table's log, in the order in which Delta writes those of one call."""
    return sorted(Path(table, "_delta_log").glob("[0-9_]*"), key=lambda path: (path.name[0] == "_", path.name))


class Faults:
    """Count the calls, and let one of them fail.

    Parameters
    ----------
    at
        The number of the call, from 1; 0 lets none fail.
    kind
        A key of `KINDS`.

    Attributes
    ----------
    calls
        Those that were made.
    """

    def __init__(self, at: int = 0, kind: str = "") -> None:
        self.calls: list[Call] = []
        self._at = at
        self._kind = kind
        self._died = False

    def __call__(self, call: Call, do: Do) -> Any:
        if self._died:
            raise Died
        self.calls.append(call)
        if len(self.calls) != self._at:
            return do()
        self._died = self._kind.endswith("end")
        if self._kind.startswith("torn"):
            with builtins_open(call.path, "ab") as file:
                file.write(call.data[: len(call.data) // 2])
        elif self._kind.startswith("inside"):
            before = {path: path.read_bytes() for path in log_files(call.path)}
            do()
            made = [path for path in log_files(call.path) if before.get(path) != path.read_bytes()]
            for path in made[1:]:
                path.write_bytes(before[path]) if path in before else path.unlink()
        elif self._kind != "error" and isinstance(done := do(), io.IOBase):
            done.close()
        if self._died:
            raise Died
        if call.name.startswith("delta"):  # as Delta reports what the operating system does
            raise OSError(f"Generic LocalFileSystem error: {os.strerror(errno.EIO)}")
        raise OSError(errno.EIO, os.strerror(errno.EIO), call.path)


builtins_open = builtins.open


def kinds_of(call: Call) -> list[str]:
    """The ways in which a call can fail."""
    if not call.changes:
        return ["error"]
    if call.name == "write":
        return ["torn, error", "torn, end"]
    kinds = ["error", "error after", "end"]
    if call.name == "delta checkpoint":
        kinds.append("inside, end")
    return kinds


def count(root: str, job: Callable[[], Any]) -> list[Call]:
    """The calls of a job."""
    faults = Faults()
    with intercept(root, faults):
        job()
    return faults.calls


def fail(root: str, job: Callable[[], Any], at: int, kind: str) -> BaseException | None:
    """Run a job of which one call fails; what it raised."""
    try:
        with intercept(root, Faults(at, kind)):
            job()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return error
    return None
