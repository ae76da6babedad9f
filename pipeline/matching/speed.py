"""The exact speed of a match: copies of the clip at speeds near the one searched, each read at the song's peaks.

Search goes in steps of one percent, and a step beside the true speed often suffices to find the song. A song's peak
at bin 500 is 5 bins off at a speed that is wrong by 1 %, so the matched filter's response has its maximum at the true
speed, and it is sharp.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from pipeline.audio.resampling import at_speed
from pipeline.fingerprinting.peaks import Peaks
from pipeline.fingerprinting.settings import Settings
from pipeline.matching.clip import Clip
from pipeline.matching.types import Match
from pipeline.matching.verification import filter_response
from pipeline.matching.voting import TICKS

# Speeds around the one that was searched are tried first: a step of search and a half to either side.
AROUND = (-0.016, -0.012, -0.008, -0.004, 0.0, 0.004, 0.008, 0.012, 0.016)
# Then steps from the best of them to either side, as long as the response rises.
STEP, STEPS = 0.001, 4
# Time offsets that are tried at each speed: the votes of a wrong speed may lie before or after the clip's middle.
NEAR_TICKS = (-12, -8, -4, 0, 4, 8, 12)
# Without so many seconds the maximum is too flat: 0.2 % of a second is a twentieth of a frame.
SHORTEST_S = 1.0
# What is found so close to the song's own speed was played at it: the error of a clip of 3 s is 0.0002.
OWN_SPEED = 0.0005


def refine_speed(match: Match, samples: NDArray[np.float32], song: Peaks, settings: Settings) -> Match:
    """The same match with the speed at which the clip fits the song best, and the span in the song at that speed.

    Parameters
    ----------
    match
        Found in a copy of the clip at ``match.speed``.
    samples
        ``(n_samples,)`` float32: the clip as it was given.
    song
        The song's constellation.

    Returns
    -------
    Match
        Its votes and its confidence are those of the search.
    """
    rate = settings.sample_rate
    length_s = len(samples) / rate
    if length_s < SHORTEST_S:
        return match
    # Where in the song the middle of the clip is: it hardly depends on the speed.
    fit = _Fit(samples, song, settings, match.song_start_s + (length_s / 2 - match.clip_start_s) * match.speed)
    # Most clips are found at their own speed: there only the nearest speeds are tried.
    around = AROUND if match.speed != 1.0 else AROUND[3:6]
    best = max((match.speed + difference for difference in around), key=fit.response)
    for side in (STEP, -STEP):
        for _ in range(STEPS):
            if fit.response(best + side) > fit.response(best):
                best += side
    beside = [fit.response(best + side) for side in (-STEP, 0.0, STEP)]
    middle_s = fit.middle_s(best)
    best += STEP * _vertex(*beside)
    if abs(best - 1.0) <= OWN_SPEED:
        best = 1.0
    start_s = middle_s - length_s / 2 * best
    before_s = max(-start_s, 0.0)  # the clip began before the song did
    return dataclasses.replace(
        match,
        speed=best,
        pitch=best,
        clip_start_s=before_s / best,
        song_start_s=start_s + before_s,
        song_end_s=start_s + length_s * best,
    )


class _Fit:
    """How well a clip fits a song at each speed, around one place of the song.

    Parameters
    ----------
    middle_s
        Where in the song the middle of the clip is, about.
    """

    def __init__(self, samples: NDArray[np.float32], song: Peaks, settings: Settings, middle_s: float) -> None:
        self.samples = samples
        self.song = song
        self.settings = settings
        self.middle = middle_s
        self._best: dict[int, tuple[float, float]] = {}

    def response(self, speed: float) -> float:
        """The highest response of the clip at this speed, at the time offsets `NEAR_TICKS`."""
        return self._at(speed)[0]

    def middle_s(self, speed: float) -> float:
        """Where in the song the middle of the clip is when the response is highest."""
        return self._at(speed)[1]

    def _at(self, speed: float) -> tuple[float, float]:
        key = round(speed * 1e5)
        if key not in self._best:
            clip = Clip(at_speed(self.samples, speed), self.settings)
            ticks_per_s = TICKS * self.settings.sample_rate / self.settings.hop
            start_s = self.middle - clip.n_samples / self.settings.sample_rate / 2
            delta = round((start_s - clip.lead / self.settings.sample_rate) * ticks_per_s)
            tried = []
            for near in NEAR_TICKS:
                filtered, start = clip.filtered_at(delta + near)
                tried.append((filter_response(filtered, self.song, start), self.middle + near / ticks_per_s))
            self._best[key] = max(tried)
        return self._best[key]


def _vertex(before: float, middle: float, after: float) -> float:
    """Where the parabola through three values has its maximum, in steps from the middle one, -0.5 to 0.5."""
    bend = before - 2 * middle + after
    return float(np.clip((before - after) / (2 * bend), -0.5, 0.5)) if bend < 0 else 0.0
