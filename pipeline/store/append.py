"""Add songs from staged batches or from another store, all or none, also when other jobs write at the same time."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.fingerprinting.peaks import Peaks
from pipeline.fingerprinting.settings import Settings
from pipeline.store import constellations, delta_log, frames, postings
from pipeline.store.constellations import CopyTask
from pipeline.store.delta_log import Conflict, DataFile, Version
from pipeline.store.frames import Places
from pipeline.store.postings import Int32s, MergeTask, Relocation
from pipeline.store.schema import (
    CONSTELLATIONS,
    FENCE,
    INDEXED,
    NEXT_SONG_ID,
    PINS,
    POSTINGS,
    REMOVED,
    SCHEMAS,
    SHARD_FRAMES,
    SONGS,
    shard_folder,
)
from pipeline.store.snapshot import Snapshot
from pipeline.store.song_paths import Found, affected_songs, best_song, by_digest, files_of, resolve
from pipeline.store.songs import edit_songs, write_songs
from pipeline.store.staging import SAMPLE_STEP, Manifest, first_frames
from pipeline.store.storage import Location

# Songs of one constellations file: some 15 MB.
SONGS_PER_FILE = 1024

# How tasks are run: the builtin `map`, or the map of an executor. Results come in the order of the items.
MapFunction = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
Numbers = dict[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class Addition:
    """Songs to add, and the files that have their postings and peaks.

    Parameters
    ----------
    location
        The store that the files are in.
    rows
        Rows of the songs table, without song id, place, status and time.
    file_ids
        ``(n_songs,)`` int32: the id that each song has in the files of peaks, where it has no song id of the target
        store yet.
    places
        Where each song lies in the files of postings.
    postings
        Names of the files, inside the store that they are in, each with the shard that it belongs to.
    constellations
        Names of the files.
    sample
        The hash of every `staging.SAMPLE_STEP`-th posting.
    """

    location: Location
    rows: Sequence[dict[str, Any]]
    file_ids: NDArray[np.int32]
    places: Places
    postings: tuple[tuple[str, int], ...]
    constellations: tuple[str, ...]
    sample: Int32s

    def peaks(self, places: Collection[int]) -> dict[int, Peaks]:
        """The peaks of some of its songs, by their places in the rows."""
        of_file_id = {int(self.file_ids[place]): place for place in places}
        peaks: dict[int, Peaks] = {}
        for name in self.constellations:
            with self.location.parquet(name) as file:
                found = constellations.from_table(file.read(use_threads=False), of_file_id)
            peaks |= {of_file_id[file_id]: one for file_id, one in found.items()}
        return peaks

    def song_id_table(self, song_ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """The song id for each id in the files; 0 for those left out."""
        table = np.zeros(int(self.file_ids.max(initial=0)) + 1, np.int32)
        table[self.file_ids] = song_ids
        return table

    def relocate(self, shard: int, places: Places, new_shard: int) -> Relocation:
        """Where the songs of one shard of the files go that get a place in a shard of the store."""
        some = np.flatnonzero(self.places.shard == shard)
        some = some[np.argsort(self.places.first[some], kind="stable")]
        new_first = np.where(places.shard[some] == new_shard, places.first[some], -1)
        return Relocation(self.places.first[some], self.places.stop[some], new_first)


def from_manifest(location: Location, manifest: Manifest) -> Addition:
    """The songs of a staged batch."""
    n_frames = [row["n_frames"] for row in manifest.songs]
    return Addition(
        location=location,
        rows=manifest.songs,
        file_ids=np.arange(len(manifest.songs), dtype=np.int32),
        places=Places(np.zeros(len(n_frames), np.int32), first_frames(n_frames), np.array(n_frames, np.int64)),
        postings=((manifest.postings, 0),),
        constellations=(manifest.constellations,),
        sample=np.array(manifest.sample, np.int32),
    )


def from_snapshot(snapshot: Snapshot) -> Addition:
    """All songs of a store."""
    names = [name for name in SCHEMAS[SONGS].names if name not in ("song_id", "status", "indexed_at")]
    songs = snapshot.songs(["song_id", *names])
    shard, first, n_frames = (songs[name].to_numpy() for name in ("shard", "first_frame", "n_frames"))
    return Addition(
        location=snapshot.location,
        rows=songs.select(names).to_pylist(),
        file_ids=songs["song_id"].to_numpy(),
        places=Places(shard, first.astype(np.int64), n_frames.astype(np.int64)),
        postings=snapshot.postings_files(),
        constellations=snapshot.files(CONSTELLATIONS),
        sample=np.concatenate([np.zeros(0, np.int32), *(shard.sample(SAMPLE_STEP) for shard in snapshot.shards)]),
    )


@dataclass(frozen=True, slots=True)
class Changes:
    """What a commit did, each as song ids.

    Parameters
    ----------
    added
        New songs, rising, in the order of the additions.
    retagged
        Songs whose file has other content now, but the same audio: their row changed, their postings did not.
    moved
        Songs that have another path.
    replaced
        Songs that were removed, since other audio lies under their path.
    gone
        Songs that were removed, since there is no file of theirs any more.
    """

    added: tuple[int, ...] = ()
    retagged: tuple[int, ...] = ()
    moved: tuple[int, ...] = ()
    replaced: tuple[int, ...] = ()
    gone: tuple[int, ...] = ()


def add_songs(
    location: Location,
    settings: Settings,
    additions: Sequence[Addition],
    map_tasks: MapFunction,
    found: Found | None = None,
    prune: bool = False,
) -> Changes:
    """Add the songs whose digest is new to the store, each digest once, and apply what was found under some paths.

    Parameters
    ----------
    found
        What lies under paths of songs, also of those that are added.
    prune
        Remove the songs, too, that have no file any more.
    """
    found = found or {}
    for songs in delta_log.attempts(location, SONGS):
        plan = _plan(location, additions, songs, found)
        count = sum(sum(flags) for flags in plan.new)
        try:
            if not count:
                return _commit_songs(location, plan, [], songs, {}, found, prune)
            first = songs.numbers.get(NEXT_SONG_ID, 1)
            places, numbers = _reserve_places(plan.new, additions, songs)
            # reserve ids and frames; they are never given again, also when this job dies
            reserved = delta_log.commit(location, songs, numbers={NEXT_SONG_ID: first + count, **numbers})
        except Conflict:
            continue
        ids = _assign_ids(plan.new, first)
        pins = _write_tables(location, settings, additions, ids, places, first, map_tasks)
        rows = _new_rows(additions, ids, places)
        for latest in delta_log.attempts(location, SONGS, reserved):
            # `compaction.compact` may have declared the reserved ids void, another job removed a song that goes on
            if latest.numbers.get(FENCE, 0) > first or not _goes_on(location, plan, latest, found):
                break
            with suppress(Conflict):
                return _commit_songs(location, plan, rows, latest, pins, found, prune)
    raise AssertionError("attempts end with an error")


def run_task(task: MergeTask | CopyTask) -> DataFile | None:
    """Run one task of a commit, in any process."""
    return postings.run_merge(task) if isinstance(task, MergeTask) else constellations.run_copy(task)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be added.

    Parameters
    ----------
    new
        For each song of each addition, whether it becomes a song of the store.
    going_on
        By song id: the row of an addition that has its audio, and other tags.
    """

    new: list[list[bool]]
    going_on: dict[int, dict[str, Any]]


