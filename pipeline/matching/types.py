"""What a query is given and gives: the library to ask, the options of a query, a match."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ParameterError
from pipeline.fingerprinting.landmarks import Slices
from pipeline.fingerprinting.peaks import Peaks
from pipeline.fingerprinting.settings import Settings

Result = TypeVar("Result")


class Shard(Protocol):
    """Some of the songs of a library, laid end to end: a position in it is a frame of one of them."""

    def find(self, hashes: NDArray[np.int32]) -> Slices:
        """Where some hashes occur, ``(n,)`` int32, rising; one that is given twice is found twice."""

    def locate(self, position: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The song id of each position, 0 where no indexed song lies, and the frame in the song."""


class Library(Protocol):
    """What a search needs of a store."""

    @property
    def settings(self) -> Settings: ...

    @property
    def n_songs(self) -> int: ...

    def map_shards(self, task: Callable[[Sequence[Shard]], Result]) -> list[Result]:
        """What a function gives for the shards, or for some of them at a time, each once.

        Each song is in one shard. What is found does not depend on which song is in which.
        """

    def constellations(self, song_ids: Iterable[int]) -> dict[int, Peaks]:
        """The constellations of some songs."""


@dataclass(frozen=True, slots=True)
class Query:
    """What one query run may choose.

    Parameters
    ----------
    false_positives
        Share of out-of-library clips that may be named all the same, above 0, at most 1.
    speed_range
        Percent by which a clip may be played fast or slow, pitch and tempo alike, 0 to 20.
    pitch_range
        Semitones by which its pitch may be higher or lower, 0 to 6.
    tempo_range
        Percent by which its tempo may be faster or slower, 0 to 50.
    """

    false_positives: float = 0.01
    speed_range: float = 0.0
    pitch_range: float = 0.0
    tempo_range: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.false_positives <= 1:
            raise ParameterError(f"false_positives is {self.false_positives}; it must be above 0 and at most 1")
        if not 0 <= self.speed_range <= 20:
            raise ParameterError(f"speed_range is {self.speed_range} %; it must be 0 to 20")
        if not 0 <= self.pitch_range <= 6:
            raise ParameterError(f"pitch_range is {self.pitch_range} semitones; it must be 0 to 6")
        if not 0 <= self.tempo_range <= 50:
            raise ParameterError(f"tempo_range is {self.tempo_range} %; it must be 0 to 50")


@dataclass(frozen=True, slots=True)
class Match:
    """A song found in a clip.

    Parameters
    ----------
    song_id
        The song.
    clip_start_s, clip_end_s, song_start_s, song_end_s
        The span in the clip, and the same in the song.
    votes
        Distinct anchors that agree. Of versions of one recording, the one that matches best has the most votes of any.
    confidence
        Probability that the match is right.
    speed
        At which the song is played in the clip: seconds of the song in a second of the clip, its tempo over its own.
    pitch
        Of the song in the clip over its own.
    """

    song_id: int
    clip_start_s: float
    clip_end_s: float
    song_start_s: float
    song_end_s: float
    votes: int
    confidence: float
    speed: float
    pitch: float = 1.0
