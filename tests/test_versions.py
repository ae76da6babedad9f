"""Editions of one recording, and libraries of short sounds: the right one comes first."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import editions
from pipeline.fingerprinting.settings import Settings
from pipeline.matching.calibration import Background, VerifiedCandidate, VersionComparison
from pipeline.matching.search import find_matches
from pipeline.matching.types import Query
from pipeline.matching.verification import NO_EVIDENCE, VersionDifferences
from pipeline.matching.voting import Candidate
from pipeline.simulation import music
from tests.fakes import MemoryLibrary

SETTINGS = Settings()
RATE = SETTINGS.sample_rate


def jingle(seed: int) -> NDArray[np.float32]:
    """A few notes of one instrument, the same for all seeds, in one key: 1 to 3 s."""
    rng = np.random.default_rng([seed, 5])
    out = np.zeros(round(rng.uniform(1, 3) * RATE), np.float32)
    voice = music.Instrument(np.array([1.0, 0.6, 0.5, 0.2, 0.3, 0.1], np.float32), 0.01, 0.3)
    step_s, at_s = rng.choice([0.1, 0.125, 0.2, 0.25]), 0.0
    while at_s < len(out) / RATE - 0.2:
        hz = 262 * 2 ** (rng.choice([0, 2, 4, 5, 7, 9, 11, 12, 14, 16, 19]) / 12)
        music.add_tone(out, at_s, music.play_note(voice, hz, rng.uniform(0.15, 0.6), RATE), 0.3, RATE)
        at_s += step_s * rng.integers(1, 4)
    return out


def test_in_a_library_of_jingles_the_very_same_file_is_first_or_nothing_is_named() -> None:
    songs = {seed: jingle(seed) for seed in range(1, 41)}
    found = find_matches(list(songs.values()), MemoryLibrary.of_samples(songs, SETTINGS), Query())
    first = [matches[0].song_id if matches else None for matches in found]
    assert sum(song_id == seed for song_id, seed in zip(first, songs, strict=True)) >= 36
    assert {song_id for song_id, seed in zip(first, songs, strict=True) if song_id != seed} <= {None}


@pytest.mark.parametrize("kind", editions.EDITIONS)
def test_of_two_editions_the_one_that_plays_comes_first(kind: str) -> None:
    rng = np.random.default_rng(1)
    others = MemoryLibrary.of_samples({seed: music.song(seed, 30.0, RATE) for seed in range(1, 6)}, SETTINGS)
    right = []
    for seed in (50, 51, 52):
        song = music.song(seed, 40.0, editions.RATE).astype(float)
        pair = song / np.abs(song).max() * 0.8, editions.edition(kind, song, rng)
        right += editions.right_first(pair, others, rng)["clean, 5 s"]
    assert sum(right) >= 5


def test_versions_are_told_apart_by_what_each_has_of_its_own() -> None:
    def logit(votes: int, other_votes: int, *differences: float) -> float:
        versions = (
            VerifiedCandidate(Candidate(1, 0, n), Background(1.0, 0.5, 0.5), NO_EVIDENCE) for n in (votes, other_votes)
        )
        return VersionComparison(*versions, VersionDifferences(1.0, *differences)).logit

    assert logit(20, 20, 0.0, 0.0, 0.0) == 0.0
    assert logit(20, 10, 0.0, 0.0, 0.0) > 0
    assert logit(20, 20, 10.0, 0.0, 0.0) > 0
    assert logit(20, 20, 0.0, 1.0, 0.0) > 0
    assert logit(20, 20, 0.0, 0.0, 1.0) > 0
    assert logit(20, 10, 0.0, -50.0, -50.0) == logit(20, 10, 0.0, -12.0, -12.0) < 0
