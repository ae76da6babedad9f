from __future__ import annotations

import dataclasses
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.audio.resampling import at_speed
from pipeline.errors import ParameterError
from pipeline.fingerprinting.extract import constellation
from pipeline.fingerprinting.landmarks import Hashes, Postings, anchor_bins, pack, pair_peaks, unpack
from pipeline.fingerprinting.peaks import Peaks
from pipeline.fingerprinting.settings import LEVEL_DB, Settings
from pipeline.matching import voting
from pipeline.matching.calibration import LOGIT_AT_FPR, clip_threshold, confidence, length_penalty
from pipeline.matching.clip import Clip
from pipeline.matching.search import COARSE, DENSE, FINE, find_matches, search
from pipeline.matching.types import Query
from pipeline.matching.verification import (
    LEVEL_STEP,
    RESPONSE_BOUNDS,
    FilteredSpectrogram,
    VersionDifferences,
    compare_versions,
    compute_evidence,
    filter_response,
    filter_spectrogram,
    read_responses,
    shared_fractions,
)
from pipeline.matching.voting import TICKS, QueryHashes, find_candidates, find_hits, fullest_windows
from pipeline.simulation import acoustics, music
from tests import naive
from tests.fakes import MemoryLibrary, MemoryShard

SETTINGS = Settings()
RATE = SETTINGS.sample_rate
SONGS = 6


def song(seed):
    return music.song(seed, 30.0, RATE)


@pytest.fixture(scope="module")
def library():
    """Songs 1 to 6; 7 holds the same recording as 1."""
    made = {}
    for song_id in range(1, SONGS + 1):
        peaks = constellation(iter([song(song_id)]), SETTINGS)
        made[song_id] = pair_peaks(peaks, SETTINGS.fan_out), peaks
    made[SONGS + 1] = made[1]
    return MemoryLibrary(SETTINGS, made)


def excerpt(song_id, start_s, length_s):
    return song(song_id)[round(start_s * RATE) : round((start_s + length_s) * RATE)]


def ints(*values):
    return np.array(values, np.int32)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 99)), max_size=20),
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 3), st.integers(0, 99)), max_size=20),
)
def test_every_hash_meets_every_posting_of_it(query, postings):
    query, postings = sorted(query), sorted(postings)
    asked = QueryHashes(ints(*(hash_ for hash_, _ in query)), ints(*(tick for _, tick in query)))
    known = Postings(*(ints(*(row[column] for row in postings)) for column in range(3)))
    hits = find_hits(asked, known)
    got = zip(hits.song_id.tolist(), hits.offset.tolist(), hits.delta.tolist(), strict=True)
    assert sorted(got) == sorted(naive.hits(query, postings))


def test_a_hit_knows_its_anchors_bin():
    hash_ = pack(ints(700), ints(-5), ints(9))
    assert find_hits(QueryHashes(hash_, ints(8)), Postings(hash_, ints(1), ints(20))).bin.tolist() == [700]


QUERIES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 60)), max_size=40)
SONG_CONTENTS = st.lists(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 12)), max_size=40), min_size=1, max_size=6
)


def query_of(query):
    query = sorted(query)
    return QueryHashes(ints(*(hash_ for hash_, _ in query)), ints(*(tick for _, tick in query)))


def hits_with_hashes(query, pairs):
    """(offset, hash, delta) of all hits of a query in one song."""
    return [
        (offset, known, TICKS * offset - tick) for asked, tick in query for known, offset in pairs if asked == known
    ]


def peaks_of(offset, hash_):
    """The frame and bin of a landmark's anchor, and of its target."""
    anchor_bin, bin_difference, frame_difference = (int(values[0]) for values in unpack(ints(hash_)))
    return (offset, anchor_bin), (offset + frame_difference, anchor_bin + bin_difference)


def landmarks(pairs):
    pairs = sorted(pairs, key=lambda pair: pair[::-1])
    return Hashes(ints(*(hash_ for hash_, _ in pairs)), ints(*(offset for _, offset in pairs)))


