"""The accuracy tables of the original article, and more, on the user's own music.

Clips are cut from the songs, degraded, and asked for: as they are, and once more with their own song hidden from the
library, which makes them strangers. Everything follows from the seed. The tables are made from one row per clip.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import catalog
from pipeline.audio import decoding, resampling
from pipeline.duplicates import COMMON, ONE_SOUND, compare, kind
from pipeline.errors import AudioError, CatalogError
from pipeline.evaluation.conditions import MOST_S, RATE, Plan, Surroundings, cut_clips, off_speed
from pipeline.fingerprinting.landmarks import Slices
from pipeline.fingerprinting.peaks import Peaks
from pipeline.fingerprinting.settings import Settings
from pipeline.matching.search import recognise
from pipeline.matching.types import Library, Match, Query, Shard
from pipeline.store import Snapshot

log = logging.getLogger(__name__)
START_ERROR_S = 0.1

ROWS = pa.schema(
    [
        ("clip", pa.string()),
        ("condition", pa.string()),
        ("length_s", pa.float64()),
        ("hidden", pa.bool_()),
        ("outcome", pa.string()),  # right, wrong, unknown, or copy: a hidden song's recording, in the library once more
        ("named", pa.string()),  # path of the song that was named
        ("confidence", pa.float64()),
        ("start_error_s", pa.float64()),
        ("match_s", pa.float64()),
    ]
)


@dataclass(frozen=True, slots=True)
class _ShardWithout:
    """A shard in which one song does not count."""

    shard: Shard
    song_id: int

    def find(self, hashes: NDArray[np.int32]) -> Slices:
        """As the shard has them."""
        return self.shard.find(hashes)

    def locate(self, position: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """As the shard has them, without the song."""
        song_id, offset = self.shard.locate(position)
        return np.where(song_id == self.song_id, np.int32(0), song_id), offset


@dataclass(frozen=True, slots=True)
class Without:
    """A library from which one song is hidden."""

    library: Library
    song_id: int

    @property
    def settings(self) -> Settings:
        """Of the library."""
        return self.library.settings

    @property
    def n_songs(self) -> int:
        """One fewer."""
        return self.library.n_songs - 1

    @property
    def shards(self) -> Sequence[Shard]:
        """Those of the library, with the other songs."""
        return [_ShardWithout(shard, self.song_id) for shard in self.library.shards]

    def constellations(self, song_ids: Iterable[int]) -> dict[int, Peaks]:
        """As the library has them."""
        return self.library.constellations(song_ids)


def evaluate(
    paths: Sequence[str],
    snapshot: Snapshot,
    query: Query,
    plan: Plan,
    around: Surroundings,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> pa.Table:
    """Cut, degrade and ask.

    Parameters
    ----------
    paths
        The user's songs; those that the store does not have are asked as strangers.

    Returns
    -------
    pyarrow.Table
        One row per clip and asking, in the schema `ROWS`.

    Raises
    ------
    CatalogError
        If a path leads to no audio file, or to none that a clip can be cut from.
    """
    songs = {song["song_id"]: song for song in snapshot.songs(["song_id", "digest", "path", "duration_s"]).to_pylist()}
    known = {song["digest"]: song_id for song_id, song in songs.items()}
    rng = np.random.default_rng([plan.seed, 1])
    entries = catalog.walk(paths)
    drawn = [entries[place] for place in sorted(rng.permutation(len(entries))[: plan.songs])]
    rows: list[dict[str, object]] = []
    _ask(around.noise[:RATE], snapshot, query)  # opens the store's files, which is not the first clip's cost
    for done, entry in enumerate(drawn):
        progress(done, len(drawn))
        try:
            with catalog.local_copy(entry.path) as local:
                song_id = known.get(catalog.digest(local))
                samples, _ = decoding.read(local, RATE, stop_s=MOST_S)
        except (AudioError, CatalogError) as error:
            log.warning("%s", error)
            continue
        asked: list[Asked] = []
        for condition, length_s, start_s, heard in cut_clips(samples, plan, around, rng):
            clip = np.concatenate([*resampling.resample_blocks([heard], RATE, snapshot.settings.sample_rate)])
            limits = dataclasses.replace(query, speed_range=max(query.speed_range, off_speed(condition)))
            libraries: list[Library] = [snapshot]
            if song_id is not None:
                libraries.append(Without(snapshot, song_id))
            for place, library in enumerate(libraries):
                best, match_s = _ask(clip, library, limits)
                hidden = song_id is None or place == 1
                asked.append(Asked(condition, length_s, hidden, start_s, best, match_s))
        copies = _copies(asked, song_id, snapshot, songs)
        rows += [{"clip": entry.path} | _row(one, song_id, copies, songs) for one in asked]
    progress(len(drawn), len(drawn))
    if not rows:
        raise CatalogError(f"{paths[0]}: no clip could be cut: the songs are shorter than the clips, silent, or broken")
    return pa.Table.from_pylist(rows, schema=ROWS)


@dataclass(frozen=True, slots=True)
class Asked:
    """One clip and its best answer; `start_s` is where it truly is in its song."""

    condition: str
    length_s: float
    hidden: bool
    start_s: float
    best: Match | None
    match_s: float


def _ask(clip: NDArray[np.float32], library: Library, query: Query) -> tuple[Match | None, float]:
    """The match with most votes, and the seconds that it took."""
    started = time.perf_counter()
    matches = recognise([clip], library, query)[0]
    return max(matches, key=lambda match: match.votes, default=None), time.perf_counter() - started


def _song_start_s(match: Match) -> float:
    """Where in the song the clip begins."""
    return match.song_start_s - match.clip_start_s * match.speed


def _copies(
    asked: Sequence[Asked], song_id: int | None, snapshot: Snapshot, songs: Mapping[int, Mapping[str, Any]]
) -> set[int]:
    """Of the songs named instead of one, those that hold the same recording, by the rules of `duplicates`.

    They are compared at the distances of the answers; what is a copy at one is a copy, since music repeats itself.
    """
    copies: set[int] = set()
    frame_s = snapshot.settings.frame_s
    for one in asked:
        if song_id is None or one.best is None or one.best.song_id in {song_id, *copies}:
            continue
        other = one.best.song_id
        peaks = snapshot.constellations([song_id, other])
        distance = round((_song_start_s(one.best) - one.start_s) / frame_s)
        spans = compare(peaks[song_id], peaks[other], [distance - 1], frame_s)
        if spans:
            what = kind(spans, songs[song_id]["duration_s"], songs[other]["duration_s"])
            if what != COMMON or max(span.peaks_share for span in spans) >= ONE_SOUND:
                copies.add(other)
    return copies


def _row(
    one: Asked, song_id: int | None, copies: set[int], songs: Mapping[int, Mapping[str, Any]]
) -> dict[str, object]:
    row: dict[str, object] = {name: getattr(one, name) for name in ("condition", "length_s", "hidden", "match_s")}
    if one.best is None:
        return row | {"outcome": "unknown"}
    row |= {"named": songs[one.best.song_id]["path"], "confidence": one.best.confidence}
    if one.best.song_id == song_id:
        return row | {"outcome": "right", "start_error_s": abs(_song_start_s(one.best) - one.start_s)}
    if one.best.song_id in copies:
        return row | {"outcome": "copy" if one.hidden else "right"}
    return row | {"outcome": "wrong"}
