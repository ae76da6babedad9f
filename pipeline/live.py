"""Live identification of samples from a microphone, or from any program that writes them to a pipe.

It is the search of recordings, in short steps: each second is searched together with the 15 s before it. So a song is
named some seconds after it starts. A name that was given is never taken back; where in the song it plays, is corrected.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import queue
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import AudioError
from pipeline.matching.recording import Recording
from pipeline.matching.types import Library, Match, Query

STEP_S = 1
# A song is searched again and again while it plays, and each search may give a false positive: each is allowed this
# part of the query's.
SEARCHES = 5
# What is a loop in most searches is by chance a song in one of them. So loops are suspected sooner than in a recording,
# which is searched once. It costs seconds: half of the songs are named after 4.1 s as without it, the last after 11 s.
LOOP_LIMIT = 0.62
# Two matches of one song are one performance if they put its start within this many seconds.
SAME_START_S = 2.0
# Matches of one song with so few seconds between them are one performance, whose position was wrong or has jumped.
SAME_PERFORMANCE_S = 5.0
RAW_BYTES = 8192
# Evidence is kept for so many seconds, and up to twice as many. A song that goes on is found by what follows.
HORIZON_S = 600


class Listener:
    """Identifies a stream of samples, for hours or for years, and remembers what plays.

    Parameters
    ----------
    library, query
        As for `pipeline.matching.recording.Recording`.

    Attributes
    ----------
    corrected
        After `add`: the matches of songs that were named before, and play at another place than was thought.
    ended
        The performances that are over, in the order of their ends, each as its matches by start: several where the
        position jumped. The caller may take them out; `finish` returns those that are left.
    """

    def __init__(self, library: Library, query: Query) -> None:
        query = dataclasses.replace(query, false_positives=query.false_positives / SEARCHES)
        self._recording = Recording(library, query, STEP_S, loop_share=LOOP_LIMIT, horizon_s=HORIZON_S)
        self._performances: list[_Performance] = []
        self.corrected: list[Match] = []
        self.ended: list[list[Match]] = []

    @property
    def duration_s(self) -> float:
        """Seconds of audio so far, and of what was skipped."""
        return self._recording.duration_s

    @property
    def open_since_s(self) -> float:
        """Where the first of the performances that may go on began; infinite if there is none."""
        return min((performance.matches[0].clip_start_s for performance in self._performances), default=math.inf)

    def add(self, samples: NDArray[np.float32]) -> list[Match]:
        """Append samples, and return the new performances that are now certain.

        Parameters
        ----------
        samples
            ``(n,)`` float32 at the library's sample rate; the shorter they are, the sooner a song is named. They are
            searched at once, in whole seconds: many seconds cost less than one by one.
        """
        if self._recording.feed(samples):
            return self._update()
        self.corrected = []
        return []

    def skip(self, seconds: int) -> None:
        """Go on so many seconds later, since the stream was interrupted: a short gap does not end a performance."""
        self._recording.skip(seconds)
        self._update()

    def finish(self) -> list[Match]:
        """End the stream, and return the matches of all performances with their spans, by start."""
        self._recording.finish()
        self._update()
        last = [one.matches if one.found else one.closed for one in self._performances]
        self.ended += [matches for matches in last if matches]
        self._performances = []
        return sorted(itertools.chain(*self.ended), key=lambda match: match.clip_start_s)

    def _update(self) -> list[Match]:
        """Compare what is found now with the performances that are known; those that are new."""
        new: list[Match] = []
        self.corrected = []
        for one in self._performances:
            one.begin_update()
        closed = self._recording.take_closed()
        found = [(match, True) for match in closed] + [(match, False) for match in self._recording.open_matches()]
        for match, is_closed in sorted(found, key=lambda pair: pair[0].clip_start_s):
            of_song = [one for one in self._performances if one.song_id == match.song_id]
            same = [one for one in of_song if one.has(match)]
            near = [one for one in of_song if one.distance_s(match) <= SAME_PERFORMANCE_S]
            if not same:
                (self.corrected if near else new).append(match)
                if not near:
                    self._performances.append(_Performance(match.song_id))
            (same or near or self._performances[-1:])[0].take(match, is_closed, self.duration_s - HORIZON_S)
        songs = self._recording.open_songs()
        over = [one for one in self._performances if one.song_id not in songs or (one.found and not one.open)]
        self.ended += [one.closed for one in over if one.closed]  # else later evidence contradicts it
        self._performances = [one for one in self._performances if one not in over]
        return new


class _Performance:
    """A song that was named.

    Attributes
    ----------
    closed, open
        Its matches that will not change any more, and those that may, as they were found last.
    found
        Whether the last search found it.
    """

    def __init__(self, song_id: int) -> None:
        self.song_id = song_id
        self.closed: list[Match] = []
        self.open: list[Match] = []
        self.found = False
        self._known: list[Match] = []

    @property
    def matches(self) -> list[Match]:
        """All of its matches, by start."""
        return self.closed + self.open

    def has(self, match: Match) -> bool:
        """Whether a match plays the song from the same start."""
        return any(_is_same(one, match) for one in self._known)

    def distance_s(self, match: Match) -> float:
        """Seconds between the nearest of its matches and another one."""
        return min(_gap_s(one, match) for one in self._known)

    def begin_update(self) -> None:
        """A new search follows."""
        self._known = self.matches
        self.found = False

    def take(self, match: Match, is_closed: bool, kept_since_s: float) -> None:
        """Add a match that was found now; of one that began before the evidence is kept, the start is known."""
        for one in self._known:
            if _is_same(one, match) and one.clip_start_s < kept_since_s:
                match = dataclasses.replace(match, clip_start_s=one.clip_start_s, song_start_s=one.song_start_s)
        if not self.found:
            self.open = []
        self.found = True
        self._known.append(match)
        (self.closed if is_closed else self.open).append(match)


def _is_same(match: Match, other: Match) -> bool:
    """Whether two matches of one song play it from the same start."""
    return abs(_start_s(match) - _start_s(other)) <= SAME_START_S


def _gap_s(match: Match, other: Match) -> float:
    """Seconds between the spans of two matches in the stream; below 0 where they overlap."""
    return max(match.clip_start_s, other.clip_start_s) - min(match.clip_end_s, other.clip_end_s)


def _start_s(match: Match) -> float:
    """Where in the stream the song would begin if it played from its start."""
    return match.clip_start_s - match.song_start_s / match.speed


def read_pcm(stream: BinaryIO, head: bytes = b"") -> Iterator[NDArray[np.float32]]:
    """Read signed 16-bit little-endian mono samples from a pipe, as they come, after the ``head`` that was read."""
    rest = b""
    # `read1` returns what the pipe has; `read` would wait until a block is full.
    read = getattr(stream, "read1", stream.read)
    while data := head or read(RAW_BYTES):
        head = b""
        data = rest + data
        whole = len(data) // 2 * 2
        rest = data[whole:]
        yield np.frombuffer(data[:whole], "<i2").astype(np.float32) / np.float32(32768)


def microphone(device: str | None = None) -> tuple[int, Iterator[NDArray[np.float32]]]:
    """Open a microphone.

    Parameters
    ----------
    device
        Number or part of the name; the system's default when ``None``.

    Returns
    -------
    rate, blocks
        Its sample rate in Hz, and an endless stream of ``(n,)`` float32 samples.

    Raises
    ------
    AudioError
        If there is no microphone, or the libraries that it needs are not installed.
    """
    elsewhere = "or let another program record and feed it with --input -"
    try:
        import sounddevice
    except ImportError as error:
        raise AudioError(
            f"the microphone needs the package sounddevice: pip install 'songprint[microphone]', {elsewhere}"
        ) from error
    except OSError as error:  # the package is installed, the library that it wraps is not
        raise AudioError(
            f"the microphone needs the PortAudio library (on Debian or Ubuntu: apt install libportaudio2), {elsewhere}"
        ) from error
    chosen = int(device) if device is not None and device.isdecimal() else device
    try:
        rate = int(sounddevice.query_devices(chosen, "input")["default_samplerate"])
    except (sounddevice.PortAudioError, ValueError) as error:
        raise AudioError(f"no microphone found ({error}); choose one with --device, {elsewhere}") from error

    def samples() -> Iterator[NDArray[np.float32]]:
        waiting: queue.SimpleQueue[NDArray[np.float32]] = queue.SimpleQueue()
        with sounddevice.InputStream(
            samplerate=rate, device=chosen, channels=1, callback=lambda block, *_: waiting.put(block[:, 0].copy())
        ):
            while True:
                yield waiting.get()

    return rate, samples()
