"""What a query run is: plan batches of clips, ask the store for them wherever the executor runs, answer in order.

The clips of a batch are asked together: each part of the store is read once for all. What is longer than a clip is a
recording, heard stretch by stretch as it is decoded, so that a day of it costs no more memory than some minutes.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline import catalog
from pipeline.audio import decoder, decoding
from pipeline.catalog import Entry
from pipeline.errors import AudioError, CatalogError, SongprintError
from pipeline.execution.executor import Died, Done, Executor, Loop, Progress, in_order
from pipeline.execution.timeouts import patience_s, within
from pipeline.matching.recording import Recording
from pipeline.matching.search import recognise
from pipeline.matching.types import Match, Query
from pipeline.paths import is_url, printable_path
from pipeline.store import Snapshot, Store

log = logging.getLogger(__name__)

# A longer clip is a recording: it may hold several songs.
LONGEST_CLIP_S = 15.0
# Asked at once: each part of a large store is read once for all of them (`Effort.together` bounds the memory).
CLIPS_AT_ONCE = 256
# A task has at least so many, and more only when all workers have as many.
CLIPS_A_TASK = 64
# One task: at some 50 ms for these bytes of an MP3 of 10 s, about a minute.
BATCH_BYTES = 200_000_000
BATCHES_PER_WORKER = 6
# What a clip costs however short it is.
BYTES_PER_CLIP = 200_000

ANSWERS = pa.schema(
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
class Batch:
    """Clips that one task asks for; their paths, as the user gave them, start from ``folder``."""

    snapshot: Snapshot
    query: Query
    entries: tuple[Entry, ...]
    folder: str
    limit_s: float | None


@dataclass(frozen=True, slots=True)
class BatchAnswers:
    """The rows of a batch, how much audio was heard for them, and for how long a worker was busy with it.

    ``duration_s`` has the length of each clip that could be read, by its path as the table has it.
    """

    table: pa.Table
    audio_s: float
    busy_s: float
    failures: int
    duration_s: dict[str, float]


def identify(
    paths: Sequence[str],
    store: Store,
    query: Query | None = None,
    executor: Executor | None = None,
    *,
    limit_s: float | None = None,
) -> pa.Table:
    """Name the songs in the clips and recordings under ``paths``.

    Parameters
    ----------
    paths
        Files and folders, local or fsspec URLs.
    query
        What this run chooses; the defaults when ``None``.
    executor
        Where batches run; the plain loop in this process when ``None``.
    limit_s
        Seconds that one file may take.

    Returns
    -------
    pyarrow.Table
        One row per match, sorted by clip and start, in the schema `ANSWERS`: ``status`` is ``matched``, ``unknown``
        (one row, nothing stood out) or ``failed`` (``message`` says why).

    Raises
    ------
    CatalogError
        If a path does not exist or holds no audio file.
    """
    tables = [answers.table for answers in answer(catalog.walk(paths), store, query, executor, limit_s=limit_s)]
    return pa.concat_tables(tables) if tables else ANSWERS.empty_table()


def answer(
    entries: Sequence[Entry],
    store: Store,
    query: Query | None = None,
    executor: Executor | None = None,
    *,
    limit_s: float | None = None,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> Iterator[BatchAnswers]:
    """`identify` as a stream: the answers batch by batch, in the order of the entries."""
    executor = executor or Loop()
    snapshot = store.snapshot()
    batches = plan(entries, snapshot, query or Query(), executor.workers, limit_s)
    executor.must_see([snapshot.url, *catalog.folders(entries)])
    total_bytes = sum(entry.size_bytes for entry in entries) + len(entries)
    done = failures = 0
    audio_s = share = 0.0

    def seen(outcome: Done[Batch, BatchAnswers] | Died[Batch]) -> None:
        nonlocal done, audio_s, failures, share
        done += len(outcome.item.entries)
        share += sum(entry.size_bytes + 1 for entry in outcome.item.entries) / total_bytes
        answers = _answers(outcome)
        audio_s += answers.audio_s
        failures += answers.failures
        progress(Progress(done, len(entries), share, audio_s, failures))

    def hearing(seconds: float, size: float) -> None:
        progress(Progress(done, len(entries), share + size / total_bytes, audio_s + seconds, failures))

    # A day of audio takes minutes: when the work is done in this process, it is seen to go on.
    task = partial(identify_batch, hearing=hearing) if isinstance(executor, Loop) else identify_batch
    progress(Progress(0, len(entries), 0.0, 0.0, 0))
    for outcome in in_order(executor, task, batches, halve, seen):
        yield _answers(outcome)


def plan(
    entries: Sequence[Entry], snapshot: Snapshot, query: Query, workers: int, limit_s: float | None
) -> list[Batch]:
    """Cut the clips, in their order, into batches of about the same work."""
    weights = [BYTES_PER_CLIP + entry.size_bytes for entry in entries]
    share = sum(weights) / workers
    least = max(BYTES_PER_CLIP * CLIPS_A_TASK, min(BYTES_PER_CLIP * CLIPS_AT_ONCE, share))
    target = min(BATCH_BYTES, max(least, share / BATCHES_PER_WORKER))
    batches: list[Batch] = []
    first = asked = 0
    for place, weight in enumerate(weights, start=1):
        asked += weight
        if asked >= target or place == len(weights):
            batches.append(Batch(snapshot, query, tuple(entries[first:place]), os.getcwd(), limit_s))
            first, asked = place, 0
    return batches


def halve(batch: Batch) -> list[Batch]:
    """Two batches with half of the clips each; one clip cannot be halved."""
    middle = len(batch.entries) // 2
    parts = (batch.entries[:middle], batch.entries[middle:])
    return [dataclasses.replace(batch, entries=part) for part in parts if part]


@dataclass(slots=True)
class _Heard:
    """What is known of one clip so far."""

    matches: list[Match] = field(default_factory=list)
    duration_s: float = 0.0
    message: str = ""


def identify_batch(batch: Batch, hearing: Callable[[float, float], None] = lambda seconds, size: None) -> BatchAnswers:
    """Decode the clips of a batch, ask for them, and make their rows: the task that an executor runs.

    Parameters
    ----------
    hearing
        Called while a recording is heard, with the seconds of audio and about the bytes that the batch has come to.
    """
    began = time.monotonic()
    heard: list[_Heard] = []
    waiting: list[tuple[_Heard, NDArray[np.float32]]] = []
    declared_s: float | None = None
    longest = round(LONGEST_CLIP_S * batch.snapshot.settings.sample_rate)

    def ask() -> None:
        found = recognise([samples for _, samples in waiting], batch.snapshot, batch.query)
        for (clip, _), matches in zip(waiting, found, strict=True):
            clip.matches = matches
        waiting.clear()

    def begun(seconds: float | None) -> None:
        nonlocal declared_s
        declared_s = seconds

    def listen(blocks: Iterator[NDArray[np.float32]]) -> NDArray[np.float32] | list[Match]:
        """A clip's samples, to be asked for with others, or what was found in a recording."""
        start = _first(blocks, longest + 1)
        if len(start) <= longest:
            return start
        recording = Recording(batch.snapshot, batch.query)
        before_s = sum(clip.duration_s for clip in heard)
        before, entry = batch.entries[: len(heard)], batch.entries[len(heard)]
        for samples in itertools.chain([start], blocks):
            recording.hear(samples)
            part = min(recording.heard_s / declared_s, 1.0) if declared_s else 0.0
            size = sum(one.size_bytes for one in before) + part * entry.size_bytes
            hearing(before_s + recording.heard_s, size)
        return recording.finish()

    for entry in batch.entries:
        clip, samples = _heard(entry, listen, begun, batch)
        heard.append(clip)
        if samples is not None:
            waiting.append((clip, samples))
        if len(waiting) >= CLIPS_AT_ONCE:
            ask()
    ask()
    songs = _songs(batch.snapshot, {match.song_id for clip in heard for match in clip.matches})
    rows = [row for entry, clip in zip(batch.entries, heard, strict=True) for row in _rows(entry.path, clip, songs)]
    return BatchAnswers(
        pa.Table.from_pylist(rows, schema=ANSWERS),
        sum(clip.duration_s for clip in heard),
        time.monotonic() - began,
        sum(bool(clip.message) for clip in heard),
        {
            printable_path(entry.path): clip.duration_s
            for entry, clip in zip(batch.entries, heard, strict=True)
            if not clip.message
        },
    )


