"""Samples to spectrogram to peaks: the constellation of a song or a clip."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Peaks:
    """Local maxima of a spectrogram, sorted by frame, then bin.

    Parameters
    ----------
    frame, bin
        ``(n_peaks,)`` int32.
    """

    frame: NDArray[np.int32]
    bin: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.frame)
