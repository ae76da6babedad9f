"""A library against itself: which songs hold the same recording, and where.

No song is compared with every other. The store is swept once by hash: songs that share a hash at the same distance
again and again are candidates, and only rare hashes are looked at, since what many songs share says nothing and would
cost the square of their number. Candidates are then held constellation against constellation: second by second, the
share of one song's peaks that the other has too.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.fingerprinting.landmarks import Postings
from pipeline.fingerprinting.peaks import Peaks
from pipeline.matching.segments import SLOT_S, best_span
from pipeline.store import Snapshot

log = logging.getLogger(__name__)

# Pairs of postings that are looked at for each song of the library: the rarest hashes first, up to as many.
PAIRS_PER_SONG = 20_000
# Hashes at the same distance, to 4 frames, that make two songs a candidate; chance seldom gives more than one.
LEAST_PAIRS = 5
CELL_BITS = 2
# Counters of the first sweep: 128 MB, whatever the size of the library.
COUNTER_BITS = 26
# Distances of two songs that are verified, those with most hashes first: a copy has one, an edit a few.
MOST_DISTANCES = 4
# Peaks coincide within a frame and a bin. Between copies half or more of them do, by chance one in twenty.
NEUTRAL_SHARE = 0.2
# Peaks at NEUTRAL_SHARE that a gap may lack: some 5 s, 200 peaks.
GAP = 200 * NEUTRAL_SHARE
SHORTEST_S = 3.0
# What two songs have in common and is not much of either is one sound when so many peaks coincide. Music made of the
# same loops or on the same drone reaches 0.46, and is not listed.
ONE_SOUND = 0.5
# Ends within this many seconds are the same end: codecs add silence, players cut it.
SAME_END_S = 2.0
MOST_OF_IT = 0.9
MUCH_OF_IT = 0.5

SAME, SHIFTED, EXCERPT, COMMON = (
    "same recording", "different start or length", "excerpt", "common intro or jingle"
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
    ]
)


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds of a song that another one has too.

    Parameters
    ----------
    start_s, end_s
        In the first song.
    distance_s
        The second song's place is so much later.
    peaks_share
        Of the first song's peaks there, those that the second one has.
    """

    start_s: float
    end_s: float
    distance_s: float
    peaks_share: float


def duplicates(snapshot: Snapshot) -> pa.Table:
    """The pairs of songs that hold the same recording, in whole or in part.

    Returns
    -------
    pyarrow.Table
        In the schema `DUPLICATES`: one row per span that two songs share, those of one pair together, pairs by group.
        ``share`` and ``other_share`` are what all spans of the pair make of each song. Songs that hold the same
        recording, also as an excerpt or cut differently, directly or through a third one, are one ``group``, named by
        its first song; what songs merely have in common (an intro, a jingle) makes no group.
    """
    songs = {row["song_id"]: row for row in snapshot.songs(["song_id", "path", "duration_s"]).to_pylist()}
    pairs = candidates(snapshot)
    log.info("%d pairs of %d songs share hashes; comparing their peaks", len(pairs), len(songs))
    found: list[tuple[int, int, str, float, float, list[Span]]] = []
    for (first, second), distances in sorted(pairs.items()):
        peaks = snapshot.constellations([first, second])
        spans = compare(peaks[first], peaks[second], distances, snapshot.settings.frame_s)
        if spans:
            lengths = songs[first]["duration_s"], songs[second]["duration_s"]
            both_s = sum(span.end_s - span.start_s for span in spans)
            shares = (min(both_s / lengths[0], 1.0), min(both_s / lengths[1], 1.0))
            what = kind(spans, *lengths)
            if what != COMMON or max(span.peaks_share for span in spans) >= ONE_SOUND:
                found.append((first, second, what, *shares, spans))
    groups = _groups([(first, second) for first, second, what, *_ in found if what != COMMON])
    rows = [
        {
            "group": groups.get(first) if what != COMMON else None,
            "kind": what,
            "song_id": first,
            "song_path": songs[first]["path"],
            "share": share,
            "start_s": span.start_s,
            "end_s": span.end_s,
            "other_id": second,
            "other_path": songs[second]["path"],
            "other_share": other_share,
            "other_start_s": span.start_s + span.distance_s,
            "other_end_s": span.end_s + span.distance_s,
            "peaks_share": span.peaks_share,
        }
        for first, second, what, share, other_share, spans in found
        for span in spans
    ]
    rows.sort(
        key=lambda row: (row["group"] is None, row["group"] or 0, row["song_id"], row["other_id"], row["start_s"])
    )
    return pa.Table.from_pylist(rows, schema=DUPLICATES)


