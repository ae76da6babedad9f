"""Traces to segments: who has which second, what a gap may be, and what a segment says of itself."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.matching import segments
from pipeline.matching.calibration import recording_threshold
from pipeline.matching.segments import SLOT_S, Trace
from tests import naive

HALF = 0.5
"""Confidence that the segments of these tests need."""


def trace(song_id: int, start_s: float, levels: list[float], song_s: float = 0.0, pace: float = 1.0) -> Trace:
    """A song at one place; `levels` is how far its 20 peaks of each half second stand above chance, on the mean."""
    n_bins = len(levels)
    return Trace(
        song_id=song_id,
        first=round(start_s / SLOT_S),
        song_s=song_s + pace * SLOT_S * np.arange(n_bins),
        peaks=np.full(n_bins, 20.0),
        level=20.0 * np.array(levels),
        variance=np.full(n_bins, 20.0),
        weight=np.full(n_bins, 20.0),
        weighted_level=20.0 * np.array(levels),
        votes=np.where(np.array(levels) > 0.5, 5.0, 0.0),
    )


def playing(seconds: float) -> list[float]:
    return [1.0] * round(seconds / SLOT_S)


def silent(seconds: float) -> list[float]:
    return [0.0] * round(seconds / SLOT_S)


def spans(*traces: Trace) -> list[tuple[int, float, float]]:
    return [(m.song_id, m.clip_start_s, m.clip_end_s) for m in segments.segments(traces, HALF)]


@given(st.lists(st.integers(-40, 40), min_size=1, max_size=60))
def test_the_best_span_is_that_of_its_slow_twin(scores: list[int]) -> None:
    start, stop, total = segments.best_span(np.array(scores, float), segments.MAX_DROP)
    assert total == naive.best_span_score(scores, segments.MAX_DROP)
    assert total == sum(scores[start:stop])


@pytest.mark.parametrize(("pitch", "pace", "speed"), [(None, 1.02, 1.02), (None, 1.004, 1.0), (1.0, 1.004, 1.004)])
def test_the_speed_is_that_of_the_trace(pitch: float | None, pace: float, speed: float) -> None:
    """A small difference counts only when the speed was measured together with the pitch."""
    (match,) = segments.segments([dataclasses.replace(trace(7, 0, playing(10), pace=pace), pitch=pitch)], HALF)
    assert match.speed == pytest.approx(speed, abs=1e-9)


def test_a_performance_begins_and_ends_where_its_evidence_does() -> None:
    assert spans(trace(7, 0, silent(10) + playing(30) + silent(20))) == [(7, 10, 40)]


def test_a_performance_is_followed_down_its_fade_by_what_it_was_before() -> None:
    """What is as faint as noise brings by chance is a fade's end after faint music, and nothing after loud music."""
    fade = [0.8, 0.6, 0.4, 0.3, 0.2, 0.1]
    assert spans(trace(7, 0, silent(10) + fade[::-1] + playing(30) + fade + silent(20))) == [(7, 10, 46)]
    after = [0.25, -0.1, 0.25, 0.1, 0.25, -0.1, 0.3]
    loud, faint = [2.0 * level for level in playing(30)], [0.7 * level for level in playing(30)]
    assert spans(trace(7, 0, loud + after + silent(20))) == [(7, 0, 30)]
    assert spans(trace(7, 0, faint + after + silent(20))) == [(7, 0, 34)]


def test_a_voice_over_the_music_does_not_end_a_performance() -> None:
    assert spans(trace(7, 0, playing(20) + silent(8) + playing(20))) == [(7, 0, 48)]


def test_a_long_absence_does() -> None:
    assert spans(trace(7, 0, playing(30) + silent(60) + playing(30))) == [(7, 0, 30), (7, 90, 120)]


def test_stretches_of_one_performance_are_one_segment() -> None:
    first, second = trace(7, 0, playing(120), song_s=30), trace(7, 105, playing(60), song_s=135.1)
    (segment,) = segments.segments([second, first], HALF)
    assert (segment.clip_start_s, segment.clip_end_s, segment.song_start_s) == (0, 165, 30)
    assert segment.votes == 165 / SLOT_S * 5


def test_a_jump_inside_a_song_begins_a_new_segment() -> None:
    before = trace(7, 0, playing(30) + silent(30), song_s=10)
    after = trace(7, 0, silent(30) + playing(30), song_s=70)
    found = segments.segments([before, after], HALF)
    assert [(m.clip_start_s, m.clip_end_s, m.song_start_s) for m in found] == [(0, 30, 10), (30, 60, 100)]


def test_a_refrain_that_returns_has_no_second_that_the_true_place_has() -> None:
    true = trace(7, 0, playing(60))
    refrain = trace(7, 0, silent(20) + [0.9] * 30 + silent(25), song_s=90)
    assert spans(true, refrain) == [(7, 0, 60)]


def test_songs_that_sound_together_are_both_there() -> None:
    fading, coming = trace(7, 0, playing(60)), trace(3, 52, playing(40))
    assert spans(fading, coming) == [(7, 0, 60), (3, 52, 92)]


def test_what_chance_brings_is_not_named(rng: np.random.Generator) -> None:
    for song_id in range(50):
        noise = trace(song_id, 0, (rng.standard_normal(240) / np.sqrt(20)).tolist())
        noise = dataclasses.replace(noise, votes=rng.poisson(0.1, 240).astype(float))
        assert segments.segments([noise], recording_threshold(0.01)) == []


def test_a_performance_has_the_songs_loud_peaks() -> None:
    """Noise drowns the quiet ones first; what has only those is other music that shares some sounds."""
    drowned = trace(7, 0, [0.6] * 120)
    assert spans(dataclasses.replace(drowned, weighted_level=2 * drowned.weighted_level)) == [(7, 0, 60)]
    assert spans(dataclasses.replace(drowned, weighted_level=0.5 * drowned.weighted_level)) == []


def test_fewer_false_positives_need_more_confidence() -> None:
    assert recording_threshold(0.001) > recording_threshold(0.01) > recording_threshold(0.1)


@pytest.mark.parametrize("pace", [0.96, 1.003, 1.04])
def test_a_segment_tells_its_speed(pace: float) -> None:
    (segment,) = segments.segments([trace(7, 0, playing(60), song_s=30, pace=pace)], HALF)
    assert segment.speed == pytest.approx(pace, abs=1e-3)
    assert segment.song_end_s == pytest.approx(30 + 60 * pace, abs=0.1)


def test_less_than_a_frame_of_drift_is_no_speed() -> None:
    (segment,) = segments.segments([trace(7, 0, playing(60), pace=1.0005)], HALF)
    assert segment.speed == 1.0
