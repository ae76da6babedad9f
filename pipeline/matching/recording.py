"""A recording of any length to the songs in it, stretch by stretch, in the memory of one stretch.

A stretch is two minutes long and is searched once. Its hits are voted in short windows, and candidates that continue
each other become tracks. Only the strongest tracks are aligned with their song's constellation, all along the stretch.
What an alignment gives in each half second is a trace, and `segments` makes matches of the traces. Where no song
explains what sounds, the stretch is searched again at other speeds, and for changes of pitch and tempo.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from pipeline.audio.resampling import at_speed
from pipeline.matching import segments
from pipeline.matching.alignment import LOOP_SHARE, Alignment, Stretch, align, is_repeated_loop, traces
from pipeline.matching.calibration import recording_threshold
from pipeline.matching.changes import SEARCHES, Grid, grid
from pipeline.matching.clip import Clip
from pipeline.matching.search import COARSE, speeds
from pipeline.matching.segments import SLOT_S, Trace
from pipeline.matching.tracks import find_tracks, fit_line, hits_near
from pipeline.matching.types import Library, Match, Query
from pipeline.matching.voting import TICKS
from pipeline.matching.warping import find_alignments, refine_alignment, stretch_peaks

# How densely a stretch is searched. Its short windows are voted in, and their places found twice as exactly as clips'.
LEVEL = dataclasses.replace(COARSE, shifts=2, fan_out=5)
STRETCH_S = 120
# Searched again with the next stretch, so that a song that begins at the seam is found whole.
OVERLAP_S = 15
# A steeper line belongs to a copy at another speed.
STEEPEST = 0.006
# Speeds that differ by less are not searched both.
SAME_SPEED = 0.002
# A stream is searched every second, together with the 15 s before it. A search of changes costs too much for that.
CHANGES_STEP_S = 5
# A stretch is explained when no piece longer than this belongs to no song.
UNEXPLAINED_S = 10.0


class Recording:
    """One recording, fed in blocks.

    Parameters
    ----------
    stretch_s
        Searched at once; whole seconds. Long stretches read the store in large parts, short ones give matches sooner.
    loop_share
        As for `alignment.is_repeated_loop`.
    horizon_s
        Evidence is kept so long, and a match that is older is closed: a stream may go on for months, whatever it
        repeats. None: as long as the song goes on.

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
        loop_share: float = LOOP_SHARE,
        horizon_s: int | None = None,
    ) -> None:
        self.library = library
        self.query = query
        self.loop_share = loop_share
        self.horizon_s = horizon_s
        self.duration_s = 0.0
        self._rate = library.settings.sample_rate
        self._stretch = stretch_s * self._rate
        self._blocks: list[NDArray[np.float32]] = []
        self._waiting = 0
        self._overlap = np.zeros(0, np.float32)
        self._first_s = 0
        self._speeds = speeds(query.speed_range)
        self._grid = grid(query)
        self._changes_s = -math.inf  # the second up to which changes were searched
        self._last_speed = 1.0  # a turntable keeps its speed: the next stretch is searched at this one first
        self._traces: list[Trace] = []
        self._closed: list[Match] = []

    def feed(self, samples: NDArray[np.float32]) -> bool:
        """Take the next samples, ``(n,)`` float32 at the library's sample rate, any number; whether it searched."""
        self._blocks.append(samples)
        self._waiting += len(samples)
        self.duration_s += len(samples) / self._rate
        if self._waiting < self._stretch:
            return False
        waiting = np.concatenate(self._blocks)
        longest = max(self._stretch, STRETCH_S * self._rate)
        while len(waiting) >= self._stretch:
            whole = min(len(waiting), longest) // self._stretch * self._stretch
            self._search(waiting[:whole])
            waiting = waiting[whole:]
        self._blocks, self._waiting = [waiting], len(waiting)
        return True

    def skip(self, seconds: int) -> None:
        """Go on so many seconds later: there is no audio for them. What was fed before is searched."""
        if self._waiting:
            part_s = -self._waiting % self._rate
            self._search(np.concatenate([*self._blocks, np.zeros(part_s, np.float32)]))
            self._blocks, self._waiting = [], 0
        self._first_s += len(self._overlap) // self._rate + seconds
        self._overlap = np.zeros(0, np.float32)
        self.duration_s = float(self._first_s)
        self._close(round(self._first_s / SLOT_S))

    def finish(self) -> list[Match]:
        """Search the last seconds; the matches in the whole recording."""
        if self._waiting:
            self._search(np.concatenate(self._blocks))
            self._blocks, self._waiting = [], 0
        return self.matches()

    def matches(self) -> list[Match]:
        """The matches in what was searched so far, by start; the last of them may go on."""
        return sorted(self._closed + self.open_matches(), key=lambda match: match.clip_start_s)

    def open_matches(self) -> list[Match]:
        """Those of songs that may go on, by start."""
        return self._segments(self._traces)

    def open_songs(self) -> set[int]:
        """The songs that may go on."""
        return {trace.song_id for trace in self._traces}

    def take_closed(self) -> list[Match]:
        """The matches that will not change any more, since the last call; they are forgotten here."""
        closed, self._closed = self._closed, []
        return closed

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
        if self._grid:
            alignments = self._with_changes(stretch, alignments, self._grid)
        self._traces += traces(alignments)
        self._close(stretch.first)
        self._overlap = samples[-OVERLAP_S * self._rate :]
        self._first_s += (len(samples) - len(self._overlap)) // self._rate

    def _with_changes(self, stretch: Stretch, alignments: list[Alignment], searched: Grid) -> list[Alignment]:
        """The alignments with exact pitch and tempo, and songs that are changed; of a stream every `CHANGES_STEP_S`."""
        alignments = [dataclasses.replace(one, searched=SEARCHES * one.searched) for one in alignments]
        alignments = [one for one in alignments if segments.is_plausible(one.trace())]
        end_s = stretch.first * SLOT_S + len(stretch.samples) / self._rate
        if self._stretch <= CHANGES_STEP_S * self._rate and end_s < self._changes_s + CHANGES_STEP_S:
            return alignments
        self._changes_s = end_s
        matches = self._segments(traces(alignments))
        songs = self.library.constellations({one.song_id for one in alignments})
        peaks = stretch_peaks(stretch)
        exact = [refine_alignment(stretch, songs[one.song_id], one, peaks) for one in alignments]
        return exact + find_alignments(stretch, self.library, searched, matches, self.loop_share, peaks)

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
        query = clip.query_hashes(LEVEL)
        tracks = find_tracks(query, self.library, settings.sample_rate * TICKS / settings.hop)
        songs = self.library.constellations({track.song_id for track in tracks})
        aligned = []
        for track, of_song in zip(tracks, hits_near(tracks, query, songs, settings.fan_out), strict=True):
            line = fit_line(track, of_song)
            if abs(line.slope) <= STEEPEST:
                one = align(stretch, track, songs[track.song_id], of_song, line, speed)
                # each of several speeds is a chance to be wrong
                aligned.append(one if speed == 1.0 else dataclasses.replace(one, searched=len(self._speeds)))
        return [one for one in aligned if segments.is_plausible(one.trace())]

    def _close(self, first: int) -> None:
        """Of songs that did not occur lately keep the segments and not the traces, so that memory does not grow."""
        recent = {trace.song_id for trace in self._traces if trace.end >= first - segments.LONGEST_GAP_S / SLOT_S}
        self._closed += self._segments([trace for trace in self._traces if trace.song_id not in recent])
        self._traces = [trace for trace in self._traces if trace.song_id in recent]
        if self.horizon_s is None:
            return
        self._traces = segments.join_traces(self._traces)
        cut = first - round(self.horizon_s / SLOT_S)
        if any(trace.first < cut - round(self.horizon_s / SLOT_S) for trace in self._traces):
            self._closed += [match for match in self.open_matches() if match.clip_end_s <= cut * SLOT_S]
            self._traces = [trace.since(cut) for trace in self._traces if trace.end > cut]
