"""Is a store whole, and what can be brought back if it is not.

A posting is a function of its song's peaks, so damaged postings are made again from the constellations; only a song
whose peaks are damaged is lost, and has to be indexed again.
"""

from __future__ import annotations

import json
import multiprocessing
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.config import Settings
from pipeline.errors import StoreError
from pipeline.landmarks import Postings, pair_peaks
from pipeline.store import constellations, face, postings, tables
from pipeline.store.adding import Map
from pipeline.store.location import Location
from pipeline.store.postings import MergeTask
from pipeline.store.snapshot import read_songs, write_songs
from pipeline.store.staging import FOLDER as STAGING
from pipeline.store.staging import SAMPLE_STEP
from pipeline.store.tables import CONSTELLATIONS, NEXT_SONG_ID, PINS, POSTINGS, SONGS, Conflict, DataFile, Version

REPAIR = "`songprint check --repair` brings back what can be"
# The end of a file's name.
CHECKSUM = re.compile(r"-([0-9a-f]{8})\.parquet$")
# Row groups that are read at once: a million postings.
STRIDE = 64
# Songs whose postings one task makes again.
SONGS_PER_TASK = 128


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
class Repair:
    """What a repair did.

    Parameters
    ----------
    done
        One sentence for each thing that was mended.
    lost
        The paths of songs that are not in the store any more, to be indexed again.
    """

    done: tuple[str, ...]
    lost: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _FileTask:
    location: Location
    table: str
    file: DataFile
    settings: str


@dataclass(slots=True)
class _FileReport:
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


def check(location: Location, settings: Settings, run: Map) -> list[Problem]:
    """What `Store.check` does."""
    return _check(location, settings, run)[0]


def _check(location: Location, settings: Settings, run: Map) -> tuple[list[Problem], dict[str, list[_FileReport]]]:
    text = json.dumps(settings.to_dict())
    problems: list[Problem] = []
    reports: dict[str, list[_FileReport]] = {}
    versions = _versions(location)
    for table, pin in PINS.items():
        if (number := versions[SONGS].numbers.get(pin, 0)) > versions[table].number:
            problems.append(Problem(table, f"its log ends at version {versions[table].number}, before {number}"))
    for table, version in versions.items():
        if version.configuration.get(tables.SETTINGS) != text:
            problems.append(Problem(table, "its settings are not those of songprint.json"))
        tasks = [_FileTask(location, table, file, text) for file in version.files]
        reports[table] = list(run(_check_file, tasks))
        problems += [problem for report in reports[table] for problem in report.problems]
    if not any(report.problems for report in reports[SONGS]):
        songs = read_songs(location, versions[SONGS])
        problems += _check_songs(songs, versions[SONGS])
        problems += _check_counts(songs, versions[SONGS], reports)
    return problems, reports


def _versions(location: Location) -> dict[str, Version]:
    """The latest of each table: what a song that counts has in `postings` is the same in every later version."""
    return {table: tables.load(location, table) for table in (SONGS, POSTINGS, CONSTELLATIONS)}


def _check_file(task: _FileTask) -> _FileReport:
    """Read one file from end to end."""
    name = f"{task.table}/{task.file.name}"
    report = _FileReport(name)

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
            if not file.schema_arrow.equals(tables.SCHEMAS[task.table]):
                wrong("its columns are not those of its table")
                return report
            found = (file.metadata.metadata or {}).get(tables.SETTINGS.encode(), b"").decode()
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


def _check_postings(file: Any, data: DataFile, report: _FileReport) -> str | None:
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


def _check_constellations(file: Any, data: DataFile, report: _FileReport) -> str | None:
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
    digests = songs.filter(pc.equal(songs["status"], tables.INDEXED))["digest"]
    rules = {
        "a song id twice": len(np.unique(ids)) < len(ids),
        "a song id that was never given": ((ids < 1) | (ids >= version.numbers.get(NEXT_SONG_ID, 1))).any(),
        "the same digest for two songs": len(digests.unique()) < len(digests),
        "a status that does not exist": not pc.all(
            pc.is_in(songs["status"], pa.array([tables.INDEXED, tables.REMOVED])), min_count=0
        ).as_py(),
    }
    return [Problem(SONGS, f"it has {what}") for what, broken in rules.items() if broken]


def _check_counts(songs: pa.Table, version: Version, reports: dict[str, list[_FileReport]]) -> list[Problem]:
    """Compare what the tables say of one song; files that have a problem of their own are not blamed twice."""
    end = version.numbers.get(NEXT_SONG_ID, 1)
    problems = [
        Problem(report.name, f"it has rows of song {report.song_ids[-1]}, and no song was ever given that id")
        for table in (POSTINGS, CONSTELLATIONS)
        for report in reports[table]
        if len(report.song_ids) and report.song_ids[-1] >= end
    ]
    indexed = songs.filter(pc.equal(songs["status"], tables.INDEXED))
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


