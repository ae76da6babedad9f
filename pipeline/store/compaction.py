"""Compact a store: merge small files, drop removed songs, delete leftovers of jobs that died.

Readers continue meanwhile: replaced files stay on the disk for the hours of grace. Writers continue as well, but one
that had reserved song ids and not committed them when the fence was set has to merge again under new ids.
"""

from __future__ import annotations

import itertools
import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import ParameterError
from pipeline.fingerprinting.settings import Settings
from pipeline.store import delta_log, postings
from pipeline.store.append import SONGS_PER_FILE, MapFunction, run_task
from pipeline.store.constellations import CopyTask
from pipeline.store.delta_log import Conflict, DataFile, Version
from pipeline.store.frames import LARGEST_SHARD
from pipeline.store.postings import MergeTask, PostingsFile, Relocation
from pipeline.store.schema import (
    CONSTELLATIONS,
    FENCE,
    INDEXED,
    NEXT_FRAME,
    NEXT_SHARD,
    NEXT_SONG_ID,
    PINS,
    POSTINGS,
    SCHEMAS,
    SONGS,
    shard_folder,
)
from pipeline.store.songs import read_songs, write_songs
from pipeline.store.staging import FOLDER as STAGING
from pipeline.store.staging import SAMPLE_STEP
from pipeline.store.storage import TEMPORARY, Location

# Rows of a file of the songs table: some 8 MB.
SONG_ROWS = 65_536
# The postings of a commit are merged with smaller ones until they are this much larger than all of those together. So
# every posting is rewritten a few times at most, and a lookup reads a handful of sorted runs at most.
TIER = 8
# Delta forgets after 7 days which files a commit replaced, and then takes them for leftovers.
LONGEST_GRACE_HOURS = 168

Task = MergeTask | CopyTask


@dataclass(frozen=True, slots=True)
class Compaction:
    """The result of a compaction.

    Parameters
    ----------
    files_before, files_after, bytes_before, bytes_after
        Number and size of the files of the store's version, before and after.
    postings_dropped
        Postings of songs that were removed, or never finished.
    bytes_deleted
        Size of the deleted files, which no version within the grace needs.
    bytes_waiting
        Size of replaced files and leftovers that a later compaction will delete, after their hours of grace.
    """

    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int
    postings_dropped: int
    bytes_deleted: int
    bytes_waiting: int


def compact(location: Location, settings: Settings, map_tasks: MapFunction, grace_hours: int) -> Compaction:
    """Do the work of `Store.compact`."""
    if not 0 <= grace_hours <= LONGEST_GRACE_HOURS:
        raise ParameterError(
            f"hours of grace are {grace_hours}; they must be 0 to {LONGEST_GRACE_HOURS}: the logs remember for 7 days "
            "which files were replaced"
        )
    before = [delta_log.load(location, table) for table in SCHEMAS]
    songs, drop = _set_fence(location)
    indexed = _indexed_songs(location, songs)
    end = songs.numbers.get(NEXT_SHARD, 0), songs.numbers.get(NEXT_FRAME, 0)
    text = json.dumps(settings.to_dict())

    def plan_postings(version: Version) -> tuple[list[Task], list[DataFile]]:
        return _plan_postings(location, version, indexed, end, text)

    def plan_constellations(version: Version) -> tuple[list[Task], list[DataFile]]:
        return _plan_constellations(location, version, drop, indexed["song_id"], text)

    versions = {
        POSTINGS: _rewrite(location, POSTINGS, plan_postings, map_tasks),
        CONSTELLATIONS: _rewrite(location, CONSTELLATIONS, plan_constellations, map_tasks),
    }
    songs = _rewrite_songs(location, drop, {table: version.number for table, version in versions.items()})
    after = [songs, *versions.values()]
    oldest = delta_log.oldest_needed(location, songs, grace_hours)
    deleted, waiting = _delete_leftovers(location, oldest, grace_hours)
    delta_log.shorten_logs(location, after, oldest, grace_hours)
    return Compaction(
        files_before=sum(len(version.files) for version in before),
        files_after=sum(len(version.files) for version in after),
        bytes_before=sum(file.size_bytes for version in before for file in version.files),
        bytes_after=sum(file.size_bytes for version in after for file in version.files),
        postings_dropped=max(0, _count_rows(before, POSTINGS) - _count_rows(after, POSTINGS)),
        bytes_deleted=deleted,
        bytes_waiting=waiting,
    )


