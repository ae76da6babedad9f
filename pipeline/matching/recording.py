"""A recording of any length to the songs in it, stretch by stretch, in the memory of one stretch.

A stretch is two minutes long and is searched once. Its hits are voted in short windows, and candidates that continue
each other become tracks. Only the strongest tracks are aligned with their song's constellation, all along the stretch.
What an alignment gives in each half second is a trace, and `segments` makes matches of the traces. Where no song
explains what sounds, the stretch is searched again at other speeds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.audio.resampling import at_speed
from pipeline.matching import segments
from pipeline.matching.alignment import Alignment, Stretch, align, is_repeated_loop, traces
from pipeline.matching.calibration import recording_threshold
from pipeline.matching.clip import Clip, SearchLevel
from pipeline.matching.search import COARSE, speeds
from pipeline.matching.segments import SLOT_S, Trace
from pipeline.matching.tracks import find_tracks, fit_line, hits_near
from pipeline.matching.types import Library, Match, Query
from pipeline.matching.voting import TICKS

STRETCH_S = 120
# Searched again with the next stretch, so that a song that begins at the seam is found whole.
OVERLAP_S = 15
# A steeper line belongs to a copy at another speed.
STEEPEST = 0.006
# Speeds that differ by less are not searched both.
SAME_SPEED = 0.002
# A stretch is explained when no piece longer than this belongs to no song.
UNEXPLAINED_S = 10.0
# A song that matches weakly is a loop when it reaches this share of its level elsewhere in the song.
LOOP_SHARE = 0.72


class Recording:
    """One recording, fed in blocks.

    Parameters
    ----------
    stretch_s
        Searched at once; whole seconds. Long stretches read the store in large parts, short ones give matches sooner.
    level
        How densely each stretch is searched.
    loop_share
        As for `alignment.is_repeated_loop`.

    Attributes
    ----------
    duration_s
        Seconds fed so far.
    """

    def __init__(
        self,
        library: Library,
        query: Query,
        stretch_s: int = STRETCH_S,
        level: SearchLevel = COARSE,
        loop_share: float = LOOP_SHARE,
    ) -> None:
        self.library = library
        self.query = query
        self.level = level
        self.loop_share = loop_share
        self.duration_s = 0.0
        self._rate = library.settings.sample_rate
        self._stretch = stretch_s * self._rate
        self._blocks: list[NDArray[np.float32]] = []
        self._waiting = 0
        self._overlap = np.zeros(0, np.float32)
        self._first_s = 0
        self._speeds = speeds(query.speed_range)
        self._last_speed = 1.0  # a turntable keeps its speed: the next stretch is searched at this one first
        self._traces: list[Trace] = []
        self._closed: list[Match] = []

    def feed(self, samples: NDArray[np.float32]) -> None:
        """Take the next samples, ``(n,)`` float32 at the library's sample rate, any number."""
        self._blocks.append(samples)
        self._waiting += len(samples)
        self.duration_s += len(samples) / self._rate
        if self._waiting < self._stretch:
            return
        waiting = np.concatenate(self._blocks)
        whole = len(waiting) // self._stretch * self._stretch
        for start in range(0, whole, self._stretch):
            self._search(waiting[start : start + self._stretch])
        self._blocks, self._waiting = [waiting[whole:]], len(waiting) - whole

    def finish(self) -> list[Match]:
        """Search the last seconds; the matches in the whole recording."""
        if self._waiting:
            self._search(np.concatenate(self._blocks))
            self._blocks, self._waiting = [], 0
        return self.matches()

    def matches(self) -> list[Match]:
        """The matches in what was searched so far, by start; the last of them may go on."""
        return sorted(self._closed + self._segments(self._traces), key=lambda match: match.clip_start_s)

    def _segments(self, found: list[Trace]) -> list[Match]:
        return segments.segments(found, recording_threshold(self.query.false_positives))

    def _search(self, samples: NDArray[np.float32]) -> None:
        """Search the next stretch, at one speed after another until it is explained."""
        samples = np.concatenate([self._overlap, samples])
        stretch = Stretch(samples, self._first_s, self.library.settings)
        alignments: list[Alignment] = []
        for speed in [self._last_speed, *(s for s in self._speeds if abs(s - self._last_speed) > SAME_SPEED)]:
            found = self._align_near(stretch, speed)
            if found:
                self._last_speed = 1.0 if abs(found[0].speed - 1.0) <= SAME_SPEED else found[0].speed
            alignments += [one for one in found if not is_repeated_loop(one, found, stretch, self.loop_share)]
            if stretch.unexplained_s(self._segments(traces(alignments))) <= UNEXPLAINED_S:
                break
        self._traces += traces(alignments)
        self._close(stretch.first)
        self._overlap = samples[-OVERLAP_S * self._rate :]
        self._first_s += (len(samples) - len(self._overlap)) // self._rate

    def _align_near(self, stretch: Stretch, speed: float) -> list[Alignment]:
        """Songs that are played at about this speed, searched again at the speed found, which has more votes."""
        found = self._align_at(stretch, speed)
        for _ in range(2):
            if found and abs(found[0].speed - speed) > SAME_SPEED:
                speed = found[0].speed
                found = self._align_at(stretch, speed) or found
        return found

    def _align_at(self, stretch: Stretch, speed: float) -> list[Alignment]:
        """Songs whose hits in a copy of the stretch at this speed make a track, aligned; the strongest track first."""
        settings = self.library.settings
        clip = stretch.clip if speed == 1.0 else Clip(at_speed(stretch.samples, speed), settings)
        query = clip.query_hashes(self.level)
        tracks = find_tracks(query, self.library, settings.sample_rate * TICKS / settings.hop)
        songs = self.library.constellations({track.song_id for track in tracks})
        aligned = []
        for track, of_song in zip(tracks, hits_near(tracks, query, songs, settings.fan_out), strict=True):
            line = fit_line(track, of_song)
            if abs(line.slope) <= STEEPEST:
                aligned.append(align(stretch, track, songs[track.song_id], of_song, line, speed))
        return [one for one in aligned if segments.is_plausible(one.trace())]

    def _close(self, first: int) -> None:
        """Of songs that did not occur lately keep the segments and not the traces, so that memory does not grow."""
        recent = {trace.song_id for trace in self._traces if trace.end >= first - segments.LONGEST_GAP_S / SLOT_S}
        self._closed += self._segments([trace for trace in self._traces if trace.song_id not in recent])
        self._traces = [trace for trace in self._traces if trace.song_id in recent]
