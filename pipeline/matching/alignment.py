"""A song laid against a stretch of a recording along a line: what is measured at each of its peaks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.matching import segments
from pipeline.matching.segments import BIN_S, Trace
from pipeline.matching.verification import beside


@dataclass(frozen=True, slots=True, eq=False)
class Alignment:
    """A song against a stretch along one line: what is heard at each of its peaks that lie there.

    Parameters
    ----------
    song_id
        The song.
    first
        Bin of the recording, `BIN_S` long, at which the stretch begins.
    place_s
        ``(n_bins,)`` float64, the song's second at the start of each bin of the stretch.
    pace
        The speed at which the song is played.
    frame_s
        Length of a frame.
    frame, bin
        ``(n,)`` int64, where the peaks lie in the stretch, by frame.
    level, spread
        ``(n,)`` float32, what the recording answers there above chance, and the variance by chance.
    loudness
        ``(n,)`` float32, of the peaks in the song.
    voted
        ``(n,)`` bool, anchors that agree.
    song_fine, song_bin
        Where all peaks of the song would lie in `Stretch.surface`, also those before and after the stretch.
    """

    song_id: int
    first: int
    place_s: NDArray[np.float64]
    pace: float
    frame_s: float
    frame: NDArray[np.int64]
    bin: NDArray[np.int64]
    level: NDArray[np.float32]
    spread: NDArray[np.float32]
    loudness: NDArray[np.float32]
    voted: NDArray[np.bool_]
    song_fine: NDArray[np.int64]
    song_bin: NDArray[np.int64]

    def trace(self, counts: NDArray[np.bool_] | None = None) -> Trace:
        """What the peaks that count say, half second by half second; all of them when ``None``."""
        counts = np.ones(len(self.frame), bool) if counts is None else counts
        n_bins = len(self.place_s)
        place = np.clip((self.frame[counts] * (self.frame_s / BIN_S)).astype(np.int64), 0, n_bins - 1)

        def per_bin(of: NDArray[np.float32] | NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
            return np.bincount(place, None if of is None else of[counts], n_bins).astype(np.float64)

        return Trace(
            self.song_id,
            self.first,
            self.place_s,
            peaks=per_bin(),
            level=per_bin(self.level),
            spread=per_bin(self.spread),
            loudness=per_bin(self.loudness),
            loud_level=per_bin(self.loudness * self.level),
            votes=per_bin(self.voted),
        )

    def within(self, span: segments.Span) -> NDArray[np.bool_]:
        """Which peaks lie in a span."""
        second = self.frame * self.frame_s + self.first * BIN_S
        inside: NDArray[np.bool_] = (second >= span.start * BIN_S) & (second < span.stop * BIN_S)
        return inside

    def shared(self, other: Alignment, span: segments.Span) -> NDArray[np.bool_]:
        """Which peaks another song has too, to a frame and a bin, in a span of it."""
        there = other.within(span)
        return beside(self.frame, self.bin, other.frame[there], other.bin[there])
