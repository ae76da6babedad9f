"""An identify run: plan batches of clips, match them wherever the executor runs, give their rows in order.

The clips of a batch are matched together: each part of the store is read once for all of them. A file that is longer
than a clip is a recording. It is matched in sections while it is decoded, so that a day of it takes no more memory
than some minutes.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from pipeline import catalog
from pipeline.arguments import query_of, snapshot_of
from pipeline.audio import decoder, decoding
from pipeline.catalog import Entry
from pipeline.errors import AudioError, CatalogError, SongprintError
from pipeline.execution.cluster import ExecutorLike, open_executor
from pipeline.execution.executor import Died, Done, Executor, MapTasks, Progress, SerialExecutor, in_order
from pipeline.execution.timeouts import timeout_s, within
from pipeline.match_rows import MATCHES, BatchRows, ClipResult, match_table, results_table
from pipeline.matching.clip import too_little_to_tell
from pipeline.matching.recording import Recording
from pipeline.matching.search import find_matches
from pipeline.matching.types import Library, Match, Query
from pipeline.paths import Paths, is_url, printable_path
from pipeline.progress import OnProgress, shown
from pipeline.shard_search import SharedLibrary, group_shards
from pipeline.store import Snapshot, Store

log = logging.getLogger(__name__)

# A longer clip is a recording: it may hold several songs.
LONGEST_CLIP_S = 15.0
# Matched together: each part of a large store is read once for all of them.
CLIPS_AT_ONCE = 256
# A task has at least so many, and more only when all workers have as many.
CLIPS_A_TASK = 64
# One task: about a minute of work. An MP3 of 10 s, some 200 kB, takes 50 ms.
BATCH_BYTES = 200_000_000
BATCHES_PER_WORKER = 6
# A clip costs at least as much as so many bytes, however short it is.
BYTES_PER_CLIP = 200_000

# A clip sounds where its loudest sample in a step reaches this share of its loudest.
SILENCE_SHARE = 0.001
SOUND_STEP_S = 0.05


@dataclass(frozen=True, slots=True)
class ClipBatch:
    """Clips that one task identifies; their paths, as the user gave them, start from ``folder``.

    Parameters
    ----------
    groups
        Numbers of the shards that are searched together, each group by a task of its own beside this one; none: this
        task searches all shards.
    map_beside
        As for an `Executor`, if there are groups.
    """

    snapshot: Snapshot
    query: Query
    entries: tuple[Entry, ...]
    folder: str
    limit_s: float | None
    stream: int | None
    groups: tuple[tuple[int, ...], ...] = ()
    map_beside: Callable[[], MapTasks[Any, Any]] | None = None

    def open_library(self) -> Library:
        """The library to search; called by the task, first of all."""
        if self.map_beside is None or not self.groups:
            return self.snapshot
        return SharedLibrary(self.snapshot, self.groups, self.map_beside())


def identify(
    paths: Paths,
    store: Store | Snapshot,
    query: Query | None = None,
    executor: ExecutorLike = None,
    *,
    limit_s: float | None = None,
    stream: int | None = None,
    progress: bool | OnProgress = False,
) -> pa.Table:
    """Name the songs in the clips and recordings under ``paths``.

    Parameters
    ----------
    paths
        A file or folder, or several of them, local or fsspec URLs.
    store
        A store, or one version of it (`Store.snapshot`).
    query
        What this run chooses; the defaults when ``None``.
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
    pyarrow.Table
        One row per match, sorted by clip and start, in the schema `MATCHES`: ``status`` is ``matched``, ``unknown``
        (one row, no song was found; ``message`` says so if the clip is too short or too empty to tell) or ``failed``
        (``message`` says why).

    Raises
    ------
    CatalogError
        If a path does not exist or holds no audio file.
    ParameterError
        If an argument is out of range.
    """
    tables = list(iter_matches(paths, store, query, executor, limit_s=limit_s, stream=stream, progress=progress))
    return pa.concat_tables(tables) if tables else MATCHES.empty_table()


def iter_matches(
    paths: Paths,
    store: Store | Snapshot,
    query: Query | None = None,
    executor: ExecutorLike = None,
    *,
    limit_s: float | None = None,
    stream: int | None = None,
    progress: bool | OnProgress = False,
) -> Iterator[pa.Table]:
    """The rows of `identify` as they come, for results that are too large to hold.

    Parameters
    ----------
    paths, store, query, executor, limit_s, stream, progress
        As for `identify`. They are checked at the call, before the first table.

    Yields
    ------
    pyarrow.Table
        The rows of a batch of clips, which are those of `identify`, in the same order.

    Raises
    ------
    CatalogError, ParameterError
        As `identify`.
    """
    snapshot, query = snapshot_of(store), query_of(query)
    entries = catalog.walk(paths)
    running = open_executor(executor)

    def tables() -> Iterator[pa.Table]:
        with shown(progress, "identify") as on_progress:
            for rows in identify_entries(
                entries, snapshot, query, running, limit_s=limit_s, stream=stream, progress=on_progress
            ):
                yield rows.table

    return tables()


def identify_samples(
    samples: ArrayLike, sample_rate: float, store: Store | Snapshot, query: Query | None = None
) -> pa.Table:
    """Name the songs in samples in memory.

    Parameters
    ----------
    samples
        ``(n,)`` or ``(n, channels)`` floating point, about -1 to 1; a clip or a recording, however long.
    sample_rate
        Hz.
    store
        A store, or one version of it. For many clips give a version (`Store.snapshot`): what it has read it keeps.
    query
        What this run chooses; the defaults when ``None``.

    Returns
    -------
    pyarrow.Table
        The rows that `identify` gives for a file with these samples; ``clip`` is an empty text.

    Raises
    ------
    ParameterError
        If an argument is out of range.
    """
    snapshot, query = snapshot_of(store), query_of(query)
    blocks, decoded = decoding.array_blocks(samples, sample_rate, snapshot.settings.sample_rate)
    found = _clip_or_matches(blocks, snapshot, query)
    matches = found if isinstance(found, list) else find_matches([found], snapshot, query)[0]
    whole_s = (0.0, decoded.duration_s)
    sounds_s = whole_s if isinstance(found, list) else _sounding_s(found, snapshot.settings.sample_rate)
    remark = "" if isinstance(found, list) or matches else too_little_to_tell(found, snapshot.settings)
    return match_table("", matches, snapshot, sounds_s, remark)


def identify_entries(
    entries: Sequence[Entry],
    store: Store | Snapshot,
    query: Query | None = None,
    executor: Executor | None = None,
    *,
    limit_s: float | None = None,
    stream: int | None = None,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> Iterator[BatchRows]:
    """`identify` as a stream: the rows batch by batch, in the order of the entries."""
    executor = executor or SerialExecutor()
    snapshot = snapshot_of(store)
    executor.require_visible([snapshot.url, *catalog.folders(entries)])
    batches = plan(entries, snapshot, query or Query(), executor.workers, limit_s, stream)
    if executor.map_beside is not None:
        groups = group_shards(snapshot.shard_numbers, executor.workers)
        batches = [dataclasses.replace(batch, groups=groups, map_beside=executor.map_beside) for batch in batches]
    total_bytes = sum(entry.size_bytes for entry in entries) + len(entries)
    done = failures = 0
    audio_s = share = 0.0

    def on_outcome(outcome: Done[ClipBatch, BatchRows] | Died[ClipBatch]) -> None:
        nonlocal done, audio_s, failures, share
        done += len(outcome.item.entries)
        share += sum(entry.size_bytes + 1 for entry in outcome.item.entries) / total_bytes
        rows = _batch_rows(outcome)
        audio_s += rows.audio_s
        failures += rows.failures
        report(0.0, 0.0)

    def report(batch_audio_s: float, batch_bytes: float) -> None:
        """The progress of the batches that are done, and of one that runs."""
        progress(
            Progress(
                done=done,
                total=len(entries),
                share=share + batch_bytes / total_bytes,
                audio_s=audio_s + batch_audio_s,
                failures=failures,
            )
        )

    # A day of audio takes minutes: when the work is done in this process, its progress is seen.
    in_process = isinstance(executor, SerialExecutor)
    task = partial(identify_batch, progress=report) if in_process else identify_batch
    report(0.0, 0.0)
    for outcome in in_order(executor, task, batches, halve, on_outcome):
        yield _batch_rows(outcome)


def plan(
    entries: Sequence[Entry],
    snapshot: Snapshot,
    query: Query,
    workers: int,
    limit_s: float | None,
    stream: int | None = None,
) -> list[ClipBatch]:
    """Cut the clips, in their order, into batches of about the same work."""
    weights = [BYTES_PER_CLIP + entry.size_bytes for entry in entries]
    share = sum(weights) / workers
    least = max(BYTES_PER_CLIP * CLIPS_A_TASK, min(BYTES_PER_CLIP * CLIPS_AT_ONCE, share))
    target = min(BATCH_BYTES, max(least, share / BATCHES_PER_WORKER))
    batches: list[ClipBatch] = []
    first = filled = 0
    for place, weight in enumerate(weights, start=1):
        filled += weight
        if filled >= target or place == len(weights):
            clips = tuple(entries[first:place])
            batches.append(
                ClipBatch(snapshot, query, entries=clips, folder=os.getcwd(), limit_s=limit_s, stream=stream)
            )
            first, filled = place, 0
    return batches


def halve(batch: ClipBatch) -> list[ClipBatch]:
    """Two batches with half of the clips each; one clip cannot be halved."""
    middle = len(batch.entries) // 2
    parts = (batch.entries[:middle], batch.entries[middle:])
    return [dataclasses.replace(batch, entries=part) for part in parts if part]


BatchProgress: TypeAlias = Callable[[float, float], None]
"""Called while a recording is decoded, with the seconds of audio and about the bytes that its batch has come to."""


def identify_batch(batch: ClipBatch, progress: BatchProgress = lambda audio_s, size_bytes: None) -> BatchRows:
    """Decode the clips of a batch, match them, and make their rows: the task that an executor runs."""
    began = time.monotonic()
    library = batch.open_library()
    clips: list[ClipResult] = []
    waiting: list[tuple[ClipResult, NDArray[np.float32]]] = []
    for clip, samples in _decode_clips(batch, library, progress):
        clips.append(clip)
        if samples is not None:
            waiting.append((clip, samples))
        if len(waiting) >= CLIPS_AT_ONCE:
            _match_together(waiting, library, batch.query)
            waiting = []
    _match_together(waiting, library, batch.query)
    return BatchRows(
        table=results_table(clips, batch.snapshot),
        audio_s=sum(clip.duration_s for clip in clips),
        busy_s=time.monotonic() - began,
        failures=sum(bool(clip.message) for clip in clips),
        duration_s={printable_path(clip.path): clip.duration_s for clip in clips if not clip.message},
    )


def _match_together(clips: Sequence[tuple[ClipResult, NDArray[np.float32]]], library: Library, query: Query) -> None:
    found = find_matches([samples for _, samples in clips], library, query)
    for (clip, samples), matches in zip(clips, found, strict=True):
        clip.matches = matches
        if not matches:
            clip.remark = too_little_to_tell(samples, library.settings)


def _decode_clips(
    batch: ClipBatch, library: Library, progress: BatchProgress
) -> Iterator[tuple[ClipResult, NDArray[np.float32] | None]]:
    """Each file of a batch in turn, and the samples of a clip that is still to be matched."""
    audio_s, size_bytes = 0.0, 0
    for entry in batch.entries:
        consumer = _FileConsumer(batch, library, entry, audio_s=audio_s, size_bytes=size_bytes, progress=progress)
        clip, samples = _decode_clip(consumer)
        audio_s += clip.duration_s
        size_bytes += entry.size_bytes
        yield clip, samples


def _decode_clip(consumer: _FileConsumer) -> tuple[ClipResult, NDArray[np.float32] | None]:
    """One file: the samples of a clip, the matches of a recording, or the message of a failure."""
    entry, batch = consumer.entry, consumer.batch
    path = entry.path if is_url(entry.path) else os.path.join(batch.folder, entry.path)
    try:
        found, decoded = within(timeout_s(entry.size_bytes, batch.limit_s), partial(_decode, path, consumer))
    except (AudioError, CatalogError, OSError) as error:
        return ClipResult(entry.path, message=str(error).replace(f"{printable_path(path)}: ", "")), None
    except SongprintError:  # the store's, not the clip's
        raise
    except Exception as error:  # one clip fails, not the batch
        log.exception("%s: unexpected error", printable_path(path))
        return ClipResult(entry.path, message=f"unexpected {type(error).__name__}: {error}"), None
    if isinstance(found, list):
        return ClipResult(entry.path, found, decoded.duration_s, sounds_s=(0.0, decoded.duration_s)), None
    sounds_s = _sounding_s(found, batch.snapshot.settings.sample_rate)
    return ClipResult(entry.path, duration_s=decoded.duration_s, sounds_s=sounds_s), found


def _decode(path: str, consumer: _FileConsumer) -> tuple[NDArray[np.float32] | list[Match], decoder.Decoded]:
    batch = consumer.batch
    with catalog.local_copy(path) as local:
        rate = batch.snapshot.settings.sample_rate
        return decoding.decode(local, rate, consumer.consume, batch.limit_s, consumer.begin, batch.stream)


@dataclass(slots=True)
class _FileConsumer:
    """What `decoding.decode` gives a file's blocks to.

    Parameters
    ----------
    audio_s, size_bytes
        Of the files of the batch before this one, for the progress.
    """

    batch: ClipBatch
    library: Library
    entry: Entry
    audio_s: float
    size_bytes: int
    progress: BatchProgress
    declared_s: float | None = None

    def begin(self, declared_s: float | None) -> None:
        """Take the duration that the file declares, if it does."""
        self.declared_s = declared_s

    def consume(self, blocks: Iterator[NDArray[np.float32]]) -> NDArray[np.float32] | list[Match]:
        """The samples of a clip, to be matched together with others; of a recording, its matches."""
        return _clip_or_matches(blocks, self.library, self.batch.query, self._report)

    def _report(self, duration_s: float) -> None:
        """Report the progress within a recording."""
        share = min(duration_s / self.declared_s, 1.0) if self.declared_s else 0.0
        self.progress(self.audio_s + duration_s, self.size_bytes + share * self.entry.size_bytes)


def _clip_or_matches(
    blocks: Iterator[NDArray[np.float32]],
    library: Library,
    query: Query,
    report: Callable[[float], None] = lambda duration_s: None,
) -> NDArray[np.float32] | list[Match]:
    """The samples of a clip, to be matched together with others; of a recording, its matches.

    Parameters
    ----------
    report
        Called with the seconds of a recording that were searched.
    """
    longest = round(LONGEST_CLIP_S * library.settings.sample_rate)
    start = _first_samples(blocks, longest + 1)
    if len(start) <= longest:
        return start
    recording = Recording(library, query)
    for samples in itertools.chain([start], blocks):
        recording.feed(samples)
        report(recording.duration_s)
    return recording.finish()


def _first_samples(blocks: Iterator[NDArray[np.float32]], n_samples: int) -> NDArray[np.float32]:
    """At least so many samples, if there are, in whole blocks."""
    parts = [np.zeros(0, np.float32)]
    count = 0
    for block in blocks:
        parts.append(block)
        count += len(block)
        if count >= n_samples:
            break
    return np.concatenate(parts)


def _sounding_s(samples: NDArray[np.float32], sample_rate: int) -> tuple[float, float]:
    """Where a clip begins and ends to sound, in seconds: above 60 dB below its loudest sample."""
    block = max(1, round(SOUND_STEP_S * sample_rate))
    peaks = np.maximum.reduceat(np.abs(samples), np.arange(0, len(samples), block)) if len(samples) else samples
    loud = np.flatnonzero(peaks > SILENCE_SHARE * peaks.max(initial=0.0))
    if len(loud) == 0:
        return 0.0, len(samples) / sample_rate
    return loud[0] * block / sample_rate, min((loud[-1] + 1) * block, len(samples)) / sample_rate


def _batch_rows(outcome: Done[ClipBatch, BatchRows] | Died[ClipBatch]) -> BatchRows:
    """The rows of a batch; when its process died, each of its clips has failed."""
    if isinstance(outcome, Done):
        return outcome.result
    failed = [ClipResult(entry.path, message=outcome.reason) for entry in outcome.item.entries]
    return BatchRows(
        results_table(failed, outcome.item.snapshot), audio_s=0.0, busy_s=0.0, failures=len(failed), duration_s={}
    )
