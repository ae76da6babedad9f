"""Repair a damaged store.

A posting is a function of the peaks of its song, so damaged postings are made again from the constellations. Only a
song whose peaks are damaged is lost, and has to be indexed again.
"""

from __future__ import annotations

import json
import multiprocessing
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import StoreError
from pipeline.fingerprinting.landmarks import pair_peaks
from pipeline.fingerprinting.settings import Settings
from pipeline.store import constellations, delta_log, frames, metadata, postings
from pipeline.store.append import MapFunction
from pipeline.store.check import FileReport, check_files
from pipeline.store.delta_log import Conflict, DataFile
from pipeline.store.postings import MergeTask, Relocation, ShardPostings
from pipeline.store.schema import (
    CONSTELLATIONS,
    INDEXED,
    PINS,
    POSTINGS,
    REMOVED,
    SCHEMAS,
    SETTINGS,
    SHARD_FRAMES,
    SONGS,
    shard_folder,
)
from pipeline.store.songs import read_songs, write_songs
from pipeline.store.staging import FOLDER as STAGING
from pipeline.store.staging import SAMPLE_STEP
from pipeline.store.storage import DAMAGE, Location, Unreadable, is_of_system

# Songs whose postings one task makes again.
SONGS_PER_TASK = 128


@dataclass(frozen=True, slots=True)
class Repair:
    """The result of a repair.

    Parameters
    ----------
    done
        One sentence for each thing that was repaired.
    lost
        The paths of songs that are not in the store any more, to be indexed again.
    """

    done: tuple[str, ...]
    lost: tuple[str, ...]


def restore_metadata(root: Location) -> list[str]:
    """Restore logs whose last entry was cut off, and the store metadata from the logs; one sentence for each."""
    done = []
    written: Settings | None = None
    folder = metadata.UPGRADED_FOLDER if root.exists(f"{metadata.UPGRADED_FOLDER}/{SONGS}/_delta_log") else ""
    location = metadata.tables_in(root, folder)
    try:
        written, location = metadata.read(root)
    except StoreError as error:
        if isinstance(error, Unreadable) or "has format" in str(error):
            raise
    done += _replace_missing_logs(location)
    for table in SCHEMAS:
        done += delta_log.repair_log(location, table)
    recorded = {delta_log.load(location, table).configuration.get(SETTINGS, "") for table in SCHEMAS}
    if len(recorded) > 1:
        raise StoreError(f"{location.url}: its tables have different settings; they are not of one store")
    settings = Settings.from_dict(json.loads(recorded.pop()))
    if written != settings:
        metadata.write(root, settings, "" if location == root else metadata.UPGRADED_FOLDER)
        done.append(f"{metadata.NAME}: written again with the settings of the tables")
    return done


def _replace_missing_logs(location: Location) -> list[str]:
    """Begin the postings again if their log is gone, with or without the table's folder.

    Raises
    ------
    StoreError
        If the log of another table is gone: what it had cannot be made from the others.
    """
    gone = [table for table in SCHEMAS if not delta_log.exists(location, table)]
    if len(gone) == len(SCHEMAS):
        raise StoreError(f"{location.url}: there is no table of a store; index the music into a new store")
    for table, what in ((SONGS, "which songs the store has"), (CONSTELLATIONS, "the peaks of its songs")):
        if table in gone:
            where = location.path(f"{table}/_delta_log")
            raise StoreError(
                f"{where}: it is gone, and {what} cannot be made from the other tables; bring {table}/ back from a"
                " backup, or index the music into a new store"
            )
    if not gone:
        return []
    songs = delta_log.load(location, SONGS).configuration
    delta_log.create(location, songs[SETTINGS], int(songs.get(SHARD_FRAMES, frames.SHARD_FRAMES)))
    return [f"{POSTINGS}/_delta_log: it was gone; the table begins again"]


def repair_tables(location: Location, settings: Settings, map_tasks: MapFunction) -> Repair:
    """Do the work of `Store.repair`, once the store metadata and the logs can be read."""
    try:
        return _repair_tables(location, settings, map_tasks)
    except Conflict as error:
        raise StoreError(
            f"{location.url}: another job changed the store while it was repaired; repair it again when no job runs"
        ) from error


