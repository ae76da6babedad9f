"""Songs whose pitch and tempo are changed, each by itself: found in recordings and clips, with the right ratios."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.audio.resampling import at_speed
from pipeline.fingerprinting.settings import Settings
from pipeline.live import Listener
from pipeline.matching.changes import Change, grid
from pipeline.matching.recording import Recording
from pipeline.matching.search import find_matches
from pipeline.matching.types import Match, Query
from pipeline.simulation import encoding, music
from tests.fakes import MemoryLibrary

SETTINGS = Settings()
RATE = SETTINGS.sample_rate
UNKNOWN_SONG = 1001
BOTH = Query(pitch_range=3, tempo_range=20)
Samples = NDArray[np.float32]


@functools.cache
def song(seed: int, pitch: float = 1.0, tempo: float = 1.0) -> Samples:
    """A song whose pitch and tempo are changed: composed at another tempo, then played faster."""
    return at_speed(music.song(seed, 60.0 * pitch, RATE, tempo / pitch), 1 / pitch)


@pytest.fixture(scope="module")
def library() -> MemoryLibrary:
    return MemoryLibrary.of_samples({song_id: song(song_id) for song_id in range(1, 5)}, SETTINGS)


def cut(samples: Samples, start_s: float, stop_s: float) -> Samples:
    return samples[round(start_s * RATE) : round(stop_s * RATE)]


def matches_in(recording: Samples, library: MemoryLibrary, query: Query) -> list[Match]:
    searched = Recording(library, query)
    searched.feed(recording)
    return searched.finish()


def test_each_song_of_a_mix_has_its_own_pitch_and_tempo(library: MemoryLibrary) -> None:
    mix = [(1, 1.0, 1.0), (2, 1.0, 1.12), (UNKNOWN_SONG, 1.0, 1.0), (3, 0.9, 1.0), (4, 1.09, 0.86)]
    parts = [cut(song(seed, pitch, tempo), 10, 28) for seed, pitch, tempo in mix]
    found = matches_in(np.concatenate(parts), library, BOTH)
    assert [match.song_id for match in found] == [1, 2, 3, 4]
    for match, (place, (_, pitch, tempo)) in zip(found, [each for each in enumerate(mix) if each[0] != 2], strict=True):
        assert match.pitch == pytest.approx(pitch, rel=0.003)
        assert match.speed == pytest.approx(tempo, rel=0.003)
        assert (match.clip_start_s, match.clip_end_s) == pytest.approx((18 * place, 18 * place + 18), abs=2)
        assert match.song_start_s == pytest.approx((10 + match.clip_start_s - 18 * place) * tempo, abs=0.3)


def test_a_tempo_that_drifts_is_one_segment(library: MemoryLibrary) -> None:
    tempos = 1.05 + 0.02 * np.linspace(0, 1, 12)
    pieces = [encoding.at_tempo(cut(song(2), 4 * i, 4 * i + 4), tempo, RATE) for i, tempo in enumerate(tempos)]
    (match,) = matches_in(np.concatenate(pieces), library, Query(tempo_range=10))
    assert (match.song_id, match.pitch) == (2, 1.0)
    assert match.speed == pytest.approx(1.06, rel=0.005)
    assert (match.clip_start_s, match.clip_end_s) == pytest.approx((0, sum(map(len, pieces)) / RATE), abs=2)


@pytest.mark.parametrize(("pitch", "tempo"), [(1.12, 1.0), (1.0, 0.84), (0.93, 1.15)])
def test_a_changed_clip_is_found_by_the_ranges(library: MemoryLibrary, pitch: float, tempo: float) -> None:
    clip = cut(song(3, pitch, tempo), 20, 28)
    ((match,),) = find_matches([clip], library, BOTH)
    assert (match.song_id, match.pitch, match.speed) == (
        3,
        pytest.approx(pitch, rel=0.005),
        pytest.approx(tempo, rel=0.005),
    )
    assert match.song_start_s == pytest.approx(20 * tempo, abs=0.5)
    # at the song's own pitch and tempo it has at most its drums
    assert all(own.votes < match.votes / 4 for own in find_matches([clip], library, Query())[0])


@pytest.mark.parametrize(("pitch", "tempo"), [(1.0, 1.0), (1.0, 1.012), (1.006, 1.006)])
def test_a_clip_near_its_own_pitch_and_tempo_has_the_exact_ones(
    library: MemoryLibrary, pitch: float, tempo: float
) -> None:
    ((match,),) = find_matches([cut(song(3, pitch, tempo), 20, 26)], library, Query(pitch_range=1, tempo_range=10))
    exact = 0.0 if pitch == tempo == 1.0 else 0.003
    assert (match.pitch, match.speed) == (pytest.approx(pitch, rel=exact), pytest.approx(tempo, rel=exact))
    assert (match.clip_start_s, match.clip_end_s) == (0.0, pytest.approx(6.0, abs=0.1))


def test_an_unknown_song_is_not_named_at_any_pitch_and_tempo(library: MemoryLibrary) -> None:
    assert matches_in(song(UNKNOWN_SONG, 1.06, 0.94), library, BOTH) == []
    assert find_matches([cut(song(UNKNOWN_SONG), 10, 18)], library, BOTH) == [[]]


def test_a_range_without_the_other_searches_its_own_axis() -> None:
    assert grid(Query()) is None
    of_tempo, of_pitch = grid(Query(tempo_range=10)), grid(Query(pitch_range=1))
    assert of_tempo is not None
    assert of_pitch is not None
    assert of_tempo.pitches.tolist() == of_pitch.tempos.tolist() == [1.0]
    assert of_pitch.pitches[0] == 1.0
    assert of_pitch.pitches.min() <= 2 ** (-1 / 12)
    assert of_pitch.pitches.max() >= 2 ** (1 / 12)
    assert of_pitch.contains(Change(2 ** (1 / 12), 1.0))
    assert not of_pitch.contains(Change(1.0, 1.03))


def test_a_listener_names_a_song_at_another_tempo(library: MemoryLibrary) -> None:
    listener = Listener(library, Query(tempo_range=10))
    samples = cut(song(4, 1.0, 1.06), 5, 25)
    named = [match for start in range(0, len(samples), RATE) for match in listener.add(samples[start : start + RATE])]
    assert [match.song_id for match in named] == [4]
    (match,) = listener.finish()
    assert (match.pitch, match.speed) == (1.0, pytest.approx(1.06, rel=0.005))
