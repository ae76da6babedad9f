"""Immutable snapshot of a store: one version, on which queries run."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import ParameterError, StoreError
from pipeline.fingerprinting.landmarks import Postings
from pipeline.fingerprinting.peaks import Peaks
from pipeline.fingerprinting.settings import Settings
from pipeline.store import constellations as constellations_table
from pipeline.store import delta_log, lookup, metadata
from pipeline.store.delta_log import Version
from pipeline.store.schema import CONSTELLATIONS, INDEXED, PINS, POSTINGS, SCHEMAS, SONGS
from pipeline.store.songs import LARGEST_ID, read_songs
from pipeline.store.storage import Location

Result = TypeVar("Result")

# Decoded peaks that a snapshot caches: 64 MB, some 900 songs of four minutes.
CACHED_PEAKS = 8_000_000
# Share of the hashes that `stats` calls the most frequent ones.
FREQUENT = 0.01


class Snapshot:
    """One version of a store; opened by `Store.snapshot`.

    It never changes and never shows half of a commit. It is safe for threads, and picklable: only location, settings
    and version go to a worker, and a worker that gets the same snapshot again keeps what it has read.
    """

    def __init__(self, location: Location, settings: Settings, songs: Version) -> None:
        self.location = location
        self._songs = songs
        self.settings = settings
        self._lock = threading.Lock()
        self._cached: OrderedDict[int, Peaks] = OrderedDict()
        self._n_cached_peaks = 0

    def __reduce__(self) -> Any:
        return _reopen, (self.location, self.settings, self.version)

    def __repr__(self) -> str:
        return f"<Snapshot of {self.url}, version {self.version}, {self.n_songs} songs>"

    @property
    def url(self) -> str:
        """Where the store is."""
        return self.location.url

    @property
    def version(self) -> int:
        """Version of the songs table; grows with every commit."""
        return self._songs.number

    @property
    def n_songs(self) -> int:
        """Number of indexed songs: neither removed nor unfinished."""
        return len(self._places["song_id"])

    def songs(self, columns: Sequence[str] | None = None, song_ids: Iterable[int] | None = None) -> pa.Table:
        """The indexed songs, sorted by song id.

        Parameters
        ----------
        columns
            The columns to return, in this order; all when ``None``.
        song_ids
            The songs to return; all when ``None``. Those that the snapshot does not have are left out.

        Raises
        ------
        ParameterError
            If there is no such column.
        """
        schema = SCHEMAS[SONGS]
        columns = schema.names if columns is None else list(columns)
        if unknown := [name for name in columns if name not in schema.names]:
            raise ParameterError(f"the songs table has no column {unknown[0]!r}; it has {', '.join(schema.names)}")
        some = None if song_ids is None else _song_ids(song_ids)
        table = read_songs(self.location, self._songs, list(dict.fromkeys(["song_id", "status", *columns])), some)
        return table.filter(pc.equal(table["status"], INDEXED)).select(columns)

    def postings(self, hashes: NDArray[np.int32]) -> Postings:
        """All postings of some hashes.

        Parameters
        ----------
        hashes
            ``(n_hashes,)`` int32, sorted and unique.

        Returns
        -------
        Postings
            Sorted by hash, song_id, offset.

        Raises
        ------
        ParameterError
            If the hashes are not sorted and unique.
        StoreError
            If a file is missing or damaged.
        """
        hashes = np.ascontiguousarray(hashes, np.int32)
        if len(hashes) > 1 and not (np.diff(hashes) > 0).all():
            raise ParameterError("hashes to look up must be sorted and unique")
        return lookup.postings_of(self.shards, hashes)

    def sweep(self) -> Iterator[Postings]:
        """All postings, in parts that rise by hash and bound the memory; no hash is in two parts."""
        if self.n_songs:
            yield from lookup.sweep(self.shards)

    @cached_property
    def shards(self) -> tuple[lookup.ShardLookup, ...]:
        """The shards that have songs, each to be searched by itself."""
        columns = self._places
        made = []
        for number in np.unique(columns["shard"]).tolist():
            some = np.flatnonzero(columns["shard"] == number)
            some = some[np.argsort(columns["first_frame"][some], kind="stable")]
            first = columns["first_frame"][some]
            files = [file for file in self._pinned[POSTINGS].files if file.shard == number]
            stop = first + columns["n_frames"][some]
            made.append(lookup.ShardLookup(self.location, number, files, first, stop, columns["song_id"][some]))
        return tuple(made)

    @property
    def shard_numbers(self) -> tuple[int, ...]:
        """The shards that have postings."""
        return tuple(sorted({file.shard for file in self._pinned[POSTINGS].files}))

    def map_shards(self, task: Callable[[Sequence[lookup.ShardLookup]], Result]) -> list[Result]:
        """What a function gives for all shards together."""
        return [task(self.shards)]

    def constellations(self, song_ids: Iterable[int]) -> dict[int, Peaks]:
        """The peaks of some songs; songs that the snapshot does not have are left out.

        Raises
        ------
        StoreError
            If a file is missing or damaged.
        """
        ids, some = self._places["song_id"], _song_ids(song_ids)
        first, stop = np.searchsorted(ids, some, "left"), np.searchsorted(ids, some, "right")
        wanted = some[first < stop].tolist()
        with self._lock:
            found = {song_id: self._cached[song_id] for song_id in wanted if song_id in self._cached}
            for song_id in found:
                self._cached.move_to_end(song_id)
        missing = np.array([song_id for song_id in wanted if song_id not in found], np.int64)
        if len(missing):
            found |= self._read_constellations(missing)
        if absent := [song_id for song_id in wanted if song_id not in found]:
            where = self.location.path(CONSTELLATIONS)
            raise StoreError(f"{where}: the peaks of song {absent[0]} are missing; `songprint check --repair` helps")
        return {song_id: found[song_id] for song_id in wanted}

    def size(self) -> dict[str, Any]:
        """How large the store is, from its logs and the songs table.

        Returns
        -------
        dict
            ``songs``, ``hours`` of audio, ``postings`` and ``postings_per_second`` of audio; ``bytes`` of all files of
            this version, also ``bytes_per_posting`` (of the postings table alone) and ``bytes_per_hour``; ``files``;
            ``version`` (grows with every change) and ``format`` of the store.
        """
        songs = self.songs(["duration_s", "landmarks"])
        seconds = pc.sum(songs["duration_s"]).as_py() or 0.0
        n_postings = pc.sum(songs["landmarks"]).as_py() or 0
        versions = [self._songs, *self._pinned.values()]
        n_bytes = sum(file.size_bytes for version in versions for file in version.files)
        stored = self._pinned[POSTINGS].files
        return {
            "songs": self.n_songs,
            "hours": seconds / 3600,
            "postings": n_postings,
            "postings_per_second": n_postings / seconds if seconds else 0.0,
            "bytes": n_bytes,
            "bytes_per_posting": sum(file.size_bytes for file in stored) / max(1, sum(file.rows for file in stored)),
            "bytes_per_hour": n_bytes / (seconds / 3600) if seconds else 0.0,
            "files": sum(len(version.files) for version in versions),
            "version": self.version,
            "format": metadata.FORMAT,
        }

    def stats(self) -> dict[str, Any]:
        """How large the store is, and how evenly its hashes are spread; reads all hashes.

        Returns
        -------
        dict
            What `size` gives, and ``hashes`` (distinct), ``largest_hash`` (postings of the most frequent one),
            ``hash_skew`` (share of the postings that the most frequent 1 % of the hashes hold); removed songs are in
            these until `compact` drops them.
        """
        counts = lookup.frequencies(self.shards)
        frequent = int(np.ceil(len(counts) * FREQUENT))
        return self.size() | {
            "hashes": len(counts),
            "largest_hash": int(counts.max(initial=0)),
            "hash_skew": float(np.sort(counts)[-frequent:].sum() / counts.sum()) if frequent else 0.0,
        }

    def files(self, table: str) -> tuple[str, ...]:
        """The Parquet files of a table that belong to this version, inside the store, by rising song ids."""
        version = self._songs if table == SONGS else self._pinned[table]
        by_id = sorted(version.files, key=lambda file: (file.low.get("song_id", 0), file.name))
        return tuple(f"{table}/{file.name}" for file in by_id)

    def postings_files(self) -> tuple[tuple[str, int], ...]:
        """The files of postings, inside the store, and the shard of each."""
        return tuple((f"{POSTINGS}/{file.name}", file.shard) for file in self._pinned[POSTINGS].files)

    # read once and cached

    @cached_property
    def _pinned(self) -> dict[str, Version]:
        numbers = self._songs.numbers
        return {table: delta_log.load(self.location, table, numbers.get(pin, 0)) for table, pin in PINS.items()}

    @cached_property
    def _places(self) -> dict[str, NDArray[np.int32]]:
        """Where the indexed songs lie, by rising song id."""
        songs = self.songs(["song_id", "shard", "first_frame", "n_frames"])
        return {name: songs[name].to_numpy() for name in songs.column_names}

    @cached_property
    def _constellation_reader(self) -> constellations_table.Reader:
        return constellations_table.Reader(self.location, self._pinned[CONSTELLATIONS].files)

    def _read_constellations(self, song_ids: NDArray[np.int64]) -> dict[int, Peaks]:
        found = self._constellation_reader.read(song_ids)
        with self._lock:
            for song_id, peaks in found.items():
                if song_id not in self._cached:
                    self._cached[song_id] = peaks
                    self._n_cached_peaks += len(peaks)
            while self._n_cached_peaks > CACHED_PEAKS:
                self._n_cached_peaks -= len(self._cached.popitem(last=False)[1])
        return found


def _song_ids(song_ids: Iterable[int]) -> NDArray[np.int32]:
    """Numbers that can be song ids, each once, rising."""
    return np.array(sorted({int(song_id) for song_id in song_ids if 0 < song_id <= LARGEST_ID}), np.int32)


@lru_cache(maxsize=4)
def _reopen(location: Location, settings: Settings, version: int) -> Snapshot:
    return Snapshot(location, settings, delta_log.load(location, SONGS, version))
