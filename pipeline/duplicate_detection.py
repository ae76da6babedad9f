"""Duplicates: which songs of a library hold the same recording, and where.

Not every song is compared with every other. The postings are read in the order of their hashes: two songs are a
candidate if they share several hashes at the same distance in time. Only rare hashes count, since a hash of many songs
proves nothing and gives as many pairs as the square of their number. Then the constellations of each candidate are
compared: second by second, the share of one song's peaks that the other has too.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.arguments import snapshot_of
from pipeline.errors import ParameterError
from pipeline.fingerprinting.landmarks import Postings
from pipeline.fingerprinting.peaks import Peaks
from pipeline.matching.segments import SLOT_S, best_span
from pipeline.store import Snapshot, Store

log = logging.getLogger(__name__)

# Pairs of postings that are counted, for each song of the library: those of the rarest hashes.
PAIRS_PER_SONG = 20_000
# Hashes at the same distance, to 4 frames, that make two songs a candidate; chance seldom gives more than one.
MIN_PAIRS = 5
CELL_BITS = 2
# Counters of the first pass: 128 MB, whatever the size of the library.
COUNTER_BITS = 26
# Distances of two songs that are verified, those with most hashes first: a copy has one, an edit a few.
MAX_DISTANCES = 4
# Peaks coincide within a frame and a bin. Between copies half or more of them do, by chance one in twenty.
NEUTRAL_SHARE = 0.2
# A gap inside a span may miss as many peaks as 200 at NEUTRAL_SHARE: some 5 s.
GAP = 200 * NEUTRAL_SHARE
SHORTEST_S = 3.0
# A common part that is short in both songs is the same recording only if at least so many peaks coincide. Music made of
# the same loops or on the same drone reaches 0.46, and is not listed.
MIN_COMMON_SHARE = 0.5
# Starts and ends within this many seconds are the same: codecs add silence, players cut it.
SAME_END_S = 2.0
# Shares of a song that make the other one a copy, or an excerpt, and a version with another start or length.
WHOLE_SHARE = 0.9
PART_SHARE = 0.5

IDENTICAL, SAME, SHIFTED, EXCERPT, COMMON = KINDS = (
    "identical file", "same recording", "different start or length", "excerpt", "common intro or jingle"
)  # fmt: skip

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
    ]
)


@dataclass(frozen=True, slots=True)
class Span:
    """A span of a song that another song has too.

    Parameters
    ----------
    start_s, end_s
        In the first song.
    distance_s
        To be added for the place in the second song.
    peaks_share
        Share of the first song's peaks there that the second song has too.
    """

    start_s: float
    end_s: float
    distance_s: float
    peaks_share: float


@dataclass(frozen=True, slots=True)
class Pair:
    """Two songs that hold the same recording, or have a part in common.

    Parameters
    ----------
    song_id, other_id
        The smaller first.
    share, other_share
        Of each song, what all spans cover.
    """

    song_id: int
    other_id: int
    kind: str
    share: float
    other_share: float
    spans: list[Span]


def duplicates(store: Store | Snapshot) -> pa.Table:
    """Find the songs that hold the same recording, in whole or in part, and files that are the same; deletes nothing.

    Parameters
    ----------
    store
        A store, or one version of it (`Store.snapshot`).

    Returns
    -------
    pyarrow.Table
        In the schema `DUPLICATES`, sorted by group, then pair. Songs that hold the same recording, also as an excerpt
        or cut differently, directly or through a third song, are one ``group``, which is the id of its first song: of
        n songs there are n - 1 rows, each of a song and one that it is compared with. Songs that only have an intro or
        a jingle in common make no group. A row of the kind `IDENTICAL` is for a file with the content of a song.

        ``start_s`` to ``end_s``, and the same in the other song, reach from the first span in common to the last;
        ``spans`` has each, as ``start-end=start-end`` in seconds. ``share`` and ``other_share`` are the shares of each
        song that the spans cover. Groups that `accept` was given are left out, until another song comes to one.

    Raises
    ------
    ParameterError
        If ``store`` is something else.
    """
    snapshot = snapshot_of(store)
    columns = ["song_id", "path", "duration_s", "size_bytes", "other_paths", "accepted"]
    songs = {row["song_id"]: row for row in snapshot.songs(columns).to_pylist()}
    pairs = find_pairs(snapshot, {song_id: song["duration_s"] for song_id, song in songs.items()})
    groups = _groups([(pair.song_id, pair.other_id) for pair in pairs if pair.kind != COMMON])
    members: dict[int, list[int]] = defaultdict(list)
    for song_id, song in songs.items():
        if song_id in groups or song["other_paths"]:
            members[groups.get(song_id, song_id)].append(song_id)
    accepted = {group for group, of_group in members.items() if _is_accepted([songs[one] for one in of_group])}
    rows = [_pair_row(pair, songs, groups) for pair in _spanning_pairs(pairs, groups)]
    rows += [
        _copy_row(song, path, group)
        for group, of_group in members.items()
        for song in (songs[one] for one in of_group)
        for path in song["other_paths"] or ()
    ]
    rows = [row for row in rows if row["group"] not in accepted]
    rows.sort(key=lambda row: (row["group"] is None, row["group"] or 0, row["song_id"], row["other_id"]))
    return pa.Table.from_pylist(rows, schema=DUPLICATES)


def find_pairs(snapshot: Snapshot, duration_s: Mapping[int, float]) -> list[Pair]:
    """Find the pairs of songs that have something in common, by their ids.

    Parameters
    ----------
    duration_s
        Of each song.
    """
    candidates = find_candidates(snapshot)
    log.info("%d pairs of %d songs share hashes; comparing their peaks", len(candidates), len(duration_s))
    found = []
    for (first, second), distances in sorted(candidates.items()):
        peaks = snapshot.constellations([first, second])
        spans = find_spans(peaks[first], peaks[second], distances, snapshot.settings.frame_s)
        lengths = duration_s[first], duration_s[second]
        kind = classify(spans, *lengths)
        if kind is not None:
            common_s = sum(span.end_s - span.start_s for span in spans)
            shares = (min(common_s / lengths[0], 1.0), min(common_s / lengths[1], 1.0))
            found.append(Pair(first, second, kind, *shares, spans))
    return found


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
    chosen = []
    for group in groups:
        songs = {row[name] for row in rows if row["group"] == group for name in ("song_id", "other_id")}
        if not songs:
            raise ParameterError(f"there is no group {group}; `songprint duplicates` lists them")
        chosen.append(songs)
    store.accept(chosen)


def _is_accepted(songs: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all songs of a group were accepted together, each with as many files as it has now."""
    tokens = []
    for song in songs:
        split = (text.rpartition(":") for text in song["accepted"] or ())
        n_files = len(song["other_paths"] or ())
        tokens.append({token for token, _, files in split if files.isdecimal() and n_files <= int(files)})
    return bool(set.intersection(*tokens))


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