def _plan(location: Location, additions: Sequence[Addition], songs: Version, found: Found) -> _Plan:
    """Which songs are new: their digest is in neither the store nor the additions before, nor do they go on."""
    digests = {row["digest"] for addition in additions for row in addition.rows}
    rows = affected_songs(location, songs, found, digests)
    known = {row["digest"] for row in rows}
    new = []
    for addition in additions:
        flags = []
        for row in addition.rows:
            flags.append(row["digest"] not in known)
            known.add(row["digest"])
        new.append(flags)
    gone = set(resolve(rows, found).gone)
    left = [row for row in rows if row["song_id"] in gone]
    return _Plan(new, _songs_that_go_on(location, songs, additions, new, left) if left else {})


def _songs_that_go_on(
    location: Location,
    songs: Version,
    additions: Sequence[Addition],
    new: list[list[bool]],
    left: Sequence[dict[str, Any]],
) -> dict[int, dict[str, Any]]:
    """Find the songs without a file whose audio an addition has: they are the same songs, with other tags.

    Parameters
    ----------
    new
        Becomes false for songs that are found.
    left
        Rows of the songs without a file.
    """
    by_size: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for row in left:
        by_size.setdefault((row["landmarks"], row["n_frames"]), []).append(row)
    reader: constellations.Reader | None = None
    going_on: dict[int, dict[str, Any]] = {}
    for addition, flags in zip(additions, new, strict=True):
        alike = [
            (place, by_size[row["landmarks"], row["n_frames"]])
            for place, row in enumerate(addition.rows)
            if flags[place] and (row["landmarks"], row["n_frames"]) in by_size
        ]
        if not alike:
            continue
        if reader is None:
            pinned = delta_log.load(location, CONSTELLATIONS, songs.numbers.get(PINS[CONSTELLATIONS], 0))
            reader = constellations.Reader(location, pinned.files)
        theirs = reader.read(np.unique([row["song_id"] for _, rows in alike for row in rows]))
        ours = addition.peaks({place for place, _ in alike})
        for place, candidates in alike:
            row = addition.rows[place]
            for song in best_song(row["path"], candidates):
                song_id = song["song_id"]
                if song_id in theirs and song_id not in going_on and _same_peaks(theirs[song_id], ours[place]):
                    going_on[song_id] = row
                    flags[place] = False
                    break
    return going_on


