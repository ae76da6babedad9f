"""Two files: do they hold the same recording, where, and at which speed? No store is needed.

The shorter file is compared with the longer one, by the rules of `pipeline.overlap`. If they are not the same at their
own speed, the shorter one is resampled to the speed at which most of their hashes lie on a line.
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
from pipeline.fingerprinting.extract import constellation, fingerprint
from pipeline.fingerprinting.landmarks import pair_peaks
from pipeline.fingerprinting.settings import Settings
from pipeline.matching.search import speeds
from pipeline.overlap import SAME_RECORDING, Overlap, Side, check_speed_range, compare_near, find_line, shared_frames
from pipeline.paths import PathLike, audio_error, path_text

SETTINGS = Settings()

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


def compare(
    path: PathLike,
    other: PathLike,
    speed_range: float = 6.0,
    *,
    stream: int | None = None,
    other_stream: int | None = None,
) -> Comparison:
    """Compare two audio files.

    Parameters
    ----------
    path, other
        Local files or fsspec URLs.
    speed_range
        Percent by which one of them may play faster, 0 to 20. Other speeds are tried only when the two are not the
        same at their own.
    stream, other_stream
        Which audio stream of each file, from 1; its default one when ``None``.

    Raises
    ------
    AudioError
        If a file gives no usable samples, or has no peaks.
    ParameterError
        If an argument is out of range.
    """
    check_speed_range(speed_range)
    paths = path_text(path, "path"), path_text(other, "other")
    streams = stream, other_stream
    prints = [_fingerprint(text, number) for text, number in zip(paths, streams, strict=True)]
    shorter = 1 if prints[1].duration_s <= prints[0].duration_s else 0
    song, clip = prints[1 - shorter], _Clip(paths[shorter], streams[shorter], prints[shorter])
    found = compare_near(song, clip.at, 1.0, SETTINGS.frame_s)
    if not found.same and speed_range > 0:
        others = speeds(speed_range)[1:]
        votes = [find_line(shared_frames(song.hashes, clip.at(speed).hashes)).votes for speed in others]
        at_other = compare_near(song, clip.at, others[int(np.argmax(votes))], SETTINGS.frame_s)
        found = at_other if at_other.same else found
    rows = [] if found.kind is None else _rows(found, song.duration_s, prints[shorter].duration_s, swapped=shorter == 0)
    named = [{"path": paths[0], "other_path": paths[1], "kind": found.kind, **row} for row in rows]
    return Comparison(found.kind, pa.Table.from_pylist(sorted(named, key=lambda row: row["start_s"]), schema=SPANS))


class _Clip:
    """The shorter file, at its own speed and at others."""

    def __init__(self, path: str, stream: int | None, side: Side) -> None:
        self._path = path
        self._stream = stream
        self._side = side

    @cached_property
    def _samples(self) -> NDArray[np.float32]:
        with catalog.local_copy(self._path) as local:
            return decoding.read(local, SETTINGS.sample_rate, stream=self._stream)[0]

    def at(self, speed: float) -> Side:
        """The fingerprint of the clip as it would be if it was not played at ``speed``."""
        if speed == 1.0:
            return self._side
        samples = at_speed(self._samples, speed)
        peaks = constellation(iter([samples]), SETTINGS)
        return Side(peaks, pair_peaks(peaks, SETTINGS.fan_out), len(samples) / SETTINGS.sample_rate)


def _fingerprint(path: str, stream: int | None) -> Side:
    with catalog.local_copy(path) as local:
        found = fingerprint(local, SETTINGS, stream=stream)
    if len(found.hashes) == 0:
        raise audio_error(path, f"no landmarks in {found.decoded.duration_s:.1f} s; it is silent or a steady tone")
    return Side(found.peaks, found.hashes, found.decoded.duration_s)


def _rows(found: Overlap, song_s: float, clip_s: float, *, swapped: bool) -> Iterator[dict[str, Any]]:
    """The spans, each in the seconds of its own file; with the clip first when they are swapped."""
    for span in found.spans:
        in_song, in_clip = found.seconds(span, song_s, clip_s)
        of_song, of_clip = (found.share, *in_song), (found.other_share, *in_clip)
        first, second = (of_clip, of_song) if swapped else (of_song, of_clip)
        yield {
            **dict(zip(("share", "start_s", "end_s"), first, strict=True)),
            **dict(zip(("other_share", "other_start_s", "other_end_s"), second, strict=True)),
            "peaks_share": span.peaks_share,
            "speed": 1 / found.speed if swapped else found.speed,
        }