@settings(max_examples=300)
@given(
    query=QUERIES,
    songs=SONG_CONTENTS,
    most=st.integers(1, 30),
    gap=st.integers(0, 20),
    flag_bits=st.integers(1, 4),
)
def test_the_fullest_windows_are_those_of_the_plain_count(query, songs, most, gap, flag_bits):
    songs = {10 + place: pairs for place, pairs in enumerate(songs)}
    shard = MemoryShard({song_id: landmarks(pairs) for song_id, pairs in songs.items()}, gap)
    with pytest.MonkeyPatch.context() as patch:  # so few flags that cells meet in them
        patch.setattr(voting, "FLAG_BITS", flag_bits)
        patch.setattr(voting, "HITS_AT_ONCE", 7)
        found = fullest_windows(query_of(query), shard, most)
    told = list(zip(found.song_id.tolist(), found.cell.tolist(), found.n_hits.tolist(), strict=True))
    expected = naive.fullest_windows(query, songs, most)
    assert told == expected
    assert all(found.n_in_frame >= found.votes)
    for place, (song_id, cell, _) in enumerate(expected):
        hits = [hit for hit in hits_with_hashes(query, songs[song_id]) if cell <= hit[2] // TICKS <= cell + 1]
        inside = [(offset, int(anchor_bins(ints(known))[0]), delta) for offset, known, delta in hits]
        counts = [
            len({hit for hit in inside if start <= hit[2] - TICKS * cell < start + TICKS}) for start in range(TICKS)
        ]
        start = TICKS * cell + counts.index(max(counts))
        frame = sorted({(delta, offset, bin_) for offset, bin_, delta in inside if start <= delta < start + TICKS})
        of_frame = [(offset, known) for offset, known, delta in hits if start <= delta < start + TICKS]
        assert found.n_peaks[place] == len({peak for hit in of_frame for peak in peaks_of(*hit)})
        assert found.n_in_frame[place] == len(frame)
        assert found.votes[place] == naive.votes([(1, o, b, d) for d, o, b in frame], 1, start, TICKS - 1)
        assert TICKS * cell + found.delta[place] == frame[len(frame) // 2][0]


@settings(max_examples=100)
@given(QUERIES, SONG_CONTENTS, st.integers(1, 12), st.data())
def test_candidates_do_not_depend_on_how_songs_are_shared_out_among_shards(query, songs, most, data):
    songs = {1 + place: landmarks(pairs) for place, pairs in enumerate(songs)}
    of_shard = [data.draw(st.integers(0, 3)) for _ in songs]
    shards = [
        MemoryShard({song_id: songs[song_id] for song_id, of in zip(songs, of_shard, strict=True) if of == number})
        for number in range(4)
    ]
    one, many = MemoryLibrary(SETTINGS, {}), MemoryLibrary(SETTINGS, {})
    one.shards, many.shards = [MemoryShard(songs)], shards
    asked = query_of(query)
    assert find_candidates([asked], many, most) == find_candidates([asked], one, most)


def test_songs_that_lie_side_by_side_do_not_share_votes():
    """A clip that begins before a song does has hits whose deltas lie in the song before."""
    hashes = np.arange(20, dtype=np.int32)
    end, start = (
        Hashes(hashes[:10], np.arange(90, 100, dtype=np.int32)),
        Hashes(hashes[10:], np.arange(10, dtype=np.int32)),
    )
    library = MemoryLibrary(SETTINGS, {})
    library.shards = [MemoryShard({1: end, 2: start})]
    asked = QueryHashes(hashes, np.arange(20, dtype=np.int32) * np.int32(TICKS))
    (candidates,) = find_candidates([asked], library, 5)
    assert [(c.song_id, c.delta, c.votes) for c in candidates] == [(1, 90 * TICKS, 10), (2, -10 * TICKS, 10)]


def test_votes_are_distinct_anchors_of_the_song():
    """A landmark that two shifts of the clip find is one vote, and places of a song lie more than a frame apart."""
    asked = QueryHashes(ints(1, 1, 2, 2), ints(80, 81, 112, 113))
    library = MemoryLibrary(SETTINGS, {})
    library.shards = [MemoryShard({2**31 - 1: Hashes(ints(1, 2, 1), ints(20, 24, 300))})]
    ((first, second),) = find_candidates([asked], library, 5)
    assert (first.song_id, first.votes) == (2**31 - 1, 2)
    assert second.votes == 1
    assert find_candidates([QueryHashes(ints(), ints())], library, 5) == [[]]


def test_landmarks_that_share_a_peak_say_less_than_others():
    """Of two songs with as many votes and hits the one with more peaks in them comes first."""
    chain = pack(ints(100, 120), ints(20, 30), ints(4, 4))  # the first one's target is the second one's anchor
    apart = pack(ints(300, 400), ints(20, 30), ints(4, 4))
    library = MemoryLibrary(SETTINGS, {})
    library.shards = [MemoryShard({1: Hashes(chain, ints(50, 54)), 2: Hashes(apart, ints(50, 54))})]
    asked = QueryHashes(np.concatenate([chain, apart]), ints(10, 14, 10, 14) * np.int32(TICKS))
    (candidates,) = find_candidates([asked], library, 5)
    assert [(one.song_id, one.votes) for one in candidates] == [(2, 2), (1, 2)]


@pytest.mark.parametrize("length_s", [1, 2, 5])
def test_a_clip_is_found_where_it_was_cut(library, length_s):
    for song_id in (2, 3, 4):
        (matches,) = find_matches([excerpt(song_id, 11.37, length_s)], library, Query())
        assert [match.song_id for match in matches] == [song_id]
        assert matches[0].song_start_s - matches[0].clip_start_s == pytest.approx(11.37, abs=0.1)
        assert matches[0].song_end_s - matches[0].song_start_s == pytest.approx(length_s, abs=0.1)
        assert matches[0].confidence > 0.9


def test_a_noisy_room_does_not_hide_a_song(library):
    clips = [acoustics.recording(excerpt(song_id, 9.0, 5), 5.0, song_id, RATE) for song_id in (2, 3, 4, 5, 6)]
    found = find_matches(clips, library, Query())
    assert [matches[0].song_id for matches in found] == [2, 3, 4, 5, 6]


def test_the_dense_search_finds_the_place_of_a_song_under_voices(library):
    """At 10 dB below voices: with 100 peaks a second and 10 targets the place comes first in 8 of 12 clips."""
    first = []
    for song_id in range(1, SONGS + 1):
        for start_s in (9.0, 20.0):
            clip = excerpt(song_id, start_s, 5.0)
            voices = acoustics.babble(len(clip), np.random.default_rng([song_id, int(start_s)]), RATE)
            voices *= np.float32(np.sqrt(10 * np.square(clip).mean() / np.square(voices).mean()))
            (candidates,) = find_candidates([Clip(clip + voices, SETTINGS).query_hashes(DENSE)], library, 10)
            in_song_s = candidates[0].delta * SETTINGS.frame_s / TICKS + SETTINGS.window / 2 / RATE
            first.append(candidates[0].song_id % SONGS == song_id % SONGS and abs(in_song_s - start_s) < 0.1)
    assert sum(first) >= 10


def test_a_recording_that_the_library_has_twice_is_reported_twice(library):
    (matches,) = find_matches([excerpt(1, 8.0, 5)], library, Query())
    assert sorted(match.song_id for match in matches) == [1, SONGS + 1]
    assert matches[0].confidence == matches[1].confidence > 0.99


@pytest.mark.parametrize("songs", [(1, 2, 3, 4, 5, 6, SONGS + 1), (1, 2, SONGS + 1)])
def test_copies_of_a_recording_are_not_its_background(library, songs):
    made = {
        song_id: (pair_peaks(library.peaks[song_id], SETTINGS.fan_out), library.peaks[song_id]) for song_id in songs
    }
    copies = range(50, 54)  # more than are left out of the background
    clip = acoustics.recording(excerpt(1, 3.0, 2), 0.0, 1, RATE)
    once, often = (
        find_matches([clip], MemoryLibrary(SETTINGS, made | dict.fromkeys(more, made[1])), Query())[0]
        for more in ([], copies)
    )
    assert {match.song_id for match in often} == {1, SONGS + 1, *copies}
    assert often[0].confidence == pytest.approx(once[0].confidence, abs=0.01)


def test_of_two_versions_of_a_recording_the_one_in_the_clip_comes_first_with_most_votes(library):
    sung = {version: song(1) + song(version) for version in (20, 30)}
    made = {song_id: (pair_peaks(peaks, SETTINGS.fan_out), peaks) for song_id, peaks in library.peaks.items()}
    for version, samples in sung.items():
        peaks = constellation(iter([samples]), SETTINGS)
        made[version] = pair_peaks(peaks, SETTINGS.fan_out), peaks
    library = MemoryLibrary(SETTINGS, made)
    for version, samples in sung.items():
        for start_s in (5.0, 15.0):
            clip = samples[round(start_s * RATE) : round((start_s + 4.0) * RATE)]
            (matches,) = find_matches([acoustics.recording(clip, 5.0, version, RATE)], library, Query())
            assert matches[0].song_id == version
            assert matches[0].votes == max(match.votes for match in matches)
            assert matches[0].confidence == max(match.confidence for match in matches)


def test_versions_are_told_apart_by_what_they_do_not_share(rng):
    def peaks(*places):
        frame, bin_ = np.array(sorted(places)).T
        return Peaks(frame.astype(np.int32), bin_.astype(np.int32), np.zeros(len(frame), np.int8))

    both = [(frame, 20) for frame in range(0, 40, 4)]
    one, other = peaks(*both, (3, 50), (7, 60)), peaks(*((frame + 11, 21) for frame, _ in both), (14, 70))
    answer = np.zeros((40, 128), np.float32)
    answer[[3, 7], [50, 60]], answer[3, 70], answer[:, 20] = (1.0, 99.0), 0.5, 9.0
    heard = FilteredSpectrogram(answer, answer)
    first, second = (heard, one, 0), (heard, other, 11)
    unshared = 1.0 + RESPONSE_BOUNDS[1] - 0.5  # without what both have, and no peak for more
    assert compare_versions(first, second).unshared == pytest.approx(unshared)
    assert compare_versions(second, first).unshared == pytest.approx(-unshared)
    assert compare_versions(first, second).shared == pytest.approx(10 / 11)  # of the one that has fewer
    assert compare_versions(first, first) == VersionDifferences(1.0, 0.0, 0.0, 0.0)
    assert compare_versions((heard, one, 500), second).shared == 0.0
    placed = [first, second, (heard, one, 500), (heard, one, 4)]
    assert shared_fractions(placed, second).tolist() == pytest.approx([10 / 12, 1.0, 0.0, 9 / 10])
    assert shared_fractions([], first).tolist() == []


def test_versions_are_told_apart_by_their_levels_also_behind_a_loudspeaker(rng):
    frame = np.arange(200, dtype=np.int32)
    bin_ = rng.integers(8, 1000, 200).astype(np.int32)
    first, second = (Peaks(frame, bin_, rng.integers(-30, 0, 200).astype(np.int8)) for _ in range(2))
    level = np.zeros((200, 1024), np.float32)
    level[frame, bin_] = first.level * LEVEL_STEP
    noise = rng.normal(0, 1, level.shape).astype(np.float32)
    loudspeaker = np.linspace(-8, 8, 1024, dtype=np.float32)
    for clip_level, least in ((level + 3, 10.0), (level + noise, 10.0), (level + noise + loudspeaker, 5.0)):
        clip = FilteredSpectrogram(np.full_like(level, 2.0), clip_level)
        differences = compare_versions((clip, first, 0), (clip, second, 0))
        assert differences.levels_beside_curve > least
        swapped = compare_versions((clip, second, 0), (clip, first, 0))
        assert swapped.levels_beside_curve == pytest.approx(-differences.levels_beside_curve)
        assert swapped.levels == pytest.approx(-differences.levels)


def test_a_clip_that_begins_before_its_song_says_so(library):
    clip = np.concatenate([np.zeros(2 * RATE, np.float32), excerpt(2, 0.0, 6)])
    (matches,) = find_matches([clip], library, Query())
    assert matches[0].clip_start_s == pytest.approx(2.0, abs=0.1)
    assert matches[0].song_start_s == 0.0


def test_what_is_no_music_of_the_library_is_unknown(library, rng):
    second = np.arange(4 * RATE) / RATE
    clips = [
        np.zeros(0),
        np.zeros(10),
        np.zeros(4 * RATE),
        np.sin(2 * np.pi * 440 * second),
        sum(np.sin(2 * np.pi * 50 * k * second) / k for k in range(1, 9)),
        rng.standard_normal(4 * RATE),
        rng.standard_normal(4 * RATE) * (rng.random(4 * RATE) < 0.01),
        acoustics.babble(4 * RATE, rng, RATE),
        music.song(1001, 12.0, RATE)[-4 * RATE :],
    ]
    assert find_matches([clip.astype(np.float32) for clip in clips], library, Query()) == [[]] * len(clips)


@pytest.mark.parametrize("songs", [1, 3, 5])
def test_a_small_library_names_no_more_out_of_library_clips(library, songs):
    made = {
        song_id: (pair_peaks(library.peaks[song_id], SETTINGS.fan_out), library.peaks[song_id])
        for song_id in range(1, 1 + songs)
    }
    others = [music.song(2000 + place, 20.0, RATE)[5 * RATE : round(7.5 * RATE)] for place in range(40)]
    named = find_matches(others, MemoryLibrary(SETTINGS, made), Query())
    assert sum(map(bool, named)) <= 1


@pytest.mark.parametrize("speed", [0.97, 1.02, 1.03, 1.0137])
def test_another_speed_is_found_when_wanted(library, speed):
    played = at_speed(excerpt(4, 10.0, 5), 1 / speed)
    assert find_matches([played], library, Query()) == [[]]
    (matches,) = find_matches([played], library, Query(speed_range=3.0))
    assert matches[0].song_id == 4
    assert matches[0].speed == pytest.approx(speed, abs=0.001)
    assert matches[0].song_start_s == pytest.approx(10.0, abs=0.05)
    assert matches[0].song_end_s == pytest.approx(15.0, abs=0.05)


def test_the_own_speed_stays_exactly_one_when_others_are_searched(library):
    (plain, noisy) = find_matches(
        [excerpt(4, 10.0, 5), acoustics.recording(excerpt(2, 7.0, 4), 5.0, 1, RATE)], library, Query(speed_range=3.0)
    )
    assert plain[0].speed == noisy[0].speed == 1.0


def test_clips_do_not_see_each_other(library):
    clips = [excerpt(2, 5.0, 2), acoustics.recording(excerpt(3, 7.0, 3), 0.0, 1, RATE), excerpt(5, 12.0, 1)]
    together = find_matches(clips, library, Query())
    assert together == [find_matches([clip], library, Query())[0] for clip in clips]


def test_of_many_clips_only_one_is_verified_in_memory_at_a_time(library):
    def peak(count):
        clips = [Clip(excerpt(1 + place % SONGS, 3.0, 5.0), SETTINGS) for place in range(count)]
        tracemalloc.start()
        search(clips, library, COARSE)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    spectrogram = 4 * SETTINGS.window // 2 * (5.0 + SETTINGS.window / RATE) / SETTINGS.frame_s  # bytes
    assert peak(24) - peak(8) < 16 * COARSE.shifts * spectrogram * 1.5  # what is verified is thrice that


def test_more_songs_hardly_change_the_confidence(library):
    few = MemoryLibrary(SETTINGS, {3: (pair_peaks(library.peaks[3], SETTINGS.fan_out), library.peaks[3])})
    clip = acoustics.recording(excerpt(3, 9.0, 3), 5.0, 3, RATE)
    one, many = find_matches([clip], few, Query())[0][0], find_matches([clip], library, Query())[0][0]
    assert dataclasses.replace(one, confidence=0.0) == dataclasses.replace(many, confidence=0.0)
    assert one.confidence == pytest.approx(many.confidence, abs=0.1)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(0, 400))
def test_the_filter_is_read_at_the_songs_peaks(seed, place):
    rng = np.random.default_rng(seed)
    surface = rng.standard_normal((20, 64)).astype(np.float32)
    song_peaks = Peaks(
        np.sort(rng.integers(0, 400, 300)).astype(np.int32),
        rng.integers(8, 64, 300).astype(np.int32),
        rng.integers(-30, 27, 300).astype(np.int8),
    )
    inside = [
        (float(surface[frame - place, bin_]), 10 ** (LEVEL_DB * level / 10 / 4))
        for frame, bin_, level in zip(song_peaks.frame, song_peaks.bin, song_peaks.level.tolist(), strict=True)
        if 0 <= frame - place < 20
    ]
    response = filter_response(FilteredSpectrogram(surface, surface), song_peaks, place)
    expected = sum(a * w for a, w in inside) / sum(w for _, w in inside) if inside else 0.0
    assert response == pytest.approx(expected, abs=1e-5)
    evidence = compute_evidence(FilteredSpectrogram(surface, surface), song_peaks, place, 0.5)
    assert evidence.consistent_response == (0.5 if inside else 0.0)
    assert evidence.peaks == len(inside)
    assert evidence.response == response
    assert evidence.unweighted_response == pytest.approx(np.mean([a for a, _ in inside]) if inside else 0.0, abs=1e-5)
    reflected = np.pad(surface, ((6, 6), (0, 0)), mode="reflect")
    moved = (reflected[6 + shift : 26 + shift] for shift in (-6, -5, -4, -3, 3, 4, 5, 6))
    shifted = [filter_response(FilteredSpectrogram(one, one), song_peaks, place) for one in moved]
    assert evidence.null_in_time == pytest.approx(np.mean(shifted), abs=1e-5)


def test_a_sound_that_hardly_changes_with_time_has_its_response_at_other_times_too(rng):
    frame, bin_ = np.repeat(np.arange(2, 58, 4), 3), np.tile([50, 80, 120], 14)
    song = Peaks(frame.astype(np.int32), bin_.astype(np.int32), np.zeros(42, np.int8))
    power = rng.exponential(1.0, (60, 256)).astype(np.float32)
    chord, notes = power.copy(), power.copy()
    chord[:, [50, 80, 120]] += 1e3
    notes[frame, bin_] += 1e3
    held, struck = (compute_evidence(filter_spectrogram(one), song, 0, 0.0) for one in (chord, notes))
    assert held.response > 0.9
    assert held.null_in_time == pytest.approx(held.response, abs=0.1)
    assert struck.response > struck.null_in_time + 1


@pytest.mark.parametrize("n_frames", [1, 2, 3])
def test_the_shortest_spectrogram_has_a_null_in_time(n_frames):
    surface = np.ones((n_frames, 64), np.float32)
    song = Peaks(ints(0, 0), ints(20, 30), np.zeros(2, np.int8))
    assert compute_evidence(FilteredSpectrogram(surface, surface), song, 0, 0.0).null_in_time == 1.0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(-30, 400))
