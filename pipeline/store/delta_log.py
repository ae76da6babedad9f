"""The Delta logs of the three tables: versions and commits.

This is the only module that imports deltalake, and only when a log is opened: not every command opens one. Every commit
names the version that it was decided on, and fails if another commit came first (`Conflict`). The caller then decides
what to do; Delta never retries by itself.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
import re
import time
import urllib.parse
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from pipeline.errors import StoreError
from pipeline.store.schema import (
    COMMIT,
    FENCE,
    NEXT_FRAME,
    NEXT_SHARD,
    NEXT_SONG_ID,
    PARTITIONED_BY,
    PINS,
    SCHEMAS,
    SETTINGS,
    SHARD,
    SHARD_FRAMES,
    SONGS,
    delta_schema,
)
from pipeline.store.storage import MORE_FILES, Location, make_folder, reason, sync_folder, write_error

log = logging.getLogger(__name__)

# Who opens a log reads all entries since the last checkpoint: in a commit, 1 ms for each.
CHECKPOINT_EVERY = 10

# How often a log is read when an object store lists less than it has: for some 40 seconds.
LISTINGS = 14
# How often an entry is written that an object store refuses, though there is none of this number.
WRITES = 4
# What writes into a log that were cut off leave behind.
TEMPORARY_ENTRY = re.compile(r".*#[0-9]+|_commit_.*\.json\.tmp")

PLAIN_NAME = re.compile(r"(shard=[0-9]+/)?[A-Za-z0-9_-][A-Za-z0-9._-]*")


class Conflict(Exception):
    """Another commit came first; nothing was changed."""


@dataclass(frozen=True, slots=True)
class DataFile:
    """A Parquet file of a table, as the log describes it.

    Parameters
    ----------
    name
        Inside the table's folder.
    low, high
        Smallest and largest value of each column that has statistics in the log.
    shard
        The shard that it belongs to, in a table that is partitioned by shards.
    """

    name: str
    size_bytes: int
    rows: int
    low: Mapping[str, int]
    high: Mapping[str, int]
    shard: int = 0


@dataclass(frozen=True, slots=True)
class Version:
    """One version of one table.

    Parameters
    ----------
    files
        In the order of their names.
    numbers
        What the commits carry beside the files: next song id, fence, pinned versions.
    handle
        Delta's handle, for the next commit: opening one reads the log, which takes 5 ms after a few commits.
    """

    table: str
    number: int
    files: tuple[DataFile, ...]
    numbers: Mapping[str, int]
    configuration: Mapping[str, str]
    handle: Any = field(compare=False, repr=False)

    def only(self, file: DataFile) -> Version:
        """The same version with one of its files only."""
        return replace(self, files=(file,))


def create(location: Location, settings: str, shard_frames: int) -> None:
    """Create those of the three tables that are missing."""
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    # Old log entries stay until `compact` has moved past them: the version that a snapshot pins must open.
    configuration = {
        SETTINGS: settings,
        SHARD_FRAMES: str(shard_frames),
        "delta.enableExpiredLogCleanup": "false",
        "delta.checkpointInterval": str(CHECKPOINT_EVERY),
    }
    for table in SCHEMAS:
        first = _entry(table, 0)
        if location.exists(first) and not _is_complete(location, first):  # a power cut ended an earlier creation
            location.delete(first)
        try:
            if location.local:
                make_folder(location.path(f"{table}/_delta_log"))
            with _panics_are_errors(location.path(table)):
                DeltaTable.create(
                    location.path(table),
                    delta_schema(table),
                    mode="ignore",
                    partition_by=PARTITIONED_BY.get(table),
                    name=table,
                    configuration=configuration,
                    storage_options=location.storage_options(),
                    raise_if_key_not_exists=False,
                )
            _sync_entry(location, table, 0)
        except (DeltaError, OSError) as error:
            raise write_error(location.path(table), error) from error


def exists(location: Location, table: str) -> bool:
    """Whether there is anything of the log of a table."""
    return location.exists(_entry(table, 0)) or any(True for _ in location.files(f"{table}/_delta_log"))


def load(location: Location, table: str, number: int | None = None) -> Version:
    """One version of a table, the latest when ``number`` is ``None``.

    Raises
    ------
    StoreError
        If the log is missing or cannot be read.
    """
    handle = _open(location, table, number)
    names = (NEXT_SONG_ID, NEXT_SHARD, NEXT_FRAME, FENCE, *PINS.values()) if table == SONGS else ()
    with _reading_log(location, table):
        numbers = {name: value for name in names if (value := handle.transaction_version(name)) is not None}
        return _version(table, handle, numbers)


def commit(
    location: Location,
    base: Version,
    add: Sequence[DataFile] = (),
    remove: Sequence[DataFile] = (),
    numbers: Mapping[str, int] | None = None,
) -> Version:
    """Add and remove files, and set numbers, in one step on top of ``base``.

    Returns
    -------
    Version
        The table after the commit.

    Raises
    ------
    Conflict
        If ``base`` is not the latest version any more; nothing was changed.
    StoreError
        If the log cannot be written.
    """
    from deltalake import CommitProperties, PostCommitHookProperties, Schema, Transaction
    from deltalake.exceptions import CommitFailedError, DeltaError
    from deltalake.transaction import AddAction, RemoveAction

    numbers = numbers or {}
    # What this commit builds on must survive a power cut that it survives; another job may have died before its sync.
    _sync_entry(location, base.table, base.number)
    for table, pin in PINS.items():
        if pin in numbers:
            _sync_entry(location, table, numbers[pin])
    handle = _handle(location, base)
    number = base.number
    no_checkpoint = PostCommitHookProperties(create_checkpoint=False)  # Delta would not sync it
    now_ms = int(time.time() * 1000)

    def partition(file: DataFile) -> dict[str, str | None]:
        return {SHARD: str(file.shard)} if base.table in PARTITIONED_BY else {}

    actions: list[Any] = [
        AddAction(
            path=file.name,
            size=file.size_bytes,
            partition_values=partition(file),
            modification_time=now_ms,
            data_change=True,
            stats=json.dumps(
                {
                    "numRecords": file.rows,
                    "minValues": dict(file.low),
                    "maxValues": dict(file.high),
                    "nullCount": dict.fromkeys(file.low, 0),
                }
            ),
        )
        for file in add
    ]
    actions += [
        RemoveAction(
            file.name,
            data_change=True,
            deletion_timestamp=now_ms,
            size=file.size_bytes,
            partition_values=partition(file),
        )
        for file in remove
    ]
    token = uuid.uuid4().hex
    for attempt in range(WRITES):
        try:
            known = {field.name for field in handle.schema().fields}
            if added := [field for field in delta_schema(base.table) if field.name not in known]:
                # A store that was made before the table had these; a commit of its own, as Delta has it.
                handle.alter.add_columns(
                    Schema.from_arrow(pa.schema(added)).fields,
                    commit_properties=CommitProperties(max_commit_retries=0),
                    post_commithook_properties=no_checkpoint,
                )
                number += 1
                _sync_entry(location, base.table, number)
            handle.create_write_transaction(
                actions,
                mode="append",
                schema=delta_schema(base.table),
                partition_by=PARTITIONED_BY.get(base.table),
                commit_properties=CommitProperties(
                    max_commit_retries=0,  # with retries a stale handle commits on top of what it has not seen
                    app_transactions=[Transaction(name, value) for name, value in numbers.items()],
                    custom_metadata={COMMIT: token},
                ),
                post_commithook_properties=no_checkpoint,
            )
            break
        except (CommitFailedError, DeltaError, OSError) as error:
            if _token(location, _entry(base.table, number + 1)) == token:
                break  # the commit was made: the reply was lost, or a listing does not have it yet
            if load(location, base.table).number > number:
                raise Conflict from error
            if torn := _torn_entry(location, base.table):
                log.warning("%s: deleted; a power cut tore this commit", location.path(torn))
                location.delete(torn)
                raise Conflict from error
            if location.local or attempt == WRITES - 1 or not _is_refusal(error):
                raise write_error(location.path(base.table), error) from error
            time.sleep(0.1 * 4**attempt)
    number += 1
    _sync_entry(location, base.table, number)
    with suppress(DeltaError, OSError):
        handle.update_incremental()  # the handle does not advance by itself
    if handle.version() != number:  # somebody else has committed meanwhile, or a listing lags
        handle = _open(location, base.table, number)
    if number % CHECKPOINT_EVERY == 0:
        with suppress(StoreError):  # the commit is made; without a checkpoint the log is read from the one before
            _write_checkpoint(location, base.table, handle)
    with _reading_log(location, base.table):
        return _version(base.table, handle, {**base.numbers, **numbers})


def attempts(location: Location, table: str, first: Version | None = None) -> Iterator[Version]:
    """The latest version of a table (or the one given), then the latest again after each of 60 growing pauses.

    Raises
    ------
    StoreError
        When other jobs committed first for some minutes.
    """
    yield first or load(location, table)
    for attempt in range(60):
        time.sleep(min(0.01 * 1.5**attempt, 5.0) * random.random())  # at random, so that two jobs do not collide again
        yield load(location, table)
    raise StoreError(f"{location.path(table)}: other jobs commit without a pause; try again when they are done")


def oldest_needed(location: Location, latest: Version, grace_hours: int) -> dict[str, int]:
    """The version of each table from which on all are needed by those who opened the store within the grace.

    Parameters
    ----------
    latest
        The songs table. What was its latest version so many hours ago, and each later one, can still be read.
    """
    songs = latest
    if grace_hours:  # else the clock of a server need not be this one's
        before = time.time() - grace_hours * 3600
        files = _log_files(location, SONGS)
        old = [number for name, number, changed in files if name == _entry(SONGS, number) and changed <= before]
        # entries before the first checkpoint are no versions if entry 0 is gone: their deletion was cut off
        begins = [number for name, number, _ in files if name in (_entry(SONGS, 0), _checkpoint(SONGS, number))]
        first = min(begins, default=latest.number)
        songs = load(location, SONGS, min(max([first, *old]), latest.number))
    return {SONGS: songs.number} | {table: songs.numbers.get(pin, 0) for table, pin in PINS.items()}


def leftovers(location: Location, version: Version, oldest: int, grace_hours: int) -> set[str]:
    """Files in the folder of a table that are older than the grace, and in no version that is needed.

    Parameters
    ----------
    version
        The latest. Which files are needed is decided by the log; a listing of the folder only gives what may be
        deleted.
    oldest
        The first version that is needed. What was replaced after it may have been replaced long ago: a compaction that
        died did not bring the songs to pin its version.
    """
    with _reading_log(location, version.table):
        found = _handle(location, version).vacuum(
            grace_hours, dry_run=True, enforce_retention_duration=False, full=True
        )
    left = {str(name) for name in found} - {file.name for file in version.files}
    for number in range(oldest + 1, version.number + 1 if left else 0):
        entry = _entry(version.table, number)
        try:
            actions = [json.loads(line) for line in location.read(entry).splitlines()]
        except FileNotFoundError:  # a compaction with less grace has deleted it, and what it replaced
            continue
        except ValueError as error:
            raise _log_error(location.path(entry), error) from error
        left -= {urllib.parse.unquote(action["remove"]["path"]) for action in actions if "remove" in action}
    return left


def shorten_logs(location: Location, versions: Sequence[Version], oldest: Mapping[str, int], grace_hours: int) -> None:
    """Put the state of each table into one file, and delete the entries that nobody needs.

    Parameters
    ----------
    versions
        Of all tables, those of one snapshot. Other jobs may have committed later ones.
    oldest
        By table, the first version that is needed.
    """
    for version in versions:
        _write_checkpoint(location, version.table, _handle(location, version))
    before = time.time() - grace_hours * 3600
    for table, number in oldest.items():
        for name in _unneeded_entries(location, table, number, before):
            location.delete(name)


def _unneeded_entries(location: Location, table: str, number: int, before: float) -> list[str]:
    """What a log holds that nobody needs who opens a version from ``number`` on; and leftovers from before a time.

    In the order in which it is deleted: oldest first, so that a log that was cut short halfway has no gap.
    """
    files = _log_files(location, table)
    checkpoints = sorted((at for name, at, _ in files if name == _checkpoint(table, at) and at <= number), reverse=True)
    # The log begins with the last but one that can be read: a disk may lose the last, and the entries make up for it.
    readable = (at for at in checkpoints if _is_parquet(location, _checkpoint(table, at)))
    start = next(itertools.islice(readable, 1, None), 0)
    return sorted(
        name
        for name, at, changed in files
        if 0 <= at < start or (changed <= before and TEMPORARY_ENTRY.fullmatch(name.rpartition("/")[2]))
    )


def _log_files(location: Location, table: str) -> list[tuple[str, int, float]]:
    """The files of a log: name inside the store, the version that they are of or -1, and time of change."""
    found = []
    for name, _, changed in location.files(f"{table}/_delta_log"):
        of_version = re.fullmatch(r"([0-9]{20})\.[A-Za-z0-9.-]+", name.rpartition("/")[2])
        found.append((name, int(of_version[1]) if of_version else -1, changed))
    return found


def repair_log(location: Location, table: str) -> list[str]:
    """Delete what makes a log unreadable: a checkpoint or a last entry that was cut off.

    Returns
    -------
    list of str
        One sentence for each file.

    Raises
    ------
    StoreError
        If that does not help.
    """
    done = [f"{name}: deleted; {why}" for name, why in _delete_damaged_checkpoints(location, table)]
    if torn := _torn_entry(location, table):
        location.delete(torn)
        done.append(f"{torn}: deleted; a power cut tore this commit")
    load(location, table)
    return done


def _delete_damaged_checkpoints(location: Location, table: str) -> list[tuple[str, str]]:
    """Delete the checkpoints that cannot be read, where the log has their contents: the name of each, and why."""
    names = sorted(name for name, _, _ in location.files(f"{table}/_delta_log"))
    checkpoints = {name: _is_parquet(location, name) for name in names if name.endswith(".checkpoint.parquet")}
    hint = f"{table}/_delta_log/_last_checkpoint"
    done = []
    for name, whole in checkpoints.items():
        if not whole and (
            _entry(table, 0) in names or any(checkpoints[other] for other in checkpoints if other < name)
        ):
            location.delete(name)
            done.append((name, "it was damaged, and the log has its contents"))
    if hint in names and not checkpoints.get(_hinted_checkpoint(location, table, hint)):
        location.delete(hint)
        done.append((hint, "there is no such checkpoint"))
    return done


def _hinted_checkpoint(location: Location, table: str, hint: str) -> str:
    """The checkpoint that the file beside the log's entries names; nothing if it cannot be read."""
    try:
        return _checkpoint(table, int(json.loads(location.read(hint))["version"]))
    except (ValueError, KeyError, TypeError, FileNotFoundError):
        return ""


