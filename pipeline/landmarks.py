"""Peaks to landmarks to hashes: pairs of peaks, each packed into one integer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Hashes:
    """The landmarks of one song or clip, packed.

    Parameters
    ----------
    hash
        ``(n,)`` int32, never negative.
    offset
        ``(n,)`` int32, the anchor's frame.
    """

    hash: NDArray[np.int32]
    offset: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.hash)


@dataclass(frozen=True, slots=True, eq=False)
class Postings:
    """What a store knows of some hashes, sorted by hash, song_id, offset.

    Parameters
    ----------
    hash, song_id, offset
        ``(n,)`` int32.
    """

    hash: NDArray[np.int32]
    song_id: NDArray[np.int32]
    offset: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.hash)
