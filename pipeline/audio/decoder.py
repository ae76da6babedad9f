"""The contract of a decoder: what each one provides, and how it reports a file that it cannot decode."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

RATES = range(2_000, 768_001)  # Hz; below, a file of a few MB would stand for years of "audio"
MAX_CHANNELS = 64


@dataclass(frozen=True, slots=True)
class Decoded:
    """How a file was decoded.

    Parameters
    ----------
    decoder
        The `Decoder.name` of the decoder: ``"soundfile"`` or ``"ffmpeg"``; ``"array"`` for samples in memory.
    sample_rate, channels
        Of the file, before mixing and resampling.
    duration_s
        Seconds that came out of the decoder.
    declared_s
        Seconds that the file's own header promises; None where no header does, or where the caller did not read the
        whole file.
    """

    decoder: str
    sample_rate: int
    channels: int
    duration_s: float
    declared_s: float | None

    @property
    def decoded_share(self) -> float:
        """Decoded over declared duration, at most 1.0, and 1.0 when nothing is declared."""
        return min(1.0, self.duration_s / self.declared_s) if self.declared_s else 1.0


@dataclass(frozen=True, slots=True)
class Source:
    """A file as a decoder gets it.

    Parameters
    ----------
    fd
        Descriptor of a regular file, at its start. The caller closes it.
    size
        Bytes of the file.
    kind, start
        What the file is by its first bytes, and how many others come before, from `pipeline.audio.formats.kind_of`.
    stream
        Which of its audio streams, from 1. None for the default one, and another one with sound if that has none.
    deadline
        On the clock of `time.monotonic`: a decoder that may block must give up then. None for no limit.
    """

    fd: int
    size: int
    kind: str
    start: int = 0
    stream: int | None = None
    deadline: float | None = None


class CannotDecode(Exception):
    """A decoder gives no samples of a file; the message is the reason for the user, without the path."""


class Unreadable(CannotDecode):
    """No decoder would give samples, so that no other one is tried."""


class DoesNotStart(CannotDecode):
    """The decoder is not on this machine, or the machine has nothing left to start it with."""


class Decoder(ABC):
    """One file while it is decoded: a subclass for each decoder, an instance for each file.

    `pipeline.audio.decoding.decode` goes through its table `DECODERS`, and gives a file to each decoder that `accepts`
    it, in turn, until one has read it completely. It creates the decoder, calls `fill` until `ended`, and always calls
    `close`.

    A subclass sets `sample_rate` and `channels` when it is created, calls `check_shape` then, and keeps `frames`,
    `ended`, `complete` and `fault` up to date in `fill`. It reads the descriptor that it is given and opens nothing
    else: input files are untrusted. Creating it raises `CannotDecode` for a file that it cannot decode, and nothing
    else; damage that is found later ends the file, with a `fault`.

    Attributes
    ----------
    name
        How the songs table calls the decoder.
    sample_rate, channels
        Of the file.
    declared_s
        Seconds that the file's header promises, None without such a promise.
    frames
        Decoded so far.
    ended
        The decoder gave its last frame.
    complete
        And it read the whole file. Else the next decoder is tried, and the longer result counts.
    fault
        Why it is not complete, for the user.
    other_streams
        Numbers of the streams to try if this one is silent.
    """

    name: ClassVar[str]
    sample_rate: int = 0
    channels: int = 0
    declared_s: float | None = None
    frames: int = 0
    ended: bool = False
    complete: bool = False
    fault: str | None = None
    other_streams: tuple[int, ...] = ()

    @classmethod
    @abstractmethod
    def accepts(cls, source: Source) -> bool:
        """Whether this decoder is to be tried on a file: by its kind, its size, or more of its bytes (`pread`)."""

    @abstractmethod
    def __init__(self, source: Source) -> None: ...

    @abstractmethod
    def fill(self, buffer: NDArray[np.float32]) -> int:
        """Read the next frames into ``(n_frames, channels)``, values about -1 to 1.

        Returns
        -------
        int
            Frames read: fewer than fit only at the end, 0 after it.
        """

    @abstractmethod
    def close(self) -> None:
        """End the decoder, wherever it is; may be called more than once."""

    def decoded(self, declared_s: float | None) -> Decoded:
        """How the file was decoded so far."""
        return Decoded(self.name, self.sample_rate, self.channels, self.frames / self.sample_rate, declared_s)

    def check_shape(self) -> None:
        """Raise `Unreadable` for a sample rate or a number of channels that no music has."""
        if self.sample_rate not in RATES:
            raise Unreadable(f"a sample rate of {self.sample_rate} Hz; {RATES.start} to {RATES[-1]} Hz are read")
        if not 1 <= self.channels <= MAX_CHANNELS:
            raise Unreadable(f"{self.channels} channels; 1 to {MAX_CHANNELS} are read")


def clean_message(message: str) -> str:
    """A library's message without memory addresses ("[mov @ 0x55d...]"), cut to 200 characters."""
    return re.sub(r"\[[^\]]*@ 0x[0-9a-f]+\]\s*|Error opening \d+: ", "", message).strip()[:200]