def _is_parquet(location: Location, name: str) -> bool:
    """Whether a file can be read from end to end."""
    import pyarrow.parquet as pq

    try:
        pq.ParquetFile(pa.BufferReader(location.read(name))).read()
    except (pa.ArrowException, OSError):
        return False
    return True


def _write_checkpoint(location: Location, table: str, handle: Any) -> None:
    """Put the state of a table at the version of a handle into one file, so that a reader need not read all entries."""
    from deltalake.exceptions import DeltaError

    try:
        handle.create_checkpoint()
        _sync(location, f"{table}/_delta_log", f"{handle.version():020d}.checkpoint.parquet", "_last_checkpoint")
    except (DeltaError, OSError) as error:
        raise write_error(location.path(table), error) from error


def _entry(table: str, number: int) -> str:
    """The file of a commit."""
    return f"{table}/_delta_log/{number:020d}.json"


def _checkpoint(table: str, number: int) -> str:
    """The file with the state of a table at a version."""
    return f"{table}/_delta_log/{number:020d}.checkpoint.parquet"


def _token(location: Location, entry: str) -> str | None:
    """What tells the commit of a log entry from all others; ``None`` if the entry is not there, or torn."""
    try:
        lines = [json.loads(line) for line in location.read(entry).splitlines()]
    except (ValueError, FileNotFoundError):
        return None
    return next((line["commitInfo"].get(COMMIT) for line in lines if "commitInfo" in line), None)