def _same_peaks(one: Peaks, two: Peaks) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(two, name)) for name in ("frame", "bin", "level"))


def _goes_on(location: Location, plan: _Plan, songs: Version, found: Found) -> bool:
    """Whether the songs that go on with other tags are still in the store, without a file."""
    if not plan.going_on:
        return True
    return set(plan.going_on) <= set(resolve(affected_songs(location, songs, found, ()), found).gone)


def _assign_ids(new: Sequence[Sequence[bool]], first: int) -> list[NDArray[np.int32]]:
    """Consecutive ids from ``first`` for the songs that are new, 0 for the others."""
    ids = []
    for flags in new:
        kept = np.array(flags, bool)
        ids.append(np.where(kept, first + np.cumsum(kept) - 1, 0).astype(np.int32))
        first += int(kept.sum())
    return ids


def _reserve_places(
    new: Sequence[Sequence[bool]], additions: Sequence[Addition], songs: Version
) -> tuple[list[Places], Numbers]:
    """Places for the songs that are true, shard -1 for the others; and what the log has to say of it."""
    kept = [np.array(flags, bool) for flags in new]
    lengths = [addition.places.n_frames[some] for addition, some in zip(additions, kept, strict=True)]
    shard_frames = int(songs.configuration.get(SHARD_FRAMES, frames.SHARD_FRAMES))
    given, numbers = frames.reserve(songs.numbers, np.concatenate(lengths).tolist(), shard_frames)
    places = []
    at = 0
    for addition, some in zip(additions, kept, strict=True):
        stop = at + int(some.sum())
        shard, first = np.full(len(some), -1, np.int32), np.zeros(len(some), np.int64)
        shard[some], first[some] = given.shard[at:stop], given.first[at:stop]
        places.append(Places(shard, first, addition.places.n_frames))
        at = stop
    return places, numbers


def _merges(
    location: Location, additions: Sequence[Addition], places: Sequence[Places], first: int, settings: str
) -> list[MergeTask]:
    """The merges that bring the postings of the additions to their places, shard by shard."""
    pairs = list(zip(additions, places, strict=True))
    merges = []
    for shard in sorted({int(shard) for place in places for shard in np.unique(place.shard)} - {-1}):
        sources: list[postings.Source] = []
        samples = []
        for addition, place in pairs:
            relocations = {old: addition.relocate(old, place, shard) for old in {old for _, old in addition.postings}}
            sources += [
                (addition.location, name, relocations[old])
                for name, old in addition.postings
                if relocations[old].keeps_any
            ]
            share = place.n_frames[place.shard == shard].sum() / max(1, place.n_frames.sum())
            even = np.linspace(0, len(addition.sample), round(len(addition.sample) * share), endpoint=False)
            samples.append(np.sort(addition.sample)[even.astype(np.int64)])
        merges += [
            MergeTask(
                location,
                tuple(sources),
                shard,
                cuts,
                f"{POSTINGS}/{shard_folder(shard)}/{first:010d}-{i:04d}-{{crc}}.parquet",
                settings,
            )
            for i, cuts in enumerate(postings.plan_cuts(samples, SAMPLE_STEP))
        ]
    return merges


