"""The experiment of `songprint evaluate`: clips of the user's own songs are degraded and identified.

Each clip is identified twice: in the whole library, and in the library without its song, album or artist, where it is
an out-of-library clip. The seed fixes everything that is drawn. `pipeline.evaluation.metrics` makes the tables from the
rows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import catalog
from pipeline.arguments import query_of, snapshot_of
from pipeline.audio import decoding
from pipeline.audio.resampling import resample_blocks
from pipeline.catalog import Entry
from pipeline.errors import AudioError, CatalogError
from pipeline.evaluation.conditions import (
    LONGEST_READ_S,
    RATE,
    Plan,
    Surroundings,
    cut_clips,
    make_surroundings,
    widened,
)
from pipeline.execution.executor import Progress
from pipeline.fingerprinting.landmarks import Slices
from pipeline.fingerprinting.peaks import Peaks
from pipeline.matching.calibration import clip_threshold
from pipeline.matching.search import find_matches
from pipeline.matching.types import Library, Match, Query, Result, Shard
from pipeline.overlap import classify, find_spans
from pipeline.paths import Paths
from pipeline.progress import OnProgress, shown
from pipeline.store import Snapshot, Store

log = logging.getLogger(__name__)
START_ERROR_S = 0.1
LIKELY = 0.05  # a candidate with less confidence is not compared with the clip's song, to find whether it is a copy

ROWS = pa.schema(
    [
        ("clip", pa.string()),
        ("condition", pa.string()),
        ("length_s", pa.float64()),
        ("hidden", pa.bool_()),
        ("outcome", pa.string()),  # right, wrong, unknown, or copy: another song with the recording of a hidden one
        ("named", pa.string()),  # path of the song that was named
        ("confidence", pa.float64()),
        ("start_error_s", pa.float64()),
        ("match_s", pa.float64()),
        ("best_confidence", pa.float64()),  # of the best candidate, named or not; null where it was not kept
        ("best_right", pa.bool_()),  # null for a copy of a hidden song
    ]
)


@dataclass(frozen=True, slots=True)
class ShardWithout:
    """A shard without some of its songs; ``(n,)`` int32, rising."""

    shard: Shard
    song_ids: NDArray[np.int32]

    def find(self, hashes: NDArray[np.int32]) -> Slices:
        """As the shard has them."""
        return self.shard.find(hashes)

    def locate(self, position: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """As the shard has them, with song id 0 for the songs."""
        song_id, offset = self.shard.locate(position)
        return np.where(np.isin(song_id, self.song_ids), np.int32(0), song_id), offset


class LibraryWithout:
    """A library without some of its songs, for out-of-library clips.

    Parameters
    ----------
    song_ids
        The songs, all of them in the library.
    """

    def __init__(self, library: Library, song_ids: Iterable[int]) -> None:
        self.settings = library.settings
        self._library = library
        self._hidden = np.unique(np.array(list(song_ids), np.int32))
        self.n_songs = library.n_songs - len(self._hidden)

    def map_shards(self, task: Callable[[Sequence[Shard]], Result]) -> list[Result]:
        """As the library, with the other songs."""
        return self._library.map_shards(lambda shards: task([ShardWithout(one, self._hidden) for one in shards]))

    def constellations(self, song_ids: Iterable[int]) -> dict[int, Peaks]:
        """As the library has them."""
        return self._library.constellations(song_ids)


def evaluate(
    paths: Paths,
    store: Store | Snapshot,
    query: Query | None = None,
    plan: Plan | None = None,
    surroundings: Surroundings | None = None,
    progress: bool | OnProgress = False,
    stream: int | None = None,
) -> pa.Table:
    """Cut clips of the user's own songs, degrade them, and identify them.

    `pipeline.evaluation.metrics` has the tables that are made of the result, such as ``metrics.recall(rows)``.

    Parameters
    ----------
    paths
        The songs: a file or folder, or several. Clips of songs that the store does not have are out-of-library clips
        only.
    store
        A store, or one version of it (`Store.snapshot`).
    query
        How the clips are identified; the defaults when ``None``.
    plan
        What is cut and how it is degraded: a `pipeline.evaluation.conditions.Plan`; the default one when ``None``.
    surroundings
        Rooms and noise, as `pipeline.evaluation.conditions.make_surroundings` makes them; its defaults when ``None``.
    progress
        Whether to draw a bar, on a terminal or in a notebook; or a function that is called with each ``Progress``.
    stream
        Which audio stream of the songs, from 1; the default one of each when ``None``.

    Returns
    -------
    pyarrow.Table
        One row per trial, in the schema `ROWS`.

    Raises
    ------
    CatalogError
        If a path leads to no audio file, or to none that a clip can be cut from.
    ParameterError
        If an argument is out of range.
    """
    snapshot, query, plan = snapshot_of(store), query_of(query), plan or Plan()
    entries = catalog.walk(paths)
    surroundings = surroundings or make_surroundings(seed=plan.seed)
    with shown(progress, "evaluate") as on_progress:
        rows = _run_trials(entries, snapshot, query, plan, surroundings, on_progress, stream)
    if not rows:
        raise CatalogError(
            f"{entries[0].path}: no clip could be cut: the songs are shorter than the clips, silent, or broken"
        )
    return pa.Table.from_pylist(rows, schema=ROWS)


def _run_trials(
    entries: Sequence[Entry],
    snapshot: Snapshot,
    query: Query,
    plan: Plan,
    surroundings: Surroundings,
    on_progress: OnProgress,
    stream: int | None,
) -> list[dict[str, object]]:
    """The rows of all clips of the songs that are drawn."""
    columns = ["song_id", "digest", "path", "duration_s", "album", "artist"]
    songs = {song["song_id"]: song for song in snapshot.songs(columns).to_pylist()}
    known = {song["digest"]: song_id for song_id, song in songs.items()}
    rng = np.random.default_rng([plan.seed, 1])
    drawn = [entries[place] for place in sorted(rng.permutation(len(entries))[: plan.songs])]
    rows: list[dict[str, object]] = []
    _identify(surroundings.noise[:RATE], snapshot, query)  # opens the store's files, which no clip is to pay
    for done, entry in enumerate(drawn):
        on_progress(_progress(done, len(drawn)))
        try:
            with catalog.local_copy(entry.path) as local:
                song_id = known.get(catalog.digest(local))
                samples, _ = decoding.read(local, RATE, stop_s=LONGEST_READ_S, stream=stream)
        except (AudioError, CatalogError) as error:
            log.warning("%s", error)
            continue
        trials: list[Trial] = []
        for clip in cut_clips(samples, plan, surroundings, rng):
            resampled = np.concatenate([*resample_blocks([clip.samples], RATE, snapshot.settings.sample_rate)])
            libraries: list[tuple[Library, bool]] = [(snapshot, song_id is None)]
            if song_id is not None:
                libraries.append((LibraryWithout(snapshot, _hidden_with(song_id, songs, plan.hide)), True))
            for library, hidden in libraries:
                best, named, match_s = _identify(resampled, library, widened(query, clip.condition))
                trials.append(Trial(clip.condition, clip.length_s, hidden, clip.start_s, best, named, match_s))
        copies = _copies(trials, song_id, snapshot, songs)
        rows += [{"clip": entry.path} | _row(trial, song_id, copies, songs) for trial in trials]
    on_progress(_progress(len(drawn), len(drawn)))
    return rows


def _progress(done: int, total: int) -> Progress:
    return Progress(done=done, total=total, share=done / max(total, 1), audio_s=0.0, failures=0)


@dataclass(frozen=True, slots=True)
class Trial:
    """One clip, identified once.

    Parameters
    ----------
    hidden
        Whether the library has no song of this clip.
    start_s
        Where the clip truly begins in its song.
    best
        The match with most votes, or else the best candidate; None if there is none, or it was not kept.
    named
        Whether it is a match.
    match_s
        Seconds that it took, decoding excluded.
    """

    condition: str
    length_s: float
    hidden: bool
    start_s: float
    best: Match | None
    named: bool
    match_s: float


def _hidden_with(song_id: int, songs: Mapping[int, Mapping[str, Any]], hide: str) -> list[int]:
    """The songs that are hidden for a clip of a song: those of its album or artist; itself where it has no such tag."""
    value = None if hide == "song" else songs[song_id][hide]
    return [other for other, song in songs.items() if other == song_id or (value and song[hide] == value)]


def _identify(clip: NDArray[np.float32], library: Library, query: Query) -> tuple[Match | None, bool, float]:
    """The match with most votes or the best candidate, whether it is a match, and the seconds that it took.

    Where no other speed, pitch or tempo is searched, clips that stay unknown have a best candidate as well.
    """
    own = not (query.speed_range or query.pitch_range or query.tempo_range)
    needed = clip_threshold(query.false_positives)
    started = time.perf_counter()
    (matches,) = find_matches([clip], library, query, unnamed=own)
    match_s = time.perf_counter() - started
    named = [match for match in matches if match.confidence >= needed] if own else matches
    best = max(named or matches[:1], key=lambda match: match.votes, default=None)
    return best, bool(named), match_s


def _song_start_s(match: Match) -> float:
    """Where in the song the clip begins."""
    return match.song_start_s - match.clip_start_s * match.speed


def _copies(
    trials: Sequence[Trial], song_id: int | None, snapshot: Snapshot, songs: Mapping[int, Mapping[str, Any]]
) -> set[int]:
    """Songs that were named in place of another one and hold the same recording, by the rules of `duplicates`.

    Two songs are compared at the distance of each match. A song that is a copy at one distance is a copy at all, since
    music repeats itself.
    """
    copies: set[int] = set()
    frame_s = snapshot.settings.frame_s
    for trial in trials:
        if song_id is None or trial.best is None or trial.best.confidence < LIKELY:
            continue
        if trial.best.song_id in {song_id, *copies}:
            continue
        other = trial.best.song_id
        peaks = snapshot.constellations([song_id, other])
        distance = round((_song_start_s(trial.best) - trial.start_s) / frame_s)
        spans = find_spans(peaks[song_id], peaks[other], [distance - 1], frame_s)
        if classify(spans, songs[song_id]["duration_s"], songs[other]["duration_s"]) is not None:
            copies.add(other)
    return copies


def _row(
    trial: Trial, song_id: int | None, copies: set[int], songs: Mapping[int, Mapping[str, Any]]
) -> dict[str, object]:
    row: dict[str, object] = {name: getattr(trial, name) for name in ("condition", "length_s", "hidden", "match_s")}
    best = trial.best
    if best is None:
        return row | {"outcome": "unknown"}
    own, copy = best.song_id == song_id, best.song_id in copies
    right = None if copy and trial.hidden else own or copy
    row |= {"best_confidence": best.confidence, "best_right": right}
    if not trial.named:
        return row | {"outcome": "unknown"}
    row |= {"named": songs[best.song_id]["path"], "confidence": best.confidence}
    if own:
        return row | {"outcome": "right", "start_error_s": abs(_song_start_s(best) - trial.start_s)}
    return row | {"outcome": "copy" if right is None else "right" if right else "wrong"}
