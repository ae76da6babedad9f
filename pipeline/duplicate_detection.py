"""Duplicates: which songs of a library hold the same recording, and where.

Not every song is compared with every other. The postings are read in the order of their hashes: two songs are a
candidate if they share several hashes at the same distance in time. Only rare hashes count, since a hash of many songs
proves nothing and gives as many pairs as the square of their number. Then the constellations of each candidate are
compared, by the rules of `pipeline.overlap`.

A song that plays faster has all bins scaled up and all frames scaled down. So the hashes of each song are scaled to one
speed after another, and compared with those of the others.
"""

from __future__ import annotations

import logging
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.arguments import snapshot_of
from pipeline.errors import ParameterError
from pipeline.fingerprinting.landmarks import Postings, anchor_bins, pack, pair_peaks, unpack
from pipeline.fingerprinting.peaks import Peaks
from pipeline.fingerprinting.settings import BINS, MAX_BIN_DIFFERENCE, MIN_FRAME_DIFFERENCE, Settings
from pipeline.overlap import (
    CELL_BITS,
    COMMON,
    IDENTICAL,
    KINDS,
    MAX_DISTANCES,
    MIN_PAIRS,
    Overlap,
    Side,
    check_speed_range,
    compare_near,
    find_spans,
    overlap,
)
from pipeline.store import Snapshot, Store
from pipeline.store.schema import PART

log = logging.getLogger(__name__)

