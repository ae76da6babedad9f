"""The handle of a store: make, open, commit, remove, update.

Every change is decided on a version, and tried again on the next one if somebody else was first.
"""

from __future__ import annotations

import datetime
import json
import random
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.config import Settings
from pipeline.errors import ConfigMismatch, ParameterError, StoreError
from pipeline.store import constellations, postings, tables
from pipeline.store.location import Location
from pipeline.store.postings import MergeTask
from pipeline.store.snapshot import Snapshot, read_songs
from pipeline.store.staging import FOLDER as STAGING
from pipeline.store.staging import SAMPLE_STEP, Manifest
from pipeline.store.tables import (
    CONSTELLATIONS,
    FENCE,
    NEXT_SONG_ID,
    PINS,
    POSTINGS,
    SONGS,
    Conflict,
    DataFile,
    Version,
)

FORMAT = 1
FACE = "songprint.json"
# Songs of one constellations file: some 15 MB.
SONGS_PER_FILE = 1024
# What a user may correct without the audio.
EDITABLE = ("path", "title", "artist", "album", "size_bytes", "modified_ns")


# What spreads tasks: the builtin `map`, or an executor's. Results come in the order of the items.
Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]


class Store:
    """A store of songs. Picklable; knows only where it is and what it was made with.

    Attributes
    ----------
    url
        A folder's absolute path, or an fsspec URL.
    settings
        What its fingerprints are; they never change.
    """

    def __init__(self, location: Location, settings: Settings) -> None:
        self._location = location
        self.settings = settings

    def __repr__(self) -> str:
        return f"<Store {self.url}>"

    @property
    def url(self) -> str:
        """Where the store is."""
        return self._location.url

    @classmethod
    def open(cls, url: str) -> Store:
        """Open a store that is there.

        Raises
        ------
        StoreError
            If there is none, or its format is not the one that this version reads and writes.
        """
        location = Location.of(url)
        try:
            face = json.loads(location.read(FACE))
            version, settings = face["format"], face["settings"]
        except (FileNotFoundError, NotADirectoryError):
            raise StoreError(f"{location.url}: there is no store here; `songprint index` makes one") from None
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{location.path(FACE)}: not readable ({error!r}); `songprint check --repair` restores it"
            ) from error
        if version != FORMAT:
            way_out = "use the songprint that made it, or a newer one" if version > FORMAT else "index the music again"
            raise StoreError(
                f"{location.url}: the store has format {version}, this songprint reads {FORMAT}; {way_out}"
            )
        return cls(location, Settings.from_dict(settings))

    @classmethod
    def create(cls, url: str, settings: Settings | None = None) -> Store:
        """Make an empty store, or complete one whose making was interrupted.

        Raises
        ------
        StoreError
            If a store is there already, or the folder holds other things.
        """
        location = Location.of(url)
        if location.exists(FACE):
            raise StoreError(f"{location.url}: there is a store already")
        return cls._create(location, settings or Settings())

    @classmethod
    def open_or_create(cls, url: str, settings: Settings | None = None) -> Store:
        """Open the store that is there, or make one.

        Raises
        ------
        ConfigMismatch
            If ``settings`` are given and the store was made with others.
        StoreError
            If what is there is no store, or of another format.
        """
        location = Location.of(url)
        store = cls.open(url) if location.exists(FACE) else cls._create(location, settings or Settings())
        if settings is not None and store.settings != settings:
            ours, theirs = settings.to_dict(), store.settings.to_dict()
            odd = ", ".join(f"{name} {theirs[name]}, not {ours[name]}" for name in ours if ours[name] != theirs[name])
            raise ConfigMismatch(
                f"{location.url}: the store was made with {odd}; use its settings or make another store"
            )
        return store

    @classmethod
    def _create(cls, location: Location, settings: Settings) -> Store:
        expected = tuple(f"{name}/" for name in (*tables.SCHEMAS, STAGING))
        other = next((name for name, _, _ in location.files() if not name.startswith(expected)), None)
        if other is not None:
            raise StoreError(f"{location.url}: the folder holds other things ({other}); give an empty or a new one")
        tables.create(location, json.dumps(settings.to_dict()))
        # Last: without it there is no store, and making one starts again.
        location.write(FACE, json.dumps({"format": FORMAT, "settings": settings.to_dict()}, indent=2).encode() + b"\n")
        return cls(location, settings)

    def snapshot(self) -> Snapshot:
        """The store as it is now; later commits do not change it."""
        return Snapshot(self._location, self.settings, tables.load(self._location, SONGS))

    def staged(self, batch: str) -> Manifest | None:
        """What an earlier run staged under this name and did not come to commit, if it is there."""
        try:
            return Manifest.from_json(self._location.read(f"{STAGING}/{batch}/manifest.json"))
        except (FileNotFoundError, ValueError, KeyError):
            return None

    def commit(self, manifests: Sequence[Manifest], map: Map = map) -> list[int]:  # noqa: A002  as the builtin is
        """Add staged songs, all or none, and delete the staging files.

        Songs whose digest the store has already, or that are twice in the batches, are left out.

        Parameters
        ----------
        manifests
            In the order of the plan.
        map
            Runs the merges; each is a picklable task of at most `postings.FILE_ROWS` postings.

        Returns
        -------
        list of int
            The ids of the songs that were added, rising, in the order of the manifests.

        Raises
        ------
        StoreError
            If the store cannot be read or written; then nothing was added.
        """
        added: list[int] | None = []
        for songs in self._attempts():
            new = self._new(manifests, songs)
            count = sum(sum(batch) for batch in new)
            if not count:
                break
            first = songs.numbers.get(NEXT_SONG_ID, 1)
            try:  # take the ids; nobody gets them again, whatever becomes of this job
                reserved = tables.commit(self._location, songs, numbers={NEXT_SONG_ID: first + count})
            except Conflict:
                continue
            ids = _number(new, first)
            pins = self._write(manifests, ids, first, map)
            added = self._commit_songs(manifests, ids, first, pins, reserved)
            if added is not None:
                break
        self._clean_staging(manifests)
        return added or []

    def remove(self, song_ids: Iterable[int]) -> int:
        """Mark songs as removed: no later snapshot names them. `compact` gives the space back.

        Returns
        -------
        int
            How many were there.
        """
        wanted = pa.array(sorted(set(song_ids)), pa.int32())
        removed = 0

        def mark(rows: pa.Table) -> pa.Table:
            nonlocal removed
            gone = pc.and_(pc.is_in(rows["song_id"], wanted), pc.equal(rows["status"], tables.INDEXED))
            removed += pc.sum(gone).as_py() or 0
            status = pc.if_else(gone, tables.REMOVED, rows["status"])
            return rows.set_column(rows.schema.get_field_index("status"), rows.schema.field("status"), status)

        def start() -> Callable[[pa.Table], pa.Table]:
            nonlocal removed
            removed = 0
            return mark

        self._edit_songs(wanted, start)
        return removed

    def update(self, song_ids: Sequence[int], values: Mapping[str, Sequence[Any]]) -> int:
        """Change tags or paths of songs; postings stay as they are.

        Parameters
        ----------
        song_ids
            Each at most once.
        values
            For each column of `EDITABLE` that changes, the new value of each song.

        Returns
        -------
        int
            How many of the songs were there.

        Raises
        ------
        ParameterError
            If a column cannot be edited or has another number of values.
        """
        if odd := [name for name in values if name not in EDITABLE]:
            raise ParameterError(f"column {odd[0]!r} cannot be changed; these can: {', '.join(EDITABLE)}")
        if any(len(column) != len(song_ids) for column in values.values()) or len(set(song_ids)) != len(song_ids):
            raise ParameterError(f"give one value of each column for each of {len(song_ids)} different songs")
        wanted = pa.array(song_ids, pa.int32())
        schema = tables.SCHEMAS[SONGS]
        columns = {name: pa.array(column, schema.field(name).type) for name, column in values.items()}
        changed = 0

        def change(rows: pa.Table) -> pa.Table:
            nonlocal changed
            place = pc.index_in(rows["song_id"], wanted)
            known = pc.is_valid(place)
            changed += pc.sum(pc.and_(known, pc.equal(rows["status"], tables.INDEXED))).as_py() or 0
            for name, column in columns.items():
                new = pc.if_else(known, column.take(place.combine_chunks()), rows[name])
                rows = rows.set_column(rows.schema.get_field_index(name), schema.field(name), new)
            return rows

        def start() -> Callable[[pa.Table], pa.Table]:
            nonlocal changed
            changed = 0
            return change

        self._edit_songs(wanted, start)
        return changed

    # the steps of a commit

    def _new(self, manifests: Sequence[Manifest], songs: Version) -> list[list[bool]]:
        """Which staged songs are new to the store, by digest."""
        known = self._digests(songs)
        new = []
        for manifest in manifests:
            batch = []
            for row in manifest.songs:
                batch.append(row["digest"] not in known)
                known.add(row["digest"])
            new.append(batch)
        return new

    def _digests(self, songs: Version) -> set[str]:
        rows = read_songs(self._location, songs, ["digest", "status"])
        return set(rows.filter(pc.equal(rows["status"], tables.INDEXED))["digest"].to_pylist())

    def _write(
        self, manifests: Sequence[Manifest], ids: Sequence[NDArray[np.int32]], first: int, run: Map
    ) -> dict[str, int]:
        """Merge the staged files into the tables; the versions that have them."""
        settings = json.dumps(self.settings.to_dict())
        name = f"{first:010d}"
        sources = tuple((manifest.postings, numbers) for manifest, numbers in zip(manifests, ids, strict=True))
        samples = [np.array(manifest.sample, np.int32) for manifest in manifests]
        merges = [
            MergeTask(self._location, sources, None, cuts, f"{POSTINGS}/{name}-{i:04d}.parquet", settings)
            for i, cuts in enumerate(postings.plan_cuts(samples, SAMPLE_STEP))
        ]
        peaks = tuple((manifest.constellations, numbers) for manifest, numbers in zip(manifests, ids, strict=True))
        copies = [
            constellations.CopyTask(self._location, part, None, f"{CONSTELLATIONS}/{name}-{i:04d}.parquet", settings)
            for i, part in enumerate(constellations.plan_copies(peaks, SONGS_PER_FILE))
        ]
        files = list(run(run_task, [*merges, *copies]))
        written = {POSTINGS: files[: len(merges)], CONSTELLATIONS: files[len(merges) :]}
        return {
            table: self._append(table, [file for file in made if file is not None]).number
            for table, made in written.items()
        }

    def _append(self, table: str, files: Sequence[DataFile]) -> Version:
        for version in self._attempts(table):
            with suppress(Conflict):
                return tables.commit(self._location, version, files)
        raise AssertionError("attempts end with an error")

    def _commit_songs(
        self,
        manifests: Sequence[Manifest],
        ids: Sequence[NDArray[np.int32]],
        first: int,
        pins: Mapping[str, int],
        reserved: Version,
    ) -> list[int] | None:
        """The commit point; ``None`` if `compact` has declared the reserved ids void meanwhile."""
        now = datetime.datetime.now(datetime.UTC)
        rows = [
            row | {"song_id": int(song_id), "status": tables.INDEXED, "indexed_at": now}
            for manifest, numbers in zip(manifests, ids, strict=True)
            for row, song_id in zip(manifest.songs, numbers, strict=True)
            if song_id
        ]
        for songs in self._attempts(SONGS, reserved):
            if songs.number != reserved.number:
                if any(file.low["song_id"] <= first <= file.high["song_id"] for file in songs.files):
                    done = read_songs(self._location, songs, ["song_id"])["song_id"].to_pylist()
                    if ours := sorted({row["song_id"] for row in rows}.intersection(done)):
                        return ours  # the commit went through, only its answer was lost
                if songs.numbers.get(FENCE, 0) > first:
                    return None
                known = self._digests(songs)
                rows = [row for row in rows if row["digest"] not in known]
                if not rows:
                    return []
            table = pa.Table.from_pylist(rows, schema=tables.SCHEMAS[SONGS])
            file = write_songs(self._location, table)
            numbers = {PINS[name]: max(pins[name], songs.numbers.get(PINS[name], 0)) for name in PINS}
            try:
                tables.commit(self._location, songs, [file], numbers=numbers)
            except Conflict:
                self._location.delete(f"{SONGS}/{file.name}")
                continue
            return [row["song_id"] for row in rows]
        raise AssertionError("attempts end with an error")

    def _edit_songs(self, song_ids: pa.Array, start: Callable[[], Callable[[pa.Table], pa.Table]]) -> None:
        """Rewrite the files of the songs table that have one of these songs, in one commit."""
        for songs in self._attempts():
            edit = start()
            replaced, written = [], []
            for file in songs.files:
                part = Version(SONGS, songs.number, (file,), songs.numbers, songs.configuration)
                rows = read_songs(self._location, part)
                if not pc.any(pc.is_in(rows["song_id"], song_ids)).as_py():
                    continue
                edited = edit(rows)
                if not edited.equals(rows):
                    replaced.append(file)
                    written.append(write_songs(self._location, edited))
            if not replaced:
                return
            try:
                tables.commit(self._location, songs, written, replaced)
                return
            except Conflict:
                for file in written:
                    self._location.delete(f"{SONGS}/{file.name}")

    def _attempts(self, table: str = SONGS, first: Version | None = None) -> Iterator[Version]:
        """The latest version of a table (or the one given), then the latest again and again, with longer pauses.

        Raises
        ------
        StoreError
            When others were faster for some minutes.
        """
        yield first or tables.load(self._location, table)
        for attempt in range(60):
            time.sleep(min(0.01 * 1.5**attempt, 5.0) * random.random())  # two that met should not meet again
            yield tables.load(self._location, table)
        raise StoreError(
            f"{self._location.path(table)}: other jobs commit without a pause; try again when they are done"
        )

    def _clean_staging(self, manifests: Sequence[Manifest]) -> None:
        for manifest in manifests:
            for name in (f"{manifest.folder}/manifest.json", manifest.postings, manifest.constellations):
                self._location.delete(name)
            self._location.delete_folder(manifest.folder)


def run_task(task: MergeTask | constellations.CopyTask) -> DataFile | None:
    """One piece of the work of a commit, in whatever process."""
    return postings.run_merge(task) if isinstance(task, MergeTask) else constellations.run_copy(task)


def write_songs(location: Location, rows: pa.Table) -> DataFile:
    """Write rows of the songs table as a new file of it."""
    name = f"songs-{uuid.uuid4().hex}.parquet"
    rows = rows.sort_by("song_id")

    def write(file: Any) -> None:
        pq.write_table(rows, file, compression="zstd", write_page_checksum=True, store_schema=False)

    size = location.write_with(f"{SONGS}/{name}", write)
    ids = pc.min_max(rows["song_id"]).as_py()
    return DataFile(name, size, len(rows), {"song_id": ids["min"]}, {"song_id": ids["max"]})


def _number(rows: Sequence[Sequence[bool]], first: int) -> list[NDArray[np.int32]]:
    """Consecutive ids from ``first`` for those that are true, 0 for the others."""
    ids = []
    for batch in rows:
        kept = np.array(batch, bool)
        ids.append(np.where(kept, first + np.cumsum(kept) - 1, 0).astype(np.int32))
        first += int(kept.sum())
    return ids
