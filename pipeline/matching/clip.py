"""A clip: its spectrograms, its query hashes, and the evidence for a candidate in it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.fingerprinting.landmarks import pair_peaks
from pipeline.fingerprinting.peaks import Maxima, Peaks, find_maxima, most_salient
from pipeline.fingerprinting.settings import FURTHEST_FRAME, SURROUNDINGS_S, Settings
from pipeline.fingerprinting.spectrogram import power_batches
from pipeline.matching.verification import Evidence, Heard, compare, hear, listen, weigh
from pipeline.matching.voting import TICKS, Candidate, QueryHashes

# In a library of few songs the third best of the others is no measure of chance; the answer at it is usually so much
# over the root of the clip's seconds in a larger one.
USUAL_RIVAL = 0.9


@dataclass(frozen=True, slots=True)
class SearchLevel:
    """How densely a clip is asked.

    Parameters
    ----------
    shifts
        Copies of the clip, a fraction of a hop apart; divides `TICKS`.
    reach_frames, reach_bins
        How far a peak rules.
    peaks_per_s, fan_out
        As in `Settings`, but more.
    together
        Clips whose spectrograms are in memory at once, and whose constellations are read together.
    candidates
        How many votes bring, at most.
    listened
        To how many of them the clip is listened for, those with most votes. In a library ten times as large chance
        brings more votes, and the true place of a clip under noise is often not among the first hundred; a clip that
        the sparse look resolves has it among the first few.
    """

    shifts: int
    reach_frames: int
    reach_bins: int
    peaks_per_s: float
    fan_out: int
    together: int
    candidates: int
    listened: int


class Clip:
    """A clip's spectrograms at its shifts, made once when they are asked for.

    The clip is asked with half a window of silence to either side, so that its first and last sounds count too.
    """

    def __init__(self, samples: NDArray[np.float32], settings: Settings) -> None:
        self.settings = settings
        self.lead = settings.window // 2
        self.padded = np.pad(samples, (self.lead, self.lead + settings.hop))
        self.n_samples = len(samples)
        self._power: dict[int, NDArray[np.float32]] = {}
        self._heard: dict[int, Heard] = {}

    def power(self, shift: int) -> NDArray[np.float32]:
        """``(n_frames, n_bins)`` of the copy that starts `shift` ticks later."""
        if shift not in self._power:
            start = shift * self.settings.hop // TICKS
            batches = power_batches([self.padded[start : start + self.n_samples + 2 * self.lead]], self.settings)
            self._power[shift] = np.concatenate([batch.copy() for batch in batches])
        return self._power[shift]

    def heard(self, shift: int) -> Heard:
        """The same as verification hears it."""
        if shift not in self._heard:
            self._heard[shift] = hear(self.power(shift))
        return self._heard[shift]

    def forget(self) -> None:
        """Free the spectrograms, of which a clip of 5 s has 11 MB when it was asked densely."""
        self._power.clear()
        self._heard.clear()

    def question(self, effort: SearchLevel) -> QueryHashes:
        """The clip's landmarks at all shifts: the copies are treated as one recording, one after another."""
        shifts = range(0, TICKS, TICKS // effort.shifts)
        copies = [
            find_maxima([self.power(shift)], self.settings, effort.reach_frames, effort.reach_bins) for shift in shifts
        ]
        apart = len(self.power(0)) + FURTHEST_FRAME + round(SURROUNDINGS_S / self.settings.frame_s)
        maxima = Maxima(
            np.concatenate([copy.frame + np.int32(place * apart) for place, copy in enumerate(copies)]),
            np.concatenate([copy.bin for copy in copies]),
            np.concatenate([copy.level for copy in copies]),
            np.concatenate([copy.salience for copy in copies]),
        )
        hashes = pair_peaks(most_salient(maxima, self.settings, effort.peaks_per_s), effort.fan_out)
        order = np.argsort(hashes.hash, kind="stable")
        copy, frame = hashes.offset[order] // apart, hashes.offset[order] % apart
        return QueryHashes(hashes.hash[order], frame * np.int32(TICKS) + copy * np.int32(TICKS // effort.shifts))

    def placed(self, candidate: Candidate) -> tuple[Heard, int]:
        """The copy whose frames stand where the song's do, and the song's frame at its first."""
        shift = -candidate.delta % TICKS
        return self.heard(shift), (candidate.delta + shift) // TICKS

    def listen(self, candidates: Sequence[Candidate], songs: Mapping[int, Peaks]) -> list[float]:
        """What the matched filter answers at the song's peaks, for each candidate."""
        return [
            listen(heard.answer, songs[c.song_id], place)[1] for c in candidates for heard, place in [self.placed(c)]
        ]

    def weigh(self, candidate: Candidate, song: Peaks) -> Evidence:
        """The evidence for a candidate."""
        heard, place = self.placed(candidate)
        return weigh(heard, song, place)

    def usual_rival(self) -> float:
        """What the matched filter usually answers at the best rival that a clip so long has in a large library."""
        return USUAL_RIVAL / math.sqrt(max(self.n_samples, 1) / self.settings.sample_rate)

    def compare(self, one: Candidate, other: Candidate, songs: Mapping[int, Peaks]) -> tuple[float, float]:
        """Which of two songs is heard, if they are versions of one recording."""
        (heard, place), (its_heard, its_place) = self.placed(one), self.placed(other)
        return compare((heard, songs[one.song_id], place), (its_heard, songs[other.song_id], its_place))
