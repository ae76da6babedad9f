"""What every decoder provides, and how it says that it cannot decode a file."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_RATES = range(2_000, 768_001)  # Hz; below, a file of a few MB would stand for years of "audio"
_MAX_CHANNELS = 64


@dataclass(frozen=True, slots=True)
class Decoded:
    """How a file was decoded.

    Parameters
    ----------
    decoder
        ``"soundfile"`` or ``"ffmpeg"``.
    sample_rate, channels
        Of the file, before mixing and resampling.
    duration_s
        Seconds that came out of the decoder.
    declared_s
        Seconds that the file's own header promises, None where no header does, or where the caller did not ask for
        the whole file.
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


class CannotDecode(Exception):
    """A decoder cannot give samples; the words are for the user, without the path."""


class Unreadable(CannotDecode):
    """The file was understood, and no other decoder would make it better."""


class Decoder:
    """What a decoder knows of one file while it reads it."""

    decoder: str
    sample_rate: int = 0
    channels: int = 0
    declared_s: float | None = None
    frames: int = 0  # decoded so far
    ended: bool = False  # the decoder gave its last frame
    complete: bool = False  # and it saw the whole file
    fault: str | None = None  # why not

    def fill(self, buffer: NDArray[np.float32]) -> int:
        """Read the next frames into ``(n_frames, channels)``; fewer than fit only at the end."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def decoded(self, declared_s: float | None) -> Decoded:
        return Decoded(self.decoder, self.sample_rate, self.channels, self.frames / self.sample_rate, declared_s)

    def check_shape(self) -> None:
        if self.sample_rate not in _RATES:
            raise Unreadable(f"a sample rate of {self.sample_rate} Hz; {_RATES.start} to {_RATES[-1]} Hz are read")
        if not 1 <= self.channels <= _MAX_CHANNELS:
            raise Unreadable(f"{self.channels} channels; 1 to {_MAX_CHANNELS} are read")


def clean_message(message: str) -> str:
    """A decoder's message without its addresses ("[mov @ 0x55d...]"), and not endless."""
    return re.sub(r"\[[^\]]*@ 0x[0-9a-f]+\]\s*|Error opening \d+: ", "", message).strip()[:200]
