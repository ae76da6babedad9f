"""An index run: plan batches of files, fingerprint them wherever the executor runs, commit in plan order.

Song ids are given at the commit, in the order of the paths, so a store's contents do not depend on the number of
workers, on which of them was faster, or on how often the run was interrupted. What is committed is never done again:
files that the store has (by path, size and time, else by content) are skipped.

A run also says to the store what it found under the paths of songs, so that a library follows its folders: see
`pipeline.store.song_paths`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import catalog
from pipeline.arguments import require_store
from pipeline.audio.tags import read_tags
from pipeline.catalog import Entry
from pipeline.errors import AudioError, ClusterError, NotTried, SongprintError
from pipeline.execution.cluster import ExecutorLike, open_executor
from pipeline.execution.executor import Died, Done, Executor, Progress, SerialExecutor, in_order
from pipeline.execution.timeouts import timeout_s, within
from pipeline.fingerprinting.extract import fingerprint
from pipeline.fingerprinting.settings import Settings
from pipeline.paths import Paths, is_url, path_list, printable_path
from pipeline.progress import OnProgress, shown
from pipeline.store import FailedFile, FoundFile, Manifest, Snapshot, StagedSong, Store, stage

log = logging.getLogger(__name__)

# More often makes more files, less often loses more work to a power cut.
COMMIT_EVERY_S = 120.0
# A task should take 30 to 120 s: at some 500 x real time, or at 50 MB/s from a busy file server, whichever is longer.
BATCH_AUDIO_S = 8 * 3600.0
BATCH_BYTES = 3_000_000_000
# Small runs are cut finer, so that no worker idles at the end, and neither do some that join late.
BATCHES_PER_WORKER = 6
EXPECTED_WORKERS = 16
# Bytes of one second of audio, to plan by duration without opening a file.
BYTES_PER_S = {".wav": 176_400, ".aiff": 176_400, ".aif": 176_400, ".flac": 100_000}
BYTES_PER_S_OTHERWISE = 20_000
# A song of which less than this share of its declared duration could be decoded is counted as cut short.
COMPLETE_SHARE = 0.98
# A shorter file without landmarks is too short, whatever sounds in it: of drum one-shots that have none, most are.
SHORTEST_SONG_S = 1.0


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that gave no song, and why.

    Parameters
    ----------
    lasting
        The content is the reason: the same file will fail again.
    """

    path: str
    reason: str
    lasting: bool = False


@dataclass(frozen=True, slots=True)
class IndexBatch:
    """Files that one task fingerprints, and all that a worker needs for them.

    Parameters
    ----------
    known
        Digests that the store has of songs exactly as large as one of these files: the same content has the same
        size, so a moved file is found without reading the store.
    limit_s
        Seconds that one file may take, ``None`` for no limit.
    stream
        Which audio stream of files that have several, from 1.
    """

    store: str
    settings: Settings
    entries: tuple[Entry, ...]
    known: frozenset[str]
    limit_s: float | None
    stream: int | None

    @property
    def name(self) -> str:
        """A name for the batch's files in the store, the same for the same files."""
        text = "\0".join(f"{entry.path}\0{entry.size_bytes}\0{entry.modified_ns}" for entry in self.entries)
        return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What came of a batch: songs staged, files that failed, files whose content the store has already.

    Parameters
    ----------
    present
        Files whose content the store has, each with its digest.
    busy_s
        Seconds of wall time that the worker took.
    """

    manifest: Manifest | None
    failures: tuple[Failure, ...]
    present: tuple[tuple[str, Entry], ...]
    cut_short: int
    audio_s: float
    busy_s: float


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What an index run did.

    Parameters
    ----------
    present
        Files that the store has already.
    moved
        Songs that have a new path: there is no such file any more under the old one, or it holds something else.
    retagged
        Songs whose file has other tags: the same audio in another content.
    replaced
        Songs that were removed, since other audio lies under their path.
    missing
        Songs below the given folders of which there is no file any more, at the end of the run.
    removed
        Songs that were removed for that reason, by ``prune``.
    failed_before
        Files that failed in an earlier run and have not changed since; they were not tried again.
    busy_s
        Seconds that all workers together spent on batches.
    """

    added: int
    present: int
    moved: int
    cut_short: int
    failures: tuple[Failure, ...]
    audio_s: float
    busy_s: float
    wall_s: float
    retagged: int = 0
    replaced: int = 0
    missing: int = 0
    removed: int = 0
    failed_before: tuple[Failure, ...] = ()


