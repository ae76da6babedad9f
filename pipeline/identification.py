"""An identify run: plan batches of clips, match them wherever the executor runs, give their rows in order.

The clips of a batch are matched together: each part of the store is read once for all of them. A file that is longer
than a clip is a recording. It is matched in sections while it is decoded, so that a day of it takes no more memory
than some minutes.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from pipeline import catalog
from pipeline.arguments import query_of, snapshot_of
from pipeline.audio import decoder, decoding
from pipeline.catalog import Entry
from pipeline.errors import AudioError, CatalogError, SongprintError
from pipeline.execution.cluster import ExecutorLike, open_executor
from pipeline.execution.executor import Died, Done, Executor, Progress, SerialExecutor, in_order
from pipeline.execution.timeouts import timeout_s, within
from pipeline.matching.clip import too_little_to_tell
from pipeline.matching.recording import Recording
from pipeline.matching.search import find_matches
from pipeline.matching.types import Match, Query
from pipeline.paths import Paths, is_url, printable_path
from pipeline.progress import OnProgress, shown
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
# The ends of a match are right within some two seconds: a shorter gap says nothing.
SHORTEST_GAP_S = 2.0

MATCHES = pa.schema(
    [
        ("clip", pa.string()),
        ("status", pa.string()),
        ("song_id", pa.int32()),
        ("song_path", pa.string()),
        ("title", pa.string()),
        ("artist", pa.string()),
        ("clip_start_s", pa.float64()),
        ("clip_end_s", pa.float64()),
        ("song_start_s", pa.float64()),
        ("song_end_s", pa.float64()),
        ("votes", pa.int32()),
        ("confidence", pa.float64()),
        ("speed", pa.float64()),
        ("message", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class ClipBatch:
    """Clips that one task identifies; their paths, as the user gave them, start from ``folder``."""

    snapshot: Snapshot
    query: Query
    entries: tuple[Entry, ...]
    folder: str
    limit_s: float | None


@dataclass(frozen=True, slots=True)
class BatchRows:
    """The rows of a batch of clips.

    Parameters
    ----------
    table
        In the schema `MATCHES`.
    audio_s
        Seconds of audio that were decoded.
    busy_s
        Seconds of wall time that the worker took.
    failures
        Clips that could not be read.
    duration_s
        The length of each clip that could be read, by its path as the table has it.
    """

    table: pa.Table
    audio_s: float
    busy_s: float
    failures: int
    duration_s: dict[str, float]


def identify(
    paths: Paths,
    store: Store | Snapshot,
    query: Query | None = None,
    executor: ExecutorLike = None,
    *,
    limit_s: float | None = None,
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
    tables = list(iter_matches(paths, store, query, executor, limit_s=limit_s, progress=progress))
    return pa.concat_tables(tables) if tables else MATCHES.empty_table()


def iter_matches(
    paths: Paths,
    store: Store | Snapshot,
    query: Query | None = None,
    executor: ExecutorLike = None,
    *,
    limit_s: float | None = None,
    progress: bool | OnProgress = False,
) -> Iterator[pa.Table]:
    """The rows of `identify` as they come, for results that are too large to hold.

    Parameters
    ----------
    paths, store, query, executor, limit_s, progress
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
            for rows in identify_entries(entries, snapshot, query, running, limit_s=limit_s, progress=on_progress):
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
    progress: Callable[[Progress], None] = lambda progress: None,
) -> Iterator[BatchRows]:
    """`identify` as a stream: the rows batch by batch, in the order of the entries."""
    executor = executor or SerialExecutor()
    snapshot = snapshot_of(store)
    batches = plan(entries, snapshot, query or Query(), executor.workers, limit_s)
    executor.require_visible([snapshot.url, *catalog.folders(entries)])
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
    entries: Sequence[Entry], snapshot: Snapshot, query: Query, workers: int, limit_s: float | None
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
            batches.append(ClipBatch(snapshot, query, entries=clips, folder=os.getcwd(), limit_s=limit_s))
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
    clips: list[_ClipResult] = []
    waiting: list[tuple[_ClipResult, NDArray[np.float32]]] = []
    for clip, samples in _decode_clips(batch, progress):
        clips.append(clip)
        if samples is not None:
            waiting.append((clip, samples))
        if len(waiting) >= CLIPS_AT_ONCE:
            _match_together(waiting, batch)
            waiting = []
    _match_together(waiting, batch)
    songs = _songs(batch.snapshot, {match.song_id for clip in clips for match in clip.matches})
    return BatchRows(
        table=pa.Table.from_pylist([row for clip in clips for row in _rows(clip, songs)], schema=MATCHES),
        audio_s=sum(clip.duration_s for clip in clips),
        busy_s=time.monotonic() - began,
        failures=sum(bool(clip.message) for clip in clips),
        duration_s={printable_path(clip.path): clip.duration_s for clip in clips if not clip.message},
    )


