"""Whole recordings of formula music: one row for each performance, at its place and speed, and nothing else named."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import numpy as np
import pytest
import soxr
from numpy.typing import NDArray

from pipeline import live
from pipeline.fingerprinting.landmarks import pair_peaks
from pipeline.fingerprinting.settings import Settings
from pipeline.matching.recording import LOOP_SHARE, Recording
from pipeline.matching.tracks import REACH_TICKS, Line, Track, fit_line, hit_ticks, hits_near
from pipeline.matching.types import Match, Query
from pipeline.matching.voting import TICKS, Hits, QueryHashes
from pipeline.simulation import acoustics, music
from tests.fakes import MemoryLibrary, make_song

SETTINGS = Settings()
RATE = SETTINGS.sample_rate
WITHIN_S = 2.0
UNKNOWN_SONG = 1001
Samples = NDArray[np.float32]


@functools.cache
def song(seed: int) -> Samples:
    return music.song(seed, 60.0, RATE)


@pytest.fixture(scope="module")
def library() -> MemoryLibrary:
    return MemoryLibrary.of_samples({song_id: song(song_id) for song_id in range(1, 5)}, SETTINGS)


def cut(seed: int, start_s: float, stop_s: float) -> Samples:
    return song(seed)[round(start_s * RATE) : round(stop_s * RATE)]


def silence(seconds: float) -> Samples:
    return np.zeros(round(seconds * RATE), np.float32)


def matches_in(
    recording: Samples, library: MemoryLibrary, query: Query | None = None, block_s: float = 7.7
) -> list[Match]:
    searched = Recording(library, query or Query())
    for start in range(0, len(recording), round(block_s * RATE)):
        searched.feed(recording[start : start + round(block_s * RATE)])
    return searched.finish()


def rows(matches: Iterable[Match], speed: float = 1.0) -> list[tuple[int, object, object, object]]:
    """Song, start, end and place (where the recording's start would be) of each, with what they may be off."""
    return [
        (
            match.song_id,
            pytest.approx(match.clip_start_s, abs=WITHIN_S),
            pytest.approx(match.clip_end_s, abs=WITHIN_S),
            pytest.approx(match.song_start_s - match.clip_start_s * speed, abs=0.3),
        )
        for match in matches
    ]


def test_songs_in_a_row_with_a_pause_and_an_unknown_song_between(library: MemoryLibrary) -> None:
    medley = np.concatenate([cut(1, 10, 40), silence(5), cut(UNKNOWN_SONG, 0, 25), cut(2, 0, 30), cut(3, 5, 45)])
    assert rows(matches_in(medley, library)) == [(1, 0, 30, 10), (2, 60, 90, -60), (3, 90, 130, -85)]


def test_a_cross_fade_gives_both_songs_their_seconds(library: MemoryLibrary) -> None:
    out, into = np.zeros(round(74 * RATE), np.float32), np.linspace(0, 1, 6 * RATE, dtype=np.float32)
    first, second = cut(1, 0, 40).copy(), cut(4, 20, 60).copy()
    first[-len(into) :] *= 1 - into
    second[: len(into)] *= into
    out[: len(first)] += first
    out[-len(second) :] += second
    assert rows(matches_in(out, library)) == [(1, 0, 40, 0), (4, 34, 74, -14)]


def test_a_song_under_voices_in_a_room_is_one_segment(library: MemoryLibrary) -> None:
    speech = acoustics.recording(cut(2, 0, 55), 5.0, seed=1, sample_rate=RATE)
    assert rows(matches_in(speech, library)) == [(2, 0, 55, 0)]


def test_the_same_song_twice_and_a_jump_inside_it_are_segments_of_their_own(library: MemoryLibrary) -> None:
    medley = np.concatenate([cut(3, 0, 30), cut(1, 0, 30), cut(3, 0, 30), cut(3, 40, 60)])
    expected = [(3, 0, 30, 0), (1, 30, 60, -30), (3, 60, 90, -60), (3, 90, 110, -50)]
    assert expected == rows(matches_in(medley, library))


def test_a_seam_between_stretches_leaves_no_trace(library: MemoryLibrary) -> None:
    medley = np.concatenate([cut(UNKNOWN_SONG, 0, 60), cut(1, 0, 55), cut(2, 0, 60), cut(4, 0, 17)])
    expected = [(1, 60, 115, -60), (2, 115, 175, -115), (4, 175, 192, -175)]
    assert expected == rows(matches_in(medley, library))


def test_out_of_library_songs_are_not_named(library: MemoryLibrary) -> None:
    strange = np.concatenate([cut(seed, 0, 60) for seed in (UNKNOWN_SONG, UNKNOWN_SONG + 1, UNKNOWN_SONG + 2)])
    assert matches_in(strange, library) == []


def test_a_clock_that_runs_fast_gives_one_segment_with_its_speed(library: MemoryLibrary) -> None:
    (segment,) = matches_in(soxr.resample(cut(1, 0, 60), 1.003, 1.0), library)
    assert segment.speed == pytest.approx(1.003, abs=5e-4)
    assert rows([segment], 1.003) == [(1, 0, 60 / 1.003, 0)]


@pytest.mark.parametrize("speed", [0.955, 1.04])
def test_a_turntable_is_followed_within_the_range_that_is_wanted(library: MemoryLibrary, speed: float) -> None:
    medley = soxr.resample(np.concatenate([cut(1, 0, 60), cut(2, 0, 40)]), speed, 1.0)
    first, second = matches_in(medley, library, Query(speed_range=6.0))
    assert rows([first, second], speed) == [(1, 0, 60 / speed, 0), (2, 60 / speed, 100 / speed, -60)]
    assert [first.speed, second.speed] == pytest.approx([speed, speed], abs=1e-3)
    assert matches_in(medley, library) == []


def test_music_that_is_made_of_a_songs_loop_is_not_the_song() -> None:
    """A weak match, and as good wherever the loop repeats in the song."""
    loop = np.concatenate([music.song(31, 8.0, RATE), music.song(32, 8.0, RATE)])[4 * RATE : 8 * RATE]
    of_loops = np.tile(loop, 14)[: 50 * RATE] + 0.5 * music.song(33, 50.0, RATE)
    library = MemoryLibrary.of_samples({1: of_loops.astype(np.float32), 2: song(2)}, SETTINGS)
    other = np.tile(loop, 10)[: 40 * RATE] + 10.0 * music.song(UNKNOWN_SONG, 40.0, RATE)
    assert all(match.clip_end_s - match.clip_start_s < 10 for match in matches_in(other.astype(np.float32), library))
    assert rows(matches_in(of_loops, library)) == [(1, 0, 50, 0)]


def test_a_song_of_loops_is_found_under_noise_that_covers_its_quiet_seconds() -> None:
    """It matches weakly, and nearly as well wherever the loop repeats; but its loud peaks sound."""
    loop = np.concatenate([music.song(31, 8.0, RATE), music.song(32, 8.0, RATE)])[4 * RATE : 8 * RATE]
    swell = np.where(np.arange(50 * RATE) // RATE % 2 == 0, 1.0, 0.2)
    of_loops = (swell * (np.tile(loop, 14)[: 50 * RATE] + 0.5 * music.song(33, 50.0, RATE))).astype(np.float32)
    library = MemoryLibrary.of_samples({1: of_loops, 2: song(2)}, SETTINGS)
    part = of_loops[15 * RATE : 30 * RATE]
    noise = np.random.default_rng(1).standard_normal(len(part)).astype(np.float32) * 1.4 * part.std()
    assert rows(matches_in(part + noise, library)) == [(1, 0, 15, 15)]


def test_a_loop_is_suspected_by_its_share_elsewhere() -> None:
    """Live it is suspected sooner; where no share is enough to be suspected, the loop's song is named."""
    loop = np.concatenate([music.song(31, 8.0, RATE), music.song(32, 8.0, RATE)])[4 * RATE : 8 * RATE]
    of_loops = np.tile(loop, 14)[: 50 * RATE] + 0.7 * music.song(33, 50.0, RATE)
    library = MemoryLibrary.of_samples({1: of_loops.astype(np.float32), 2: song(2)}, SETTINGS)
    other = (np.tile(loop, 10)[: 40 * RATE] + 7.0 * music.song(UNKNOWN_SONG, 40.0, RATE)).astype(np.float32)
    named = {}
    for loop_share in (live.LOOP_LIMIT, LOOP_SHARE, 2.0):
        recording = Recording(library, Query(), loop_share=loop_share)
        recording.feed(other)
        named[loop_share] = [match.song_id for match in recording.finish()]
    assert named == {live.LOOP_LIMIT: [], LOOP_SHARE: [], 2.0: [1]}


def test_what_merely_sounds_in_a_song_is_not_the_song() -> None:
    """What plays is in the song from start to end, and what the song plays louder is missing."""
    accompaniment = music.song(31, 50.0, RATE)
    whole = (0.5 * accompaniment + music.song(33, 50.0, RATE)).astype(np.float32)
    library = MemoryLibrary.of_samples({1: whole, 2: song(2)}, SETTINGS)
    assert matches_in(accompaniment, library) == []
    assert rows(matches_in(whole, library)) == [(1, 0, 50, 0)]


@pytest.mark.parametrize("loudness", [0.3, 0.7])
def test_another_version_of_a_song_is_not_named_beside_it(loudness: float) -> None:
    """The library has a song, and the same with another voice over it; each is told from the other, a copy is not."""
    voice = loudness * music.song(41, 60.0, RATE)
    versions = {1: song(1), 2: (song(1) + voice).astype(np.float32), 3: song(3)}
    library = MemoryLibrary.of_samples(versions, SETTINGS)
    for song_id in (1, 2):
        played = acoustics.recording(versions[song_id][: 50 * RATE], 10.0, seed=2, sample_rate=RATE)
        assert rows(matches_in(played, library)) == [(song_id, 0, 50, 0)]
    twins = MemoryLibrary.of_samples({1: song(1), 2: 0.5 * song(1)}, SETTINGS)
    assert [match.song_id for match in matches_in(cut(1, 0, 50), twins)] == [1, 2]


def test_how_the_samples_come_does_not_matter(library: MemoryLibrary) -> None:
    medley = np.concatenate([cut(1, 10, 55), cut(2, 0, 60), cut(3, 5, 45)])
    assert matches_in(medley, library, block_s=1.3) == matches_in(medley, library, block_s=200.0)


def test_candidates_at_odds_with_each_other_are_given_a_level_line() -> None:
    nothing = np.zeros(0, np.int32)
    chain = Track(1, middles=[800.0, 800.0], deltas=[0, 40])
    assert fit_line(chain, Hits(nothing, nothing, nothing, nothing)) == Line(20.0, 0.0)


def test_the_hits_near_tracks_are_those_of_the_whole_songs(rng: np.random.Generator) -> None:
    songs = {song_id: make_song(song_id, n_peaks=9000, n_frames=6000, n_bins=60).peaks for song_id in (1, 2)}
    landmarks = {song_id: pair_peaks(peaks, 3) for song_id, peaks in songs.items()}
    some = np.sort(rng.choice(len(landmarks[1]), 2000))  # the query has much of song 1, and by chance some of song 2
    hashes = np.sort(landmarks[1].hash[some])
    query = QueryHashes(hashes, rng.integers(0, 800 * TICKS, len(hashes)).astype(np.int32))
    tracks = [Track(2, [900.0], [-2000]), Track(1, [900.0, 2000.0], [8000, 8010]), Track(1, [900.0], [46000])]
    for track, hits in zip(tracks, hits_near(tracks, query, songs, 3), strict=True):
        of_song = landmarks[track.song_id]
        every = {
            (frame * TICKS - tick, frame, hash_ >> 13)
            for hash_, tick in zip(query.hash.tolist(), query.tick.tolist(), strict=True)
            for frame in of_song.offset[of_song.hash == hash_].tolist()
        }
        low, high = min(track.deltas) - REACH_TICKS, max(track.deltas) + REACH_TICKS
        found = list(zip(hits.delta.tolist(), hits.offset.tolist(), hits.bin.tolist(), strict=True))
        near = {hit for hit in every if low <= hit[0] <= high}
        assert near
        assert {hit for hit in found if low <= hit[0] <= high} == near
        assert set(found) <= every
        assert (np.diff(hit_ticks(hits)) >= 0).all()
        assert set(hits.song_id.tolist()) == {track.song_id}