def _is_refusal(error: Exception) -> bool:
    """Whether an object store says that there is an entry already."""
    return "already exists" in str(error) or "Precondition" in str(error)


def _torn_entry(location: Location, table: str) -> str | None:
    """The name of the last entry of a log if it is incomplete, and not the only one.

    Delta shows an entry under its name only when it is written, but does not wait for the disk: after a power cut it
    may be cut off. Such a commit never took place, and no later one depends on it.
    """
    entries = sorted(name for name, _, _ in location.files(f"{table}/_delta_log") if name.endswith(".json"))
    return entries[-1] if len(entries) > 1 and not _is_complete(location, entries[-1]) else None


def _is_complete(location: Location, entry: str) -> bool:
    """Whether each line of a log entry is JSON."""
    try:
        for line in location.read(entry).splitlines() or [b""]:
            json.loads(line)
    except (ValueError, FileNotFoundError):
        return False
    return True


def _handle(location: Location, version: Version) -> Any:
    """Delta's handle of a version."""
    moved_on = version.handle.version() != version.number  # by a commit
    return _open(location, version.table, version.number) if moved_on else version.handle


def _open(location: Location, table: str, number: int | None) -> Any:
    """Delta's handle of a version, the latest when ``number`` is ``None``.

    Delta lists a log to find its entries. The listing of an object store may lag behind what was written; an entry
    that is read by its name does not. So a listing that lacks an entry is waited for: a job decides on nothing older
    than what was the latest when it began to read.
    """
    if location.local:
        return _open_listed(location, table, number)
    late = None
    for attempt in range(LISTINGS):
        time.sleep(min(0.05 * 2**attempt, 5.0) if attempt else 0.0)
        try:
            handle = _open_listed(location, table, number)
        except StoreError as error:
            hint = f"{table}/_delta_log/_last_checkpoint"
            begin = "" if number is not None else _hinted_checkpoint(location, table, hint)
            if not location.exists(begin or _entry(table, number or 0)):
                raise
            late = error
        else:
            if number is not None or not location.exists(_entry(table, handle.version() + 1)):
                return handle
            late = None
    raise late or StoreError(
        f"{location.path(table)}: the object store does not list what was written; try again later"
    )


