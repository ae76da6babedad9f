"""Check a store: read every file from end to end, and compare what the tables say about each song.

What is found can be repaired by `pipeline.store.repair`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import StoreError
from pipeline.fingerprinting.settings import Settings
from pipeline.store import delta_log, postings
from pipeline.store.append import MapFunction
from pipeline.store.delta_log import DataFile, Version
from pipeline.store.frames import LARGEST_SHARD
from pipeline.store.schema import (
    CONSTELLATIONS,
    INDEXED,
    NEXT_FRAME,
    NEXT_SHARD,
    NEXT_SONG_ID,
    PINS,
    POSTINGS,
    REMOVED,
    SETTINGS,
    SONGS,
    has_columns,
)
from pipeline.store.songs import read_songs
from pipeline.store.storage import Location, Unreadable

REPAIR_HINT = "`songprint check --repair` brings back what can be"
# The checksum at the end of a file's name.
CHECKSUM = re.compile(r"-([0-9a-f]{8})\.parquet$")
# Row groups of constellations that are read at once: 256 songs. One of postings has two million rows.
GROUPS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Problem:
    """A fault of a store.

    Parameters
    ----------
    place
        The file or table, by its name inside the store.
    what
        What is wrong with it: a clause of the sentence that `str` gives.
    """

    place: str
    what: str

    def __str__(self) -> str:
        return f"{self.place}: {self.what}; {REPAIR_HINT}"


@dataclass(frozen=True, slots=True, eq=False)
class SongPlaces:
    """Where the songs of one shard lie, of all states.

    Parameters
    ----------
    first, stop, song_id
        ``(n_songs,)`` int64, by frame.
    end
        Behind the last frame that was ever given.
    """

    first: NDArray[np.int64]
    stop: NDArray[np.int64]
    song_id: NDArray[np.int64]
    end: int

    def count(self, position: NDArray[np.int32]) -> NDArray[np.int64]:
        """How many positions each song has, by song id; positions of no song are left out."""
        if not len(self.first):
            return np.zeros(0, np.int64)
        place = np.maximum(np.searchsorted(self.first, position, "right") - 1, 0)
        inside = (position >= self.first[place]) & (position < self.stop[place])
        return np.bincount(self.song_id[place[inside]])


NOWHERE = SongPlaces(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64), LARGEST_SHARD)


@dataclass(frozen=True, slots=True)
class _FileTask:
    """One file to check; picklable."""

    location: Location
    table: str
    file: DataFile
    settings: str
    songs: SongPlaces = NOWHERE


@dataclass(slots=True)
class FileReport:
    """The result of reading one file from end to end.

    Parameters
    ----------
    song_ids, counts
        ``(n_songs,)`` int64: the songs in the file, rising, and how many rows (postings) or peaks (constellations)
        each has.
    nobodys
        The rows that it has of what was never given to a song: a clause, or nothing.
    """

    name: str
    problems: list[Problem] = field(default_factory=list)
    song_ids: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    nobodys: str = ""


def find_problems(location: Location, settings: Settings, map_tasks: MapFunction) -> list[Problem]:
    """Do the work of `Store.check`."""
    return check_files(location, settings, map_tasks)[0]


def check_files(
    location: Location, settings: Settings, map_tasks: MapFunction
) -> tuple[list[Problem], dict[str, list[FileReport]]]:
    """Find all problems; also the report of each file, by table."""
    text = json.dumps(settings.to_dict())
    problems: list[Problem] = []
    reports: dict[str, list[FileReport]] = {}
    versions = _latest_versions(location)
    for table, pin in PINS.items():
        if (number := versions[SONGS].numbers.get(pin, 0)) > versions[table].number:
            problems.append(Problem(table, f"its log ends at version {versions[table].number}, before {number}"))
    places: dict[int, SongPlaces] | None = None
    for table, version in versions.items():
        if version.configuration.get(SETTINGS) != text:
            problems.append(Problem(table, "its settings are not those of songprint.json"))
        tasks = [
            _FileTask(location, table, file, text, places.get(file.shard, NOWHERE) if places else NOWHERE)
            for file in version.files
        ]
        reports[table] = list(map_tasks(_check_file, tasks))
        problems += [problem for report in reports[table] for problem in report.problems]
        if table == SONGS and not any(report.problems for report in reports[SONGS]):
            songs = read_songs(location, versions[SONGS])
            places = song_places(songs, versions[SONGS], {file.shard for file in versions[POSTINGS].files})
    if places is not None:
        problems += _song_problems(songs, versions[SONGS])
        problems += _count_problems(songs, versions[SONGS], reports)
    return problems, reports


def song_places(songs: pa.Table, version: Version, shards: Iterable[int]) -> dict[int, SongPlaces]:
    """The frames of songs of all states, by shard; also for shards that have none."""
    names = ("shard", "first_frame", "n_frames", "song_id")
    shard, first, n_frames, song_id = (songs[name].to_numpy().astype(np.int64) for name in names)
    last = version.numbers.get(NEXT_SHARD, 0), version.numbers.get(NEXT_FRAME, 0)
    made = {}
    for number in sorted({*shards, *np.unique(shard).tolist()}):
        some = np.flatnonzero(shard == number)
        some = some[np.argsort(first[some], kind="stable")]
        end = LARGEST_SHARD if number < last[0] else last[1] if number == last[0] else 0
        made[number] = SongPlaces(first[some], first[some] + n_frames[some], song_id[some], end)
    return made


def _latest_versions(location: Location) -> dict[str, Version]:
    """The latest version of each table; the postings of an indexed song are the same in every later version."""
    return {table: delta_log.load(location, table) for table in (SONGS, POSTINGS, CONSTELLATIONS)}


def _check_file(task: _FileTask) -> FileReport:
    """Read one file from end to end."""
    name = f"{task.table}/{task.file.name}"
    report = FileReport(name)

    def add_problem(what: str) -> None:
        report.problems.append(Problem(name, what))

    try:
        size = task.location.size(name)
    except OSError:
        add_problem("the file is missing")
        return report
    if size != task.file.size_bytes:
        add_problem(f"the file has {size} bytes, its table's log says {task.file.size_bytes}")
        return report
    # before the Parquet library reads it: there are single bits in a footer that make it end the process
    recorded = CHECKSUM.search(name)
    if recorded and recorded.group(1) != task.location.checksum(name):
        add_problem("its contents are not what was written: their checksum is not the one in its name")
        return report
    try:
        with task.location.parquet(name, checksums=True) as file:
            if not has_columns(task.table, file.schema_arrow):
                add_problem("its columns are not those of its table")
                return report
            written_with = (file.metadata.metadata or {}).get(SETTINGS.encode(), b"").decode()
            if task.table != SONGS and written_with != task.settings:
                add_problem("it was written with other settings")
            if file.metadata.num_rows != task.file.rows:
                add_problem(f"it has {file.metadata.num_rows} rows, its table's log says {task.file.rows}")
            if task.table == POSTINGS:
                what = _postings_problem(file, task, report)
            elif task.table == CONSTELLATIONS:
                what = _constellations_problem(file, task.file, report)
            else:
                what = None if file.read() else "it is empty"
            if what:
                add_problem(what)
    except Unreadable:  # it may be whole: `repair` must not give it up
        raise
    except StoreError as error:
        add_problem(str(error.__cause__ or error).splitlines()[0])
    return report


def _read_in_parts(file: Any, at_once: int) -> Iterator[tuple[range, pa.Table]]:
    """A file in parts of some row groups: their numbers and their rows."""
    for start in range(0, file.num_row_groups, at_once):
        groups = range(start, min(start + at_once, file.num_row_groups))
        yield groups, file.read_row_groups(list(groups), use_threads=False)


def _postings_problem(file: Any, task: _FileTask, report: FileReport) -> str | None:
    """The first thing wrong in a postings file; counts the rows of each song into the report."""
    last = (-1, -1)
    counts = np.zeros(0, np.int64)
    shown = postings.PostingsFile(task.location, report.name, task.file.size_bytes)
    hashes: list[NDArray[np.int32]] = [np.zeros(0, np.int32)]
    of_hash: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    for groups, table in _read_in_parts(file, 1):
        part = postings.from_table(table)
        if min(int(part.hash.min()), int(part.position.min())) < 0:
            return "it has a hash or position below 0"
        if (furthest := int(part.position.max())) >= task.songs.end:
            report.nobodys = f"rows at frame {furthest} of shard {task.file.shard}"
        counts = _add_counts(counts, task.songs.count(part.position))
        key = part.hash.astype(np.int64) << 32 | part.position
        if (key[1:] < key[:-1]).any() or last > (int(part.hash[0]), int(part.position[0])):
            return "its rows are not sorted by hash, position"
        last = (int(part.hash[-1]), int(part.position[-1]))
        if (group := _wrong_statistics(file, groups, part.hash)) is not None:
            return f"the smallest and largest hash of row group {group} are not what its footer says"
        if task.file.low["hash"] > part.hash[0] or task.file.high["hash"] < part.hash[-1]:
            return "it has hashes outside the range that its table's log says"
        edges = np.flatnonzero(np.diff(part.hash, prepend=-1, append=-1))
        hashes.append(part.hash[edges[:-1]])
        of_hash.append(np.diff(edges))
        if shown.mapped:
            first = np.array([sum(int(each.sum()) for each in of_hash[:-1])])
            read = np.empty(len(part), np.int32)
            shown.read_positions(first, np.array([len(part)]), read)
            if not np.array_equal(read, part.position):
                return "its positions do not lie where its footer says"
    if shown.directory is not None:
        listed, each = shown.counts()
        if not np.array_equal(listed, np.concatenate(hashes)) or not np.array_equal(each, np.concatenate(of_hash)):
            return "its directory is not that of its hashes"
    report.song_ids = np.flatnonzero(counts)
    report.counts = counts[report.song_ids]
    return None


def _wrong_statistics(file: Any, groups: range, values: NDArray[Any]) -> int | None:
    """The first row group whose sorted values do not have the range that the footer says; look-ups rely on it."""
    row = 0
    for group in groups:
        meta = file.metadata.row_group(group)
        statistics = meta.column(0).statistics
        if (statistics.min, statistics.max) != (values[row], values[row + meta.num_rows - 1]):
            return group
        row += meta.num_rows
    return None


def _add_counts(one: NDArray[np.int64], two: NDArray[np.int64]) -> NDArray[np.int64]:
    """The sum of two arrays, the shorter one filled up with zeros."""
    long, short = (one, two) if len(one) >= len(two) else (two, one)
    total = long.copy()
    total[: len(short)] += short
    return total


def _constellations_problem(file: Any, data: DataFile, report: FileReport) -> str | None:
    """The first thing wrong in a constellations file; counts the peaks of each song into the report."""
    ids, counts = [], []
    for groups, table in _read_in_parts(file, GROUPS_AT_ONCE):
        if (group := _wrong_statistics(file, groups, table["song_id"].to_numpy())) is not None:
            return f"the smallest and largest song_id of row group {group} are not what its footer says"
        for batch in table.to_batches():
            steps, bins = batch.column("frame_step"), batch.column("bin")
            if not steps.offsets.equals(bins.offsets) or not steps.offsets.equals(batch.column("level").offsets):
                return "it has songs with more frames than bins or levels"
            if (pc.min(steps.values).as_py() or 0) < 0 or (pc.min(bins.values).as_py() or 0) < 0:
                return "it has a frame or bin below 0"
            ids.append(batch.column("song_id").to_numpy().astype(np.int64))
            counts.append(np.diff(steps.offsets.to_numpy()).astype(np.int64))
    report.song_ids = np.concatenate([np.zeros(0, np.int64), *ids])
    report.counts = np.concatenate([np.zeros(0, np.int64), *counts])
    if len(report.song_ids) and (np.diff(report.song_ids) <= 0).any():
        return "its songs are not sorted by song_id"
    if len(report.song_ids) and (data.low["song_id"], data.high["song_id"]) != (
        report.song_ids[0],
        report.song_ids[-1],
    ):
        return "its smallest and largest song_id are not what its table's log says"
    return None


def _song_problems(songs: pa.Table, version: Version) -> list[Problem]:
    """Broken rules of the songs table."""
    ids = songs["song_id"].to_numpy()
    digests = songs.filter(pc.equal(songs["status"], INDEXED))["digest"]
    rules = {
        "a song id twice": len(np.unique(ids)) < len(ids),
        "a song id that was never given": ((ids < 1) | (ids >= version.numbers.get(NEXT_SONG_ID, 1))).any(),
        "the same digest for two songs": len(digests.unique()) < len(digests),
        "two songs at one place": _overlap(songs),
        "a status that does not exist": not pc.all(
            pc.is_in(songs["status"], pa.array([INDEXED, REMOVED])), min_count=0
        ).as_py(),
    }
    return [Problem(SONGS, f"it has {what}") for what, broken in rules.items() if broken]


def _overlap(songs: pa.Table) -> bool:
    """Whether two songs share a frame, or a song has none."""
    shard, first, n_frames = (songs[name].to_numpy().astype(np.int64) for name in ("shard", "first_frame", "n_frames"))
    order = np.lexsort((first, shard))
    shard, first, stop = shard[order], first[order], (first + n_frames)[order]
    return bool(((shard[1:] == shard[:-1]) & (first[1:] < stop[:-1])).any()) or bool((n_frames < 1).any())


def _count_problems(songs: pa.Table, version: Version, reports: dict[str, list[FileReport]]) -> list[Problem]:
    """Songs with more or fewer rows than the songs table says; a table with a damaged file is reported only once."""
    end = version.numbers.get(NEXT_SONG_ID, 1)
    for report in reports[CONSTELLATIONS]:
        if len(report.song_ids) and report.song_ids[-1] >= end:
            report.nobodys = f"rows of song {report.song_ids[-1]}"
    problems = [
        Problem(report.name, f"it has {report.nobodys}, and no song was ever given that")
        for table in (POSTINGS, CONSTELLATIONS)
        for report in reports[table]
        if report.nobodys
    ]
    indexed = songs.filter(pc.equal(songs["status"], INDEXED))
    ids = indexed["song_id"].to_numpy()
    for table in (POSTINGS, CONSTELLATIONS):
        if any(report.problems for report in reports[table]):
            continue
        counts = np.zeros(end, np.int64)
        for report in reports[table]:
            inside = report.song_ids < end
            added = report.counts if table == POSTINGS else np.ones(len(report.counts), np.int64)
            counts[report.song_ids[inside]] += added[inside]
        expected = indexed["landmarks"].to_numpy() if table == POSTINGS else np.ones(len(ids), np.int64)
        differing = np.flatnonzero(counts[ids] != expected)
        if len(differing):
            song = indexed.slice(int(differing[0]), 1).to_pylist()[0]
            others = f", and {len(differing) - 1} other songs likewise" if len(differing) > 1 else ""
            problems.append(
                Problem(
                    table,
                    f"song {song['song_id']} ({song['path']}) has {counts[song['song_id']]} rows"
                    f" where {expected[differing[0]]} belong{others}",
                )
            )
    return problems
