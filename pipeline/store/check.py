"""Is a store whole, and what can be brought back if it is not.

A posting is a function of its song's peaks, so damaged postings are made again from the constellations; only a song
whose peaks are damaged is lost, and has to be indexed again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
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
from pipeline.store.schema import (
    CONSTELLATIONS,
    INDEXED,
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
# Row groups that are read at once: a million postings.
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


@dataclass(frozen=True, slots=True)
class _FileTask:
    location: Location
    table: str
    file: DataFile
    settings: str


@dataclass(slots=True)
class FileReport:
    """What reading one file from end to end found.

    Parameters
    ----------
    song_ids, counts
        How many rows of the postings, or how many peaks, each song has in it.
    """

    name: str
    problems: list[Problem] = field(default_factory=list)
    song_ids: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))


def check(location: Location, settings: Settings, map_tasks: MapFunction) -> list[Problem]:
    """What `Store.check` does."""
    return inspect(location, settings, map_tasks)[0]


def inspect(
    location: Location, settings: Settings, map_tasks: MapFunction
) -> tuple[list[Problem], dict[str, list[FileReport]]]:
    text = json.dumps(settings.to_dict())
    problems: list[Problem] = []
    reports: dict[str, list[FileReport]] = {}
    versions = _versions(location)
    for table, pin in PINS.items():
        if (number := versions[SONGS].numbers.get(pin, 0)) > versions[table].number:
            problems.append(Problem(table, f"its log ends at version {versions[table].number}, before {number}"))
    for table, version in versions.items():
        if version.configuration.get(SETTINGS) != text:
            problems.append(Problem(table, "its settings are not those of songprint.json"))
        tasks = [_FileTask(location, table, file, text) for file in version.files]
        reports[table] = list(map_tasks(_check_file, tasks))
        problems += [problem for report in reports[table] for problem in report.problems]
    if not any(report.problems for report in reports[SONGS]):
        songs = read_songs(location, versions[SONGS])
        problems += _check_songs(songs, versions[SONGS])
        problems += _check_counts(songs, versions[SONGS], reports)
    return problems, reports


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
                what = _check_postings(file, task.file, report)
            elif task.table == CONSTELLATIONS:
                what = _check_constellations(file, task.file, report)
            else:
                what = None if file.read() else "it is empty"
            if what:
                wrong(what)
    except StoreError as error:
        wrong(str(error.__cause__ or error).splitlines()[0])
    return report


def _strides(file: Any) -> Iterator[tuple[range, pa.Table]]:
    for start in range(0, file.num_row_groups, STRIDE):
        groups = range(start, min(start + STRIDE, file.num_row_groups))
        yield groups, file.read_row_groups(list(groups), use_threads=False)


def _check_postings(file: Any, data: DataFile, report: FileReport) -> str | None:
    last = (-1, -1, -1)
    counts = np.zeros(0, np.int64)
    for groups, table in _strides(file):
        part = postings.from_table(table)
        counts = _add(counts, np.bincount(np.maximum(part.song_id, 0)))
        if min(int(part.hash.min()), int(part.song_id.min()) - 1, int(part.offset.min())) < 0:
            return "it has a hash, song id or offset below what is possible"
        hash_, song, offset = (np.diff(column.astype(np.int64)) for column in (part.hash, part.song_id, part.offset))
        sorted_ = (hash_ > 0) | ((hash_ == 0) & ((song > 0) | ((song == 0) & (offset >= 0))))
        if not sorted_.all() or last > (int(part.hash[0]), int(part.song_id[0]), int(part.offset[0])):
            return "its rows are not sorted by hash, song_id, offset"
        last = (int(part.hash[-1]), int(part.song_id[-1]), int(part.offset[-1]))
        if (group := _misjudged(file, groups, part.hash)) is not None:
            return f"the smallest and largest hash of row group {group} are not what its footer says"
        if data.low["hash"] > part.hash[0] or data.high["hash"] < part.hash[-1]:
            return "it has hashes outside the range that its table's log says"
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
    for groups, table in _strides(file):
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
        "a status that does not exist": not pc.all(
            pc.is_in(songs["status"], pa.array([INDEXED, REMOVED])), min_count=0
        ).as_py(),
    }
    return [Problem(SONGS, f"it has {what}") for what, broken in rules.items() if broken]


def _check_counts(songs: pa.Table, version: Version, reports: dict[str, list[FileReport]]) -> list[Problem]:
    """Compare what the tables say of one song; files that have a problem of their own are not blamed twice."""
    end = version.numbers.get(NEXT_SONG_ID, 1)
    problems = [
        Problem(report.name, f"it has rows of song {report.song_ids[-1]}, and no song was ever given that id")
        for table in (POSTINGS, CONSTELLATIONS)
        for report in reports[table]
        if len(report.song_ids) and report.song_ids[-1] >= end
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