def index(
    paths: Paths,
    store: Store,
    executor: ExecutorLike = None,
    *,
    limit_s: float | None = None,
    stream: int | None = None,
    retry: bool = False,
    prune: bool = False,
    progress: bool | OnProgress = False,
) -> IndexReport:
    """Fingerprint the songs under ``paths`` and add those that the store does not have.

    The store follows the files: a song whose file was moved gets the new path, one whose file has other tags gets
    those, and one whose file holds other audio now is replaced.

    Parameters
    ----------
    paths
        A file or folder, or several of them, local or fsspec URLs; or other stores, whose songs are added without
        their audio.
    executor
        Where batches run: what `local_cluster` opens, or a ``distributed.Client``; one after the other in this process
        when ``None``.
    limit_s
        Seconds that one file may take.
    stream
        Which audio stream, from 1, of files that have several, such as films. By default the one that a file marks as
        its default, else the first; and if that is silent the first one with sound.
    retry
        Also try the files that failed in an earlier run and have not changed since.
    prune
        Remove the songs below the given folders of which there is no file any more. A folder without any audio file,
        and a file system that is not mounted, lose none.
    progress
        Whether to draw a bar, on a terminal or in a notebook; or a function that is called with each ``Progress``.

    Returns
    -------
    IndexReport
        A file that cannot be read is one of its failures, and stops nothing.

    Raises
    ------
    CatalogError
        If a path does not exist or holds no audio file.
    ConfigMismatch
        If another store was made with other settings.
    ParameterError
        If an argument is out of range.
    StoreError
        If the store cannot be written; what was committed before stays.
    """
    require_store(store)
    stores, files = split_paths(path_list(paths))
    entries = catalog.walk(files) if files else []
    running = open_executor(executor)
    began = time.monotonic()
    with shown(progress, "index") as on_progress:
        added, present = absorb(stores, store, running)
        report = index_entries(
            entries,
            store,
            running,
            folders=files,
            limit_s=limit_s,
            stream=stream,
            retry=retry,
            prune=prune,
            progress=on_progress,
        )
    return dataclasses.replace(
        report, added=report.added + added, present=report.present + present, wall_s=time.monotonic() - began
    )


def split_paths(paths: Sequence[str]) -> tuple[list[str], list[str]]:
    """The paths that are stores, and those to be searched for audio."""
    stores = [path for path in paths if Store.exists(path)]
    return stores, [path for path in paths if path not in stores]


def absorb(stores: Sequence[str], store: Store, executor: Executor | None = None) -> tuple[int, int]:
    """Add the songs of other stores: how many were added, and how many were there already."""
    executor = executor or SerialExecutor()
    added = total = 0
    for path in stores:
        other = Store.open(path)
        executor.require_visible([store.url, other.url])
        total += other.snapshot().n_songs
        added += len(store.absorb(other, map=executor.map))
    return added, total - added


