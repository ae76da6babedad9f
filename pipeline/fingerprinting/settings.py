"""Every number that fixes what a fingerprint is: the settings travel with the store, a query
with others is refused.

What belongs to one query (density, thresholds) is not here but beside the code that uses it: it may change between
two queries of the same store, the settings may not.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from pipeline.errors import ParameterError

pass


@dataclass(frozen=True, slots=True)
class Settings:
    """How samples become hashes.

    Parameters
    ----------
    sample_rate
        Hz, of the mono samples that everything after the decoder sees.
    window, hop
        Samples of a spectrogram's frame, and from one frame to the next.
    peaks_per_s
        Peaks kept for each second of audio, the most salient first.
    fan_out
        Targets that each anchor is paired with.
    """

    sample_rate: int = 11025
    window: int = 2048
    hop: int = 512
    peaks_per_s: int = 60
    fan_out: int = 2

    def __post_init__(self) -> None:
        for name, value in self.to_dict().items():
            if value <= 0:
                raise ParameterError(f"settings: {name} is {value!r}; it must be above 0")

    @property
    def frame_s(self) -> float:
        """Seconds from one frame to the next."""
        return self.hop / self.sample_rate

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain JSON values, in the order of the fields."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Settings:
        """Settings from what `to_dict` gave; an unknown or missing name is a `ParameterError`."""
        known = {field.name for field in dataclasses.fields(cls)}
        if set(values) != known:
            odd = sorted(set(values) ^ known)
            raise ParameterError(
                f"settings: {', '.join(odd)} unknown or missing; another version of songprint wrote them"
            )
        return cls(**values)


BAND = 32  # bins over which the local level is averaged
SURROUNDINGS_S = 0.75  # seconds to either side over which the local level and the number of peaks are measured
LOWEST_BIN = 8  # below 43 Hz there is rumble, and no loudspeaker
SILENCE = 1e-6  # power: what the dither of 16 bit leaves in one bin is a tenth of it
LEVEL_DB = 2.0  # the step in which a peak's level is kept: finer ones recognise no better

# The target zone, which is also the range of a packed landmark: 10 bits of bin, 8 of bins aside, 5 of frames ahead.
BINS = 1024
BINS_ASIDE = 127
NEAREST_FRAME = 1
FURTHEST_FRAME = 32

REACH_FRAMES = 2  # over which a song's peak is the maximum, to either side; those of a clip may stand closer
REACH_BINS = 10