def _repair_tables(location: Location, settings: Settings, map_tasks: MapFunction) -> Repair:
    done: list[str] = []
    _, reports = check_files(location, settings, map_tasks)
    text = json.dumps(settings.to_dict())
    damaged = {
        table: {report.name.partition("/")[2] for report in reports[table] if _is_damaged(report)} for table in SCHEMAS
    }
    songs = delta_log.load(location, SONGS)
    if damaged[SONGS]:
        given_up = [file for file in songs.files if file.name in damaged[SONGS]]
        songs = delta_log.commit(location, songs, remove=given_up)
        done += [
            f"{SONGS}/{file.name}: given up with the rows of {file.rows} songs; index the library again,"
            " songs that are still here will be skipped"
            for file in given_up
        ]
    rows = read_songs(location, songs)
    rows = rows.filter(pc.equal(rows["status"], INDEXED))
    ids = rows["song_id"].to_numpy().astype(np.int64)
    pins = {}
    pins[CONSTELLATIONS], readable = _repair_constellations(location, damaged[CONSTELLATIONS], text, done)
    lost = np.setdiff1d(ids, readable)
    pins[POSTINGS], landmarks = _repair_postings(
        location,
        settings,
        damaged=damaged[POSTINGS],
        reports=reports[POSTINGS],
        indexed=rows,
        lost=lost,
        map_tasks=map_tasks,
        done=done,
    )
    _repair_songs(location, lost, landmarks, pins)
    paths = rows.filter(pc.is_in(rows["song_id"], pa.array(lost.astype(np.int32))))["path"].to_pylist()
    return Repair(tuple(done), tuple(paths))


def _is_damaged(report: FileReport) -> bool:
    """Whether a file has a problem, or rows of a song id or a frame that was never given."""
    return bool(report.problems) or bool(report.nobodys)


def _repair_constellations(
    location: Location, damaged: Iterable[str], settings: str, done: list[str]
) -> tuple[int, NDArray[np.int64]]:
    """Keep the row groups that can be read; the new version of the table, and the ids of its songs."""
    version = delta_log.load(location, CONSTELLATIONS)
    damaged_files = [file for file in version.files if file.name in damaged]
    written = []
    for file in damaged_files:
        parts = _read_undamaged_groups(location, f"{CONSTELLATIONS}/{file.name}")
        kept = sum(len(part) for part in parts)
        done.append(f"{CONSTELLATIONS}/{file.name}: the peaks of {kept} of {file.rows} songs could be read")
        if kept:
            name = f"{CONSTELLATIONS}/r{uuid.uuid4().hex}-0000-{{crc}}.parquet"
            made = constellations.write(location, name, iter(parts), settings)
            written += [made] if made else []
    if damaged_files:
        version = delta_log.commit(location, version, written, damaged_files)
    reader = constellations.Reader(location, version.files)
    return version.number, reader.song_ids()


