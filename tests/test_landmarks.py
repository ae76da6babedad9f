from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ParameterError
from pipeline.fingerprinting.landmarks import pack, pair_peaks, unpack
from pipeline.fingerprinting.peaks import Peaks
from pipeline.fingerprinting.settings import BINS, MAX_BIN_DIFFERENCE, MAX_FRAME_DIFFERENCE, MIN_FRAME_DIFFERENCE
from tests import naive


def array(*values):
    return np.array(values, np.int32)


def constellation(points):
    ordered = sorted(points)
    frame, bin_ = array(*(frame for frame, _ in ordered)), array(*(bin_ for _, bin_ in ordered))
    return Peaks(frame, bin_, np.zeros(len(frame), np.int8))


def test_packing_is_undone_over_its_whole_range():
    bin_, aside, ahead = (
        part.ravel().astype(np.int32)
        for part in np.meshgrid(
            array(0, 1, 511, BINS - 1),
            np.arange(-MAX_BIN_DIFFERENCE, MAX_BIN_DIFFERENCE + 1),
            np.arange(MIN_FRAME_DIFFERENCE, MAX_FRAME_DIFFERENCE + 1),
        )
    )
    packed = pack(bin_, aside, ahead)
    assert packed.dtype == np.int32
    assert packed.min() >= 0
    assert len(np.unique(packed)) == len(packed)
    for got, put in zip(unpack(packed), (bin_, aside, ahead), strict=True):
        assert np.array_equal(got, put)


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ((-1, 0, 1), "anchor bin"),
        ((BINS, 0, 1), "anchor bin"),
        ((0, -MAX_BIN_DIFFERENCE - 1, 1), "bin difference"),
        ((0, MAX_BIN_DIFFERENCE + 1, 1), "bin difference"),
        ((0, 0, MIN_FRAME_DIFFERENCE - 1), "frame difference"),
        ((0, 0, MAX_FRAME_DIFFERENCE + 1), "frame difference"),
    ],
)
def test_packing_refuses_one_step_outside(values, what):
    with pytest.raises(ParameterError, match=what):
        pack(*(array(value) for value in values))


@given(
    st.sets(st.tuples(st.integers(0, 60), st.sampled_from([0, 5, 100, 127, 128, 300, 1023])), max_size=40),
    st.integers(1, 6),
)
def test_pairs_are_those_of_the_plain_loop(points, fan_out):
    peaks = constellation(points)
    expected = naive.pairs(sorted(points), fan_out, MIN_FRAME_DIFFERENCE, MAX_FRAME_DIFFERENCE, MAX_BIN_DIFFERENCE)
    found = pair_peaks(peaks, fan_out)
    bin_, aside, ahead = unpack(found.hash)
    got = zip(found.offset.tolist(), bin_.tolist(), aside.tolist(), ahead.tolist(), strict=True)
    assert list(got) == sorted(expected)


@given(st.integers(0, 100_000))
def test_a_delay_moves_offsets_and_nothing_else(delay):
    peaks = constellation([(0, 40), (3, 60), (3, 90), (9, 30), (20, 100)])
    later = dataclasses.replace(peaks, frame=peaks.frame + np.int32(delay))
    one, other = pair_peaks(peaks, 3), pair_peaks(later, 3)
    assert np.array_equal(one.hash, other.hash)
    assert np.array_equal(one.offset + delay, other.offset)


def test_no_peaks_no_hashes():
    assert len(pair_peaks(constellation([]), 3)) == 0
    assert len(pair_peaks(constellation([(5, 5)]), 3)) == 0


def test_a_fan_out_below_one_is_refused():
    with pytest.raises(ParameterError, match="fan-out is 0"):
        pair_peaks(constellation([]), 0)
