"""Pieces of a file by their places: read when it is local, fetched in runs and cached when it is not."""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
import weakref
from collections import OrderedDict
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.errors import StoreError
from pipeline.store.storage import Location

# What is fetched of an object at once, at least; neighbours that are wanted too come with one request.
BLOCK_BYTES = 32_768
# Blocks that a process keeps, of all objects together: 256 MB.
KEPT_BLOCKS = 8192

# Mapped pages that a process may have touched before it gives them back. They stay in the operating system's cache, but
# count as the memory of a process: Dask pauses a worker for that, and ends it.
MAPPED_BYTES = 256 << 20
# What a kernel maps around a byte that is read, as far as it is cached: 16 pages.
TOUCHED_BYTES = 65_536

Bytes = NDArray[np.uint8]


class ByteRanges(Protocol):
    """A file of which many small pieces are wanted."""

    def take(self, first: NDArray[np.int64], count: NDArray[np.int64], out: Bytes) -> None:
        """Write the bytes ``first[i]`` to ``first[i] + count[i]`` of each piece, end to end, to ``out``."""

    def gather(self, first: NDArray[np.int64], count: NDArray[np.int64], out: NDArray[np.int32]) -> None:
        """Write ``count[i]`` little-endian int32 from byte ``first[i]`` of each piece, end to end, to ``out``."""

    def view(self, first: int, count: int) -> Bytes:
        """One piece that stays in use."""

    def read(self, first: int, count: int) -> Bytes:
        """One long piece, from front to back."""


def open_ranges(location: Location, name: str, size: int) -> ByteRanges:
    """Open a file of the store for `ByteRanges.take`.

    Parameters
    ----------
    size
        Bytes that it must have.

    Raises
    ------
    StoreError
        If it is missing or has another size.
    """
    try:
        found = location.size(name)
    except FileNotFoundError as error:
        raise StoreError(
            f"{location.path(name)}: the file is missing; `songprint check --repair` says what is lost"
        ) from error
    if found != size:
        raise StoreError(
            f"{location.path(name)}: the file is damaged (it has {found} of {size} bytes); "
            "`songprint check --repair` says what is lost"
        )
    return LocalFile(location.path(name)) if location.local else FetchedFile(location, name, size)


