"""Live identification of samples from a microphone, or from any program that writes them to a pipe.

It is the search of recordings, in short steps: each second is searched together with the 15 s before it. So a song is
named some seconds after it starts. A name that was given is never taken back; where in the song it plays, is corrected.
"""

from __future__ import annotations

import dataclasses
import queue
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import AudioError, ParameterError
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


class Listener:
    """Identifies a stream of samples, and remembers what it found.

    Parameters
    ----------
    library, query
        As for `pipeline.matching.recording.Recording`.
    """

    def __init__(self, library: Library, query: Query) -> None:
        query = dataclasses.replace(query, false_positives=query.false_positives / SEARCHES)
        self._recording = Recording(library, query, STEP_S, loop_share=LOOP_LIMIT)
        self._named: list[Match] = []
        self.corrected: list[Match] = []

    @property
    def duration_s(self) -> float:
        """Seconds of audio so far."""
        return self._recording.duration_s

    def add(self, samples: NDArray[np.float32]) -> list[Match]:
        """Append samples, and return the new performances that are now certain.

        Afterwards ``corrected`` has the matches of songs that were named before, and play at another place than was
        said.

        Parameters
        ----------
        samples
            ``(n,)`` float32 at the library's sample rate; the shorter they are, the sooner a song is named.
        """
        self._recording.feed(samples)
        new: list[Match] = []
        self.corrected = []
        for match in self._recording.matches():
            of_song = [i for i, named in enumerate(self._named) if named.song_id == match.song_id]
            known = [i for i in of_song if abs(_start_s(self._named[i]) - _start_s(match)) <= SAME_START_S]
            if known:
                self._named[known[0]] = match
                continue
            named_now = any(_gap_s(self._named[i], match) <= SAME_PERFORMANCE_S for i in of_song)
            (self.corrected if named_now else new).append(match)
            self._named.append(match)
        return new

    def finish(self) -> list[Match]:
        """End the stream, and return all performances with their spans, by start."""
        return self._recording.finish()


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


def limit(blocks: Iterable[NDArray[np.float32]], n_samples: float) -> Iterator[NDArray[np.float32]]:
    """The first samples of a stream, in its blocks.

    Raises
    ------
    ParameterError
        If the number is not above 0.
    """
    if not n_samples > 0:
        raise ParameterError(f"seconds to listen come to {n_samples} samples; it must be above 0")
    for block in blocks:
        yield block
        n_samples -= len(block)
        if n_samples <= 0:
            return