def mend_face(location: Location) -> list[str]:
    """Restore logs whose last entry was cut off, and the face from what the logs say; one sentence for each."""
    done = []
    for table in tables.SCHEMAS:
        try:
            tables.load(location, table)
        except StoreError:
            done += tables.mend_log(location, table)
    told = {tables.load(location, table).configuration.get(tables.SETTINGS, "") for table in tables.SCHEMAS}
    if len(told) > 1:
        raise StoreError(f"{location.url}: its tables have different settings; they are not of one store")
    settings = Settings.from_dict(json.loads(told.pop()))
    try:
        found: Settings | None = face.read(location)
    except StoreError as error:
        if "has format" in str(error):
            raise
        found = None
    if found != settings:
        face.write(location, settings)
        done.append(f"{face.NAME}: written again with the settings of the tables")
    return done


def repair(location: Location, settings: Settings, run: Map) -> Repair:
    """What `Store.repair` does, once there is a readable face and log."""
    done: list[str] = []
    _, reports = _check(location, settings, run)
    text = json.dumps(settings.to_dict())
    damaged = {
        table: {report.name.partition("/")[2] for report in reports[table] if _is_damaged(report, location)}
        for table in tables.SCHEMAS
    }
    songs = tables.load(location, SONGS)
    if damaged[SONGS]:
        gone = [file for file in songs.files if file.name in damaged[SONGS]]
        songs = tables.commit(location, songs, remove=gone)
        done += [
            f"{SONGS}/{file.name}: given up with the rows of {file.rows} songs; index the library again,"
            " songs that are still here will be skipped"
            for file in gone
        ]
    rows = read_songs(location, songs)
    rows = rows.filter(pc.equal(rows["status"], tables.INDEXED))
    ids = rows["song_id"].to_numpy().astype(np.int64)
    pins = {}
    pins[CONSTELLATIONS], readable = _mend_constellations(location, damaged[CONSTELLATIONS], text, done)
    lost = np.setdiff1d(ids, readable)
    pins[POSTINGS], landmarks = _mend_postings(
        location, settings, damaged[POSTINGS], reports[POSTINGS], rows, lost, run, done
    )
    _mend_songs(location, lost, landmarks, pins)
    paths = rows.filter(pc.is_in(rows["song_id"], pa.array(lost.astype(np.int32))))["path"].to_pylist()
    return Repair(tuple(done), tuple(paths))


def _is_damaged(report: _FileReport, location: Location) -> bool:
    end = tables.load(location, SONGS).numbers.get(NEXT_SONG_ID, 1)
    return bool(report.problems) or bool(len(report.song_ids) and report.song_ids[-1] >= end)


def _mend_constellations(
    location: Location, damaged: Iterable[str], settings: str, done: list[str]
) -> tuple[int, NDArray[np.int64]]:
    """Keep the row groups that can be read; the table's new version, and the songs that it has."""
    version = tables.load(location, CONSTELLATIONS)
    gone = [file for file in version.files if file.name in damaged]
    written = []
    for file in gone:
        parts = _salvage(location, f"{CONSTELLATIONS}/{file.name}")
        kept = sum(len(part) for part in parts)
        done.append(f"{CONSTELLATIONS}/{file.name}: the peaks of {kept} of {file.rows} songs could be read")
        if kept:
            name = f"{CONSTELLATIONS}/r{uuid.uuid4().hex}-0000-{{crc}}.parquet"
            made = constellations.write(location, name, iter(parts), settings)
            written += [made] if made else []
    if gone:
        version = tables.commit(location, version, written, gone)
    reader = constellations.Reader(location, [f"{CONSTELLATIONS}/{file.name}" for file in version.files])
    return version.number, reader.song_ids()