class LocalFile:
    """A local file. Pieces are read, not mapped: mapped pages would count as this process's memory."""

    def __init__(self, path: str) -> None:
        self._path = path
        # Arrow's map outlives its descriptor, Python's mmap keeps one: a store may have more files than a process may
        # have open.
        with pa.memory_map(path) as file:
            self._bytes: Bytes = np.frombuffer(file.read_buffer(), np.uint8)
        _MAPS.add(self._bytes)

    def take(self, first: NDArray[np.int64], count: NDArray[np.int64], out: Bytes) -> None:
        """As `ByteRanges` says."""
        ends = np.cumsum(count)
        if not hasattr(os, "preadv"):  # Windows
            for start, stop, end in zip(first.tolist(), (first + count).tolist(), ends.tolist(), strict=True):
                out[end - (stop - start) : end] = self._bytes[start:stop]
            return
        view = out.data
        # opened each time, since a large store has more files than a process may have open
        descriptor = os.open(self._path, os.O_RDONLY)
        try:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)  # else each piece brings 64 kB of the disk
            at = 0
            for start, end in zip(first.tolist(), ends.tolist(), strict=True):
                if os.preadv(descriptor, (view[at:end],), start) != end - at:
                    raise StoreError(f"{self._path}: the file ends too early; `songprint check --repair` helps")
                at = end
        finally:
            os.close(descriptor)

    def gather(self, first: NDArray[np.int64], count: NDArray[np.int64], out: NDArray[np.int32]) -> None:
        """As `ByteRanges` says."""
        place = np.repeat(first - 4 * (np.cumsum(count) - count), count) + 4 * np.arange(len(out))
        for rest in np.unique(first % 4).tolist():  # each row group has one
            some = np.flatnonzero(place % 4 == rest)
            values = self._bytes[rest : rest + (len(self._bytes) - rest) // 4 * 4].view("<i4")
            out[some] = values[place[some] // 4]
        touched(len(first), len(self._bytes))

    def view(self, first: int, count: int) -> Bytes:
        """As `ByteRanges` says: mapped, its pages belong to the operating system's cache, which all processes share."""
        return self._bytes[first : first + count]

    def read(self, first: int, count: int) -> Bytes:
        """As `ByteRanges` says."""
        with open(self._path, "rb") as file:
            file.seek(first)
            return np.fromfile(file, np.uint8, count)


class _Maps:
    """All files that this process has mapped."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._touched = 0
        self._maps: dict[int, tuple[weakref.ref[Bytes], int]] = {}  # by address, with the size
        self._advise = getattr(ctypes.CDLL(None), "madvise", None) if hasattr(mmap, "MADV_DONTNEED") else None

    def add(self, data: Bytes) -> None:
        address = data.ctypes.data
        self._maps[address] = weakref.ref(data, lambda _: self._maps.pop(address, None)), len(data)

    def touch(self, n_bytes: int) -> None:
        with self._lock:
            self._touched += n_bytes
            if self._advise is None or self._touched < MAPPED_BYTES:
                return
            self._touched = 0
            for address, (data, size) in list(self._maps.items()):
                kept = data()  # mapped as long as this is held
                if kept is not None:
                    self._advise(ctypes.c_void_p(address), ctypes.c_size_t(size), mmap.MADV_DONTNEED)


_MAPS = _Maps()


def touched(n_pieces: int, n_bytes: int) -> None:
    """Take note that so many pieces were read of so many mapped bytes; give pages back when there are many."""
    _MAPS.touch(min(n_pieces * TOUCHED_BYTES, n_bytes))


class _Blocks:
    """Blocks of all objects that a process has fetched, those used last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()

    def get(self, path: str, block: int) -> bytes | None:
        with self._lock:
            found = self._kept.get((path, block))
            if found is not None:
                self._kept.move_to_end((path, block))
            return found

    def put(self, path: str, block: int, data: bytes) -> None:
        with self._lock:
            self._kept[path, block] = data
            while len(self._kept) > KEPT_BLOCKS:
                self._kept.popitem(last=False)


_BLOCKS = _Blocks()


class FetchedFile:
    """An object behind a URL. Its name has its checksum, so what was fetched of it stays true."""

    def __init__(self, location: Location, name: str, size: int) -> None:
        self._location = location
        self._path = location.path(name)
        self._size = size

    def take(self, first: NDArray[np.int64], count: NDArray[np.int64], out: Bytes) -> None:
        """As `ByteRanges` says."""
        end = first + count
        wanted = _covered(first // BLOCK_BYTES, -(-end // BLOCK_BYTES))
        have = {block: data for block in wanted.tolist() if (data := _BLOCKS.get(self._path, block)) is not None}
        missing = np.array([block for block in wanted.tolist() if block not in have], np.int64)
        have |= self._fetch(missing)
        parts: list[Bytes] = [np.zeros(0, np.uint8)]
        for at, stop in zip(first.tolist(), end.tolist(), strict=True):
            for block in range(at // BLOCK_BYTES, -(-stop // BLOCK_BYTES)):
                start = block * BLOCK_BYTES
                parts.append(np.frombuffer(have[block], np.uint8)[max(at - start, 0) : stop - start])
        np.concatenate(parts, out=out)

    def gather(self, first: NDArray[np.int64], count: NDArray[np.int64], out: NDArray[np.int32]) -> None:
        """As `ByteRanges` says."""
        self.take(first, 4 * count, out.view(np.uint8))

    def view(self, first: int, count: int) -> Bytes:
        """As `ByteRanges` says."""
        return self.read(first, count)

    def read(self, first: int, count: int) -> Bytes:
        """As `ByteRanges` says."""
        try:
            return np.frombuffer(self._location.read_ranges(self._path, [first], [first + count])[0], np.uint8)
        except OSError as error:
            raise StoreError(f"{self._path}: cannot be read: {error}") from error

    def _fetch(self, blocks: NDArray[np.int64]) -> dict[int, bytes]:
        if not len(blocks):
            return {}
        runs = np.split(blocks, np.flatnonzero(np.diff(blocks) > 1) + 1)
        starts = [int(run[0]) * BLOCK_BYTES for run in runs]
        ends = [min((int(run[-1]) + 1) * BLOCK_BYTES, self._size) for run in runs]
        try:
            found = self._location.read_ranges(self._path, starts, ends)
        except OSError as error:
            raise StoreError(f"{self._path}: cannot be read: {error}") from error
        made: dict[int, bytes] = {}
        for run, data in zip(runs, found, strict=True):
            for place, block in enumerate(run.tolist()):
                made[block] = data[place * BLOCK_BYTES : (place + 1) * BLOCK_BYTES]
                _BLOCKS.put(self._path, block, made[block])
        return made


def _covered(first: NDArray[np.int64], stop: NDArray[np.int64]) -> NDArray[np.int64]:
    """All whole numbers from ``first[i]`` to ``stop[i]``, each once, rising."""
    count = np.maximum(stop - first, 0)
    every = np.repeat(first - (np.cumsum(count) - count), count) + np.arange(count.sum())
    return np.unique(every)
