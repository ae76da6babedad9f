"""Add songs from staged batches or from another store, all or none, also when other jobs write at the same time."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

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
    SCHEMAS,
    SHARD_FRAMES,
    SONGS,
    shard_folder,
)
from pipeline.store.snapshot import Snapshot
from pipeline.store.songs import write_songs
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


def add_songs(
    location: Location, settings: Settings, additions: Sequence[Addition], map_tasks: MapFunction
) -> list[int]:
    """Add the songs whose digest is new to the store, each digest once; their song ids."""
    for songs in delta_log.attempts(location, SONGS):
        new = _new_songs(location, additions, songs)
        count = sum(sum(flags) for flags in new)
        if not count:
            break
        first = songs.numbers.get(NEXT_SONG_ID, 1)
        places, numbers = _reserve_places(new, additions, songs)
        try:  # reserve ids and frames; they are never given again, also when this job dies
            reserved = delta_log.commit(location, songs, numbers={NEXT_SONG_ID: first + count, **numbers})
        except Conflict:
            continue
        ids = _assign_ids(new, first)
        pins = _write_tables(location, settings, additions, ids, places, first, map_tasks)
        added = _commit_songs(location, additions, ids, places, first, pins, reserved)
        if added is not None:
            return added
    return []


def run_task(task: MergeTask | CopyTask) -> DataFile | None:
    """Run one task of a commit, in any process."""
    return postings.run_merge(task) if isinstance(task, MergeTask) else constellations.run_copy(task)


def _new_songs(location: Location, additions: Sequence[Addition], songs: Version) -> list[list[bool]]:
    """For each song of each addition, whether its digest is new to the store and to the additions before it."""
    known = _known_digests(location, songs, [row["digest"] for addition in additions for row in addition.rows])
    new = []
    for addition in additions:
        flags = []
        for row in addition.rows:
            flags.append(row["digest"] not in known)
            known.add(row["digest"])
        new.append(flags)
    return new


def _known_digests(location: Location, songs: Version, digests: Sequence[str]) -> set[str]:
    """Which of some digests belong to songs of the store."""
    wanted = pa.array(digests, pa.string())
    known: set[str] = set()
    for file in songs.files:
        with location.parquet(f"{SONGS}/{file.name}") as parquet:
            # nearly always this column is all that is read: 4 ms for 50,000 songs, 30 with several threads
            found = pc.is_in(parquet.read(columns=["digest"], use_threads=False)["digest"], wanted)
            if pc.any(found).as_py():
                rows = parquet.read(columns=["digest", "status"]).filter(found)
                known.update(rows.filter(pc.equal(rows["status"], INDEXED))["digest"].to_pylist())
    return known


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


def _commit_songs(
    location: Location,
    additions: Sequence[Addition],
    ids: Sequence[NDArray[np.int32]],
    places: Sequence[Places],
    first: int,
    pins: dict[str, int],
    reserved: Version,
) -> list[int] | None:
    """Add the rows: the commit point. ``None`` if `compaction.compact` has declared the reserved ids void meanwhile."""
    now = datetime.datetime.now(datetime.UTC)
    rows = [
        row | {"song_id": song_id, "shard": shard, "first_frame": frame, "status": INDEXED, "indexed_at": now}
        for addition, song_ids, place in zip(additions, ids, places, strict=True)
        for row, song_id, shard, frame in zip(
            addition.rows, song_ids.tolist(), place.shard.tolist(), place.first.tolist(), strict=True
        )
        if song_id
    ]
    for songs in delta_log.attempts(location, SONGS, reserved):
        if songs.numbers.get(FENCE, 0) > first:
            return None
        if songs.number != reserved.number:
            known = _known_digests(location, songs, [row["digest"] for row in rows])
            rows = [row for row in rows if row["digest"] not in known]
        if not rows:
            return []
        file = write_songs(location, pa.Table.from_pylist(rows, schema=SCHEMAS[SONGS]))
        numbers = {PINS[name]: max(pins[name], songs.numbers.get(PINS[name], 0)) for name in PINS}
        try:
            delta_log.commit(location, songs, [file], numbers=numbers)
        except Conflict:
            location.delete(f"{SONGS}/{file.name}")
            continue
        return [row["song_id"] for row in rows]
    raise AssertionError("attempts end with an error")
