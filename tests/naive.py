"""Slow, plain twins of the fast functions: loops and dictionaries, nothing imported from the package."""

from __future__ import annotations

import cmath
import math


def power(samples, window, hop, frame):
    """Power spectrum of one frame, by the definition of the Fourier transform; all bins but the last."""
    taper = [0.5 - 0.5 * math.cos(2 * math.pi * n / window) for n in range(window)]
    part = [samples[frame * hop + n] * taper[n] for n in range(window)]
    turns = [cmath.exp(-2j * math.pi * k / window) for k in range(window)]
    return [abs(sum(part[n] * turns[n * bin_ % window] for n in range(window))) ** 2 for bin_ in range(window // 2)]


def local_maxima(power, reach_frames, reach_bins, silence, lowest_bin):
    """Every (frame, bin) that is above silence and not smaller than its neighbourhood."""
    found = []
    for frame, row in enumerate(power):
        for bin_, level in enumerate(row):
            around = [
                power[f][b]
                for f in range(max(frame - reach_frames, 0), min(frame + reach_frames + 1, len(power)))
                for b in range(max(bin_ - reach_bins, 0), min(bin_ + reach_bins + 1, len(row)))
            ]
            if bin_ >= lowest_bin and level > silence and level == max(around):
                found.append((frame, bin_))
    return found


def more_salient_around(frames, saliences, around):
    """For each peak, how many within so many frames are more salient; of equals the earlier one is."""
    ranks = [(-salience, place) for place, salience in enumerate(saliences)]
    return [
        sum(rank < mine and abs(frame - frames[place]) <= around for rank, frame in zip(ranks, frames, strict=True))
        for place, mine in enumerate(ranks)
    ]


def pairs(peaks, fan_out, nearest, furthest, bins_aside):
    """(anchor frame, anchor bin, bins aside, frames ahead) of each landmark; peaks are sorted (frame, bin) pairs."""
    found = []
    for frame, bin_ in peaks:
        targets = [(f, b) for f, b in peaks if nearest <= f - frame <= furthest and abs(b - bin_) <= bins_aside]
        found += [(frame, bin_, b - bin_, f - frame) for f, b in sorted(targets)[:fan_out]]
    return found


def hits(query_hashes, postings):
    """(song, offset, delta) wherever a clip's (hash, tick) meets a (hash, song, offset); 8 ticks to the frame."""
    return [
        (song, offset, 8 * offset - tick)
        for query_hash, tick in query_hashes
        for known, song, offset in postings
        if query_hash == known
    ]


def votes(hits, song, delta, width):
    """Distinct anchors of a song that agree on a delta; hits are (song, offset, bin, delta)."""
    return len({(offset, bin_) for s, offset, bin_, d in hits if s == song and abs(d - delta) <= width})


def postings(contents: dict[int, list[tuple[int, int]]], hashes: set[int]) -> list[tuple[int, int, int]]:
    """All (hash, song_id, offset) of some hashes, from each song's list of (hash, offset), sorted."""
    return sorted((h, song_id, offset) for song_id, pairs in contents.items() for h, offset in pairs if h in hashes)


def best_span_score(scores, gap):
    """The largest sum of a run whose running total never falls by more than a gap."""
    best = 0
    for start in range(len(scores)):
        total = top = 0
        for score in scores[start:]:
            total += score
            top = max(top, total)
            if total < 0 or top - total > gap:
                break
            best = max(best, total)
    return best


def loads(files: list[list[int]], group_rows: int, wanted: set[int]) -> dict[int, float]:
    """Rows to read for each hash: the rows of each group that may have it, divided among the wanted hashes it may have.

    Files are lists of sorted hashes; a group reaches from its first hash to the next group's first.
    """
    rows = dict.fromkeys(wanted, 0.0)
    for file in files:
        for start in range(0, len(file), group_rows):
            group = file[start : start + group_rows]
            end = file[start + group_rows] if start + group_rows < len(file) else file[-1]
            inside = [h for h in wanted if group[0] <= h <= end]
            for h in inside:
                rows[h] += len(group) / len(inside)
    return rows


def affordable(costs: list[float], budget: float) -> set[int]:
    """The places of the cheapest costs, of equals the first one first, until the next would exceed the budget."""
    kept: set[int] = set()
    for place in sorted(range(len(costs)), key=lambda place: costs[place]):
        if sum(costs[other] for other in kept) + costs[place] > budget:
            break
        kept.add(place)
    return kept


def shared_frames(song: list[tuple[int, int]], clip: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The frames at which a song and a clip, lists of hash and frame, have the same hash: all pairs, sorted."""
    return sorted((at, clip_at) for hash_, at in song for clip_hash, clip_at in clip if hash_ == clip_hash)