def _salvage(location: Location, name: str) -> list[pa.Table]:
    """The row groups of a damaged file that can be read; by a process of its own, which the damage may end."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_readable_groups, location, name).result()
        except BrokenProcessPool:
            return []


def _readable_groups(location: Location, name: str) -> list[pa.Table]:
    found = []
    with suppress(StoreError, OSError), location.parquet(name, checksums=True) as file:
        last = 0
        for group in range(file.num_row_groups):
            with suppress(pa.ArrowException, OSError):
                part = file.read_row_group(group, use_threads=False)
                ids = part["song_id"].to_numpy()
                if len(ids) and ids[0] > last and (np.diff(ids) > 0).all():
                    last = int(ids[-1])
                    found.append(part)
    return found


@dataclass(frozen=True, slots=True)
class _RemakeTask:
    location: Location
    names: tuple[str, ...]
    settings: Settings
    song_ids: tuple[int, ...]
    name: str


def _remake(task: _RemakeTask) -> tuple[DataFile | None, list[int], NDArray[np.int32]]:
    """Make the postings of some songs again, into a file of their own; also how many each has, and a sample."""
    found = constellations.Reader(task.location, task.names).read(np.array(task.song_ids, np.int64))
    made = {song_id: pair_peaks(found[song_id], task.settings.fan_out) for song_id in task.song_ids}
    every = postings.sort(
        postings.join([Postings(h.hash, np.full(len(h), song_id, np.int32), h.offset) for song_id, h in made.items()])
    )
    file = postings.write(task.location, task.name, iter([every]), "")
    return file, [len(hashes) for hashes in made.values()], every.hash[::SAMPLE_STEP]


def _mend_postings(
    location: Location,
    settings: Settings,
    damaged: set[str],
    reports: Sequence[_FileReport],
    rows: pa.Table,
    lost: NDArray[np.int64],
    run: Map,
    done: list[str],
) -> tuple[int, dict[int, int]]:
    """Make again what is missing; the table's new version, and the landmarks of the songs that it was done for."""
    version = tables.load(location, POSTINGS)
    ids, should = rows["song_id"].to_numpy().astype(np.int64), rows["landmarks"].to_numpy()
    counts = np.zeros(int(ids.max(initial=0)) + 1, np.int64)
    for report in reports:
        if report.name.partition("/")[2] not in damaged:
            inside = report.song_ids < len(counts)
            counts[report.song_ids[inside]] += report.counts[inside]
    short = np.setdiff1d(ids[counts[ids] != should], lost)
    gone = [file for file in version.files if file.name in damaged]
    if not len(short) and not gone:
        return version.number, {}
    peaks = tuple(f"{CONSTELLATIONS}/{file.name}" for file in tables.load(location, CONSTELLATIONS).files)
    folder = f"{STAGING}/repair-{uuid.uuid4().hex}"
    tasks = [
        _RemakeTask(
            location, peaks, settings, tuple(short[at : at + SONGS_PER_TASK].tolist()), f"{folder}/{at}.parquet"
        )
        for at in range(0, len(short), SONGS_PER_TASK)
    ]
    remade = list(run(_remake, tasks))
    good = [file for file in version.files if file.name not in damaged]
    # the songs that are made again, and the lost ones, lose what the sound files still have of them
    kept = np.arange(tables.load(location, SONGS).numbers.get(NEXT_SONG_ID, 1), dtype=np.int32)
    kept[short] = 0
    kept[lost] = 0
    sources = [(location, f"{POSTINGS}/{file.name}", kept) for file in good]
    samples = [postings.Reader(sources).sample(SAMPLE_STEP), *(sample for _, _, sample in remade)]
    fresh = [(location, task.name, None) for task in tasks]
    name = f"{POSTINGS}/r{uuid.uuid4().hex}"
    text = json.dumps(settings.to_dict())
    merges = [
        MergeTask(location, (*sources, *fresh), None, cuts, f"{name}-{i:04d}-{{crc}}.parquet", text)
        for i, cuts in enumerate(postings.plan_cuts(samples, SAMPLE_STEP))
    ]
    written = [file for file in run(postings.run_merge, merges) if file is not None]
    version = tables.commit(location, version, written, version.files)
    for task in tasks:
        location.delete(task.name)
    location.delete_folder(folder)
    done += [f"{POSTINGS}/{file.name}: given up" for file in gone]
    done.append(f"{POSTINGS}: made the postings of {len(short)} songs again from their peaks")
    landmarks = [count for _, counted, _ in remade for count in counted]
    return version.number, dict(zip(short.tolist(), landmarks, strict=True))


def _mend_songs(location: Location, lost: NDArray[np.int64], landmarks: dict[int, int], pins: dict[str, int]) -> None:
    numbers = {PINS[table]: number for table, number in pins.items()}
    for songs in tables.attempts(location, SONGS):
        rows = read_songs(location, songs)
        ids = rows["song_id"].to_pylist()
        counts = [
            landmarks.get(song_id, count) for song_id, count in zip(ids, rows["landmarks"].to_pylist(), strict=True)
        ]
        missing = pc.is_in(rows["song_id"], pa.array(lost.astype(np.int32)))
        schema = tables.SCHEMAS[SONGS]
        columns = {
            "landmarks": pa.array(counts, pa.int32()),
            "status": pc.if_else(missing, tables.REMOVED, rows["status"]),
        }
        mended = rows
        for column, values in columns.items():
            mended = mended.set_column(schema.get_field_index(column), schema.field(column), values)
        replaced = [] if mended.equals(rows) else list(songs.files)
        if not replaced and all(songs.numbers.get(pin) == number for pin, number in numbers.items()):
            return
        written = [write_songs(location, mended)] if replaced else []
        with suppress(Conflict):
            tables.commit(location, songs, written, replaced, numbers)
            return
