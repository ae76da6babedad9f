"""Several inputs at once, for as long as they last: radio streams, a microphone, files.

A thread reads each input, and one thread searches what has come in. A live input is searched with all that has come
since its last search: the more inputs there are, the more seconds are searched at once, which costs less a second. So
with more inputs than the machine can search each second, songs are named later, and none is lost.
"""

from __future__ import annotations

import bisect
import collections
import contextlib
import dataclasses
import enum
import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.audio import decoding
from pipeline.audio.decoder import CannotDecode
from pipeline.audio.ffmpeg import FfmpegStream
from pipeline.errors import AudioError
from pipeline.live import STEP_S, Listener
from pipeline.matching.types import Library, Match, Query

# A stream that breaks is opened again after the first of these, doubled with each attempt up to the second.
RETRY_S = (1.0, 60.0)
# A connection that gave so much audio was a good one: the next attempt comes soon.
GOOD_S = 10.0
STALLED_S = 30.0
# So much audio of an input may wait for its search before its reader waits.
MOST_WAITING_S = 60.0
# A server sends so much at once to a new listener, at most; it was on air before.
BURST_S = 30.0
# By how much a clock may run slow or fast: 3.6 s an hour.
DRIFT = 0.001
# What is not explained by a song for so long is reported as unknown.
SHORTEST_UNKNOWN_S = 2.0
# A song is named some seconds after its start: only then is it known what came before it.
HELD_S = 20.0
# Times of so many connections are kept: a song began within the last of them.
MOST_CONNECTIONS = 100
POLL_S = 0.5
JOIN_S = 3 * POLL_S


@dataclass(frozen=True, slots=True)
class Audio:
    """Samples of an input, ``(n,)`` float32, that came at a time, in seconds since 1970."""

    samples: NDArray[np.float32]
    time_s: float


@dataclass(frozen=True, slots=True)
class Lost:
    """A stream could not be opened, or broke, at a time, in seconds since 1970."""

    reason: str
    time_s: float


@dataclass(frozen=True, slots=True)
class Over:
    """The end of an input; with an error if it could not be read."""

    error: AudioError | None = None


Piece: TypeAlias = Audio | Lost | Over


class Stopped(Exception):
    """What an input's reader gets when no more is wanted."""


@dataclass(frozen=True, slots=True)
class Input:
    """What to listen to.

    Parameters
    ----------
    read
        Called in a thread of its own. It gives each piece to the function that is its first argument, which may wait or
        raise `Stopped`. The event, its second, is set when no more is wanted. It ends by returning, or by an
        `AudioError`.
    live
        Its seconds come one by one, and do not wait.
    """

    read: Callable[[Callable[[Piece], None], threading.Event], None]
    live: bool


