"""An index run: plan batches of files, fingerprint them wherever the executor runs, commit in plan order.

Song ids are given at the commit, in the order of the paths, so a store's contents do not depend on the number of
workers, on which of them was faster, or on how often the run was interrupted. What is committed is never done again:
files that the store has (by path, size and time, else by content) are skipped.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from pipeline import catalog
from pipeline.arguments import require_store
from pipeline.audio.tags import read_tags
from pipeline.catalog import Entry
from pipeline.errors import AudioError, ClusterError, SongprintError
from pipeline.execution.cluster import ExecutorLike, open_executor
from pipeline.execution.executor import Died, Done, Executor, Progress, SerialExecutor, in_order
from pipeline.execution.timeouts import timeout_s, within
from pipeline.fingerprinting.extract import fingerprint
from pipeline.fingerprinting.settings import Settings
from pipeline.paths import Paths, is_url, path_exists, path_list, printable_path
from pipeline.progress import OnProgress, shown
from pipeline.store import Manifest, StagedSong, Store, stage

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
    """A file that gave no song, and why."""

    path: str
    reason: str


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
        Files that the store has already; ``moved`` of them it had under a path where there is no file any more.
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


def index(
    paths: Paths,
    store: Store,
    executor: ExecutorLike = None,
    *,
    limit_s: float | None = None,
    stream: int | None = None,
    progress: bool | OnProgress = False,
) -> IndexReport:
    """Fingerprint the songs under ``paths`` and add those that the store does not have.

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
        report = index_entries(entries, store, running, limit_s=limit_s, stream=stream, progress=on_progress)
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
    limit_s: float | None = None,
    stream: int | None = None,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> IndexReport:
    """`index` for files that were found already; calls ``progress`` after each batch."""
    began = time.monotonic()
    executor = executor or SerialExecutor()
    entries, present = new_entries([_with_absolute_path(entry) for entry in entries], store)
    batches = plan(entries, store, executor.workers, limit_s, stream)
    executor.require_visible([store.url, *catalog.folders(entries)])
    estimated_s = sum(map(audio_estimate_s, entries))
    failures: list[Failure] = []
    known: list[tuple[str, Entry]] = []
    done = added = cut_short = 0
    audio_s = busy_s = share = 0.0

    def on_outcome(outcome: Done[IndexBatch, BatchReport] | Died[IndexBatch]) -> None:
        nonlocal done, audio_s, busy_s, share
        done += len(outcome.item.entries)
        share += sum(map(audio_estimate_s, outcome.item.entries)) / max(estimated_s, 1e-9)
        if isinstance(outcome, Done):
            audio_s += outcome.result.audio_s
            busy_s += outcome.result.busy_s
        failures.extend(_failures(outcome))
        report()

    def report() -> None:
        progress(Progress(done=done, total=len(entries), share=share, audio_s=audio_s, failures=len(failures)))

    report()
    staged: list[Manifest] = []
    committed = time.monotonic()

    def commit(in_process: bool = False) -> None:
        nonlocal added, present, staged, committed
        ids = store.commit(staged, map=map if in_process else executor.map) if staged else []
        added += len(ids)
        present += sum(len(manifest.songs) for manifest in staged) - len(ids)  # files of this run with the same content
        staged, committed = [], time.monotonic()

    try:
        for outcome in in_order(executor, index_batch, batches, halve, on_outcome):
            if isinstance(outcome, Done):
                known += outcome.result.present
                cut_short += outcome.result.cut_short
                if outcome.result.manifest is not None:
                    staged.append(outcome.result.manifest)
            if time.monotonic() - committed > COMMIT_EVERY_S:
                commit()
    except (KeyboardInterrupt, ClusterError):  # stopped, or without workers
        commit(in_process=True)
        raise
    commit()
    failures.sort(key=lambda failure: failure.path)
    present += len(known)
    moved = update_paths(known, store)
    return IndexReport(
        added=added,
        present=present,
        moved=moved,
        cut_short=cut_short,
        failures=tuple(failures),
        audio_s=audio_s,
        busy_s=busy_s,
        wall_s=time.monotonic() - began,
    )


def update_paths(files: Sequence[tuple[str, Entry]], store: Store) -> int:
    """Update the path, size and time of songs whose files were moved or touched.

    Parameters
    ----------
    files
        With the digest of each, which the store has.

    Returns
    -------
    int
        Songs that have a new path. A copy of a song whose file is still there changes nothing.
    """
    if not files:
        return 0
    songs = store.snapshot().songs(["song_id", "path", "digest"])
    wanted = {digest for digest, _ in files}
    by_digest = {row["digest"]: row for row in songs.to_pylist() if row["digest"] in wanted}
    changes: dict[int, Entry] = {}
    moved = 0
    for digest, entry in files:
        song = by_digest.get(digest)
        if song is None or song["song_id"] in changes:
            continue
        missing = not is_url(song["path"]) and not path_exists(song["path"])
        if missing or song["path"] == printable_path(entry.path):
            changes[song["song_id"]] = entry
            moved += missing
    store.update(
        list(changes),
        {
            "path": [printable_path(entry.path) for entry in changes.values()],
            "size_bytes": [entry.size_bytes for entry in changes.values()],
            "modified_ns": [entry.modified_ns for entry in changes.values()],
        },
    )
    return moved


def new_entries(entries: Sequence[Entry], store: Store) -> tuple[list[Entry], int]:
    """Leave out the files that the store has as they are: same path, size and time. Also how many those were."""
    songs = store.snapshot().songs(["path", "size_bytes", "modified_ns"])
    have = set(zip(*(songs[name].to_pylist() for name in songs.column_names), strict=True))
    new = [entry for entry in entries if (printable_path(entry.path), entry.size_bytes, entry.modified_ns) not in have]
    return new, len(entries) - len(new)


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
            failures.append(Failure(printable_path(entry.path), _reason(error, entry)))
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
    return [Failure(printable_path(entry.path), outcome.reason) for entry in outcome.item.entries]