def index_entries(
    entries: Sequence[Entry],
    store: Store,
    executor: Executor | None = None,
    *,
    folders: Sequence[str] = (),
    limit_s: float | None = None,
    stream: int | None = None,
    retry: bool = False,
    prune: bool = False,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> IndexReport:
    """`index` for files that were found already, in some folders; calls ``progress`` after each batch."""
    run = _Run(store, executor or SerialExecutor(), entries, limit_s, stream, progress)
    try:
        run.index(run.changed_entries(retry))
        run.index(run.entries_of_lost_songs())
    finally:
        run.remember_failures()
    run.follow(folders, prune)
    return run.report()


class _Run:
    """One run over files that were found.

    Parameters
    ----------
    entries
        All files that were found, also those that the store has.
    """

    def __init__(
        self,
        store: Store,
        executor: Executor,
        entries: Sequence[Entry],
        limit_s: float | None,
        stream: int | None,
        progress: Callable[[Progress], None],
    ) -> None:
        self._store = store
        self._executor = executor
        self._limit_s = limit_s
        self._stream = stream
        self._progress = progress
        self._began = time.monotonic()
        self._entries = {printable_path(entry.path): entry for entry in map(_with_absolute_path, entries)}
        self._library = _Library(store.snapshot())
        self._mount_points = catalog.MountPoints()
        # what was done
        self._added = self._present = self._done = self._total = self._cut_short = self._missing = 0
        self._moved: set[int] = set()
        self._retagged = self._replaced = self._removed = 0
        self._audio_s = self._busy_s = self._share = 0.0
        self._failures: list[Failure] = []
        self._failed_before: dict[str, FailedFile] = {}
        # what is not yet committed, and what lies in the store already
        self._staged: list[Manifest] = []
        self._found: dict[str, FoundFile | None] = {}
        self._known: dict[str, tuple[str, Entry]] = {}
        self._committed = time.monotonic()

    def changed_entries(self, retry: bool) -> list[Entry]:
        """The files that the store does not have as they are, without those that failed before."""
        changed, self._present = self._library.changed(self._entries.values())
        if not retry:
            failed = self._store.failures()
            for entry in changed:
                before = failed.get(printable_path(entry.path))
                if before is not None and _fails_again(before, entry, self._limit_s):
                    self._failed_before[before.path] = before
        return [entry for entry in changed if printable_path(entry.path) not in self._failed_before]

    def index(self, entries: Sequence[Entry]) -> None:
        """Fingerprint files, and commit them and what was found."""
        batches = plan(entries, self._store, self._executor.workers, self._limit_s, self._stream)
        self._executor.require_visible([self._store.url, *catalog.folders(entries)])
        estimated_s = sum(map(audio_estimate_s, entries))
        self._total += len(entries)

        def on_outcome(outcome: Done[IndexBatch, BatchReport] | Died[IndexBatch]) -> None:
            self._done += len(outcome.item.entries)
            self._share += sum(map(audio_estimate_s, outcome.item.entries)) / max(estimated_s, 1e-9)
            if isinstance(outcome, Done):
                self._audio_s += outcome.result.audio_s
                self._busy_s += outcome.result.busy_s
            self._failures.extend(_failures(outcome))
            self._report_progress()

        self._report_progress()
        try:
            for outcome in in_order(self._executor, index_batch, batches, halve, on_outcome):
                if isinstance(outcome, Done):
                    self._take(outcome.result)
                if time.monotonic() - self._committed > COMMIT_EVERY_S:
                    self._commit()
        except (KeyboardInterrupt, ClusterError):  # stopped, or without workers
            self._commit(in_process=True)
            raise
        self._commit()

    def _report_progress(self) -> None:
        self._progress(
            Progress(
                done=self._done,
                total=self._total,
                share=min(self._share, 1.0),
                audio_s=self._audio_s,
                failures=len(self._failures),
            )
        )

    def _take(self, batch: BatchReport) -> None:
        """Keep what came of a batch for the next commit."""
        self._cut_short += batch.cut_short
        for digest, entry in batch.present:
            path = printable_path(entry.path)
            self._known[path] = digest, entry
            self._found[path] = self._found_file(path, digest)
        if batch.manifest is not None:
            self._staged.append(batch.manifest)
            for row in batch.manifest.songs:
                self._found[row["path"]] = self._found_file(row["path"], row["digest"])

    def _found_file(self, path: str, digest: str) -> FoundFile:
        entry = self._entries[path]
        return FoundFile(digest, entry.size_bytes, entry.modified_ns, self._mount_points.of(entry.path))

    def _commit(self, in_process: bool = False) -> None:
        if self._found:
            rows = [row for manifest in self._staged for row in manifest.songs]
            paths = self._library.paths_of_songs_like(self._found, rows)
            gone = catalog.gone_paths(paths - self._entries.keys(), self._library.mount_points)
            found = self._found | dict.fromkeys(gone)
            changes = self._store.commit_files(self._staged, found, map if in_process else self._executor.map)
            self._added += len(changes.added)
            self._present += len(self._found) - len(changes.added) - len(changes.retagged)
            self._retagged += len(changes.retagged)
            self._replaced += len(changes.replaced)
            self._moved.update(changes.moved)
        self._staged, self._found, self._committed = [], {}, time.monotonic()

    def entries_of_lost_songs(self) -> list[Entry]:
        """Files whose content the store had when they were read, and has not any more.

        Other content came under the path of the song before this run knew the new one, or another job removed it.
        """
        if not self._known:
            return []
        songs = self._store.snapshot().songs(["digest"])["digest"]
        wanted = pa.array(sorted({digest for digest, _ in self._known.values()}), pa.string())
        there = set(songs.filter(pc.is_in(songs, wanted)).to_pylist())
        lost = [entry for digest, entry in self._known.values() if digest not in there]
        self._present -= len(lost)
        return lost

    def remember_failures(self) -> None:
        """Write down which files need not be tried again."""
        before = self._store.failures()
        kept = {
            path: failed for path, failed in before.items() if path not in self._entries or path in self._failed_before
        }
        for failure in self._failures:
            entry = self._entries.get(failure.path)
            if failure.lasting and entry is not None and entry.modified_ns:
                kept[failure.path] = FailedFile(
                    failure.path, entry.size_bytes, entry.modified_ns, failure.reason, self._limit_s
                )
        if kept != before:
            self._store.remember_failures(kept.values())

    def follow(self, folders: Sequence[str], prune: bool) -> None:
        """Take from songs the paths below some folders under which there is no file any more."""
        wanted = []
        for folder in map(catalog.absolute, folders):
            if any(catalog.is_below(path, printable_path(folder)) for path in self._entries):
                wanted.append(printable_path(folder))
            elif prune:
                log.warning("%s: no audio file there; is it mounted? No song below it is removed", folder)
        library = _Library(self._store.snapshot())
        there = self._entries.keys() - {failure.path for failure in self._failures if failure.lasting and prune}
        there -= self._failed_before.keys() if prune else set()
        paths = {path for path in library.paths - there if any(catalog.is_below(path, one) for one in wanted)}
        gone = catalog.gone_paths(paths - self._entries.keys(), library.mount_points)
        gone |= paths & self._entries.keys()
        missing = library.songs_without(gone)
        self._missing = len(missing)
        if prune and missing:
            counted = "1 song has" if len(missing) == 1 else f"{len(missing)} songs have"
            log.info("%s no file any more, to be removed.", counted)
        if gone:
            changes = self._store.commit_files([], dict.fromkeys(gone), prune=prune)
            self._removed += len(changes.gone)
            self._moved.update(changes.moved)
        self._log_copies()

    def _log_copies(self) -> None:
        """Say of each file that was found under which other name the store has it."""
        if not log.isEnabledFor(logging.DEBUG):
            return
        for song in _Library(self._store.snapshot()).with_copies:
            for path in self._entries.keys() & song["other_paths"]:
                log.debug(
                    "%s: already there as song %d, %s", path, song["song_id"], song["path"],
                    extra={"fields": {"path": path, "song_id": song["song_id"], "song_path": song["path"]}},
                )  # fmt: skip

    def report(self) -> IndexReport:
        """What was done."""
        before = sorted(self._failed_before.values(), key=lambda failed: failed.path)
        return IndexReport(
            added=self._added,
            present=self._present,
            moved=len(self._moved),
            cut_short=self._cut_short,
            failures=tuple(sorted(self._failures, key=lambda failure: failure.path)),
            audio_s=self._audio_s,
            busy_s=self._busy_s,
            wall_s=time.monotonic() - self._began,
            retagged=self._retagged,
            replaced=self._replaced,
            missing=self._missing,
            removed=self._removed,
            failed_before=tuple(Failure(failed.path, failed.reason, lasting=True) for failed in before),
        )


def missing_songs(snapshot: Snapshot) -> pa.Table:
    """The songs of which there is no file any more, with all columns.

    Those on a file system that is not mounted, or does not answer, are not among them.
    """
    songs = snapshot.songs()
    library = _Library(snapshot)
    missing = library.songs_without(catalog.gone_paths(library.paths, library.mount_points))
    return songs.filter(pc.is_in(songs["song_id"], pa.array(missing, pa.int32())))


class _Library:
    """The files of the songs of one version of a store."""

    def __init__(self, snapshot: Snapshot) -> None:
        columns = ["song_id", "path", "size_bytes", "modified_ns", "digest", "landmarks", "other_paths",
                   "other_modified_ns", "mount_point"]  # fmt: skip
        self._songs = snapshot.songs(columns)
        self.with_copies: list[dict[str, Any]] = self._songs.filter(pc.is_valid(self._songs["other_paths"])).to_pylist()
        self.mount_points = {folder for folder in pc.unique(self._songs["mount_point"]).to_pylist() if folder}

    @functools.cached_property
    def paths(self) -> set[str]:
        """All paths of all songs."""
        return {*self._songs["path"].to_pylist(), *(path for song in self.with_copies for path in song["other_paths"])}

    def changed(self, entries: Iterable[Entry]) -> tuple[list[Entry], int]:
        """The files that are not in the store with their path, size and time; and how many are."""
        names = ("path", "size_bytes", "modified_ns")
        have = set(zip(*(self._songs[name].to_pylist() for name in names), strict=True))
        have |= {
            (path, song["size_bytes"], modified_ns)
            for song in self.with_copies
            for path, modified_ns in zip(song["other_paths"], song["other_modified_ns"], strict=True)
        }
        files = list(entries)
        new = [
            entry for entry in files if (printable_path(entry.path), entry.size_bytes, entry.modified_ns) not in have
        ]
        return new, len(files) - len(new)

    def paths_of_songs_like(self, found: Mapping[str, FoundFile | None], rows: Iterable[Mapping[str, Any]]) -> set[str]:
        """The paths of the songs whose content or path was found, or that may have the audio of some new rows."""
        digests = pa.array(sorted({file.digest for file in found.values() if file is not None}), pa.string())
        landmarks = pa.array(sorted({row["landmarks"] for row in rows}), pa.int32())
        alike = pc.or_(
            pc.or_(pc.is_in(self._songs["digest"], digests), pc.is_in(self._songs["landmarks"], landmarks)),
            pc.is_in(self._songs["path"], pa.array(sorted(found), pa.string())),
        )
        songs = self._songs.filter(alike).select(["path", "other_paths"]).to_pylist()
        songs += [song for song in self.with_copies if not found.keys().isdisjoint(song["other_paths"])]
        return {path for song in songs for path in (song["path"], *(song["other_paths"] or ()))}

    def songs_without(self, gone: Set[str]) -> list[int]:
        """The songs all of whose paths are gone."""
        some = self._songs.filter(pc.is_in(self._songs["path"], pa.array(sorted(gone), pa.string())))
        return [song["song_id"] for song in some.to_pylist() if gone >= {*(song["other_paths"] or ())}]


def _fails_again(failed: FailedFile, entry: Entry, limit_s: float | None) -> bool:
    """Whether a file is what it was when it failed, and has no more time than it had then."""
    same = (failed.size_bytes, failed.modified_ns) == (entry.size_bytes, entry.modified_ns)
    return same and (failed.limit_s is None or (limit_s is not None and limit_s <= failed.limit_s))


def new_entries(entries: Sequence[Entry], store: Store) -> tuple[list[Entry], int]:
    """Leave out the files that the store has as they are: same path, size and time. Also how many those were."""
    return _Library(store.snapshot()).changed(entries)


def _with_absolute_path(entry: Entry) -> Entry:
    """The same file under a path that means the same in every process and folder."""
    if is_url(entry.path):
        return entry
    return dataclasses.replace(entry, path=os.path.abspath(entry.path))


def audio_estimate_s(entry: Entry) -> float:
    """Seconds of audio that a file of this size and suffix holds, roughly: a guess for planning."""
    suffix = os.path.splitext(entry.path)[1].lower()
    return 1.0 + entry.size_bytes / BYTES_PER_S.get(suffix, BYTES_PER_S_OTHERWISE)


def plan(
    entries: Sequence[Entry], store: Store, workers: int, limit_s: float | None, stream: int | None = None
) -> list[IndexBatch]:
    """Cut the files, in their order, into batches of about the same work."""
    songs = store.snapshot().songs(["size_bytes", "digest"])
    sizes = {entry.size_bytes for entry in entries}
    digests: dict[int, set[str]] = {}
    for size, digest in zip(songs["size_bytes"].to_pylist(), songs["digest"].to_pylist(), strict=True):
        if size in sizes:
            digests.setdefault(size, set()).add(digest)

    def batch(files: Sequence[Entry]) -> IndexBatch:
        known = frozenset().union(*(digests.get(entry.size_bytes, ()) for entry in files))
        return IndexBatch(store.url, store.settings, entries=tuple(files), known=known, limit_s=limit_s, stream=stream)

    tasks = [_share_of_a_task(entry) for entry in entries]
    target = min(1.0, sum(tasks) / (max(workers, EXPECTED_WORKERS) * BATCHES_PER_WORKER))
    batches: list[IndexBatch] = []
    files: list[Entry] = []
    filled = 0.0
    for entry, share in zip(entries, tasks, strict=True):
        files.append(entry)
        filled += share
        if filled >= target:
            batches.append(batch(files))
            files, filled = [], 0.0
    return [*batches, batch(files)] if files else batches


def _share_of_a_task(entry: Entry) -> float:
    return max(audio_estimate_s(entry) / BATCH_AUDIO_S, entry.size_bytes / BATCH_BYTES)


def halve(batch: IndexBatch) -> list[IndexBatch]:
    """Two batches with half of the files each; one file cannot be halved."""
    middle = len(batch.entries) // 2
    parts = (batch.entries[:middle], batch.entries[middle:])
    return [dataclasses.replace(batch, entries=part) for part in parts if part]


def index_batch(batch: IndexBatch) -> BatchReport:
    """Fingerprint the files of a batch and stage them in the store: the task that an executor runs.

    A file that cannot be read becomes a failure; the others go on.
    """
    began = time.monotonic()
    staged: list[StagedSong] = []
    failures: list[Failure] = []
    present: list[tuple[str, Entry]] = []
    cut_short = 0
    audio_s = 0.0
    for entry in batch.entries:
        try:
            song = within(timeout_s(entry.size_bytes, batch.limit_s), partial(_fingerprint_entry, entry, batch))
        except (SongprintError, OSError) as error:
            lasting = isinstance(error, AudioError) and not isinstance(error, NotTried)
            failures.append(Failure(printable_path(entry.path), _reason(error, entry), lasting))
        except MemoryError:
            failures.append(Failure(printable_path(entry.path), "out of memory; give workers more of it, or run fewer"))
        except Exception as error:  # a bug of ours or of a library: one song fails, not the run
            log.exception("%s: unexpected error", printable_path(entry.path))
            failures.append(Failure(printable_path(entry.path), f"unexpected {type(error).__name__}: {error}"))
        else:
            if isinstance(song, str):
                present.append((song, entry))
                continue
            staged.append(song)
            audio_s += song.duration_s
            cut_short += song.decoded_share < COMPLETE_SHARE
    manifest = stage(batch.store, batch.name, staged) if staged else None
    return BatchReport(
        manifest=manifest,
        failures=tuple(failures),
        present=tuple(present),
        cut_short=cut_short,
        audio_s=audio_s,
        busy_s=time.monotonic() - began,
    )


def _fingerprint_entry(entry: Entry, batch: IndexBatch) -> StagedSong | str:
    """One file as a song to stage; its digest alone when the store has its content already."""
    with catalog.local_copy(entry.path) as path:
        digest = catalog.digest(path)
        if digest in batch.known:
            return digest
        print_ = fingerprint(path, batch.settings, limit_s=batch.limit_s, stream=batch.stream)
        if len(print_.hashes) == 0:
            duration_s = print_.decoded.duration_s
            length, why = f"{duration_s:.1f} s", "silent or a steady tone"
            if duration_s < SHORTEST_SONG_S:
                length, why = f"{duration_s:.2f} s", f"too short: a song needs {SHORTEST_SONG_S:g} s or more"
            raise AudioError(f"{printable_path(entry.path)}: no landmarks in {length}; it is {why}")
        tags = read_tags(path)
    return StagedSong(
        path=printable_path(entry.path),
        tags=tags,
        duration_s=print_.decoded.duration_s,
        digest=digest,
        decoder=print_.decoded.decoder,
        sample_rate=print_.decoded.sample_rate,
        decoded_share=print_.decoded.decoded_share,
        size_bytes=entry.size_bytes,
        modified_ns=entry.modified_ns,
        hashes=print_.hashes,
        peaks=print_.peaks,
    )


def _reason(error: Exception, entry: Entry) -> str:
    """The message of an error without the path, which the failure's row has in another column."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.removeprefix(f"{printable_path(entry.path)}: ")


def _failures(outcome: Done[IndexBatch, BatchReport] | Died[IndexBatch]) -> Sequence[Failure]:
    if isinstance(outcome, Done):
        return outcome.result.failures
    return [Failure(printable_path(entry.path), outcome.reason, lasting=True) for entry in outcome.item.entries]