def _open_listed(location: Location, table: str, number: int | None, *, again: bool = True) -> Any:
    """The same, as far as the log is listed."""
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    try:
        with _panics_are_errors(location.path(table)):
            return DeltaTable(location.path(table), version=number, storage_options=location.storage_options())
    except (DeltaError, OSError, ValueError) as error:
        if location.local and again and (damaged := _delete_damaged_checkpoints(location, table)):  # by a power cut
            for name, why in damaged:
                log.warning("%s: deleted; %s", location.path(name), why)
            return _open_listed(location, table, number, again=False)
        if number is None and (torn := _torn_entry(location, table)):
            return _open_listed(location, table, int(torn.rpartition("/")[2].removesuffix(".json")) - 1)
        if not exists(location, table):
            where = location.path(f"{table}/_delta_log")
            raise StoreError(f"{where}: it is gone; `songprint check --repair` says the way back") from error
        raise _log_error(location.path(table), error) from error


def _log_error(path: str, error: Exception) -> StoreError:
    return StoreError(
        f"{path}: cannot read the table's log: {reason(error)}; put that right and run the same command again"
    )


@contextmanager
def _reading_log(location: Location, table: str) -> Iterator[None]:
    """Raise `StoreError` where Delta cannot read a log."""
    from deltalake.exceptions import DeltaError

    try:
        yield
    except (DeltaError, OSError) as error:
        raise _log_error(location.path(table), error) from error


