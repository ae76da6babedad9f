"""Converting a store of format 2 in place, without the audio.

Format 2 had postings of hash, song_id and offset. The new tables are made beside the old ones, in a folder of their
own; writing songprint.json anew is the moment at which they count. Until then the store is the old one, and a run that
was ended finds what it had finished; after it the old tables are deleted.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import StoreError
from pipeline.fingerprinting.settings import Settings
from pipeline.store import delta_log, frames, metadata, postings
from pipeline.store.append import MapFunction
from pipeline.store.delta_log import Conflict, DataFile, Version
from pipeline.store.frames import Places
from pipeline.store.postings import PostingsFile, ShardPostings
from pipeline.store.schema import (
    CONSTELLATIONS,
    FENCE,
    INDEXED,
    NEXT_SONG_ID,
    PINS,
    POSTINGS,
    SCHEMAS,
    SONGS,
    shard_folder,
)
from pipeline.store.songs import read_file, write_songs
from pipeline.store.staging import FOLDER as STAGING
from pipeline.store.storage import Location

# What is being converted: found again by a run that follows one that was ended.
MARKER = "upgrade.json"
# Rows of a row group of format 2, each of which has its smallest hash in the footer.
OLD_GROUP_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What an upgrade did.

    Parameters
    ----------
    songs
        Of the converted store; their ids are what they were.
    bytes_before, bytes_after
        Of the files of its tables.
    """

    songs: int
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """Convert a range of hashes, for the songs of one shard.

    Parameters
    ----------
    first_frame
        By song id: where the song begins in the shard; -1 for songs that are not in it.
    name
        Of the file to write, without its end.
    """

    old: Location
    new: Location
    files: tuple[DataFile, ...]
    first_frame: NDArray[np.int64]
    shard: int
    cuts: tuple[int, ...]
    name: str
    settings: str


def upgrade(root: Location, map_tasks: MapFunction) -> Upgrade | None:
    """What `Store.upgrade` does."""
    settings = metadata.read_upgradable(root)
    if settings is None:
        _, tables = metadata.read(root)
        if tables != root:
            _delete_old(root, tables)
        return None
    while True:
        songs = delta_log.load(root, SONGS)
        done = _convert(root, songs, settings, map_tasks)
        if delta_log.load(root, SONGS).number == songs.number:
            break
    metadata.write(root, settings, metadata.UPGRADED_FOLDER)
    _delete_old(root, metadata.tables_in(root, metadata.UPGRADED_FOLDER))
    return done


def _convert(root: Location, songs: Version, settings: Settings, map_tasks: MapFunction) -> Upgrade:
    new = metadata.tables_in(root, metadata.UPGRADED_FOLDER)
    text = json.dumps(settings.to_dict())
    _begin(root, new, songs.number)
    delta_log.create(new, text, frames.SHARD_FRAMES)
    old = {table: delta_log.load(root, table, songs.numbers.get(pin, 0)) for table, pin in PINS.items()}
    rows = _read_songs(root, songs)
    ids = rows["song_id"].to_numpy().astype(np.int64)
    lengths = _lengths(root, old[CONSTELLATIONS], ids, map_tasks)
    places, numbers = frames.reserve({}, lengths.tolist(), frames.SHARD_FRAMES)
    tasks = _plan(root, new, old[POSTINGS], ids, places, text)
    written = [file for file in map_tasks(_run_task, tasks) if file is not None]
    copies = list(
        map_tasks(_copy, [(root, new, f"{CONSTELLATIONS}/{file.name}") for file in old[CONSTELLATIONS].files])
    )
    assert len(copies) == len(old[CONSTELLATIONS].files)
    pins = {
        PINS[table]: _commit_once(new, table, files).number
        for table, files in ((POSTINGS, written), (CONSTELLATIONS, old[CONSTELLATIONS].files))
    }
    columns = {
        "shard": pa.array(places.shard, pa.int32()),
        "first_frame": pa.array(places.first.astype(np.int32)),
        "n_frames": pa.array(places.n_frames.astype(np.int32)),
    }
    for name, column in columns.items():
        rows = rows.append_column(SCHEMAS[SONGS].field(name), column)
    numbers |= pins | {NEXT_SONG_ID: songs.numbers.get(NEXT_SONG_ID, 1), FENCE: songs.numbers.get(FENCE, 0)}
    made = [write_songs(new, rows.select(SCHEMAS[SONGS].names))] if len(rows) else []
    _commit_once(new, SONGS, made, numbers)
    before = sum(file.size_bytes for part in (songs, *old.values()) for file in part.files)
    after = sum(file.size_bytes for table in SCHEMAS for file in delta_log.load(new, table).files)
    return Upgrade(len(rows), before, after)


