"""How a recording is cut into windows and how what they found is joined: no sample is lost, no memory is needed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import identification, timeline
from pipeline.recognise import Match

RATE = 100


def cut(n_samples: int, block: int) -> list[tuple[float, np.ndarray]]:
    samples = np.arange(n_samples, dtype=np.float32)
    blocks = (samples[start : start + block] for start in range(0, n_samples, block))
    return list(identification.windows(blocks, RATE))


@given(st.integers(1, 6000), st.integers(1, 2500))
def test_windows_cover_every_sample_and_say_where_they_begin(n_samples, block):
    cover = np.zeros(n_samples, bool)
    for start_s, samples in cut(n_samples, block):
        assert samples[0] == round(start_s * RATE)
        assert len(samples) <= identification.LONGEST_CLIP_S * RATE
        cover[samples.astype(int)] = True
    assert cover.all()


@given(st.integers(1, 6000), st.integers(1, 2500))
def test_windows_do_not_depend_on_how_the_decoder_cuts_blocks(n_samples, block):
    whole, parts = cut(n_samples, n_samples), cut(n_samples, block)
    assert [start_s for start_s, _ in whole] == [start_s for start_s, _ in parts]


def test_a_clip_that_is_short_enough_stays_whole():
    assert [len(samples) for _, samples in cut(int(identification.LONGEST_CLIP_S * RATE), 77)] == [1500]


def match(song_id: int, start_s: float, song_start_s: float, length_s: float = 10.0, **fields: float) -> Match:
    return Match(
        song_id=song_id,
        clip_start_s=start_s,
        clip_end_s=start_s + length_s,
        song_start_s=song_start_s,
        song_end_s=song_start_s + length_s * fields.get("speed", 1.0),
        votes=int(fields.get("votes", 20)),
        confidence=fields.get("confidence", 0.99),
        speed=fields.get("speed", 1.0),
    )


def test_windows_of_one_performance_become_one_segment():
    found = timeline.segments([match(7, start, 30 + start, votes=10 + start) for start in (0, 5, 10, 15)])
    assert [(m.clip_start_s, m.clip_end_s, m.song_start_s, m.song_end_s) for m in found] == [(0, 25, 30, 55)]
    assert found[0].votes == 25


def test_a_jump_inside_a_song_begins_a_new_segment():
    found = timeline.segments([match(7, 0, 30), match(7, 10, 90)])
    assert [m.song_start_s for m in found] == [30, 90]


def test_the_same_song_much_later_is_another_segment():
    later = 10 + timeline.LONGEST_GAP_S + 1
    assert len(timeline.segments([match(7, 0, 30), match(7, later, 30 + later)])) == 2


def test_segments_come_in_the_order_of_the_recording():
    found = timeline.segments([match(2, 40, 3), match(1, 0, 5), match(3, 20, 0)])
    assert [m.song_id for m in found] == [1, 3, 2]


@pytest.mark.parametrize("speed", [0.97, 1.0, 1.04])
def test_a_segment_follows_the_speed_that_was_found(speed):
    found = timeline.segments([match(7, start, 30 + start * speed, speed=speed) for start in range(0, 60, 5)])
    assert len(found) == 1
    assert found[0].song_end_s == pytest.approx(30 + 65 * speed)
