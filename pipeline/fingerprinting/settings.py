"""Every number that fixes a fingerprint: the settings, which are kept in the store, and constants.

A query with other settings than the store's is refused. What belongs to one query (density, thresholds) is beside the
code that uses it: it may change between two queries of the same store, these numbers may not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pipeline.errors import ParameterError

# What a store cannot choose. A change of any of these changes fingerprints: tests/test_golden.py tells to raise
# `store.metadata.FORMAT`.
BAND_BINS = 32  # bins over which the local level is averaged
NEIGHBOURHOOD_S = 0.75  # seconds to either side over which the local level and the number of peaks are measured
LOWEST_BIN = 8  # below 43 Hz there is rumble, which no loudspeaker reproduces
SILENCE = 1e-6  # power: the dither of 16 bits leaves a tenth of it in one bin
LEVEL_DB = 2.0  # the step in which a peak's level is kept: finer steps give no better recognition
# A song's peak is the maximum over so many frames and bins to either side; peaks of a clip may be closer.
PEAK_REACH_FRAMES = 2
PEAK_REACH_BINS = 10
# The target zone, which is also the range of a packed landmark: 10 bits of anchor bin, 8 of bin difference, 5 of frame
# difference.
BINS = 1024
MAX_BIN_DIFFERENCE = 127
MIN_FRAME_DIFFERENCE = 1
MAX_FRAME_DIFFERENCE = 32


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
    def parse(cls, assignments: Iterable[str]) -> Settings:
        """Settings with some values changed, each given as ``NAME=VALUE``.

        Raises
        ------
        ParameterError
            If a name is unknown, or a value is no whole number above 0.

        Examples
        --------
        >>> Settings.parse(["peaks_per_s=40"]).peaks_per_s
        40
        """
        values = cls().to_dict()
        for assignment in assignments:
            name, _, value = assignment.partition("=")
            if name not in values:
                raise ParameterError(f"setting {assignment!r}: there is none called {name}; known: {', '.join(values)}")
            if not value.isdecimal():
                raise ParameterError(f"setting {assignment!r}: a whole number is needed, as {name}={values[name]}")
            values[name] = int(value)
        return cls(**values)

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
