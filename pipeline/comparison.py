"""Two files: do they hold the same recording, where, and at which speed? No store is needed.

The shorter file is compared with the longer one. Hashes that both have are pairs of frames; those of one recording lie
on a line. Its slope says how much faster one of the two plays. The shorter file is resampled to the speed of the longer
one, and their peaks are compared by the rules of `pipeline.duplicate_detection`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import catalog
from pipeline.audio import decoding
from pipeline.audio.resampling import at_speed
from pipeline.duplicate_detection import (
    CELL_BITS,
    EXCERPT,
    MAX_DISTANCES,
    MIN_PAIRS,
    SAME,
    SHIFTED,
    Span,
    classify,
    find_spans,
)
from pipeline.errors import ParameterError
from pipeline.fingerprinting.extract import constellation, fingerprint
from pipeline.fingerprinting.landmarks import Hashes, pair_peaks
from pipeline.fingerprinting.peaks import Peaks
from pipeline.fingerprinting.settings import Settings
from pipeline.matching.search import speeds
from pipeline.paths import PathLike, audio_error, path_text

# Other kinds have an intro or a jingle in common, at most.
SAME_RECORDING = (SAME, SHIFTED, EXCERPT)
LARGEST_SPEED_RANGE = 20.0
SETTINGS = Settings()
# Pairs of frames that are counted, those of the rarest hashes.
MAX_PAIRS = 4_000_000
# Frames in which a line is looked for: between two speeds that are tried it drifts by 2 of them.
WINDOW = 400
# Frames that a pair may lie off its line.
NEAR = 1 << CELL_BITS
# A line that drifts by fewer frames from end to end is level.
LEVEL = 0.5

SPANS = pa.schema(
    [
        ("path", pa.string()),
        ("other_path", pa.string()),
        ("kind", pa.string()),
        ("share", pa.float64()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("other_share", pa.float64()),
        ("other_start_s", pa.float64()),
        ("other_end_s", pa.float64()),
        ("peaks_share", pa.float64()),
        ("speed", pa.float64()),
    ]
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two files have in common.

    Parameters
    ----------
    kind
        One of the kinds of `duplicates`, ``None`` if they have nothing in common.
    spans
        In the schema `SPANS`: a row for each span that both have, by start. ``share`` and ``other_share`` are the
        shares of each file that all spans cover, ``peaks_share`` is the share of peaks in common, and ``speed`` how
        fast the other file plays: 1.04 if it is 4 % faster than the first.
    """

    kind: str | None
    spans: pa.Table

    @property
    def same(self) -> bool:
        """Whether they hold the same recording, also as an excerpt or cut differently."""
        return self.kind in SAME_RECORDING


def compare(path: PathLike, other: PathLike, speed_range: float = 6.0) -> Comparison:
    """Compare two audio files.

    Parameters
    ----------
    path, other
        Local files or fsspec URLs.
    speed_range
        Percent by which one of them may play faster, 0 to 20. Other speeds are tried only when the two are not the
        same at their own.

    Raises
    ------
    AudioError
        If a file gives no usable samples, or has no peaks.
    ParameterError
        If an argument is out of range.
    """
    if not 0 <= speed_range <= LARGEST_SPEED_RANGE:
        raise ParameterError(f"speed_range is {speed_range} %; it must be 0 to {LARGEST_SPEED_RANGE:g}")
    paths = path_text(path, "path"), path_text(other, "other")
    prints = [_fingerprint(text) for text in paths]
    shorter = 1 if prints[1].duration_s <= prints[0].duration_s else 0
    song, clip = prints[1 - shorter], _Clip(paths[shorter], prints[shorter])
    found = _compare_at(song, clip, 1.0)
    if found.kind not in SAME_RECORDING and speed_range > 0:
        others = speeds(speed_range)[1:]
        votes = [_find_line(_shared_frames(song.hashes, clip.at(speed).hashes)).votes for speed in others]
        at_other = _compare_at(song, clip, others[int(np.argmax(votes))])
        found = at_other if at_other.kind in SAME_RECORDING else found
    rows = [] if found.kind is None else _rows(found, song.duration_s, swapped=shorter == 0)
    named = [{"path": paths[0], "other_path": paths[1], "kind": found.kind, **row} for row in rows]
    return Comparison(found.kind, pa.Table.from_pylist(sorted(named, key=lambda row: row["start_s"]), schema=SPANS))


@dataclass(frozen=True, slots=True, eq=False)
class _Print:
    """The fingerprint of a file, or of samples that were resampled."""

    peaks: Peaks
    hashes: Hashes
    duration_s: float


@dataclass(frozen=True, slots=True)
class _Overlap:
    """What the song and the clip have in common, when the clip is slowed down by ``speed``; its times are then."""

    speed: float
    clip_s: float
    kind: str | None
    spans: list[Span]


@dataclass(frozen=True, slots=True)
class _Line:
    """The line on which most pairs of frames lie: how many do in one window, and its slope over level."""

    votes: int
    slope: float