def candidates(snapshot: Snapshot) -> dict[tuple[int, int], list[int]]:
    """Pairs of songs that share rare hashes again and again at the same distance.

    Returns
    -------
    dict
        By song ids, the smaller first: distances in frames (to be added to the first song's), most hashes first.
    """
    most = _most_frequent(snapshot)
    counters = np.zeros(1 << COUNTER_BITS, np.uint16)
    for part in snapshot.sweep():
        for key in _keys(part, most):
            np.add.at(counters, _slot(key), np.uint16(1))
    kept = [np.zeros(0, np.int64)]
    for part in snapshot.sweep():
        kept += [key[counters[_slot(key)] >= LEAST_PAIRS] for key in _keys(part, most)]
    keys, counts = np.unique(np.concatenate(kept), return_counts=True)
    keys, counts = keys[counts >= LEAST_PAIRS], counts[counts >= LEAST_PAIRS]
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for key in keys[np.argsort(-counts, kind="stable")].tolist():
        distances = found[key >> 42, key >> 21 & SONG_MASK]
        distance = ((key & SONG_MASK) << CELL_BITS) - HALF_RANGE
        if len(distances) < MOST_DISTANCES and all(abs(distance - other) > 1 << CELL_BITS for other in distances):
            distances.append(distance)
    return dict(found)


# A pair of postings as one integer: two song ids, and their distance in cells of 4 frames.
SONG_MASK = (1 << 21) - 1
HALF_RANGE = 1 << (20 + CELL_BITS)


def _keys(part: Postings, most: int) -> Iterator[NDArray[np.int64]]:
    """The pairs of postings with one hash, of two songs, in a few arrays; hashes in more than `most` are left out."""
    edges = np.flatnonzero(np.diff(part.hash, prepend=-1, append=-1))
    count = np.repeat(np.diff(edges), np.diff(edges))
    rare = (count > 1) & (count <= most)
    hash_, song_id, offset = part.hash[rare], part.song_id[rare].astype(np.int64), part.offset[rare].astype(np.int64)
    for lag in range(1, most):
        pair = np.flatnonzero((hash_[lag:] == hash_[:-lag]) & (song_id[lag:] != song_id[:-lag]))
        if not len(pair) and not (hash_[lag:] == hash_[:-lag]).any():
            return
        distance = offset[pair + lag] - offset[pair] + HALF_RANGE >> CELL_BITS
        yield song_id[pair] << 42 | song_id[pair + lag] << 21 | distance


def _slot(key: NDArray[np.int64]) -> NDArray[np.uint64]:
    return key.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(64 - COUNTER_BITS)


def _most_frequent(snapshot: Snapshot) -> int:
    """The largest number of postings of a hash that is looked at: so many that the pairs stay in proportion."""
    histogram = np.zeros(2, np.int64)
    for part in snapshot.sweep():
        here = np.bincount(np.diff(np.flatnonzero(np.diff(part.hash, prepend=-1, append=-1))))
        longer, shorter = (histogram, here) if len(histogram) > len(here) else (here, histogram)
        longer[: len(shorter)] += shorter
        histogram = longer
    size = np.arange(len(histogram))
    pairs = np.cumsum(histogram * (size * (size - 1) // 2))
    return max(2, int(np.searchsorted(pairs, PAIRS_PER_SONG * snapshot.n_songs, side="right")) - 1)


def compare(song: Peaks, other: Peaks, distances: list[int], frame_s: float) -> list[Span]:
    """The spans of a song that another one has too, at some distances or nearly so; no second is in two of them."""
    size = SLOT_S / frame_s
    if not len(song) or not len(other):
        return []
    place = (song.frame / size).astype(np.int64)
    peaks = np.bincount(place)
    free = np.ones(len(peaks), bool)
    spans: list[Span] = []
    around = (np.arange(-1, 2)[:, None] << 10) + np.arange(-1, 2)
    theirs = np.unique(((other.frame.astype(np.int64) << 10 | other.bin)[:, None] + around.ravel()).ravel())
    ours = song.frame.astype(np.int64) << 10 | song.bin
    for cell in distances:
        tried = [
            (distance, _among(ours + (distance << 10), theirs))
            for distance in range(cell - 1, cell + (1 << CELL_BITS) + 1)
        ]
        distance, agrees = max(tried, key=lambda one: int(one[1].sum()))
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


def kind(spans: list[Span], length_s: float, other_length_s: float) -> str:
    """What two songs are to each other, from the seconds that they share."""
    both_s = sum(span.end_s - span.start_s for span in spans)
    share, other_share = sorted((both_s / length_s, both_s / other_length_s))
    first, last = spans[0], spans[-1]
    aligned = abs(first.distance_s) <= SAME_END_S and abs(last.distance_s) <= SAME_END_S
    if share >= MOST_OF_IT and aligned and abs(length_s - other_length_s) <= 2 * SAME_END_S:
        return SAME
    if share >= MUCH_OF_IT:
        return SHIFTED
    return EXCERPT if other_share >= MOST_OF_IT else COMMON


def _groups(pairs: list[tuple[int, int]]) -> dict[int, int]:
    """For each song, the first of those that it hangs together with."""
    leader: dict[int, int] = {}

    def find(song_id: int) -> int:
        while leader.setdefault(song_id, song_id) != song_id:
            song_id = leader[song_id]
        return song_id

    for first, second in pairs:
        one, other = sorted((find(first), find(second)))
        leader[other] = one
    return {song_id: find(song_id) for song_id in leader}