def _count_rows(versions: Sequence[Version], table: str) -> int:
    return sum(file.rows for version in versions if version.table == table for file in version.files)


def _set_fence(location: Location) -> tuple[Version, NDArray[np.bool_]]:
    """Declare void the ids that are reserved and not committed; for every id given, whether it can be dropped."""
    for songs in delta_log.attempts(location, SONGS):
        end = songs.numbers.get(NEXT_SONG_ID, 1)
        rows = read_songs(location, songs, ["song_id", "status"])
        drop = np.ones(end, bool)
        known = rows["song_id"].to_numpy()
        unknown = np.setdiff1d(np.arange(songs.numbers.get(FENCE, 1), end), known)
        drop[known[pc.equal(rows["status"], INDEXED).to_numpy(zero_copy_only=False)]] = False
        if not len(unknown):
            return songs, drop
        try:
            return delta_log.commit(location, songs, numbers={FENCE: end}), drop
        except Conflict:
            continue
    raise AssertionError("attempts end with an error")


def _indexed_songs(location: Location, songs: Version) -> dict[str, NDArray[np.int64]]:
    """Columns of the indexed songs, by rising song id."""
    names = ("song_id", "landmarks", "shard", "first_frame", "n_frames")
    rows = read_songs(location, songs, [*names, "status"])
    rows = rows.filter(pc.equal(rows["status"], INDEXED))
    return {name: rows[name].to_numpy().astype(np.int64) for name in names}


def _rewrite(
    location: Location, table: str, plan: Callable[[Version], tuple[list[Task], list[DataFile]]], map_tasks: MapFunction
) -> Version:
    """Replace files of a table as planned; files that others add meanwhile stay."""
    for version in delta_log.attempts(location, table):
        tasks, replaced = plan(version)
        if not replaced:
            return version
        written = [file for file in map_tasks(run_task, tasks) if file is not None]
        for latest in delta_log.attempts(location, table, version):
            if not {file.name for file in replaced} <= {file.name for file in latest.files}:
                break  # another compaction has replaced them
            try:
                return delta_log.commit(location, latest, written, replaced)
            except Conflict:
                continue
        for file in written:
            location.delete(f"{table}/{file.name}")
    raise AssertionError("attempts end with an error")


def _plan_postings(
    location: Location,
    version: Version,
    indexed: dict[str, NDArray[np.int64]],
    end: tuple[int, int],
    settings: str,
) -> tuple[list[Task], list[DataFile]]:
    """Merge the files of each shard.

    Parameters
    ----------
    indexed
        Columns of the indexed songs.
    end
        Shard and frame behind all that were given: what lies further on belongs to a job that is still at it.
    """
    tasks: list[Task] = []
    replaced: list[DataFile] = []
    for shard in sorted({file.shard for file in version.files}):
        files = [file for file in version.files if file.shard == shard and (shard, file.low.get("position", 0)) < end]
        some = np.flatnonzero(indexed["shard"] == shard)
        some = some[np.argsort(indexed["first_frame"][some], kind="stable")]
        relocation = None
        if sum(file.rows for file in files) == indexed["landmarks"][some].sum():  # nothing to drop
            runs = [list(run) for _, run in itertools.groupby(files, key=lambda file: file.name.rsplit("-", 2)[0])]
            files = _runs_to_merge(runs)
        else:
            relocation = _staying(indexed, some, end[1] if shard == end[0] else LARGEST_SHARD)
        if not files:
            continue
        sources = tuple((location, f"{POSTINGS}/{file.name}", relocation) for file in files)
        samples = [PostingsFile(location, name).sample(SAMPLE_STEP) for _, name, _ in sources]
        name = f"{POSTINGS}/{shard_folder(shard)}/c{uuid.uuid4().hex}"
        tasks += [
            MergeTask(location, sources, shard, cuts, f"{name}-{i:04d}-{{crc}}.parquet", settings)
            for i, cuts in enumerate(postings.plan_cuts(samples, SAMPLE_STEP))
        ]
        replaced += files
    return tasks, replaced


def _staying(indexed: dict[str, NDArray[np.int64]], some: NDArray[np.int64], end: int) -> Relocation:
    """The indexed songs stay where they are, and so does what lies behind all that were given."""
    first = np.append(indexed["first_frame"][some], end)
    stop = np.append(first[:-1] + indexed["n_frames"][some], LARGEST_SHARD)
    return Relocation(first, stop, first)