def test_responses_are_those_of_each_candidate_alone(seed, place):
    rng = np.random.default_rng(seed)
    response, level, masking = rng.standard_normal((3, 20, 64)).astype(np.float32) * 3
    clip = FilteredSpectrogram(response, level)
    songs = [
        Peaks(
            np.sort(rng.integers(0, 400, 300)).astype(np.int32),
            rng.integers(8, 64, 300).astype(np.int32),
            rng.integers(-10, 9, 300).astype(np.int8),
        )
        for _ in range(3)
    ]
    placed = [(clip, song, start) for song, start in zip(songs, (place, 5, 1000), strict=True)]
    found = read_responses(placed, masking)
    for i, (_, song, start) in enumerate(placed):
        inside = [
            (response[at], level[at], masking[at], LEVEL_STEP * peak_level)
            for frame, bin_, peak_level in zip(song.frame, song.bin, song.level.tolist(), strict=True)
            if 0 <= frame - start < 20
            for at in [(frame - start, bin_)]
        ]
        assert found.peaks[i] == len(inside)
        assert found.response[i] == pytest.approx(filter_response(clip, song, start), abs=1e-5)
        expected = naive.consistent_response(inside) if inside else 0.0
        assert found.consistent_response[i] == pytest.approx(expected, abs=1e-4)
    assert len(read_responses([], masking).peaks) == 0


