"""Live: what plays now, named as soon as it is sure, from a microphone or from any program that gives samples.

It is the same engine that hears recordings, in short stretches: each second is asked together with the fifteen before
it, so that a song is named some seconds after it starts and what was named is never taken back.
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
# How often a song is looked for while it plays: each time is another chance to be wrong.
LOOKS = 5
# What is a loop in most looks is by chance a song in one of them: loops are suspected sooner than in a recording that
# is looked at once, at the price of seconds (half of the songs are named after 4.1 s as before, the last after 11 s).
LOOP_SHARE = 0.62
# Two matches of one song are one performance when it would have begun within this many seconds.
SAME_START_S = 2.0
RAW_BYTES = 8192


class Listener:
    """What was heard so far.

    Parameters
    ----------
    library, query
        As for `find_matches`.
    """

    def __init__(self, library: Library, query: Query) -> None:
        query = dataclasses.replace(query, false_positives=query.false_positives / LOOKS)
        self._recording = Recording(library, query, STEP_S, loop_share=LOOP_SHARE)
        self._named: list[Match] = []

    @property
    def heard_s(self) -> float:
        """Seconds of audio so far."""
        return self._recording.duration_s

    def hear(self, samples: NDArray[np.float32]) -> list[Match]:
        """Take in what comes next; the performances that are sure now and were not before.

        Parameters
        ----------
        samples
            ``(n,)`` float32 at the library's sample rate; the shorter, the sooner is the answer.
        """
        self._recording.feed(samples)
        new = [match for match in self._recording.matches() if not self._is_named(match)]
        self._named += new
        return new

    def finish(self) -> list[Match]:
        """The history: each performance with its span, by start."""
        return self._recording.finish()

    def _is_named(self, match: Match) -> bool:
        return any(
            named.song_id == match.song_id and abs(_began_s(named) - _began_s(match)) <= SAME_START_S
            for named in self._named
        )


def _began_s(match: Match) -> float:
    """When the song would have begun."""
    return match.clip_start_s - match.song_start_s / match.speed


def raw(stream: BinaryIO) -> Iterator[NDArray[np.float32]]:
    """Signed 16-bit little-endian mono samples from a pipe, as they come."""
    rest = b""
    # A pipe gives what it has; a block is not waited for until it is full.
    read = getattr(stream, "read1", stream.read)
    while data := read(RAW_BYTES):
        data = rest + data
        whole = len(data) // 2 * 2
        rest = data[whole:]
        yield np.frombuffer(data[:whole], "<i2").astype(np.float32) / np.float32(32768)


def microphone(device: str | None = None) -> tuple[int, Iterator[NDArray[np.float32]]]:
    """The sample rate of a microphone, and its samples for as long as one asks.

    Parameters
    ----------
    device
        Number or part of the name; the system's choice when ``None``.

    Raises
    ------
    AudioError
        If there is no microphone, or what it takes to hear it is not installed.
    """
    elsewhere = "or let another program record and feed it with --input -"
    try:
        import sounddevice
    except ImportError as error:
        raise AudioError(
            f"the microphone needs the package sounddevice: pip install 'songprint[microphone]', {elsewhere}"
        ) from error
    except OSError as error:  # the package is there, what it wraps is not
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


def limited(blocks: Iterable[NDArray[np.float32]], n_samples: float) -> Iterator[NDArray[np.float32]]:
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
