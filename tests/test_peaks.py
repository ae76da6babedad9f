from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.fingerprinting.peaks import _more_salient_around, find_maxima, most_salient, running_max, running_sum
from pipeline.fingerprinting.settings import LEVEL_DB, LOWEST_BIN, SILENCE, Settings
from pipeline.fingerprinting.spectrogram import power_batches
from pipeline.simulation import music
from tests import naive

SETTINGS = Settings()


def constellation(blocks):
    return most_salient(find_maxima(power_batches(blocks, SETTINGS), SETTINGS, 3, 12), SETTINGS, 40)


def same(one, other):
    return all(
        np.array_equal(mine, its)
        for mine, its in ((one.frame, other.frame), (one.bin, other.bin), (one.level, other.level))
    )


@pytest.fixture(scope="module")
def samples():
    return music.song(7, 40.0, SETTINGS.sample_rate)


def test_power_is_that_of_the_definition(rng):
    small = Settings(window=64, hop=16)
    samples = rng.standard_normal(64 + 4 * 16).astype(np.float32)
    (batch,) = power_batches([samples], small)
    assert batch.shape == (5, 32)
    for frame in range(5):
        np.testing.assert_allclose(batch[frame], naive.power(samples, 64, 16, frame), rtol=2e-3, atol=1e-3)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 90_000), max_size=8))
def test_blocks_of_any_size_give_the_peaks_of_the_whole(samples, cuts):
    blocks = np.split(samples, sorted(cuts))
    assert same(constellation(blocks), constellation([samples]))


def test_every_local_maximum_is_found_and_nothing_else(rng):
    small = Settings(window=128, hop=64)
    power = rng.exponential(1.0, (40, 64)).astype(np.float32)
    power[20:30] = 0
    maxima = find_maxima([power[:17], power[17:18], power[18:]], small, 2, 3)
    expected = naive.local_maxima(power.tolist(), 2, 3, SILENCE, LOWEST_BIN)
    assert list(zip(maxima.frame.tolist(), maxima.bin.tolist(), strict=True)) == expected


def test_peaks_are_int32_sorted_and_as_many_as_asked(samples):
    peaks = constellation([samples])
    assert peaks.frame.dtype == peaks.bin.dtype == np.int32
    assert np.all(np.diff(peaks.frame.astype(np.int64) << 32 | peaks.bin) > 0)
    assert 0.7 * 40 < len(peaks) / 40.0 < 1.4 * 40  # bursts and pauses


def test_a_delay_of_whole_frames_moves_peaks_and_nothing_else(samples):
    delay, margin = 37, 40  # the margin is what the two recordings' edges can reach
    there = constellation([samples])
    later = constellation([np.concatenate([np.zeros(delay * SETTINGS.hop, np.float32), samples])])
    inside = there.frame >= margin
    moved = later.frame >= margin + delay
    assert np.array_equal(later.frame[moved] - delay, there.frame[inside])
    assert np.array_equal(later.bin[moved], there.bin[inside])
    assert np.array_equal(later.level[moved], there.level[inside])


@pytest.mark.parametrize("loudness", [2.0**-6, 2.0**3])
def test_loudness_changes_hardly_any_peak(samples, loudness):
    one, other = constellation([samples]), constellation([samples * np.float32(loudness)])
    key = [set(zip(peaks.frame.tolist(), peaks.bin.tolist(), strict=True)) for peaks in (one, other)]
    assert len(key[0] & key[1]) > 0.95 * len(key[0] | key[1])
    louder = np.median(other.level) - np.median(one.level)
    assert louder == pytest.approx(20 * np.log10(loudness) / LEVEL_DB, abs=1)


@pytest.mark.parametrize("samples", [0, 1, SETTINGS.window - 1, SETTINGS.window, 20 * SETTINGS.window])
def test_silence_has_no_peaks(samples):
    assert len(constellation([np.zeros(samples, np.float32)])) == 0
    assert len(constellation([])) == 0


@given(hnp.arrays(np.float32, st.tuples(st.integers(9, 12), st.integers(9, 12)), elements=st.floats(0, 9, width=32)))
def test_running_max_is_the_maximum_around(rows):
    for reach in range(5):
        padded = np.pad(rows, ((reach, reach), (0, 0)))
        expected = [rows[max(i - reach, 0) : i + reach + 1].max(axis=0) for i in range(len(rows))]
        columns = running_max(padded.reshape(-1), reach, rows.shape[1])
        assert np.array_equal(columns.reshape(rows.shape), expected)


@given(hnp.arrays(np.float32, st.tuples(st.integers(9, 12), st.just(2)), elements=st.floats(-9, 9, width=32)))
def test_running_sum_is_the_sum_around(rows):
    for reach in range(5):
        expected = [rows[i : i + 2 * reach + 1].sum(axis=0) for i in range(len(rows) - 2 * reach)]
        np.testing.assert_allclose(running_sum(rows, reach), expected, atol=1e-4)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5)), min_size=1, max_size=40))
def test_salience_is_ranked_among_the_neighbours_in_time(peaks):
    frames = np.array(sorted(frame for frame, _ in peaks), np.int32)
    saliences = np.array([salience for _, salience in peaks], np.float32)
    expected = naive.more_salient_around(frames.tolist(), saliences.tolist(), 7)
    assert _more_salient_around(frames, saliences, 7).tolist() == expected