def test_levels_tell_the_song_under_noise_from_music_that_shares_a_loop_with_it(rng):
    n_frames, n_bins, n_peaks = 60, 256, 400
    at = np.sort(rng.choice(n_frames * n_bins // 2, n_peaks, replace=False))
    song = Peaks(
        (at // 128).astype(np.int32), (2 * (at % 128)).astype(np.int32), rng.integers(0, 16, n_peaks).astype(np.int8)
    )
    floor = rng.exponential(1.0, (n_frames, n_bins)).astype(np.float32) * 1e-2
    power = 10 ** (LEVEL_DB * song.level / 10)
    whole, loop = floor.copy(), floor.copy()
    whole[song.frame, song.bin] += power / 100  # quieter, and under noise
    whole += rng.exponential(0.1, whole.shape)
    some = rng.random(n_peaks) < 0.6
    loop[song.frame[some], song.bin[some]] += power[some] / 100
    kept, shared = (compute_evidence(filter_spectrogram(heard), song, 0, 0.0) for heard in (whole, loop))
    assert kept.level_correlation > shared.level_correlation + 0.2
    assert kept.missing_fraction < 0.05 < shared.missing_fraction


def test_the_filter_responds_to_a_note_more_than_to_a_steady_tone_and_not_to_loudness(rng):
    floor = rng.exponential(1.0, (60, 256)).astype(np.float32)
    steady, note = floor.copy(), floor.copy()
    steady[:, 100] = 1e3
    note[30:32, 100] = 1e3
    struck, standing, louder = (filter_spectrogram(power).response for power in (note, steady, note * 7))
    assert struck[30, 100] > 1.3 * standing[30, 100]
    assert abs(struck[:, 120:].mean()) < 0.2
    np.testing.assert_allclose(louder, struck, rtol=1e-2, atol=1e-2)


def test_the_best_candidate_of_an_unknown_clip_is_searched_for_as_any_other(library, rng, monkeypatch):
    levels = []

    def recorded(clips, library, level):
        levels.append(level)
        return search(clips, library, level)

    monkeypatch.setattr("pipeline.matching.search.search", recorded)
    known, noise = excerpt(2, 5.0, 3), rng.normal(0, 0.1, 3 * RATE).astype(np.float32)
    found = find_matches([known, noise], library, Query())
    searched, levels = levels, []
    with_unnamed = find_matches([known, noise], library, Query(), unnamed=True)
    assert levels == searched == [COARSE, FINE, DENSE]
    assert with_unnamed[0] == found[0]
    assert not found[1]
    assert 0 < with_unnamed[1][0].confidence < clip_threshold(0.01)


def test_the_threshold_falls_as_more_out_of_library_clips_may_be_named():
    shares = [1e-5, 0.0005, *sorted(LOGIT_AT_FPR), 0.5, 1.0]
    needed = [clip_threshold(share) for share in shares]
    assert needed == sorted(needed, reverse=True)
    assert clip_threshold(0.01) == pytest.approx(confidence(LOGIT_AT_FPR[0.01]))
    assert clip_threshold(1.0) == 0.0


def test_the_shortest_clips_and_long_ones_need_more_evidence_than_one_of_a_second():
    penalties = [length_penalty(length_s) for length_s in (0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.0, 3.0, 4.0, 5.0, 15.0)]
    assert penalties[0] == penalties[1] > penalties[2] > penalties[3] > penalties[4] > penalties[5] == penalties[6] == 0
    assert 0 < penalties[7] < penalties[8] < penalties[9] == penalties[10]


@pytest.mark.parametrize(
    ("name", "value"), [("false_positives", 0.0), ("false_positives", 1.5), ("speed_range", -1.0), ("speed_range", 21)]
)
def test_a_query_refuses_what_cannot_be(name, value):
    with pytest.raises(ParameterError, match=name):
        Query(**{name: value})


def test_shifted_copies_make_one_query():
    clip = Clip(excerpt(2, 5.0, 2), SETTINGS)
    query = clip.query_hashes(FINE)
    assert np.all(np.diff(query.hash) >= 0)
    assert set(np.unique(query.tick % TICKS)) == set(range(0, TICKS, TICKS // FINE.shifts))
    assert query.tick.min() >= 0
    assert query.tick.max() < TICKS * len(clip.power(0))