@dataclass(slots=True)
class _ClipResult:
    """What is known of one clip so far.

    Parameters
    ----------
    message
        Why it failed.
    remark
        Why nothing can be told of it, if it is unknown.
    """

    path: str
    matches: list[Match] = field(default_factory=list)
    duration_s: float = 0.0
    message: str = ""
    remark: str = ""
    sounds_s: tuple[float, float] = (0.0, math.inf)  # what lies before and behind it is silence


def _match_together(clips: Sequence[tuple[_ClipResult, NDArray[np.float32]]], batch: ClipBatch) -> None:
    found = find_matches([samples for _, samples in clips], batch.snapshot, batch.query)
    for (clip, samples), matches in zip(clips, found, strict=True):
        clip.matches = matches
        if not matches:
            clip.remark = too_little_to_tell(samples, batch.snapshot.settings)


def _decode_clips(
    batch: ClipBatch, progress: BatchProgress
) -> Iterator[tuple[_ClipResult, NDArray[np.float32] | None]]:
    """Each file of a batch in turn, and the samples of a clip that is still to be matched."""
    audio_s, size_bytes = 0.0, 0
    for entry in batch.entries:
        consumer = _FileConsumer(batch, entry, audio_s=audio_s, size_bytes=size_bytes, progress=progress)
        clip, samples = _decode_clip(consumer)
        audio_s += clip.duration_s
        size_bytes += entry.size_bytes
        yield clip, samples


def _decode_clip(consumer: _FileConsumer) -> tuple[_ClipResult, NDArray[np.float32] | None]:
    """One file: the samples of a clip, the matches of a recording, or the message of a failure."""
    entry, batch = consumer.entry, consumer.batch
    path = entry.path if is_url(entry.path) else os.path.join(batch.folder, entry.path)
    try:
        found, decoded = within(timeout_s(entry.size_bytes, batch.limit_s), partial(_decode, path, consumer))
    except (AudioError, CatalogError, OSError) as error:
        return _ClipResult(entry.path, message=str(error).replace(f"{printable_path(path)}: ", "")), None
    except SongprintError:  # the store's, not the clip's
        raise
    except Exception as error:  # one clip fails, not the batch
        log.exception("%s: unexpected error", printable_path(path))
        return _ClipResult(entry.path, message=f"unexpected {type(error).__name__}: {error}"), None
    if isinstance(found, list):
        return _ClipResult(entry.path, found, decoded.duration_s, sounds_s=(0.0, decoded.duration_s)), None
    sounds_s = _sounding_s(found, batch.snapshot.settings.sample_rate)
    return _ClipResult(entry.path, duration_s=decoded.duration_s, sounds_s=sounds_s), found


def _decode(path: str, consumer: _FileConsumer) -> tuple[NDArray[np.float32] | list[Match], decoder.Decoded]:
    batch = consumer.batch
    with catalog.local_copy(path) as local:
        rate = batch.snapshot.settings.sample_rate
        return decoding.decode(local, rate, consumer.consume, batch.limit_s, consumer.begin)


@dataclass(slots=True)
class _FileConsumer:
    """What `decoding.decode` gives a file's blocks to.

    Parameters
    ----------
    audio_s, size_bytes
        Of the files of the batch before this one, for the progress.
    """

    batch: ClipBatch
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
        return _clip_or_matches(blocks, self.batch.snapshot, self.batch.query, self._report)

    def _report(self, duration_s: float) -> None:
        """Report the progress within a recording."""
        share = min(duration_s / self.declared_s, 1.0) if self.declared_s else 0.0
        self.progress(self.audio_s + duration_s, self.size_bytes + share * self.entry.size_bytes)


def _clip_or_matches(
    blocks: Iterator[NDArray[np.float32]],
    snapshot: Snapshot,
    query: Query,
    report: Callable[[float], None] = lambda duration_s: None,
) -> NDArray[np.float32] | list[Match]:
    """The samples of a clip, to be matched together with others; of a recording, its matches.

    Parameters
    ----------
    report
        Called with the seconds of a recording that were searched.
    """
    longest = round(LONGEST_CLIP_S * snapshot.settings.sample_rate)
    start = _first_samples(blocks, longest + 1)
    if len(start) <= longest:
        return start
    recording = Recording(snapshot, query)
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


def _songs(snapshot: Snapshot, song_ids: set[int]) -> dict[int, dict[str, Any]]:
    table = snapshot.songs(["song_id", "path", "title", "artist", "duration_s"])
    wanted = table.filter(pc.is_in(table["song_id"], pa.array(sorted(song_ids), pa.int32())))
    return {row["song_id"]: row for row in wanted.to_pylist()}


