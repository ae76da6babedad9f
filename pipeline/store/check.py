"""Is a store whole, and what can be brought back if it is not.

A posting is a function of its song's peaks, so damaged postings are made again from the constellations; only a song
whose peaks are damaged is lost, and has to be indexed again.
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
from pipeline.store.append import Map
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
    SCHEMAS,
    SETTINGS,
    SONGS,
)
from pipeline.store.songs import read_songs
from pipeline.store.storage import Location

REPAIR = "`songprint check --repair` brings back what can be"
# The end of a file's name.
CHECKSUM = re.compile(r"-([0-9a-f]{8})\.parquet$")
# Row groups of constellations that are read at once: 256 songs. One of postings has two million.
STRIDE = 64


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it should be.

    Parameters
    ----------
    place
        The file or table that is meant, inside the store.
    what
        What is wrong with it, in half a sentence.
    """

    place: str
    what: str

    def __str__(self) -> str:
        return f"{self.place}: {self.what}; {REPAIR}"


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
    location: Location
    table: str
    file: DataFile
    settings: str
    songs: SongPlaces = NOWHERE


@dataclass(slots=True)
class FileReport:
    """What reading one file from end to end found.

    Parameters
    ----------
    song_ids, counts
        How many rows of the postings, or how many peaks, each song has in it.
    nobodys
        What it has rows of that no song was ever given: half a sentence, or nothing.
    """

    name: str
    problems: list[Problem] = field(default_factory=list)
    song_ids: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    nobodys: str = ""


def check(location: Location, settings: Settings, run: Map) -> list[Problem]:
    """What `Store.check` does."""
    return inspect(location, settings, run)[0]


def inspect(location: Location, settings: Settings, run: Map) -> tuple[list[Problem], dict[str, list[FileReport]]]:
    text = json.dumps(settings.to_dict())
    problems: list[Problem] = []
    reports: dict[str, list[FileReport]] = {}
    versions = _versions(location)
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
        reports[table] = list(run(_check_file, tasks))
        problems += [problem for report in reports[table] for problem in report.problems]
        if table == SONGS and not any(report.problems for report in reports[SONGS]):
            songs = read_songs(location, versions[SONGS])
            places = song_places(songs, versions[SONGS], {file.shard for file in versions[POSTINGS].files})
    if places is not None:
        problems += _check_songs(songs, versions[SONGS])
        problems += _check_counts(songs, versions[SONGS], reports)
    return problems, reports


def song_places(songs: pa.Table, version: Version, shards: Iterable[int]) -> dict[int, SongPlaces]:
    """Where songs of all states lie, by shard; also for shards that have none."""
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


def _versions(location: Location) -> dict[str, Version]:
    """The latest of each table: what a song that counts has in `postings` is the same in every later version."""
    return {table: delta_log.load(location, table) for table in (SONGS, POSTINGS, CONSTELLATIONS)}


def _check_file(task: _FileTask) -> FileReport:
    """Read one file from end to end."""
    name = f"{task.table}/{task.file.name}"
    report = FileReport(name)

    def wrong(what: str) -> None:
        report.problems.append(Problem(name, what))

    try:
        size = task.location.size(name)
    except OSError:
        wrong("the file is missing")
        return report
    if size != task.file.size_bytes:
        wrong(f"the file has {size} bytes, its table's log says {task.file.size_bytes}")
        return report
    # before Parquet's library sees it: there are single bits in a footer that make it end the process
    told = CHECKSUM.search(name)
    if told and told.group(1) != task.location.checksum(name):
        wrong("its contents are not what was written: their checksum is not the one in its name")
        return report
    try:
        with task.location.parquet(name, checksums=True) as file:
            if not file.schema_arrow.equals(SCHEMAS[task.table]):
                wrong("its columns are not those of its table")
                return report
            found = (file.metadata.metadata or {}).get(SETTINGS.encode(), b"").decode()
            if task.table != SONGS and found != task.settings:
                wrong("it was written with other settings")
            if file.metadata.num_rows != task.file.rows:
                wrong(f"it has {file.metadata.num_rows} rows, its table's log says {task.file.rows}")
            if task.table == POSTINGS:
                what = _check_postings(file, task, report)
            elif task.table == CONSTELLATIONS:
                what = _check_constellations(file, task.file, report)
            else:
                what = None if file.read() else "it is empty"
            if what:
                wrong(what)
    except StoreError as error:
        wrong(str(error.__cause__ or error).splitlines()[0])
    return report