class Kind(enum.Enum):
    """What an event says."""

    NAMED = "named"
    CORRECTED = "corrected"
    LOST = "lost"
    BACK = "back"
    FAILED = "failed"
    SONG = "song"
    UNKNOWN = "unknown"
    OFFLINE = "offline"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that was found out about an input.

    The first five kinds come at once. The events of kind `SONG`, `UNKNOWN` and `OFFLINE` come when what they describe
    is over, by their start, and cover all that was listened to; songs may overlap.

    Parameters
    ----------
    input
        Its name.
    start_s, end_s
        Seconds of the input, since its first sample.
    start, end
        The same as wall clock time, in seconds since 1970.
    matches
        Of a song: one, or several where its position jumped.
    message
        Why a stream is lost, or an input failed.
    """

    input: str
    kind: Kind
    start_s: float
    end_s: float
    start: float
    end: float
    matches: tuple[Match, ...] = ()
    message: str = ""


def read_url(
    url: str,
    sample_rate: int,
    retry_s: tuple[float, float] = RETRY_S,
    stalled_s: float = STALLED_S,
    stream: int | None = None,
) -> Input:
    """A stream, which is opened again whenever it ends or breaks.

    Parameters
    ----------
    url
        ``http://…`` or ``https://…``: audio, or an HLS playlist.
    sample_rate
        Of the library, in Hz.
    retry_s
        Wall seconds before the first attempt to open it again, doubled up to the second number.
    stalled_s
        Wall seconds without audio after which it counts as broken.
    stream
        Which of its audio streams, from 1; the first when ``None``.
    """

    def read(put: Callable[[Piece], None], stop: threading.Event) -> None:
        wait_s = retry_s[0]
        while not stop.is_set():
            n_samples = 0
            try:
                with contextlib.closing(FfmpegStream(url, sample_rate, stream or 1)) as audio:
                    for samples in audio.blocks(stalled_s, stop):
                        n_samples += len(samples)
                        put(Audio(samples, time.time()))
            except CannotDecode as error:
                put(Lost(str(error), time.time()))
            wait_s = retry_s[0] if n_samples >= GOOD_S * sample_rate else wait_s
            stop.wait(wait_s)
            wait_s = min(2 * wait_s, retry_s[1])

    return Input(read, live=True)


def read_file(path: str, sample_rate: int, stream: int | None = None) -> Input:
    """A local file, as fast as it is searched; arguments as for `decoding.decode`."""

    def read(put: Callable[[Piece], None], stop: threading.Event) -> None:
        given = 0

        def consume(blocks: Iterator[NDArray[np.float32]]) -> None:
            nonlocal given
            position = 0
            for block in blocks:  # from the start again, if another decoder is tried
                position += len(block)
                if position > given:
                    put(Audio(block[given - position :], time.time()))
                    given = position

        decoding.decode(path, sample_rate, consume, stream=stream)

    return Input(read, live=False)


def read_blocks(blocks: Iterable[NDArray[np.float32]], live: bool) -> Input:
    """Blocks of samples at the library's sample rate, ``(n,)`` float32, such as those of a microphone or a pipe."""

    def read(put: Callable[[Piece], None], stop: threading.Event) -> None:
        for samples in blocks:
            put(Audio(samples, time.time()))

    return Input(read, live)