def _first(blocks: Iterator[NDArray[np.float32]], n_samples: int) -> NDArray[np.float32]:
    """At least so many samples, if there are, in whole blocks."""
    parts = [np.zeros(0, np.float32)]
    count = 0
    for block in blocks:
        parts.append(block)
        count += len(block)
        if count >= n_samples:
            break
    return np.concatenate(parts)


def _heard(
    entry: Entry,
    listen: Callable[[Iterator[NDArray[np.float32]]], NDArray[np.float32] | list[Match]],
    begun: Callable[[float | None], None],
    batch: Batch,
) -> tuple[_Heard, NDArray[np.float32] | None]:
    """One clip, decoded and listened to, and its samples if it is still to be asked for.

    What goes wrong with it is its message.
    """
    path = entry.path if is_url(entry.path) else os.path.join(batch.folder, entry.path)

    def decode() -> tuple[NDArray[np.float32] | list[Match], decoder.Decoded]:
        with catalog.local_copy(path) as local:
            return decoding.decode(local, batch.snapshot.settings.sample_rate, listen, batch.limit_s, begun)

    try:
        result, decoded = within(patience_s(entry.size_bytes, batch.limit_s), decode)
    except (AudioError, CatalogError, OSError) as error:
        return _Heard(message=str(error).replace(f"{printable_path(path)}: ", "")), None
    except SongprintError:  # the store's, not the clip's
        raise
    except Exception as error:  # one clip is lost, not the batch
        log.exception("%s: unexpected error", printable_path(path))
        return _Heard(message=f"unexpected {type(error).__name__}: {error}"), None
    if isinstance(result, list):
        return _Heard(result, decoded.duration_s), None
    return _Heard(duration_s=decoded.duration_s), result


