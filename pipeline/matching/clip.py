"""A clip: its spectrograms at several shifts, and its query hashes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.fingerprinting.landmarks import pair_peaks
from pipeline.fingerprinting.peaks import Maxima, find_maxima, most_salient
from pipeline.fingerprinting.settings import (
    MAX_FRAME_DIFFERENCE,
    NEIGHBOURHOOD_S,
    PEAK_REACH_BINS,
    PEAK_REACH_FRAMES,
    Settings,
)
from pipeline.fingerprinting.spectrogram import power_batches
from pipeline.matching.verification import FilteredSpectrogram, filter_spectrogram, masking_level
from pipeline.matching.voting import TICKS, QueryHashes

# Clean excerpts of 0.3 s are named four times in five, of 0.5 s nearly always.
SHORTEST_CLIP_S = 0.3
# Of 1,922 right answers two had fewer peaks, and none had its peaks in fewer frames (docs/RECOGNITION.md).
FEWEST_PEAKS, FEWEST_FRAMES = 24, 4


def too_little_to_tell(samples: NDArray[np.float32], settings: Settings) -> str:
    """Why no search could name this clip, in words; empty if there is enough sound in it.

    Parameters
    ----------
    samples
        ``(n_samples,)`` float32 at ``settings.sample_rate``.
    """
    length_s = len(samples) / settings.sample_rate
    if length_s < SHORTEST_CLIP_S:
        return f"{length_s:.2f} s is too short to tell: a clip needs {SHORTEST_CLIP_S:g} s, and better 2 s"
    maxima = find_maxima([Clip(samples, settings).power(0)], settings, PEAK_REACH_FRAMES, PEAK_REACH_BINS)
    peaks = most_salient(maxima, settings, settings.peaks_per_s)
    n_frames = len(np.unique(peaks.frame))
    if not len(peaks):
        return f"silent for {length_s:.1f} s: nothing to tell it by"
    if len(peaks) < FEWEST_PEAKS or n_frames < FEWEST_FRAMES:
        return f"too little sound to tell: {len(peaks)} peaks in {n_frames} frames of {length_s:.1f} s"
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchLevel:
    """How many hashes are made of a clip, and how many candidates are verified.

    Parameters
    ----------
    shifts
        Copies of the clip whose frames start a fraction of a hop later; divides `TICKS`.
    reach_frames, reach_bins
        Over how many frames and bins to either side a peak is the maximum.
    peaks_per_s, fan_out
        As in `Settings`, but more.
    clips_at_once
        Clips whose spectrograms are in memory at once, and whose constellations are read together.
    candidates
        Candidates that voting returns, at most.
    filtered
        To how many of them the matched filter is applied: the first. In a library ten times as large chance gives more
        votes, and the true place of a clip under noise is often not among the first hundred; a clip that the coarse
        search resolves has it among the first few.
    """

    shifts: int
    reach_frames: int
    reach_bins: int
    peaks_per_s: float
    fan_out: int
    clips_at_once: int
    candidates: int
    filtered: int


class Clip:
    """A clip's spectrograms at its shifts, each computed when it is first needed and kept until `free`.

    Half a window of silence is added to either side, so that the clip's first and last sounds count too.

    Parameters
    ----------
    samples
        ``(n_samples,)`` float32 at ``settings.sample_rate``.
    """

    def __init__(self, samples: NDArray[np.float32], settings: Settings) -> None:
        self.settings = settings
        self.lead = settings.window // 2
        self.padded = np.pad(samples, (self.lead, self.lead + settings.hop))
        self.n_samples = len(samples)
        self._power: dict[int, NDArray[np.float32]] = {}
        self._filtered: dict[int, FilteredSpectrogram] = {}
        self._masking: NDArray[np.float32] | None = None

    def power(self, shift: int) -> NDArray[np.float32]:
        """``(n_frames, n_bins)`` float32 power of the copy that starts `shift` ticks later."""
        if shift not in self._power:
            start = shift * self.settings.hop // TICKS
            batches = power_batches([self.padded[start : start + self.n_samples + 2 * self.lead]], self.settings)
            self._power[shift] = np.concatenate([batch.copy() for batch in batches])
        return self._power[shift]

    def filtered_at(self, delta: int) -> tuple[FilteredSpectrogram, int]:
        """The copy whose frames coincide with the song's, and the song's frame at the copy's frame 0.

        Parameters
        ----------
        delta
            Time offset in ticks: where in the song the clip's tick 0 is.
        """
        shift = -delta % TICKS
        if shift not in self._filtered:
            self._filtered[shift] = filter_spectrogram(self.power(shift))
        return self._filtered[shift], (delta + shift) // TICKS

    def masking(self) -> NDArray[np.float32]:
        """`masking_level` of the copy at shift 0; the others start less than a frame later."""
        if self._masking is None:
            self._masking = masking_level(self.power(0))
        return self._masking

    def free(self) -> None:
        """Free the spectrograms; a clip of 5 s has 6 MB of them after a fine search."""
        self._power.clear()
        self._filtered.clear()
        self._masking = None

    def query_hashes(self, level: SearchLevel) -> QueryHashes:
        """The clip's hashes at all shifts. The copies are paired as one recording, one after another."""
        shifts = range(0, TICKS, TICKS // level.shifts)
        copies = [
            find_maxima([self.power(shift)], self.settings, level.reach_frames, level.reach_bins) for shift in shifts
        ]
        spacing = len(self.power(0)) + MAX_FRAME_DIFFERENCE + round(NEIGHBOURHOOD_S / self.settings.frame_s)
        maxima = Maxima(
            frame=np.concatenate([copy.frame + np.int32(i * spacing) for i, copy in enumerate(copies)]),
            bin=np.concatenate([copy.bin for copy in copies]),
            level=np.concatenate([copy.level for copy in copies]),
            salience=np.concatenate([copy.salience for copy in copies]),
        )
        hashes = pair_peaks(most_salient(maxima, self.settings, level.peaks_per_s), level.fan_out)
        order = np.argsort(hashes.hash, kind="stable")
        copy, frame = hashes.offset[order] // spacing, hashes.offset[order] % spacing
        return QueryHashes(hashes.hash[order], frame * np.int32(TICKS) + copy * np.int32(TICKS // level.shifts))