def _commit_once(
    location: Location, table: str, files: Sequence[DataFile], numbers: Mapping[str, int] | None = None
) -> Version:
    """Add files to a new table, unless an earlier run did."""
    for version in delta_log.attempts(location, table):
        if version.number > 0 and (version.files or not files):
            return version
        with suppress(Conflict):  # a power cut had torn the entry of an earlier run
            return delta_log.commit(location, version, files, numbers=numbers)
    raise AssertionError("attempts end with an error")


def _begin(root: Location, new: Location, version: int) -> None:
    """Say what is being converted; what was made of another version of the store is of no use."""
    recorded: object = None
    if new.exists(MARKER):
        recorded = json.loads(new.read(MARKER))
    try:
        for table in SCHEMAS if recorded else ():
            delta_log.repair_log(new, table)  # a power cut may have torn its last entry
    except StoreError:  # ended while the tables were created
        recorded = None
    if recorded != {"songs_version": version}:
        for name, _, _ in list(root.files(metadata.UPGRADED_FOLDER)):
            root.delete(name)
        new.write(MARKER, json.dumps({"songs_version": version}).encode())


def _read_songs(root: Location, songs: Version) -> pa.Table:
    """The songs that count, by id, without their places."""
    schema = pa.schema([field for field in SCHEMAS[SONGS] if field.name not in ("shard", "first_frame", "n_frames")])
    parts = [schema.empty_table()]
    parts += [read_file(root, data, schema.names).cast(schema) for data in songs.files]
    rows = pa.concat_tables(parts)
    return rows.filter(pc.equal(rows["status"], INDEXED)).sort_by("song_id")


def _lengths(root: Location, version: Version, ids: NDArray[np.int64], map_tasks: MapFunction) -> NDArray[np.int64]:
    """Frames of each song, up to its last peak."""
    lengths = np.zeros(int(ids.max(initial=0)) + 1, np.int64)
    for song_ids, last in map_tasks(_last_frames, [(root, f"{CONSTELLATIONS}/{file.name}") for file in version.files]):
        inside = song_ids < len(lengths)
        lengths[song_ids[inside]] = last[inside] + 1
    if len(ids) and not lengths[ids].all():
        lost = int(ids[lengths[ids] == 0][0])
        raise StoreError(
            f"{root.path(CONSTELLATIONS)}: the peaks of song {lost} are missing; repair the store with the songprint "
            "that made it, then convert it"
        )
    return lengths[ids]