class Monitor:
    """Listens to several inputs; a context, at whose end its threads end.

    Parameters
    ----------
    inputs
        By their names.
    library, query
        As for `Listener`.
    seconds
        To listen to each input; None for all of it.
    """

    def __init__(
        self, inputs: Mapping[str, Input], library: Library, query: Query, seconds: float | None = None
    ) -> None:
        self._events: queue.SimpleQueue[Event | Exception | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._channels = [
            _Channel(name, one, library, query, seconds, self._events.put) for name, one in inputs.items()
        ]
        self._searcher = threading.Thread(target=self._guarded, args=(self._search,), daemon=True)
        self._readers = [
            threading.Thread(target=self._guarded, args=(self._read, one), daemon=True) for one in self._channels
        ]
        for thread in (self._searcher, *self._readers):
            thread.start()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._searcher.join()
        until = time.monotonic() + JOIN_S
        for thread in self._readers:  # one that waits for a microphone or a pipe is left behind
            thread.join(max(until - time.monotonic(), 0.0))

    def events(self) -> Iterator[Event]:
        """What is found, until all inputs are over or `stop` is called; then what was still open."""
        while (event := self._events.get()) is not None:
            yield self._checked(event)
        self._stop.set()
        self._searcher.join()
        for channel in self._channels:
            channel.finish()
        while not self._events.empty():
            if (event := self._events.get()) is not None:
                yield self._checked(event)

    def stop(self) -> None:
        """Listen to no more: `events` goes on to what was still open. May be called in a signal handler."""
        self._events.put(None)

    @staticmethod
    def _checked(event: Event | Exception) -> Event:
        if isinstance(event, Exception):
            raise event
        return event

    def _guarded(self, work: Callable[..., None], *arguments: object) -> None:
        """Run a thread's work; an error is raised where the events are taken."""
        try:
            work(*arguments)
        except Exception as error:
            self._events.put(error)

    def _read(self, channel: _Channel) -> None:
        def put(piece: Piece) -> None:
            with self._changed:
                while not (self._stop.is_set() or channel.over or channel.has_room):
                    self._changed.wait(POLL_S)
                if self._stop.is_set() or channel.over:
                    raise Stopped
                channel.append(piece)
                self._changed.notify_all()

        with contextlib.suppress(Stopped):
            try:
                channel.input.read(put, self._stop)
                put(Over())
            except AudioError as error:
                put(Over(error))

    def _search(self) -> None:
        """Search what has come in, the input that waits longest first."""
        while not self._stop.is_set() and not all(channel.over for channel in self._channels):
            with self._changed:
                ready = [channel for channel in self._channels if channel.is_ready]
                if not ready:
                    self._changed.wait(POLL_S)
                    continue
                channel = min(ready, key=lambda channel: channel.searched_at)
                pieces = channel.take()
                self._changed.notify_all()
            channel.search(pieces)
        self._events.put(None)


class _Channel:
    """One input: the pieces that wait for their search, and what was found so far."""

    def __init__(
        self,
        name: str,
        input_: Input,
        library: Library,
        query: Query,
        seconds: float | None,
        put: Callable[[Event], None],
    ) -> None:
        self.name = name
        self.input = input_
        self.over = False
        self.searched_at = 0.0
        self._rate = library.settings.sample_rate
        self._seconds = math.inf if seconds is None else seconds
        self._put = put
        self._waiting: collections.deque[Piece] = collections.deque()
        self._waiting_s = 0.0
        self._listener = Listener(library, query)
        self._clock = WallClock(time.time())
        self._connected = False
        self._finished = False
        self._lost: Lost | None = None
        self._lost_s = 0.0
        self._held: list[Event] = []
        self._covered_s = 0.0

    # the pieces, under the monitor's lock

    @property
    def has_room(self) -> bool:
        """Whether its reader may go on."""
        return self._waiting_s < MOST_WAITING_S

    @property
    def is_ready(self) -> bool:
        """Whether there is something to search."""
        enough = not self.input.live or self._waiting_s >= STEP_S
        return not self.over and bool(self._waiting) and (enough or not isinstance(self._waiting[-1], Audio))

    def append(self, piece: Piece) -> None:
        """Add the next piece."""
        self._waiting.append(piece)
        self._waiting_s += len(piece.samples) / self._rate if isinstance(piece, Audio) else 0.0

    def take(self) -> list[Piece]:
        """The pieces to search now: of a live input all."""
        pieces = list(self._waiting) if self.input.live else [self._waiting.popleft()]
        if self.input.live:
            self._waiting.clear()
        self._waiting_s -= sum(len(piece.samples) for piece in pieces if isinstance(piece, Audio)) / self._rate
        return pieces

    # the search, in one thread at a time

    def search(self, pieces: Iterable[Piece]) -> None:
        """Search pieces, in their order."""
        self.searched_at = time.monotonic()
        audio: list[NDArray[np.float32]] = []
        for piece in pieces:
            if isinstance(piece, Audio):
                if self._lost:
                    self._come_back(piece)
                self._set_clock(piece, sum(map(len, audio)) / self._rate)
                audio.append(piece.samples)
                continue
            self._add(audio)
            audio = []
            if isinstance(piece, Lost):
                self._lose(piece)
            else:
                self.over = True
                if piece.error:
                    self._report(Kind.FAILED, message=str(piece.error))
        self._add(audio)
        if self.over:
            self.finish()

    def finish(self) -> None:
        """Report all that is left; only the first call does."""
        if self._finished:
            return
        self._finished = self.over = True
        if self._lost:
            self._skip_to(time.time())
        self._listener.finish()
        if self._lost:
            self._hold_offline(time.time())
        self._release(math.inf)
        self._report_unknown(self._listener.duration_s)

    def _add(self, audio: Sequence[NDArray[np.float32]]) -> None:
        """Search samples: those of a live input at once, others second by second, so that they have the same result."""
        if not audio:
            return
        samples = np.concatenate(audio)
        left = self._seconds - self._listener.duration_s
        if len(samples) >= left * self._rate:
            samples = samples[: max(round(left * self._rate), 0)]
            self.over = True
        step = len(samples) if self.input.live else STEP_S * self._rate
        for start in range(0, len(samples), step):
            for match in self._listener.add(samples[start : start + step]):
                self._report(Kind.NAMED, (match,))
            for match in self._listener.corrected:
                self._report(Kind.CORRECTED, (match,))
        self._release()

    def _set_clock(self, piece: Audio, waiting_s: float) -> None:
        """Compare the audio so far with the wall clock, at which the end of this piece came."""
        if not self.input.live:  # as if it had begun to play when it was opened
            return
        length_s = len(piece.samples) / self._rate
        start_s = self._listener.duration_s + waiting_s
        if not self._connected:
            self._clock.connect(start_s, piece.time_s - length_s)
            self._connected = True
        self._clock.advance(start_s + length_s, piece.time_s)

    def _lose(self, piece: Lost) -> None:
        """The stream is lost, or still is."""
        if self._lost is None:
            self._lost, self._lost_s = piece, self._listener.duration_s
            self._connected = False
            self._report(Kind.LOST, message=piece.reason)
        self._skip_to(piece.time_s)
        self._release()

    def _come_back(self, piece: Audio) -> None:
        self._skip_to(piece.time_s)
        self._hold_offline(piece.time_s)
        self._report(Kind.BACK)
        self._lost = None

    def _skip_to(self, time_s: float) -> None:
        """Let the seconds of the listener go on with the wall clock while there is no audio."""
        assert self._lost
        seconds = int(time_s - self._lost.time_s - (self._listener.duration_s - self._lost_s))
        if seconds > 0:
            self._listener.skip(seconds)
            self.over |= self._listener.duration_s >= self._seconds

    def _hold_offline(self, time_s: float) -> None:
        assert self._lost
        end_s = self._listener.duration_s
        self._held.append(
            Event(self.name, Kind.OFFLINE, self._lost_s, end_s, self._lost.time_s, time_s, message=self._lost.reason)
        )

    def _report(self, kind: Kind, matches: tuple[Match, ...] = (), message: str = "") -> None:
        """Report what is found now."""
        now_s = self._listener.duration_s
        now = self._clock.at(now_s)
        self._put(Event(self.name, kind, now_s, now_s, now, now, matches, message))

    def _release(self, until_s: float | None = None) -> None:
        """Report what is over: in the order of the starts, so that nothing follows that began earlier."""
        for matches in self._listener.ended:
            start_s, end_s = matches[0].clip_start_s, max(match.clip_end_s for match in matches)
            self._held.append(Event(self.name, Kind.SONG, start_s, end_s, 0.0, 0.0, tuple(matches)))
        self._listener.ended.clear()
        self._held.sort(key=lambda event: event.start_s)
        if until_s is None:
            until_s = min(self._listener.open_since_s, self._listener.duration_s - HELD_S)
        while self._held and self._held[0].start_s <= until_s:
            event = self._held.pop(0)
            self._report_unknown(event.start_s)
            if event.kind is Kind.SONG:
                event = dataclasses.replace(event, start=self._clock.at(event.start_s), end=self._clock.at(event.end_s))
            self._put(event)
            self._covered_s = max(self._covered_s, event.end_s)

    def _report_unknown(self, end_s: float) -> None:
        """Report what no song or outage covers up to a second."""
        start_s = self._covered_s
        if end_s - start_s >= SHORTEST_UNKNOWN_S:
            self._put(Event(self.name, Kind.UNKNOWN, start_s, end_s, self._clock.at(start_s), self._clock.at(end_s)))
            self._covered_s = end_s


class WallClock:
    """The wall clock time of each second of an input.

    A connection begins with some seconds that were on air before, and then goes on at the pace of another clock, in
    pieces that come late. So a second is dated by the piece that came soonest, and later pieces correct that slowly.

    Parameters
    ----------
    time_s
        At the first second, in seconds since 1970.
    """

    def __init__(self, time_s: float) -> None:
        # of each connection: its first second, and when the input would have begun
        self._connections: collections.deque[tuple[float, float]] = collections.deque([(0.0, time_s)], MOST_CONNECTIONS)
        self._until_s = 0.0
        self._least = time_s

    def connect(self, position_s: float, time_s: float) -> None:
        """A connection begins with this second of the input, at this time."""
        if self._connections[-1][0] == position_s:
            self._connections.pop()
        self._connections.append((position_s, time_s - position_s))
        self._until_s = position_s
        self._least = time_s - position_s - BURST_S

    def advance(self, position_s: float, time_s: float) -> None:
        """The input has come up to this second at this time."""
        drift = DRIFT * (position_s - self._until_s)
        self._until_s = position_s
        self._least -= drift
        first_s, began = self._connections[-1]
        self._connections[-1] = (first_s, max(self._least, min(began + drift, time_s - position_s)))

    def at(self, position_s: float) -> float:
        """The time of a second, in seconds since 1970."""
        i = max(bisect.bisect_right(self._connections, position_s, key=lambda one: one[0]) - 1, 0)
        return position_s + self._connections[i][1]
