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


def fullest_windows(query, songs, most):
    """(song, cell, hits) of the pairs of cells with most distinct hits, the first of which has one.

    A cell is a frame of the song less a frame of the clip, whose ticks are rounded up to frames.
    """
    cells = {}
    for asked, tick in query:
        frame = math.ceil(tick / 8)
        for song, pairs in songs.items():
            for place, (known, offset) in enumerate(pairs):
                if asked == known:
                    cells.setdefault((song, offset - frame), set()).add((asked, frame, place))
    counts = [(song, cell, len(hits) + len(cells.get((song, cell + 1), ()))) for (song, cell), hits in cells.items()]
    return sorted(counts, key=lambda window: (-window[2], window[0], window[1]))[:most]


def votes(hits, song, delta, width):
    """Distinct anchors of a song that agree on a delta; hits are (song, offset, bin, delta)."""
    return len({(offset, bin_) for s, offset, bin_, d in hits if s == song and abs(d - delta) <= width})


def consistent_response(peaks):
    """Mean response of a song's peaks, (response, level, masking, song level) each, by how usual the gain is."""
    weights = [math.exp((song_level - masking) / 4) for _, _, masking, song_level in peaks]
    gains = [level - song_level for _, level, _, song_level in peaks]
    steps = {}
    for (response, *_), weight, gain in zip(peaks, weights, gains, strict=True):
        step = math.floor(gain / 0.5)
        steps[step] = steps.get(step, 0.0) + weight * max(response, 0.01)
    around = {
        step: 2 * steps.get(step, 0.0) + steps.get(step - 1, 0.0) + steps.get(step + 1, 0.0)
        for step in range(min(steps), max(steps) + 1)
    }
    usual = (max(around, key=around.get) + 0.5) * 0.5
    agreement = [1 / (1 + (gain - usual) ** 2) for gain in gains]
    total = sum(peak[0] * agrees * weight for peak, agrees, weight in zip(peaks, agreement, weights, strict=True))
    return total / sum(weights)


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


def shared_frames(song: list[tuple[int, int]], clip: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The frames at which a song and a clip, lists of hash and frame, have the same hash: all pairs, sorted."""
    return sorted((at, clip_at) for hash_, at in song for clip_hash, clip_at in clip if hash_ == clip_hash)


def pairs_at_speed(postings: list[tuple[int, int, int]], speed: float) -> list[tuple[int, int, int]]:
    """Of postings (hash, song, offset) the pairs of songs that agree when the first plays faster, and the distance."""
    pairs = []
    for hash_, song, offset in postings:
        anchor, aside, ahead = hash_ >> 13, (hash_ >> 5 & 255) - 127, (hash_ & 31) + 1
        faster = round(anchor * speed)
        aside = round((anchor + aside) * speed) - faster
        ahead = max(round(ahead / speed), 1)
        if faster < 1024 and abs(aside) <= 127:
            scaled = faster << 13 | aside + 127 << 5 | ahead - 1
            pairs += [(song, b, at - round(offset / speed)) for h, b, at in postings if h == scaled and b != song]
    return pairs
