"""The handle of a store: create, open, commit, remove, update, check, repair, compact.

Every change is decided on one version, and tried again on the next version if another job committed first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import pyarrow.compute as pc

from pipeline.errors import ConfigMismatch, ParameterError, StoreError
from pipeline.fingerprinting.settings import Settings
from pipeline.paths import PathLike
from pipeline.store import append, check, compaction, delta_log, failures, metadata, repair, upgrade
from pipeline.store.append import Changes, MapFunction
from pipeline.store.check import Problem
from pipeline.store.compaction import Compaction
from pipeline.store.delta_log import Conflict
from pipeline.store.failures import FailedFile
from pipeline.store.frames import SHARD_FRAMES
from pipeline.store.repair import Repair
from pipeline.store.schema import INDEXED, PART, REMOVED, SCHEMAS, SONGS, TAGS
from pipeline.store.snapshot import Snapshot
from pipeline.store.song_paths import Found, FoundFile
from pipeline.store.songs import edit_songs, read_songs
from pipeline.store.staging import FOLDER as STAGING
from pipeline.store.staging import Manifest
from pipeline.store.storage import TEMPORARY, Location
from pipeline.store.upgrade import Upgrade

# A query that takes longer than this may find its files compacted away.
GRACE_HOURS = 24
# Columns of the songs table that can be changed without the audio.
EDITABLE = ("path", *TAGS, "size_bytes", "modified_ns")


class Store:
    """A store of songs. Picklable: it holds only its location and its settings.

    Attributes
    ----------
    url
        A folder's absolute path, or an fsspec URL.
    settings
        How its fingerprints are made; they never change.
    """

    def __init__(self, url: str, tables: Location, settings: Settings) -> None:
        self._url = url
        self._location = tables
        self.settings = settings

    def __repr__(self) -> str:
        return f"<Store {self.url}>"

    @property
    def url(self) -> str:
        """Where the store is."""
        return self._url

    @classmethod
    def exists(cls, url: PathLike) -> bool:
        """Whether there is a store, of any format."""
        return Location.of(url).exists(metadata.NAME)

    @classmethod
    def open(cls, url: PathLike) -> Store:
        """Open an existing store.

        Raises
        ------
        StoreError
            If there is none, or its format is not the one that this version reads and writes.
        """
        location = Location.of(url)
        settings, tables = metadata.read(location)
        return cls(location.url, tables, settings)

    @classmethod
    def create(cls, url: PathLike, settings: Settings | None = None, shard_frames: int = SHARD_FRAMES) -> Store:
        """Create an empty store, or complete one whose creation was interrupted.

        Parameters
        ----------
        shard_frames
            Frames of the songs that one shard holds: 1 to 2**31. What is found does not depend on it.

        Raises
        ------
        StoreError
            If a store is there already, or the folder holds other things.
        """
        location = Location.of(url)
        if location.exists(metadata.NAME):
            raise StoreError(f"{location.url}: there is a store already")
        return cls._create(location, settings or Settings(), shard_frames)

    @classmethod
    def open_or_create(cls, url: PathLike, settings: Settings | None = None) -> Store:
        """Open the store if it exists, else create it.

        Raises
        ------
        ConfigMismatch
            If ``settings`` are given and the store was made with others.
        StoreError
            If what is there is no store, or of another format.
        """
        location = Location.of(url)
        store = cls.open(url) if location.exists(metadata.NAME) else cls._create(location, settings or Settings())
        if settings is not None:
            store._require_settings(settings, "this job asks for")
        return store

    def _require_settings(self, settings: Settings, who: str) -> None:
        ours, theirs = self.settings.to_dict(), settings.to_dict()
        if ours != theirs:
            differing = ", ".join(
                f"{name} {ours[name]}, {who} {theirs[name]}" for name in ours if ours[name] != theirs[name]
            )
            raise ConfigMismatch(f"{self.url}: the store has {differing}; use its settings or make another store")

    @classmethod
    def _create(cls, location: Location, settings: Settings, shard_frames: int = SHARD_FRAMES) -> Store:
        expected = (failures.NAME, TEMPORARY, *(f"{name}/" for name in (*SCHEMAS, STAGING)))
        foreign = next((name for name, _, _ in location.files() if not name.startswith(expected)), None)
        if foreign is not None:
            raise StoreError(f"{location.url}: the folder holds other things ({foreign}); give an empty or a new one")
        delta_log.create(location, json.dumps(settings.to_dict()), shard_frames)
        metadata.write(location, settings)  # last: without it there is no store, and creation starts again
        return cls(location.url, location, settings)

    def snapshot(self) -> Snapshot:
        """The current version of the store; later commits do not change it."""
        return Snapshot(self._location, self.settings, delta_log.load(self._location, SONGS))

    def commit(self, manifests: Sequence[Manifest], map: MapFunction = map) -> list[int]:  # noqa: A002  as the builtin is
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
        return list(self.commit_files(manifests, {}, map).added)

    def commit_files(
        self,
        manifests: Sequence[Manifest],
        found: Found,
        map: MapFunction = map,  # noqa: A002
        prune: bool = False,
    ) -> Changes:
        """Add staged songs, and apply what was found under some paths, all in one commit of the songs table.

        A path belongs to one song. A song whose paths all hold other content gives way; if one of the staged songs has
        its audio, it stays, and its row gets the other tags. A song whose file was found elsewhere gets the new path.
        Files with the same content are other paths of one song.

        Parameters
        ----------
        manifests
            In the order of the plan. Their files need not be in ``found``.
        found
            By path: what lies there, or ``None`` for a path without a file.
        map
            As for `commit`.
        prune
            Also remove the songs of which ``found`` says that no file is left.

        Raises
        ------
        StoreError
            If the store cannot be read or written; then nothing was changed.
        """
        staged = {
            row["path"]: FoundFile(row["digest"], row["size_bytes"], row["modified_ns"])
            for manifest in manifests
            for row in manifest.songs
        }
        additions = [append.from_manifest(self._location, manifest) for manifest in manifests]
        done = append.add_songs(self._location, self.settings, additions, map, staged | dict(found), prune)
        for manifest in manifests:
            for name in (manifest.postings, manifest.constellations):
                self._location.delete(name)
            self._location.delete_folder(manifest.folder)
        return done

    def failures(self) -> dict[str, FailedFile]:
        """The files that gave no song when they were last indexed, by path."""
        return failures.read(self._location)

    def remember_failures(self, failed: Iterable[FailedFile]) -> None:
        """Replace what `failures` gives."""
        failures.write(self._location, failed)

    def absorb(self, other: Store, map: MapFunction = map) -> list[int]:  # noqa: A002
        """Add the songs of another store, without their audio; the other store stays as it is.

        Songs whose digest is here already are left out.

        Parameters
        ----------
        other
            Made with the same settings.
        map
            As for `commit`.

        Returns
        -------
        list of int
            The ids of the songs that were added, in the order that they have in the other store.

        Raises
        ------
        ConfigMismatch
            If the two stores were made with different settings.
        StoreError
            If one of them cannot be read, or this one not written; then nothing was added.
        """
        self._require_settings(other.settings, f"{other.url} has")
        additions = [append.from_snapshot(other.snapshot())]
        return list(append.add_songs(self._location, self.settings, additions, map).added)

    def check(self, map: MapFunction = map) -> list[Problem]:  # noqa: A002
        """Read every file from end to end, and compare what the tables say about each song.

        Parameters
        ----------
        map
            As for `commit`; a task reads one file.

        Returns
        -------
        list of Problem
            Empty if the store is whole. Leftovers of jobs that died are no problem: they are in no snapshot.
        """
        return check.find_problems(self._location, self.settings, map)

    @classmethod
    def repair(cls, url: PathLike, map: MapFunction = map) -> Repair:  # noqa: A002
        """Repair a damaged store as far as possible; nothing else may write to it meanwhile.

        Postings are made again from the peaks, which are readable song by song; only songs whose peaks are damaged,
        and the rows of a damaged file of the songs table, are given up.

        Raises
        ------
        StoreError
            If there is no store, or a log is damaged so that nothing can be read.
        """
        restored = repair.restore_metadata(Location.of(url))
        store = cls.open(url)
        done = repair.repair_tables(store._location, store.settings, map)
        return Repair((*restored, *done.done), done.lost)

    @classmethod
    def upgrade(cls, url: PathLike, map: MapFunction = map) -> Upgrade | None:  # noqa: A002
        """Convert a store of format 2 in place, without the audio; nothing else may use it meanwhile.

        A run that was ended at any moment leaves the store what it was, or converted; the next one goes on with what
        was finished.

        Returns
        -------
        Upgrade or None
            ``None`` if the store has this format already.

        Raises
        ------
        StoreError
            If there is no store, or one of a format that cannot be converted, or if it cannot be read or written.
        """
        return upgrade.upgrade(Location.of(url), map)

    def compact(self, map: MapFunction = map, grace_hours: int = GRACE_HOURS) -> Compaction:  # noqa: A002
        """Merge small files, drop removed songs, delete leftovers of dead jobs; others may read and write meanwhile.

        Parameters
        ----------
        map
            As for `commit`.
        grace_hours
            How long replaced files and leftovers are kept, for queries and jobs that began before. 0 deletes them at
            once: only when nothing else uses the store. At most 168: the logs remember replaced files for 7 days.

        Raises
        ------
        ParameterError
            If ``grace_hours`` is not 0 to 168.
        StoreError
            If the store cannot be read or written; its contents are what they were.
        """
        return compaction.compact(self._location, self.settings, map, grace_hours)

    def remove(self, song_ids: Iterable[int]) -> int:
        """Mark songs as removed: later snapshots do not have them. `compact` frees the space.

        Returns
        -------
        int
            How many of them were indexed.
        """
        wanted = set(song_ids)

        def marked(songs: delta_log.Version) -> dict[int, dict[str, Any]]:
            return {song_id: {"status": REMOVED} for song_id in self._indexed(songs) if song_id in wanted}

        return len(self._edit_songs(marked))

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
            How many of the songs were indexed.

        Raises
        ------
        ParameterError
            If a column cannot be edited or has another number of values.
        """
        if fixed := [name for name in values if name not in EDITABLE]:
            raise ParameterError(f"column {fixed[0]!r} cannot be changed; these can: {', '.join(EDITABLE)}")
        if any(len(column) != len(song_ids) for column in values.values()) or len(set(song_ids)) != len(song_ids):
            raise ParameterError(f"give one value of each column for each of {len(song_ids)} different songs")
        rows = zip(*values.values(), strict=True) if values else [()] * len(song_ids)
        new = {song_id: dict(zip(values, row, strict=True)) for song_id, row in zip(song_ids, rows, strict=True)}

        def changed(songs: delta_log.Version) -> dict[int, dict[str, Any]]:
            return {song_id: new[song_id] for song_id in self._indexed(songs) if song_id in new}

        return len(self._edit_songs(changed))

    def accept(self, groups: Sequence[Collection[int]], parts: Sequence[Collection[int]] = ()) -> None:
        """Remember of some groups of songs that they are to stay.

        Parameters
        ----------
        groups
            Songs that hold the same recording, each with the files that it has now.
        parts
            Songs that only have a part in common. A group of copies among them is not accepted.
        """
        chosen = [*(("", group) for group in groups), *((PART, group) for group in parts)]
        wanted = {song_id for _, group in chosen for song_id in group}

        def marked(songs: delta_log.Version) -> dict[int, dict[str, Any]]:
            columns = read_songs(self._location, songs, ["song_id", "digest", "other_paths", "accepted"])
            rows = {row["song_id"]: row for row in columns.to_pylist() if row["song_id"] in wanted}
            changes: dict[int, dict[str, Any]] = {}
            for kind, group in chosen:
                here = [rows[song_id] for song_id in sorted(group) if song_id in rows]
                token = _group_token([row["digest"] for row in here])
                for row in here:
                    entry = f"{kind}{token}:{len(row['other_paths'] or ())}"
                    if entry not in (row["accepted"] or ()):
                        row["accepted"] = [*(row["accepted"] or ()), entry]
                        changes[row["song_id"]] = {"accepted": row["accepted"]}
            return changes

        self._edit_songs(marked)

    def _indexed(self, songs: delta_log.Version) -> list[int]:
        """The songs of a version that are neither removed nor unfinished."""
        rows = read_songs(self._location, songs, ["song_id", "status"])
        indexed: list[int] = rows.filter(pc.equal(rows["status"], INDEXED))["song_id"].to_pylist()
        return indexed

    def _edit_songs(
        self, decide: Callable[[delta_log.Version], dict[int, dict[str, Any]]]
    ) -> dict[int, dict[str, Any]]:
        """Change columns of some songs in one commit: what is decided on one version, and again if it is not the last.

        Returns
        -------
        dict
            By song id, the columns that were changed.
        """
        changes: dict[int, dict[str, Any]] = {}
        for songs in delta_log.attempts(self._location, SONGS):
            changes = decide(songs)
            written, replaced = edit_songs(self._location, songs, changes)
            if not replaced or self._commit_edited_songs(songs, written, replaced):
                break
        return changes

    def _commit_edited_songs(
        self, songs: delta_log.Version, written: Sequence[delta_log.DataFile], replaced: Sequence[delta_log.DataFile]
    ) -> bool:
        """Whether files of the songs table take the place of others; if another job came first, they are deleted."""
        try:
            delta_log.commit(self._location, songs, written, replaced)
        except Conflict:
            for file in written:
                self._location.delete(f"{SONGS}/{file.name}")
            return False
        return True


def _group_token(digests: Iterable[str]) -> str:
    """A name for a group of songs that no other group has, also not in a store that takes these songs in."""
    return hashlib.blake2b(" ".join(sorted(digests)).encode(), digest_size=8).hexdigest()
