"""Peaks to landmarks to hashes: pairs of peaks, each packed into one integer.

A landmark is an anchor and a target: the anchor's bin, and how many bins and frames further the target lies. Where the
two stand in the recording is not part of it, so that a clip meets its song wherever it was cut.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ParameterError
from pipeline.fingerprinting.peaks import Peaks
from pipeline.fingerprinting.settings import BINS, BINS_ASIDE, FURTHEST_FRAME, NEAREST_FRAME


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


@dataclass(frozen=True, slots=True, eq=False)
class Slices:
    """Where some hashes occur in one shard of a store: a slice of positions for each place that has some.

    Parameters
    ----------
    entry
        ``(n_slices,)`` int64: which of the hashes that were asked for; in no order, and any of them in several slices.
    count
        ``(n_slices,)`` int64: positions of each slice.
    position
        ``(count.sum(),)`` int32: the slices end to end, each rising. Frames of a shard, whose songs lie end to end.
    """

    entry: NDArray[np.int64]
    count: NDArray[np.int64]
    position: NDArray[np.int32]


def pack(
    anchor_bin: NDArray[np.int32], bins_aside: NDArray[np.int32], frames_ahead: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Landmarks as one integer each.

    Parameters
    ----------
    anchor_bin
        0 to ``BINS - 1``.
    bins_aside
        Target bin less anchor bin, ``-BINS_ASIDE`` to ``BINS_ASIDE``.
    frames_ahead
        Target frame less anchor frame, `NEAREST_FRAME` to `FURTHEST_FRAME`.

    Raises
    ------
    ParameterError
        If a value lies outside its range.
    """
    for name, values, low, high in (
        ("anchor bin", anchor_bin, 0, BINS - 1),
        ("bin difference", bins_aside, -BINS_ASIDE, BINS_ASIDE),
        ("frame difference", frames_ahead, NEAREST_FRAME, FURTHEST_FRAME),
    ):
        if len(values) and not (low <= values.min() and values.max() <= high):
            raise ParameterError(f"landmark: {name} from {values.min()} to {values.max()}; it must be {low} to {high}")
    packed = (anchor_bin << 13) | ((bins_aside + BINS_ASIDE) << 5) | (frames_ahead - NEAREST_FRAME)
    return packed.astype(np.int32)


def unpack(packed: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Anchor bin, bin difference and frame difference: what `pack` was given."""
    return packed >> 13, ((packed >> 5) & 255) - BINS_ASIDE, (packed & 31) + NEAREST_FRAME


def pair_peaks(peaks: Peaks, fan_out: int) -> Hashes:
    """Join each anchor to the nearest peaks in its target zone.

    Parameters
    ----------
    peaks
        Sorted by frame, then bin.
    fan_out
        Targets kept for each anchor, at least 1: the earliest, lowest bin first.

    Returns
    -------
    Hashes
        At most ``n_peaks * fan_out``, sorted by offset, then hash.

    Raises
    ------
    ParameterError
        If ``fan_out`` is smaller than 1.

    References
    ----------
    Wang (2003), section 2.2: the target zone.
    """
    if fan_out < 1:
        raise ParameterError(f"fan-out is {fan_out}; it must be at least 1")
    frame, bin_ = peaks.frame, peaks.bin
    joined = np.zeros(len(peaks), np.int32)
    anchors, steps = [], []
    for step in range(1, len(peaks)):
        ahead = frame[step:] - frame[:-step]
        reachable = (ahead <= FURTHEST_FRAME) & (joined[:-step] < fan_out)
        if not reachable.any():
            break
        aside = bin_[step:] - bin_[:-step]
        anchor = np.flatnonzero(reachable & (ahead >= NEAREST_FRAME) & (np.abs(aside) <= BINS_ASIDE))
        joined[anchor] += 1
        anchors.append(anchor.astype(np.int32))
        steps.append(np.full(len(anchor), step, np.int32))
    if not anchors:
        return Hashes(np.empty(0, np.int32), np.empty(0, np.int32))
    anchor = np.concatenate(anchors)
    target = anchor + np.concatenate(steps)
    packed = pack(bin_[anchor], bin_[target] - bin_[anchor], frame[target] - frame[anchor])
    key = frame[anchor].astype(np.int64)
    key <<= 32  # in place: of many hours each copy takes tens of MB
    key |= packed
    key.sort()
    return Hashes((key & 0xFFFFFFFF).astype(np.int32), (key >> 32).astype(np.int32))
