"""Peaks to landmarks to hashes: pairs of peaks, each packed into one integer.

A landmark is an anchor and a target: the anchor's bin, and how many bins and frames further the target lies. Their
place in the recording is not part of it, so that a clip has hashes of its song wherever it was cut. Bits are packed
and unpacked in this module alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ParameterError
from pipeline.fingerprinting.peaks import Peaks
from pipeline.fingerprinting.settings import BINS, MAX_BIN_DIFFERENCE, MAX_FRAME_DIFFERENCE, MIN_FRAME_DIFFERENCE


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
    """Where some hashes occur in the songs of a store, sorted by hash, song_id, offset.

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
        ``(n_slices,)`` int64: which of the hashes that were looked up; in no order, and any of them in several slices.
    count
        ``(n_slices,)`` int64: positions of each slice.
    position
        ``(count.sum(),)`` int32: the slices end to end, each rising. Frames of a shard, whose songs lie end to end.
    """

    entry: NDArray[np.int64]
    count: NDArray[np.int64]
    position: NDArray[np.int32]


def pack(
    anchor_bin: NDArray[np.int32], bin_difference: NDArray[np.int32], frame_difference: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Landmarks as one integer each.

    Parameters
    ----------
    anchor_bin
        0 to ``BINS - 1``.
    bin_difference
        Target bin less anchor bin, ``-MAX_BIN_DIFFERENCE`` to ``MAX_BIN_DIFFERENCE``.
    frame_difference
        Target frame less anchor frame, `MIN_FRAME_DIFFERENCE` to `MAX_FRAME_DIFFERENCE`.

    Raises
    ------
    ParameterError
        If a value lies outside its range.
    """
    for name, values, low, high in (
        ("anchor bin", anchor_bin, 0, BINS - 1),
        ("bin difference", bin_difference, -MAX_BIN_DIFFERENCE, MAX_BIN_DIFFERENCE),
        ("frame difference", frame_difference, MIN_FRAME_DIFFERENCE, MAX_FRAME_DIFFERENCE),
    ):
        if len(values) and not (low <= values.min() and values.max() <= high):
            raise ParameterError(f"landmark: {name} from {values.min()} to {values.max()}; it must be {low} to {high}")
    low_bits = ((bin_difference + MAX_BIN_DIFFERENCE) << 5) | (frame_difference - MIN_FRAME_DIFFERENCE)
    return ((anchor_bin << 13) | low_bits).astype(np.int32)


def anchor_bins(packed: NDArray[np.int32]) -> NDArray[np.int32]:
    """The anchor's bin of each hash."""
    return packed >> 13


def unpack(packed: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Anchor bin, bin difference and frame difference: what `pack` was given."""
    return anchor_bins(packed), ((packed >> 5) & 255) - MAX_BIN_DIFFERENCE, (packed & 31) + MIN_FRAME_DIFFERENCE


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
    frame, bin_ = peaks.frame, peaks.bin
    anchor, target = nearest_targets(frame, bin_, fan_out, MAX_FRAME_DIFFERENCE, MAX_BIN_DIFFERENCE)
    packed = pack(bin_[anchor], bin_[target] - bin_[anchor], frame[target] - frame[anchor])
    key = frame[anchor].astype(np.int64)
    key <<= 32  # in place: of many hours each copy takes tens of MB
    key |= packed
    key.sort()
    return Hashes((key & 0xFFFFFFFF).astype(np.int32), (key >> 32).astype(np.int32))


def nearest_targets(
    frame: NDArray[np.int32], bin_: NDArray[np.int32], fan_out: int, frames: int, bins: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Which peaks are joined: the place of each anchor, and of its target, ``(n_pairs,)`` int32.

    Parameters
    ----------
    frame, bin_
        ``(n_peaks,)`` int32, sorted by frame, then bin.
    fan_out
        As for `pair_peaks`, which has the errors, too.
    frames, bins
        The target zone: a target lies `MIN_FRAME_DIFFERENCE` to `frames` ahead, and at most `bins` to either side.
    """
    if fan_out < 1:
        raise ParameterError(f"fan-out is {fan_out}; it must be at least 1")
    joined = np.zeros(len(frame), np.int32)
    anchors, steps = [np.empty(0, np.int32)], [np.empty(0, np.int32)]
    for step in range(1, len(frame)):
        ahead = frame[step:] - frame[:-step]
        reachable = (ahead <= frames) & (joined[:-step] < fan_out)
        if not reachable.any():
            break
        aside = bin_[step:] - bin_[:-step]
        anchor = np.flatnonzero(reachable & (ahead >= MIN_FRAME_DIFFERENCE) & (np.abs(aside) <= bins))
        joined[anchor] += 1
        anchors.append(anchor.astype(np.int32))
        steps.append(np.full(len(anchor), step, np.int32))
    anchor_ = np.concatenate(anchors)
    return anchor_, anchor_ + np.concatenate(steps)