def _write_tables(
    location: Location,
    settings: Settings,
    additions: Sequence[Addition],
    ids: Sequence[NDArray[np.int32]],
    places: Sequence[Places],
    first: int,
    map_tasks: MapFunction,
) -> dict[str, int]:
    """Merge the files of the additions into the tables and commit them; the version of each table that has them."""
    text = json.dumps(settings.to_dict())
    pairs = [(addition, addition.song_id_table(song_ids)) for addition, song_ids in zip(additions, ids, strict=True)]
    merges = _merges(location, additions, places, first, text)
    peaks = [(addition.location, name, table) for addition, table in pairs for name in addition.constellations]
    copies = [
        CopyTask(location, part, None, f"{CONSTELLATIONS}/{first:010d}-{i:04d}-{{crc}}.parquet", text)
        for i, part in enumerate(constellations.plan_copies(peaks, SONGS_PER_FILE))
    ]
    files = list(map_tasks(run_task, [*merges, *copies]))
    written = {POSTINGS: files[: len(merges)], CONSTELLATIONS: files[len(merges) :]}
    return {
        table: _commit_files(location, table, [file for file in made if file is not None]).number
        for table, made in written.items()
    }


def _commit_files(location: Location, table: str, files: Sequence[DataFile]) -> Version:
    """Add files to a table, after whatever other jobs commit meanwhile."""
    for version in delta_log.attempts(location, table):
        with suppress(Conflict):
            return delta_log.commit(location, version, files)
    raise AssertionError("attempts end with an error")


def _new_rows(
    additions: Sequence[Addition], ids: Sequence[NDArray[np.int32]], places: Sequence[Places]
) -> list[dict[str, Any]]:
    """The rows of the songs that got an id."""
    return [
        row | {"song_id": song_id, "shard": shard, "first_frame": frame}
        for addition, song_ids, place in zip(additions, ids, places, strict=True)
        for row, song_id, shard, frame in zip(
            addition.rows, song_ids.tolist(), place.shard.tolist(), place.first.tolist(), strict=True
        )
        if song_id
    ]


def _commit_songs(
    location: Location,
    plan: _Plan,
    rows: Sequence[dict[str, Any]],
    songs: Version,
    pins: Mapping[str, int],
    found: Found,
    prune: bool,
) -> Changes:
    """Add and change rows in one commit: the commit point.

    Raises
    ------
    Conflict
        If ``songs`` is not the latest version any more; nothing was changed.
    """
    affected = affected_songs(location, songs, found, {row["digest"] for row in rows})
    known = {row["digest"] for row in affected}
    rows = [row for row in rows if row["digest"] not in known]  # another job may have added some meanwhile
    resolved = resolve(affected, found)
    changes = {song_id: dict(values) for song_id, values in resolved.changes.items()}
    replaced = [song_id for song_id in resolved.replaced if song_id not in plan.going_on]
    gone = [song_id for song_id in resolved.gone if song_id not in {*plan.going_on, *replaced}] if prune else []
    changes |= {song_id: {"status": REMOVED} for song_id in (*replaced, *gone)}
    old = {row["song_id"]: row for row in affected}
    where = by_digest(found)
    moved = [song_id for song_id in resolved.moved if song_id not in plan.going_on]
    for song_id, row in plan.going_on.items():
        changes[song_id] = row | files_of(row, where.get(row["digest"], {}))
        moved += [song_id] if row["path"] != old[song_id]["path"] else []
    written, rewritten = edit_songs(location, songs, changes)
    if rows:
        now = datetime.datetime.now(datetime.UTC)
        new = [
            row | files_of(row, where.get(row["digest"], {})) | {"status": INDEXED, "indexed_at": now} for row in rows
        ]
        written.append(write_songs(location, pa.Table.from_pylist(new, schema=SCHEMAS[SONGS])))
    if written:
        numbers = {PINS[name]: max(number, songs.numbers.get(PINS[name], 0)) for name, number in pins.items()}
        try:
            delta_log.commit(location, songs, written, rewritten, numbers if rows else {})
        except Conflict:
            for file in written:
                location.delete(f"{SONGS}/{file.name}")
            raise
    return Changes(
        added=tuple(row["song_id"] for row in rows),
        retagged=tuple(plan.going_on),
        moved=tuple(moved),
        replaced=tuple(replaced),
        gone=tuple(gone),
    )