def _runs_to_merge(runs: Sequence[list[DataFile]]) -> list[DataFile]:
    """The files of the sorted runs to merge: from the smallest up, while the next is at most `TIER` times all those."""
    by_size = sorted(runs, key=lambda run: sum(file.rows for file in run))
    chosen: list[DataFile] = []
    for place, run in enumerate(by_size):
        if place and sum(file.rows for file in run) > TIER * sum(file.rows for file in chosen):
            return chosen if place > 1 else []
        chosen += run
    return chosen if len(runs) > 1 else []


def _plan_constellations(
    location: Location, version: Version, drop: NDArray[np.bool_], song_ids: NDArray[np.int64], settings: str
) -> tuple[list[Task], list[DataFile]]:
    def songs_kept(file: DataFile) -> int:
        """Number of songs of the file that stay."""
        low, high = np.searchsorted(song_ids, [file.low["song_id"], file.high["song_id"] + 1])
        return int(high - low)

    groups: list[list[DataFile]] = []
    group: list[DataFile] = []
    for file in sorted(version.files, key=lambda file: file.low["song_id"]):
        if file.low["song_id"] >= len(drop):
            continue  # of a job that is still running
        large = songs_kept(file) == file.rows >= SONGS_PER_FILE // 2
        if not large:
            group.append(file)
        if large or sum(member.rows for member in group) >= SONGS_PER_FILE:
            groups.append(group)
            group = []
    name = f"{CONSTELLATIONS}/c{uuid.uuid4().hex}"
    tasks: list[Task] = []
    replaced: list[DataFile] = []
    for members in [*groups, group]:
        if len(members) < 2 and all(songs_kept(file) == file.rows for file in members):
            continue
        sources = tuple((location, f"{CONSTELLATIONS}/{file.name}", None) for file in members)
        tasks.append(CopyTask(location, sources, drop, f"{name}-{len(tasks):04d}-{{crc}}.parquet", settings))
        replaced += members
    return tasks, replaced


def _rewrite_songs(location: Location, drop: NDArray[np.bool_], pins: dict[str, int]) -> Version:
    """Commit the new versions of the other tables, and delete the rows of the songs that were dropped from them."""
    dropped = pa.array(np.flatnonzero(drop).astype(np.int32))
    for songs in delta_log.attempts(location, SONGS):
        numbers = {PINS[table]: max(number, songs.numbers.get(PINS[table], 0)) for table, number in pins.items()}
        replaced, parts = [], []
        for file in songs.files:
            rows = read_songs(location, songs.only(file))
            kept = rows.filter(pc.invert(pc.is_in(rows["song_id"], dropped)))
            if len(kept) < len(rows) or len(rows) < SONG_ROWS // 2:
                replaced.append(file)
                parts.append(kept)
        if len(replaced) == 1 and len(parts[0]) == replaced[0].rows:
            replaced, parts = [], []
        if not replaced and all(songs.numbers.get(name) == number for name, number in numbers.items()):
            return songs
        rows = pa.concat_tables([SCHEMAS[SONGS].empty_table(), *parts]).sort_by("song_id")
        written = [write_songs(location, rows.slice(at, SONG_ROWS)) for at in range(0, len(rows), SONG_ROWS)]
        try:
            return delta_log.commit(location, songs, written, replaced, numbers)
        except Conflict:
            for file in written:
                location.delete(f"{SONGS}/{file.name}")
    raise AssertionError("attempts end with an error")


def _delete_leftovers(location: Location, oldest: Mapping[str, int], grace_hours: int) -> tuple[int, int]:
    """Delete what is older than the grace and in no version from the oldest on; bytes deleted, bytes left for later."""
    versions = [delta_log.load(location, table) for table in SCHEMAS]
    needed = {f"{version.table}/{file.name}" for version in versions for file in version.files}
    old = {
        f"{version.table}/{name}"
        for version in versions
        for name in delta_log.leftovers(location, version, oldest[version.table], grace_hours)
    }
    before = time.time() - grace_hours * 3600
    deleted = waiting = 0
    for name, size, changed in location.files():
        folder, _, file = name.partition("/")
        leftover = folder == STAGING or TEMPORARY in name
        if (leftover and changed <= before) or name in old:
            location.delete(name)
            deleted += size
            if folder == STAGING:
                location.delete_folder(name.rpartition("/")[0])
        elif leftover or (file.endswith(".parquet") and "/_delta_log/" not in name and name not in needed):
            waiting += size
    return deleted, waiting