@contextmanager
def _panics_are_errors(path: str) -> Iterator[None]:
    """Raise `StoreError` where Delta's library panics because the machine has no descriptors left for its threads."""
    try:
        yield
    except BaseException as panic:
        if type(panic).__name__ != "PanicException":  # Rust's exception, which cannot be imported
            raise
        message = re.search(r'message: "(.+?)"', str(panic))
        raise StoreError(
            f"{path}: Delta's threads do not start ({message[1] if message else panic}); {MORE_FILES}"
        ) from None


def _version(table: str, handle: Any, numbers: Mapping[str, int]) -> Version:
    # to_pylist of a handful of columns; a store has tens to some thousands of files
    actions = pa.RecordBatchReader.from_stream(
        handle.get_add_actions(flatten=True)
    ).read_all()  # pa.table imports pandas
    columns = {name: actions[name].to_pylist() for name in actions.column_names}
    bounded = [name.removeprefix("min.") for name in columns if name.startswith("min.")]
    for name in columns.get("path", []):
        if not PLAIN_NAME.fullmatch(name):  # the log is untrusted input: it must not lead out of the store
            raise StoreError(f"{table}: its log names a file that is not in its folder: {name!r}")
    files = [
        DataFile(
            name=name,
            size_bytes=columns["size_bytes"][i],
            rows=columns["num_records"][i] or 0,
            low={key: columns[f"min.{key}"][i] for key in bounded if columns[f"min.{key}"][i] is not None},
            high={key: columns[f"max.{key}"][i] for key in bounded if columns[f"max.{key}"][i] is not None},
            shard=int(columns[f"partition.{SHARD}"][i]) if f"partition.{SHARD}" in columns else 0,
        )
        for i, name in enumerate(columns.get("path", []))
    ]
    configuration = handle.metadata().configuration
    files.sort(key=lambda file: file.name)
    return Version(table, handle.version(), tuple(files), numbers, configuration, handle)


def _sync_entry(location: Location, table: str, number: int) -> None:
    """Force a log entry to the disk: Delta does not wait for it, and a power cut would leave an empty entry."""
    try:
        _sync(location, f"{table}/_delta_log", f"{number:020d}.json")
    except OSError as error:
        raise write_error(location.path(_entry(table, number)), error) from error


def _sync(location: Location, folder: str, *names: str) -> None:
    """Force files of a local folder, as far as they exist, and their names to the disk."""
    if not location.local:
        return
    # Windows syncs only what is open to write; elsewhere the entry of another user may be read-only
    flags = os.O_RDWR if os.name == "nt" else os.O_RDONLY
    for name in names:
        with suppress(FileNotFoundError):
            descriptor = os.open(location.path(f"{folder}/{name}"), flags)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    sync_folder(location.path(folder))