def match_table(
    clip: str,
    matches: Sequence[Match],
    snapshot: Snapshot,
    sounds_s: tuple[float, float] = (0.0, math.inf),
    remark: str = "",
) -> pa.Table:
    """The rows of one clip in which these matches were found, in the schema `MATCHES`.

    Parameters
    ----------
    sounds_s
        Seconds at which the clip begins and ends to sound; no match is longer.
    remark
        Why nothing can be told of the clip, if there is no match.
    """
    songs = _songs(snapshot, {match.song_id for match in matches})
    return pa.Table.from_pylist(
        _rows(_ClipResult(clip, list(matches), remark=remark, sounds_s=sounds_s), songs), schema=MATCHES
    )


def _rows(clip: _ClipResult, songs: dict[int, dict[str, Any]]) -> list[dict[str, object]]:
    path = printable_path(clip.path)
    if clip.message:
        return [{"clip": path, "status": "failed", "message": clip.message}]
    if not clip.matches:
        return [{"clip": path, "status": "unknown", "message": clip.remark or None}]
    return [
        {
            "clip": path,
            "status": "matched",
            "song_path": songs[match.song_id]["path"],
            "title": songs[match.song_id]["title"],
            "artist": songs[match.song_id]["artist"],
            **dataclasses.asdict(_within_bounds(match, clip.sounds_s, songs[match.song_id]["duration_s"])),
        }
        for match in sorted(clip.matches, key=lambda match: match.clip_start_s)
    ]


def _within_bounds(match: Match, sounds_s: tuple[float, float], song_s: float) -> Match:
    """The match without what lies outside of its song, or where the clip is silent.

    Parameters
    ----------
    song_s
        Duration of the song.
    """

    def in_clip(song_time_s: float) -> float:
        return match.clip_start_s + (song_time_s - match.song_start_s) / match.speed

    def in_song(clip_time_s: float) -> float:
        return match.song_start_s + (clip_time_s - match.clip_start_s) * match.speed

    start_s = max(match.clip_start_s, sounds_s[0], in_clip(0.0))
    end_s = min(match.clip_end_s, sounds_s[1], in_clip(song_s))
    if not start_s < end_s:
        return match
    return dataclasses.replace(
        match,
        clip_start_s=start_s + 0.0,  # no -0.0
        clip_end_s=end_s,
        song_start_s=max(in_song(start_s), 0.0) + 0.0,
        song_end_s=min(in_song(end_s), song_s),
    )


def with_gaps(rows: BatchRows) -> pa.Table:
    """The table of a batch, and a row for each stretch of a recording in which nothing is known.

    Parameters
    ----------
    rows
        As `identify_entries` gives them.

    Returns
    -------
    pyarrow.Table
        In the schema `MATCHES`. A stretch is ``unknown`` with ``clip_start_s`` and ``clip_end_s``, at least
        `SHORTEST_GAP_S` long; of a recording in which nothing was found it is the whole.
    """
    found: list[dict[str, Any]] = []
    for clip, of_clip in itertools.groupby(rows.table.to_pylist(), key=lambda row: row["clip"]):
        known_s, duration_s = 0.0, rows.duration_s.get(clip, 0.0)
        for row in of_clip:
            if row["status"] == "matched":
                found += [*_gap(clip, known_s, row["clip_start_s"]), row]
                known_s = max(known_s, row["clip_end_s"])
            elif row["status"] == "unknown":
                found.append(row | {"clip_start_s": 0.0, "clip_end_s": duration_s})
                known_s = duration_s
            else:
                found.append(row)
        found += _gap(clip, known_s, duration_s)
    return pa.Table.from_pylist(found, schema=MATCHES)


def _gap(clip: str, start_s: float, end_s: float) -> list[dict[str, Any]]:
    """The row of a gap, if it is long enough."""
    if end_s - start_s < SHORTEST_GAP_S:
        return []
    return [{"clip": clip, "status": "unknown", "clip_start_s": start_s, "clip_end_s": end_s}]


def _batch_rows(outcome: Done[ClipBatch, BatchRows] | Died[ClipBatch]) -> BatchRows:
    """The rows of a batch; when its process died, each of its clips has failed."""
    if isinstance(outcome, Done):
        return outcome.result
    failed = [_ClipResult(entry.path, message=outcome.reason) for entry in outcome.item.entries]
    table = pa.Table.from_pylist([row for clip in failed for row in _rows(clip, {})], schema=MATCHES)
    return BatchRows(table, audio_s=0.0, busy_s=0.0, failures=len(failed), duration_s={})