# Pairs of postings that are counted, for each song of the library: those of the rarest hashes.
PAIRS_PER_SONG = 20_000
# Steps of speed: at half a step a third of the hashes is left that two songs share at the exact speed.
SPEED_STEP = 0.005
# As `MIN_PAIRS`: each of many speeds is a chance to be wrong.
MIN_PAIRS_AT_SPEED = MIN_PAIRS + 1
# Songs whose hashes are in memory at once.
SIDES = 64
NO_POSTINGS = Postings(*(np.zeros(0, np.int32) for _ in range(3)))
# Counters of the first pass: 128 MB, whatever the size of the library.
COUNTER_BITS = 26
DUPLICATES = pa.schema(
    [
        ("group", pa.int32()),
        ("kind", pa.string()),
        ("song_id", pa.int32()),
        ("song_path", pa.string()),
        ("share", pa.float64()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("other_id", pa.int32()),
        ("other_path", pa.string()),
        ("other_share", pa.float64()),
        ("other_start_s", pa.float64()),
        ("other_end_s", pa.float64()),
        ("peaks_share", pa.float64()),
        ("spans", pa.string()),
        *(
            (f"{side}{name}", type_)
            for side in ("", "other_")
            for name, type_ in (
                ("duration_s", pa.float64()),
                ("size_bytes", pa.int64()),
                ("bitrate_kbps", pa.float64()),
                ("format", pa.string()),
            )
        ),
        ("speed", pa.float64()),
    ]
)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two songs that hold the same recording, or have a part in common; the smaller id first."""

    song_id: int
    other_id: int
    kind: str
    overlap: Overlap


def duplicates(store: Store | Snapshot, speed_range: float = 0.0) -> pa.Table:
    """Find the songs that hold the same recording, in whole or in part, and files that are the same; deletes nothing.

    Parameters
    ----------
    store
        A store, or one version of it (`Store.snapshot`).
    speed_range
        Percent by which one song may play faster than another, pitch and tempo alike, 0 to 20.

    Returns
    -------
    pyarrow.Table
        In the schema `DUPLICATES`, sorted by group, then pair. Songs that hold the same recording, also as an excerpt
        or cut differently, directly or through a third song, are one ``group``, which is the id of its first song: of
        n songs there are n - 1 rows, each of a song and one that it is compared with. Songs that only have an intro or
        a jingle in common are a group as well, whose number is below 0: minus the id of its first song. A row of the
        kind `IDENTICAL` is for a file with the content of a song.

        ``start_s`` to ``end_s``, and the same in the other song, reach from the first span in common to the last;
        ``spans`` has each, as ``start-end=start-end`` in seconds. ``share`` and ``other_share`` are the shares of each
        song that the spans cover. ``speed`` is how fast the other song plays, over the first. Groups that `accept` was
        given are left out, until another song comes to one.

    Raises
    ------
    ParameterError
        If an argument is something else, or out of range.
    """
    check_speed_range(speed_range)
    snapshot = snapshot_of(store)
    columns = ["song_id", "path", "duration_s", "size_bytes", "other_paths", "accepted"]
    songs = {row["song_id"]: row for row in snapshot.songs(columns).to_pylist()}
    pairs = find_pairs(snapshot, {song_id: song["duration_s"] for song_id, song in songs.items()}, speed_range)
    copies = _groups([(pair.song_id, pair.other_id) for pair in pairs if pair.kind != COMMON])
    copies = {song_id: song_id for song_id, song in songs.items() if song["other_paths"]} | copies
    parts = _groups([(pair.song_id, pair.other_id) for pair in pairs if pair.kind == COMMON])
    accepted = _accepted(copies, songs) | {-group for group in _accepted(parts, songs, PART)}
    rows = [
        _pair_row(pair, songs, -parts[pair.song_id] if pair.kind == COMMON else copies[pair.song_id])
        for pair in _spanning_pairs(pairs, copies)
    ]
    rows += [
        _copy_row(songs[song_id], path, group)
        for song_id, group in copies.items()
        for path in songs[song_id]["other_paths"] or ()
    ]
    rows = [row for row in rows if row["group"] not in accepted]
    rows.sort(key=lambda row: (row["group"] < 0, abs(row["group"]), row["song_id"], row["other_id"]))
    return pa.Table.from_pylist(rows, schema=DUPLICATES)


def find_pairs(snapshot: Snapshot, duration_s: Mapping[int, float], speed_range: float = 0.0) -> list[Pair]:
    """Find the pairs of songs that have something in common, by their ids.

    Parameters
    ----------
    duration_s
        Of each song.
    speed_range
        As for `duplicates`. At another speed only the same recording counts, no common intro or jingle.
    """
    max_count = _max_count(snapshot)
    candidates = find_candidates(snapshot, max_count)
    log.info("%d pairs of %d songs share hashes; comparing their peaks", len(candidates), len(duration_s))
    found: dict[tuple[int, int], Overlap] = {}
    for (first, second), distances in sorted(candidates.items()):
        peaks = snapshot.constellations([first, second])
        spans = find_spans(peaks[first], peaks[second], distances, snapshot.settings.frame_s)
        found[first, second] = overlap(spans, duration_s[first], duration_s[second])
    if speed_range > 0:
        found |= _at_other_speeds(snapshot, duration_s, speed_range, max_count, found)
    return [Pair(*key, one.kind, one) for key, one in sorted(found.items()) if one.kind is not None]


def _at_other_speeds(
    snapshot: Snapshot,
    duration_s: Mapping[int, float],
    speed_range: float,
    max_count: int,
    at_own_speed: Mapping[tuple[int, int], Overlap],
) -> dict[tuple[int, int], Overlap]:
    """The pairs that are the same recording only at another speed."""
    settings = snapshot.settings

    @lru_cache(maxsize=SIDES)
    def side(song_id: int) -> Side:
        peaks = snapshot.constellations([song_id])[song_id]
        return Side(peaks, pair_peaks(peaks, settings.fan_out), duration_s[song_id])

    candidates = _candidate_speeds(snapshot, speed_range, max_count)
    tried = sorted({*candidates, *at_own_speed} - {pair for pair, one in at_own_speed.items() if one.same})
    log.info("%d pairs share hashes at another speed; comparing their peaks", len(candidates))
    found = {}
    for first, second in tried:
        for speed in (1.0, *candidates.get((first, second), ())):
            one = compare_near(side(first), partial(_slowed, side(second), settings), speed, settings.frame_s)
            if one.same:
                found[first, second] = one
                break
    return found


def _slowed(song: Side, settings: Settings, speed: float) -> Side:
    """A song that plays at a speed, as it would be if it did not: by its peaks."""
    if speed == 1.0:
        return song
    frame = np.rint(song.peaks.frame * speed).astype(np.int32)
    bin_ = np.rint(song.peaks.bin / speed).astype(np.int32)
    order = np.lexsort((bin_, frame))
    order = order[bin_[order] < BINS]
    peaks = Peaks(frame[order], bin_[order], song.peaks.level[order])
    return Side(peaks, pair_peaks(peaks, settings.fan_out), song.duration_s * speed)


def accept(store: Store, groups: Iterable[int], found: pa.Table) -> None:
    """Remember in the store that the songs and files of some groups stay: `duplicates` lists them no more.

    Parameters
    ----------
    groups
        As ``found`` has them.
    found
        What `duplicates` gave.

    Raises
    ------
    ParameterError
        If there is no such group.
    """
    rows = found.select(["group", "song_id", "other_id"]).to_pylist()
    copies: list[set[int]] = []
    parts: list[set[int]] = []
    for group in groups:
        songs = {row[name] for row in rows if row["group"] == group for name in ("song_id", "other_id")}
        if not songs:
            raise ParameterError(f"there is no group {group}; `songprint duplicates` lists them")
        (parts if group < 0 else copies).append(songs)
    store.accept(copies, parts)


def _accepted(groups: Mapping[int, int], songs: Mapping[int, Mapping[str, Any]], kind: str = "") -> set[int]:
    """The groups whose songs were all accepted together.

    Parameters
    ----------
    groups
        By song id.
    kind
        What their tokens begin with: nothing, or `PART`. A copy that has got more files since then is another one.
    """
    common: dict[int, set[str]] = {}
    for song_id, group in groups.items():
        n_files = 0 if kind == PART else len(songs[song_id]["other_paths"] or ())
        split = (text.rpartition(":") for text in songs[song_id]["accepted"] or ())
        of_kind = ((token, had) for token, _, had in split if token.startswith(PART) == (kind == PART))
        tokens = {token for token, had in of_kind if had.isdecimal() and n_files <= int(had)}
        common[group] = common.get(group, tokens) & tokens
    return {group for group, tokens in common.items() if tokens}


def _spanning_pairs(pairs: Iterable[Pair], groups: Mapping[int, int]) -> list[Pair]:
    """As few pairs as connect the songs that all of them connect: those of the closest kind, then with a first song."""
    from scipy.cluster.hierarchy import DisjointSet

    kept: list[Pair] = []
    for common in (False, True):
        some = [pair for pair in pairs if (pair.kind == COMMON) == common]
        connected = DisjointSet({song_id for pair in some for song_id in (pair.song_id, pair.other_id)})
        some.sort(key=lambda pair: (KINDS.index(pair.kind), groups.get(pair.song_id) != pair.song_id))
        kept += [pair for pair in some if connected.merge(pair.song_id, pair.other_id)]
    return kept


def _pair_row(pair: Pair, songs: Mapping[int, Mapping[str, Any]], group: int) -> dict[str, Any]:
    song, other, found = songs[pair.song_id], songs[pair.other_id], pair.overlap
    length_s = sum(span.end_s - span.start_s for span in found.spans)
    spans = [found.seconds(span, song["duration_s"], other["duration_s"]) for span in found.spans]
    return {
        "group": group,
        "kind": pair.kind,
        "song_id": pair.song_id,
        "song_path": song["path"],
        "share": found.share,
        "start_s": spans[0][0][0],
        "end_s": spans[-1][0][1],
        "other_id": pair.other_id,
        "other_path": other["path"],
        "other_share": found.other_share,
        "other_start_s": min(start for _, (start, _) in spans),
        "other_end_s": max(end for _, (_, end) in spans),
        "peaks_share": sum(span.peaks_share * (span.end_s - span.start_s) for span in found.spans) / length_s,
        "spans": "; ".join("=".join(f"{start:.1f}-{end:.1f}" for start, end in sides) for sides in spans),
        "speed": found.speed,
        **_file(song, song["path"], ""),
        **_file(other, other["path"], "other_"),
    }


def _copy_row(song: Mapping[str, Any], path: str, group: int) -> dict[str, Any]:
    """The row of a file with the same content as a song's."""
    whole = f"0.0-{song['duration_s']:.1f}"
    return {
        "group": group,
        "kind": IDENTICAL,
        "song_id": song["song_id"],
        "song_path": song["path"],
        "share": 1.0,
        "start_s": 0.0,
        "end_s": song["duration_s"],
        "other_id": song["song_id"],
        "other_path": path,
        "other_share": 1.0,
        "other_start_s": 0.0,
        "other_end_s": song["duration_s"],
        "peaks_share": 1.0,
        "spans": f"{whole}={whole}",
        "speed": 1.0,
        **_file(song, song["path"], ""),
        **_file(song, path, "other_"),
    }


def _file(song: Mapping[str, Any], path: str, side: str) -> dict[str, Any]:
    """What a user chooses by which of two files to keep."""
    return {
        f"{side}duration_s": song["duration_s"],
        f"{side}size_bytes": song["size_bytes"],
        f"{side}bitrate_kbps": song["size_bytes"] * 8 / 1000 / song["duration_s"],
        f"{side}format": os.path.splitext(path)[1].lower().removeprefix("."),
    }


def find_candidates(snapshot: Snapshot, max_count: int) -> dict[tuple[int, int], list[int]]:
    """Find the pairs of songs that share several rare hashes at the same distance.

    Parameters
    ----------
    max_count
        Postings of a hash that is rare: at most so many.

    Returns
    -------
    dict
        By song ids, the smaller first: distances in frames (to be added to the first song's), most hashes first.
    """
    keys, counts = _frequent_keys(
        lambda: (key for part in snapshot.sweep() for key in _pair_keys(part, max_count)), MIN_PAIRS
    )
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for key in keys[np.argsort(-counts, kind="stable")].tolist():
        distances = found[key >> 42, key >> 21 & SONG_MASK]
        distance = ((key & SONG_MASK) << CELL_BITS) - HALF_RANGE
        if len(distances) < MAX_DISTANCES and all(abs(distance - other) > 1 << CELL_BITS for other in distances):
            distances.append(distance)
    return dict(found)


def _candidate_speeds(snapshot: Snapshot, speed_range: float, max_count: int) -> dict[tuple[int, int], list[float]]:
    """For pairs of songs, the smaller id first, at which speeds the other may play: one each way, most hashes first."""
    best: dict[tuple[int, int], dict[bool, tuple[int, float]]] = defaultdict(dict)
    steps = math.ceil(-math.log1p(-speed_range / 100) / math.log1p(SPEED_STEP) - 1e-9)
    for step in range(1, steps + 1):
        speed = (1 + SPEED_STEP) ** step
        keys, counts = _frequent_keys(partial(_keys_at_speed, snapshot, speed, max_count), MIN_PAIRS_AT_SPEED)
        for key, count in zip(keys.tolist(), counts.tolist(), strict=True):
            slower, faster = key >> 42, key >> 21 & SONG_MASK
            pair, rises = ((slower, faster), True) if slower < faster else ((faster, slower), False)
            if count > best[pair].get(rises, (0, 0.0))[0]:
                best[pair][rises] = count, speed if rises else 1 / speed
    return {pair: [speed for _, speed in sorted(ways.values(), reverse=True)] for pair, ways in best.items()}


# A pair of postings as one integer: two song ids, and their distance in cells of 4 frames.
SONG_MASK = (1 << 21) - 1
HALF_RANGE = 1 << (20 + CELL_BITS)


def _pair_keys(part: Postings, max_count: int) -> Iterator[NDArray[np.int64]]:
    """Keys of the pairs of postings of two songs with one hash, in a few arrays; more than `max_count` make no pair."""
    edges = np.flatnonzero(np.diff(part.hash, prepend=-1, append=-1))
    count = np.repeat(np.diff(edges), np.diff(edges))
    rare = (count > 1) & (count <= max_count)
    hash_, song_id, offset = part.hash[rare], part.song_id[rare].astype(np.int64), part.offset[rare].astype(np.int64)
    for lag in range(1, max_count):
        pair = np.flatnonzero((hash_[lag:] == hash_[:-lag]) & (song_id[lag:] != song_id[:-lag]))
        if not len(pair) and not (hash_[lag:] == hash_[:-lag]).any():
            return
        distance = offset[pair + lag] - offset[pair] + HALF_RANGE >> CELL_BITS
        yield song_id[pair] << 42 | song_id[pair + lag] << 21 | distance


def _keys_at_speed(snapshot: Snapshot, speed: float, max_count: int) -> Iterator[NDArray[np.int64]]:
    """Keys of the pairs of postings that have one hash when the first song is played faster; of rare hashes alone.

    Parameters
    ----------
    speed
        1 or more: no anchor comes to lie at a lower bin, so that of the scaled postings only those wait that lie ahead.
    """
    waiting = NO_POSTINGS
    for part in _whole_bins(snapshot.sweep()):
        waiting = _concatenate([waiting, _faster(part, speed)])
        reached = waiting.hash <= part.hash[-1]
        now, waiting = _take(waiting, np.flatnonzero(reached)), _take(waiting, np.flatnonzero(~reached))
        yield _joined_keys(_take(now, np.argsort(now.hash, kind="stable")), part, max_count)


def _whole_bins(parts: Iterable[Postings]) -> Iterator[Postings]:
    """The same postings in parts that hold all of an anchor bin, and are not empty."""
    rest = NO_POSTINGS
    for part in parts:
        joined = _concatenate([rest, part])
        bins = anchor_bins(joined.hash)
        cut = int(np.searchsorted(bins, bins[-1])) if len(bins) else 0
        rest = _take(joined, slice(cut, None))
        if cut:
            yield _take(joined, slice(cut))
    if len(rest):
        yield rest


def _take(postings: Postings, where: slice | NDArray[np.int64]) -> Postings:
    return Postings(postings.hash[where], postings.song_id[where], postings.offset[where])


def _concatenate(parts: Sequence[Postings]) -> Postings:
    columns = ([getattr(part, name) for part in parts] for name in ("hash", "song_id", "offset"))
    return Postings(*(np.concatenate(column) for column in columns))


def _faster(part: Postings, speed: float) -> Postings:
    """Postings as if their songs played faster, in no order; those that make no landmark then are left out."""
    anchor, aside, ahead = unpack(part.hash)
    faster = np.rint(anchor * speed).astype(np.int32)
    aside = np.rint((anchor + aside) * speed).astype(np.int32) - faster
    ahead = np.maximum(np.rint(ahead / speed).astype(np.int32), MIN_FRAME_DIFFERENCE)
    kept = np.flatnonzero((faster < BINS) & (np.abs(aside) <= MAX_BIN_DIFFERENCE))
    hash_ = pack(faster[kept], aside[kept], ahead[kept])
    return Postings(hash_, part.song_id[kept], np.rint(part.offset[kept] / speed).astype(np.int32))


def _joined_keys(first: Postings, second: Postings, max_count: int) -> NDArray[np.int64]:
    """Keys of the pairs of a posting of each with one hash, of two songs, when both have at most `max_count` of it."""
    start, stop = (np.searchsorted(second.hash, first.hash, side) for side in ("left", "right"))
    own = np.searchsorted(first.hash, first.hash, "right") - np.searchsorted(first.hash, first.hash, "left")
    count = np.where((stop - start <= max_count) & (own <= max_count), stop - start, 0)
    one = np.repeat(np.arange(len(count)), count)
    other = np.arange(len(one)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(start, count)
    song_id, other_id = first.song_id[one].astype(np.int64), second.song_id[other].astype(np.int64)
    distance = second.offset[other].astype(np.int64) - first.offset[one] + HALF_RANGE >> CELL_BITS
    keys: NDArray[np.int64] = song_id << 42 | other_id << 21 | distance
    different: NDArray[np.bool_] = song_id != other_id
    return keys[different]


def _frequent_keys(
    keys: Callable[[], Iterable[NDArray[np.int64]]], least: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The keys that occur so often at least, rising, and how often each does.

    Notes
    -----
    Two passes bound the memory: the first counts the keys in cells that several may share, the second keeps the keys
    whose cell has enough.
    """
    counters = np.zeros(1 << COUNTER_BITS, np.uint16)
    for part in keys():
        np.add.at(counters, _slot(part), np.uint16(1))
    kept = [np.zeros(0, np.int64), *(part[counters[_slot(part)] >= least] for part in keys())]
    found, counts = np.unique(np.concatenate(kept), return_counts=True)
    return found[counts >= least], counts[counts >= least]


def _slot(key: NDArray[np.int64]) -> NDArray[np.uint64]:
    return key.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(64 - COUNTER_BITS)


def _max_count(snapshot: Snapshot) -> int:
    """The postings that a hash may have to count: so many that all pairs are at most `PAIRS_PER_SONG` a song."""
    histogram = np.zeros(2, np.int64)
    for part in snapshot.sweep():
        here = np.bincount(np.diff(np.flatnonzero(np.diff(part.hash, prepend=-1, append=-1))))
        longer, shorter = (histogram, here) if len(histogram) > len(here) else (here, histogram)
        longer[: len(shorter)] += shorter
        histogram = longer
    size = np.arange(len(histogram))
    pairs = np.cumsum(histogram * (size * (size - 1) // 2))
    return max(2, int(np.searchsorted(pairs, PAIRS_PER_SONG * snapshot.n_songs, side="right")) - 1)


def _groups(pairs: list[tuple[int, int]]) -> dict[int, int]:
    """For each song of the pairs, the first song of those that are connected with it."""
    from scipy.cluster.hierarchy import DisjointSet  # 0.1 s that `evaluate`, which makes no groups, does not pay

    connected = DisjointSet({song_id for pair in pairs for song_id in pair})
    for first, second in pairs:
        connected.merge(first, second)
    return {song_id: min(group) for group in connected.subsets() for song_id in group}