def _strides(file: Any, stride: int) -> Iterator[tuple[range, pa.Table]]:
    for start in range(0, file.num_row_groups, stride):
        groups = range(start, min(start + stride, file.num_row_groups))
        yield groups, file.read_row_groups(list(groups), use_threads=False)


def _check_postings(file: Any, task: _FileTask, report: FileReport) -> str | None:
    last = (-1, -1)
    counts = np.zeros(0, np.int64)
    shown = postings.PostingsFile(task.location, report.name, task.file.size_bytes)
    hashes: list[NDArray[np.int32]] = [np.zeros(0, np.int32)]
    of_hash: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    for groups, table in _strides(file, 1):
        part = postings.from_table(table)
        if min(int(part.hash.min()), int(part.position.min())) < 0:
            return "it has a hash or position below 0"
        if (furthest := int(part.position.max())) >= task.songs.end:
            report.nobodys = f"rows at frame {furthest} of shard {task.file.shard}"
        counts = _add(counts, task.songs.count(part.position))
        key = part.hash.astype(np.int64) << 32 | part.position
        if (key[1:] < key[:-1]).any() or last > (int(part.hash[0]), int(part.position[0])):
            return "its rows are not sorted by hash, position"
        last = (int(part.hash[-1]), int(part.position[-1]))
        if (group := _misjudged(file, groups, part.hash)) is not None:
            return f"the smallest and largest hash of row group {group} are not what its footer says"
        if task.file.low["hash"] > part.hash[0] or task.file.high["hash"] < part.hash[-1]:
            return "it has hashes outside the range that its table's log says"
        edges = np.flatnonzero(np.diff(part.hash, prepend=-1, append=-1))
        hashes.append(part.hash[edges[:-1]])
        of_hash.append(np.diff(edges))
        if shown.mapped:
            first = np.array([sum(int(each.sum()) for each in of_hash[:-1])])
            if not np.array_equal(shown.positions(first, np.array([len(part)])), part.position):
                return "its positions do not lie where its footer says"
    if shown.directory is not None:
        told, each = shown.counts()
        if not np.array_equal(told, np.concatenate(hashes)) or not np.array_equal(each, np.concatenate(of_hash)):
            return "its directory is not that of its hashes"
    report.song_ids = np.flatnonzero(counts)
    report.counts = counts[report.song_ids]
    return None


def _misjudged(file: Any, groups: range, values: NDArray[Any]) -> int | None:
    """The first row group whose sorted values are not in the range that the footer says; look-ups rely on it."""
    row = 0
    for group in groups:
        meta = file.metadata.row_group(group)
        statistics = meta.column(0).statistics
        if (statistics.min, statistics.max) != (values[row], values[row + meta.num_rows - 1]):
            return group
        row += meta.num_rows
    return None


def _add(one: NDArray[np.int64], two: NDArray[np.int64]) -> NDArray[np.int64]:
    long, short = (one, two) if len(one) >= len(two) else (two, one)
    total = long.copy()
    total[: len(short)] += short
    return total


def _check_constellations(file: Any, data: DataFile, report: FileReport) -> str | None:
    ids, counts = [], []
    for groups, table in _strides(file, STRIDE):
        if (group := _misjudged(file, groups, table["song_id"].to_numpy())) is not None:
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


def _check_songs(songs: pa.Table, version: Version) -> list[Problem]:
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
    shard, first, n_frames = (songs[name].to_numpy().astype(np.int64) for name in ("shard", "first_frame", "n_frames"))
    order = np.lexsort((first, shard))
    shard, first, stop = shard[order], first[order], (first + n_frames)[order]
    return bool(((shard[1:] == shard[:-1]) & (first[1:] < stop[:-1])).any()) or bool((n_frames < 1).any())


def _check_counts(songs: pa.Table, version: Version, reports: dict[str, list[FileReport]]) -> list[Problem]:
    """Compare what the tables say of one song; files that have a problem of their own are not blamed twice."""
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
        should = indexed["landmarks"].to_numpy() if table == POSTINGS else np.ones(len(ids), np.int64)
        odd = np.flatnonzero(counts[ids] != should)
        if len(odd):
            song = indexed.slice(int(odd[0]), 1).to_pylist()[0]
            others = f", and {len(odd) - 1} other songs likewise" if len(odd) > 1 else ""
            problems.append(
                Problem(
                    table,
                    f"song {song['song_id']} ({song['path']}) has {counts[song['song_id']]} rows"
                    f" where {should[odd[0]]} belong{others}",
                )
            )
    return problems