def _read_undamaged_groups(location: Location, name: str) -> list[pa.Table]:
    """The row groups of a damaged file that can be read; in its own process, because the damage may end it."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_undamaged_groups, location, name).result()
        except BrokenProcessPool:
            return []


def _undamaged_groups(location: Location, name: str) -> list[pa.Table]:
    """The row groups that can be read, while their song ids rise."""
    found = []
    try:
        with location.parquet(name, checksums=True) as file:
            last = 0
            for group in range(file.num_row_groups):
                try:
                    part = file.read_row_group(group, use_threads=False)
                except DAMAGE as error:
                    if is_of_system(error):
                        raise
                    continue
                ids = part["song_id"].to_numpy()
                if len(ids) and ids[0] > last and (np.diff(ids) > 0).all():
                    last = int(ids[-1])
                    found.append(part)
    except StoreError as error:
        if isinstance(error, Unreadable):
            raise
    return found


@dataclass(frozen=True, slots=True)
class _RebuildTask:
    """Songs of one shard, with the first frame of each, whose postings to make again; picklable."""

    location: Location
    files: tuple[DataFile, ...]
    settings: Settings
    song_ids: tuple[int, ...]
    first_frames: tuple[int, ...]
    name: str


def _rebuild_postings(task: _RebuildTask) -> tuple[list[int], NDArray[np.int32]]:
    """Make the postings of some songs again, into a file of their own; how many each has, and a sample."""
    found = constellations.Reader(task.location, task.files).read(np.array(task.song_ids, np.int64))
    made = [pair_peaks(found[song_id], task.settings.fan_out) for song_id in task.song_ids]
    every = postings.sort(
        postings.join(
            [
                ShardPostings(h.hash, h.offset + np.int32(first))
                for h, first in zip(made, task.first_frames, strict=True)
            ]
        )
    )
    postings.write_staged(task.location, task.name, every)
    return [len(hashes) for hashes in made], every.hash[::SAMPLE_STEP]


def _repair_postings(
    location: Location,
    settings: Settings,
    *,
    damaged: set[str],
    reports: Sequence[FileReport],
    indexed: pa.Table,
    lost: NDArray[np.int64],
    map_tasks: MapFunction,
    done: list[str],
) -> tuple[int, dict[int, int]]:
    """Make missing postings again; the new version of the table, and the landmark count of each such song."""
    version = delta_log.load(location, POSTINGS)
    ids, expected = indexed["song_id"].to_numpy().astype(np.int64), indexed["landmarks"].to_numpy()
    counts = np.zeros(int(ids.max(initial=0)) + 1, np.int64)
    for report in reports:
        if report.name.partition("/")[2] not in damaged:
            inside = report.song_ids < len(counts)
            counts[report.song_ids[inside]] += report.counts[inside]
    incomplete = np.setdiff1d(ids[counts[ids] != expected], lost)
    damaged_files = [file for file in version.files if file.name in damaged]
    if not len(incomplete) and not damaged_files:
        return version.number, {}
    peaks = delta_log.load(location, CONSTELLATIONS).files
    folder = f"{STAGING}/repair-{uuid.uuid4().hex}"
    names = ("shard", "first_frame", "n_frames")
    shards, first_frames, n_frames = (indexed[name].to_numpy().astype(np.int64) for name in names)
    tasks: list[tuple[int, _RebuildTask]] = []
    for shard in np.unique(shards).tolist():
        some = np.flatnonzero((shards == shard) & np.isin(ids, incomplete))
        for at in range(0, len(some), SONGS_PER_TASK):
            part = some[at : at + SONGS_PER_TASK]
            name = f"{folder}/{shard}-{at}.parquet"
            songs = tuple(ids[part].tolist()), tuple(first_frames[part].tolist())
            tasks.append((shard, _RebuildTask(location, peaks, settings, *songs, name)))
    rebuilt = list(map_tasks(_rebuild_postings, [task for _, task in tasks]))
    merges = []
    text = json.dumps(settings.to_dict())
    for shard in sorted({*shards.tolist(), *(file.shard for file in version.files)}):
        # leave out the postings in undamaged files of songs that are made again or lost
        some = np.flatnonzero(shards == shard)
        some = some[np.argsort(first_frames[some], kind="stable")]
        first = first_frames[some]
        stays = ~np.isin(ids[some], np.concatenate([incomplete, lost]))
        kept = Relocation(first, first + n_frames[some], np.where(stays, first, -1))
        undamaged = [
            f"{POSTINGS}/{file.name}" for file in version.files if file.shard == shard and file.name not in damaged
        ]
        sources: list[postings.Source] = [(location, name, kept) for name in undamaged]
        sources += [(location, task.name, None) for of, task in tasks if of == shard]
        samples = [postings.PostingsFile(location, name).sample(SAMPLE_STEP) for name in undamaged]
        samples += [sample for (_, sample), (of, _) in zip(rebuilt, tasks, strict=True) if of == shard]
        name = f"{POSTINGS}/{shard_folder(shard)}/r{uuid.uuid4().hex}"
        merges += [
            MergeTask(location, tuple(sources), shard, cuts, f"{name}-{i:04d}-{{crc}}.parquet", text)
            for i, cuts in enumerate(postings.plan_cuts(samples, SAMPLE_STEP))
        ]
    written = [file for file in map_tasks(postings.run_merge, merges) if file is not None]
    version = delta_log.commit(location, version, written, version.files)
    for _, task in tasks:
        location.delete(task.name)
    location.delete_folder(folder)
    done += [f"{POSTINGS}/{file.name}: given up" for file in damaged_files]
    done.append(f"{POSTINGS}: made the postings of {len(incomplete)} songs again from their peaks")
    made = [song_id for _, task in tasks for song_id in task.song_ids]
    return version.number, dict(zip(made, (count for counts, _ in rebuilt for count in counts), strict=True))


def _repair_songs(location: Location, lost: NDArray[np.int64], landmarks: dict[int, int], pins: dict[str, int]) -> None:
    """Mark lost songs as removed, and commit new landmark counts and table versions."""
    numbers = {PINS[table]: number for table, number in pins.items()}
    for songs in delta_log.attempts(location, SONGS):
        rows = read_songs(location, songs)
        ids = rows["song_id"].to_pylist()
        counts = [
            landmarks.get(song_id, count) for song_id, count in zip(ids, rows["landmarks"].to_pylist(), strict=True)
        ]
        missing = pc.is_in(rows["song_id"], pa.array(lost.astype(np.int32)))
        schema = SCHEMAS[SONGS]
        columns = {
            "landmarks": pa.array(counts, pa.int32()),
            "status": pc.if_else(missing, REMOVED, rows["status"]),
        }
        repaired = rows
        for column, values in columns.items():
            repaired = repaired.set_column(schema.get_field_index(column), schema.field(column), values)
        replaced = [] if repaired.equals(rows) else list(songs.files)
        if not replaced and all(songs.numbers.get(pin) == number for pin, number in numbers.items()):
            return
        written = [write_songs(location, repaired)] if replaced else []
        with suppress(Conflict):
            delta_log.commit(location, songs, written, replaced, numbers)
            return