def _songs(snapshot: Snapshot, song_ids: set[int]) -> dict[int, dict[str, str | None]]:
    table = snapshot.songs(["song_id", "path", "title", "artist"])
    wanted = table.filter(pc.is_in(table["song_id"], pa.array(sorted(song_ids), pa.int32())))
    return {row["song_id"]: row for row in wanted.to_pylist()}


def answer_table(clip: str, matches: Sequence[Match], snapshot: Snapshot) -> pa.Table:
    """The rows of one clip in which these matches were found, in the schema `ANSWERS`."""
    rows = _rows(clip, _Heard(list(matches)), _songs(snapshot, {match.song_id for match in matches}))
    return pa.Table.from_pylist(rows, schema=ANSWERS)


def _rows(path: str, clip: _Heard, songs: dict[int, dict[str, str | None]]) -> list[dict[str, object]]:
    path = printable_path(path)
    if clip.message:
        return [{"clip": path, "status": "failed", "message": clip.message}]
    if not clip.matches:
        return [{"clip": path, "status": "unknown"}]
    return [
        {
            "clip": path,
            "status": "matched",
            "song_path": songs[match.song_id]["path"],
            "title": songs[match.song_id]["title"],
            "artist": songs[match.song_id]["artist"],
            **dataclasses.asdict(match),
        }
        for match in sorted(clip.matches, key=lambda match: match.clip_start_s)
    ]


def _answers(outcome: Done[Batch, BatchAnswers] | Died[Batch]) -> BatchAnswers:
    if isinstance(outcome, Done):
        return outcome.result
    rows = [row for entry in outcome.item.entries for row in _rows(entry.path, _Heard(message=outcome.reason), {})]
    return BatchAnswers(pa.Table.from_pylist(rows, schema=ANSWERS), 0.0, 0.0, len(rows), {})