def _pair_row(pair: Pair, songs: Mapping[int, Mapping[str, Any]], groups: Mapping[int, int]) -> dict[str, Any]:
    song, other = songs[pair.song_id], songs[pair.other_id]
    length_s = sum(span.end_s - span.start_s for span in pair.spans)
    in_other = [(span.start_s + span.distance_s, span.end_s + span.distance_s) for span in pair.spans]
    return {
        "group": groups.get(pair.song_id) if pair.kind != COMMON else None,
        "kind": pair.kind,
        "song_id": pair.song_id,
        "song_path": song["path"],
        "share": pair.share,
        "start_s": pair.spans[0].start_s,
        "end_s": pair.spans[-1].end_s,
        "other_id": pair.other_id,
        "other_path": other["path"],
        "other_share": pair.other_share,
        "other_start_s": min(start for start, _ in in_other),
        "other_end_s": max(end for _, end in in_other),
        "peaks_share": sum(span.peaks_share * (span.end_s - span.start_s) for span in pair.spans) / length_s,
        "spans": "; ".join(
            f"{span.start_s:.1f}-{span.end_s:.1f}={start:.1f}-{end:.1f}"
            for span, (start, end) in zip(pair.spans, in_other, strict=True)
        ),
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


def find_candidates(snapshot: Snapshot) -> dict[tuple[int, int], list[int]]:
    """Find the pairs of songs that share several rare hashes at the same distance.

    Returns
    -------
    dict
        By song ids, the smaller first: distances in frames (to be added to the first song's), most hashes first.

    Notes
    -----
    Two passes bound the memory: the first counts the pairs of postings in cells that several keys may share, the
    second keeps the keys whose cell has enough.
    """
    max_count = _max_count(snapshot)
    counters = np.zeros(1 << COUNTER_BITS, np.uint16)
    for part in snapshot.sweep():
        for key in _pair_keys(part, max_count):
            np.add.at(counters, _slot(key), np.uint16(1))
    kept = [np.zeros(0, np.int64)]
    for part in snapshot.sweep():
        kept += [key[counters[_slot(key)] >= MIN_PAIRS] for key in _pair_keys(part, max_count)]
    keys, counts = np.unique(np.concatenate(kept), return_counts=True)
    keys, counts = keys[counts >= MIN_PAIRS], counts[counts >= MIN_PAIRS]
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for key in keys[np.argsort(-counts, kind="stable")].tolist():
        distances = found[key >> 42, key >> 21 & SONG_MASK]
        distance = ((key & SONG_MASK) << CELL_BITS) - HALF_RANGE
        if len(distances) < MAX_DISTANCES and all(abs(distance - other) > 1 << CELL_BITS for other in distances):
            distances.append(distance)
    return dict(found)


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


def find_spans(song: Peaks, other: Peaks, distances: list[int], frame_s: float) -> list[Span]:
    """Find the spans of a song that another song has too, at or near some distances.

    Parameters
    ----------
    distances
        Frames to be added to the song's, as `find_candidates` gives them.

    Returns
    -------
    list of Span
        By start; they do not overlap.
    """
    size = SLOT_S / frame_s
    if not len(song) or not len(other):
        return []
    place = (song.frame / size).astype(np.int64)
    peaks = np.bincount(place)
    free = np.ones(len(peaks), bool)
    spans: list[Span] = []
    around = (np.arange(-1, 2)[:, None] << 10) + np.arange(-1, 2)
    other_keys = np.unique(((other.frame.astype(np.int64) << 10 | other.bin)[:, None] + around.ravel()).ravel())
    keys = song.frame.astype(np.int64) << 10 | song.bin
    for cell in distances:
        tried = [
            (distance, _among(keys + (distance << 10), other_keys))
            for distance in range(cell - 1, cell + (1 << CELL_BITS) + 1)
        ]
        # Peaks agree to a frame, so that of a copy three distances agree equally: the middle one is right.
        most = max(int(agrees.sum()) for _, agrees in tried)
        tied = [pair for pair in tried if int(pair[1].sum()) == most]
        distance, agrees = tied[len(tied) // 2]
        agree = np.bincount(place, agrees, len(peaks))
        scores = agree - NEUTRAL_SHARE * peaks
        while True:
            start, stop, _ = best_span(np.where(free, scores, -np.inf), GAP)
            if (stop - start) * SLOT_S < SHORTEST_S:
                break
            share = float(agree[start:stop].sum() / max(peaks[start:stop].sum(), 1))
            spans.append(Span(start * SLOT_S, stop * SLOT_S, distance * frame_s, share))
            free[start:stop] = False
    return sorted(spans, key=lambda span: span.start_s)


def _among(keys: NDArray[np.int64], sorted_: NDArray[np.int64]) -> NDArray[np.bool_]:
    places = np.minimum(np.searchsorted(sorted_, keys), len(sorted_) - 1)
    found: NDArray[np.bool_] = sorted_[places] == keys
    return found


def classify(spans: list[Span], length_s: float, other_length_s: float) -> str | None:
    """How two songs are related: one of the kinds, or None if they hold no common recording.

    Parameters
    ----------
    spans
        What they share, by start.
    length_s, other_length_s
        Seconds of the two songs.
    """
    if not spans:
        return None
    common_s = sum(span.end_s - span.start_s for span in spans)
    share, other_share = sorted((common_s / length_s, common_s / other_length_s))
    first, last = spans[0], spans[-1]
    aligned = abs(first.distance_s) <= SAME_END_S and abs(last.distance_s) <= SAME_END_S
    if share >= WHOLE_SHARE and aligned and abs(length_s - other_length_s) <= 2 * SAME_END_S:
        return SAME
    if share >= PART_SHARE:
        return SHIFTED
    if other_share >= WHOLE_SHARE:
        return EXCERPT
    return COMMON if max(span.peaks_share for span in spans) >= MIN_COMMON_SHARE else None


def _groups(pairs: list[tuple[int, int]]) -> dict[int, int]:
    """For each song of the pairs, the first song of those that are connected with it."""
    from scipy.cluster.hierarchy import DisjointSet  # 0.1 s that `evaluate`, which makes no groups, does not pay

    connected = DisjointSet({song_id for pair in pairs for song_id in pair})
    for first, second in pairs:
        connected.merge(first, second)
    return {song_id: min(group) for group in connected.subsets() for song_id in group}