class _Clip:
    """The shorter file, at its own speed and at others."""

    def __init__(self, path: str, print_: _Print) -> None:
        self._path = path
        self._print = print_

    @cached_property
    def _samples(self) -> NDArray[np.float32]:
        with catalog.local_copy(self._path) as local:
            return decoding.read(local, SETTINGS.sample_rate)[0]

    def at(self, speed: float) -> _Print:
        """The fingerprint of the clip as it would be if it was not played at ``speed``."""
        if speed == 1.0:
            return self._print
        samples = at_speed(self._samples, speed)
        peaks = constellation(iter([samples]), SETTINGS)
        return _Print(peaks, pair_peaks(peaks, SETTINGS.fan_out), len(samples) / SETTINGS.sample_rate)


def _fingerprint(path: str) -> _Print:
    with catalog.local_copy(path) as local:
        found = fingerprint(local, SETTINGS)
    if len(found.hashes) == 0:
        raise audio_error(path, f"no landmarks in {found.decoded.duration_s:.1f} s; it is silent or a steady tone")
    return _Print(found.peaks, found.hashes, found.decoded.duration_s)


def _compare_at(song: _Print, clip: _Clip, speed: float) -> _Overlap:
    """Compare at a speed, or at the one near it that the line of the pairs says."""
    print_ = clip.at(speed)
    pairs = _shared_frames(song.hashes, print_.hashes)
    for _ in range(2):
        line = _find_line(pairs)
        drift = abs(line.slope) * print_.duration_s / SETTINGS.frame_s
        if line.votes < MIN_PAIRS or drift < LEVEL:
            break
        speed /= 1 + line.slope
        print_ = clip.at(speed)
        pairs = _shared_frames(song.hashes, print_.hashes)
    spans = find_spans(song.peaks, print_.peaks, _distances(pairs), SETTINGS.frame_s)
    return _Overlap(speed, print_.duration_s, classify(spans, song.duration_s, print_.duration_s), spans)


def _shared_frames(song: Hashes, clip: Hashes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of frames at which the song and the clip have the same hash; of the rarest hashes, at most `MAX_PAIRS`."""
    order = np.argsort(song.hash, kind="stable")
    sorted_ = song.hash[order]
    first = np.searchsorted(sorted_, clip.hash, "left")
    count = np.searchsorted(sorted_, clip.hash, "right") - first
    rarest = np.argsort(count, kind="stable")
    rarest = rarest[np.cumsum(count[rarest]) <= MAX_PAIRS]
    first, count = first[rarest], count[rarest]
    place = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
    return song.offset[order[place]].astype(np.int64), np.repeat(clip.offset[rarest], count).astype(np.int64)


def _find_line(pairs: tuple[NDArray[np.int64], NDArray[np.int64]]) -> _Line:
    """Look for the line in windows, in which a wrong speed matters little, and follow it from there to both sides."""
    song, clip = pairs
    if not len(song):
        return _Line(0, 0.0)
    delta = clip - song
    window, cell = song // WINDOW, delta >> CELL_BITS
    keys, counts = np.unique((window << 32) + (cell - cell.min()), return_counts=True)
    best = int(np.argmax(counts))
    start = (int(keys[best] >> 32) + 0.5) * WINDOW
    level = float(((int(keys[best] & 0xFFFFFFFF) + int(cell.min())) << CELL_BITS) + NEAR / 2)
    slope, reach = 0.0, WINDOW / 2
    while True:
        near = (np.abs(song - start) <= reach) & (np.abs(delta - level - slope * (song - start)) <= NEAR)
        distance = song[near] - start
        if distance.std() > 0:
            slope, level = np.polyfit(distance, delta[near], 1)
        if reach > max(int(song.max()), 1):
            return _Line(int(counts[best]), float(slope))
        reach *= 2


def _distances(pairs: tuple[NDArray[np.int64], NDArray[np.int64]]) -> list[int]:
    """Distances to be added to the song's frames, most pairs first, as `duplicate_detection.find_candidates` does."""
    cells, counts = np.unique((pairs[1] - pairs[0]) >> CELL_BITS, return_counts=True)
    found: list[int] = []
    for place in np.argsort(-counts, kind="stable").tolist():
        distance = int(cells[place]) << CELL_BITS
        if counts[place] < MIN_PAIRS or len(found) == MAX_DISTANCES:
            break
        if all(abs(distance - other) > 1 << CELL_BITS for other in found):
            found.append(distance)
    return found


def _rows(found: _Overlap, song_s: float, *, swapped: bool) -> Iterator[dict[str, Any]]:
    """The spans, each in the seconds of its own file; with the clip first when they are swapped."""
    common_s = sum(span.end_s - span.start_s for span in found.spans)
    for span in found.spans:
        in_song = (span.start_s, span.end_s)
        in_clip = (span.start_s + span.distance_s, span.end_s + span.distance_s)
        of_song = (min(common_s / song_s, 1.0), *(_within(at_s, song_s) for at_s in in_song))
        of_clip = (min(common_s / found.clip_s, 1.0), *(_within(at_s, found.clip_s) / found.speed for at_s in in_clip))
        first, second = (of_clip, of_song) if swapped else (of_song, of_clip)
        yield {
            **dict(zip(("share", "start_s", "end_s"), first, strict=True)),
            **dict(zip(("other_share", "other_start_s", "other_end_s"), second, strict=True)),
            "peaks_share": span.peaks_share,
            "speed": 1 / found.speed if swapped else found.speed,
        }


def _within(at_s: float, length_s: float) -> float:
    """The time, in the file: spans are cut to half seconds, and a file ends anywhere."""
    return min(max(at_s, 0.0), length_s)