def _last_frames(task: tuple[Location, str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The songs of a file of peaks, and the frame of the last peak of each."""
    location, name = task
    ids, last = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    with location.parquet(name) as file:
        for start in range(0, file.num_row_groups, 64):
            groups = list(range(start, min(start + 64, file.num_row_groups)))
            table = file.read_row_groups(groups, columns=["song_id", "frame_step.list.element"], use_threads=False)
            for batch in table.to_batches():
                steps = batch.column("frame_step")
                total = np.concatenate([np.zeros(1, np.int64), np.cumsum(steps.values.to_numpy(), dtype=np.int64)])
                ends = steps.offsets.to_numpy()
                ids.append(batch.column("song_id").to_numpy().astype(np.int64))
                last.append(total[ends[1:]] - total[ends[:-1]])
    return np.concatenate(ids), np.concatenate(last)


def _plan(
    root: Location, new: Location, version: Version, ids: NDArray[np.int64], places: Places, settings: str
) -> list[_Task]:
    tasks = []
    samples = [_lows(root, file)[0] for file in version.files]
    for shard in np.unique(places.shard).tolist():
        first_frame = np.full(int(ids.max(initial=0)) + 1, -1, np.int64)
        first_frame[ids[places.shard == shard]] = places.first[places.shard == shard]
        share = places.n_frames[places.shard == shard].sum() / places.n_frames.sum()
        step = max(1, round(OLD_GROUP_ROWS * share))
        for place, cuts in enumerate(postings.plan_cuts(samples, step)):
            files = tuple(
                file for file in version.files if file.high["hash"] >= cuts[0] and file.low["hash"] < cuts[-1]
            )
            name = f"{POSTINGS}/{shard_folder(shard)}/u{version.number:08d}-{place:04d}"
            tasks.append(_Task(root, new, files, first_frame, shard, cuts, name, settings))
    return tasks


def _lows(root: Location, file: DataFile) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The smallest and the largest hash of each row group of a file of format 2."""
    with root.parquet(f"{POSTINGS}/{file.name}") as parquet:
        footer = parquet.metadata
    figures = [footer.row_group(i).column(0).statistics for i in range(footer.num_row_groups)]
    low: NDArray[np.int32] = np.array([figure.min for figure in figures], np.int32)
    high: NDArray[np.int32] = np.array([figure.max for figure in figures], np.int32)
    return low, high


def _run_task(task: _Task) -> DataFile | None:
    """One file; the one that an earlier run finished, if there is one."""
    folder, _, begin = task.name.rpartition("/")
    for name, _, _ in task.new.files(folder):
        if name.rpartition("/")[2].startswith(f"{begin}-") and name.endswith(".parquet"):
            return _finished(task.new, name, task.shard)
    sources = [(file, *_lows(task.old, file)) for file in task.files]

    def parts() -> Iterator[ShardPostings]:
        for low, high in itertools.pairwise(task.cuts):
            found = [_range(task, file, lows, highs, low, high) for file, lows, highs in sources]
            merged = postings.merge(found)
            if len(merged):
                yield merged

    return postings.write(task.new, f"{task.name}-{{crc}}.parquet", parts(), task.settings, task.shard)


def _range(
    task: _Task, file: DataFile, lows: NDArray[np.int32], highs: NDArray[np.int32], low: int, high: int
) -> ShardPostings:
    """The rows of a file of format 2 with ``low <= hash < high``, as positions."""
    groups = np.flatnonzero((highs >= low) & (lows < high))
    if not len(groups):
        return postings.empty()
    with task.old.parquet(f"{POSTINGS}/{file.name}") as parquet:
        table = parquet.read_row_groups(groups.tolist(), use_threads=False)
    hashes, song_id, offset = (table[name].to_numpy() for name in ("hash", "song_id", "offset"))
    counts = (hashes >= low) & (hashes < high) & (song_id > 0) & (song_id < len(task.first_frame))
    first = task.first_frame[np.where(counts, song_id, 0)]
    counts &= first >= 0
    return ShardPostings(hashes[counts], (first[counts] + offset[counts]).astype(np.int32))


def _finished(location: Location, name: str, shard: int) -> DataFile:
    """What the log has to say of a file that an earlier run wrote."""
    file = PostingsFile(location, name)
    position = file.range(0, 1 << 31).position
    low = {"hash": file.low, "position": int(position.min())}
    high = {"hash": file.high, "position": int(position.max())}
    return DataFile(name.removeprefix(f"{POSTINGS}/"), location.size(name), file.rows, low, high, shard)


def _copy(task: tuple[Location, Location, str]) -> str:
    """Copy a file, unless an earlier run did."""
    old, new, name = task
    if not new.exists(name):
        new.write(name, old.read(name))
    return name


def _delete_old(root: Location, tables: Location) -> None:
    """Delete what a converted store no longer needs."""
    for folder in (*SCHEMAS, STAGING):
        for name, _, _ in list(root.files(folder)):
            root.delete(name)
    for folder in (*SCHEMAS, STAGING):
        root.delete_empty_folders(folder)
    tables.delete(MARKER)
