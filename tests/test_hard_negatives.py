"""Sounds that are hardly music: none is named, and a clip too empty to tell says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import pipeline
from benchmarks import hard_negatives
from pipeline import Store
from pipeline.fingerprinting.settings import Settings
from pipeline.matching.calibration import CLIP_TERMS, LEAST_CORRELATION, SUPPORT_TERMS, logit
from pipeline.matching.clip import Clip, too_little_to_tell
from pipeline.matching.search import COARSE, DENSE, FINE, find_matches, search
from pipeline.matching.types import Query
from pipeline.simulation import encoding, music
from tests.fakes import MemoryLibrary

SETTINGS = Settings()
RATE = SETTINGS.sample_rate
EACH = 10  # of each kind; `python -m benchmarks.hard_negatives` makes a thousand


@pytest.fixture(scope="module")
def library() -> MemoryLibrary:
    return MemoryLibrary.of_samples({seed: music.song(seed, 60.0, RATE) for seed in range(1, 25)}, SETTINGS)


def excerpt(seed: int, start_s: float, length_s: float) -> hard_negatives.Samples:
    return music.song(seed, 60.0, RATE)[round(start_s * RATE) : round((start_s + length_s) * RATE)]


@pytest.mark.parametrize("kind", hard_negatives.KINDS)
def test_a_sound_that_is_hardly_music_is_not_named(library: MemoryLibrary, kind: str) -> None:
    clips = [hard_negatives.clip_of(kind, seed) for seed in range(EACH)]
    assert not any(hard_negatives.find_in_each(clips, library, Query()))


def test_short_excerpts_keep_their_names(library: MemoryLibrary) -> None:
    clips = {seed: excerpt(seed, 20.0 + seed, 0.5) for seed in range(1, 25)}
    found = find_matches(list(clips.values()), library, Query())
    first = [matches[0].song_id if matches else None for matches in found]
    right = sum(song_id == seed for song_id, seed in zip(first, clips, strict=True))
    assert right >= 20
    assert right + first.count(None) >= 23  # without the limit three other songs are named


def test_what_is_compared_limits_the_log_odds(library: MemoryLibrary) -> None:
    tone = hard_negatives.clip_of("tone", 1)
    for level in (COARSE, FINE, DENSE):
        for one in search([Clip(tone, SETTINGS)], library, level)[0]:
            assert one.logit == min(logit(CLIP_TERMS, one), logit(SUPPORT_TERMS, one))
    (sure,) = search([Clip(excerpt(3, 20.0, 5.0), SETTINGS)], library, COARSE)
    assert sure[0].logit > 10  # a clip of music is hardly limited


def test_three_peaks_that_agree_say_nothing(library: MemoryLibrary) -> None:
    (found,) = search([Clip(excerpt(3, 20.0, 5.0), SETTINGS)], library, COARSE)
    evidence = replace(found[0].evidence, level_correlation=0.98)
    sure = [replace(found[0], evidence=replace(evidence, peaks=peaks)).sure_correlation for peaks in (3, 4, 20, 500)]
    assert sure[0] == LEAST_CORRELATION < sure[1] < sure[2] < sure[3] < 0.98


def test_clips_of_several_kinds_are_each_of_their_kind() -> None:
    several = {kind: hard_negatives.clips_of(kind, range(2)) for kind in hard_negatives.KINDS}
    for kind, clips in several.items():
        np.testing.assert_array_equal(next(clips), hard_negatives.clip_of(kind, 0))


def test_the_same_seed_makes_the_same_sound() -> None:
    for kind in hard_negatives.KINDS:
        np.testing.assert_array_equal(hard_negatives.clip_of(kind, 5), hard_negatives.clip_of(kind, 5))
        assert np.isfinite(hard_negatives.clip_of(kind, 5)).all()


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (music.song(1, 60.0, RATE)[20 * RATE :][: RATE // 5], "0.20 s is too short to tell: a clip needs 0.3 s"),
        (np.zeros(2 * RATE, np.float32), "silent for 2.0 s"),
        (np.zeros(0, np.float32), "0.00 s is too short"),
        (np.eye(1, 2 * RATE, RATE, dtype=np.float32)[0], "too little sound to tell: "),
        (music.song(1, 60.0, RATE)[20 * RATE :][:RATE], ""),
    ],
)
def test_a_clip_too_short_or_too_empty_to_tell_says_so(samples: hard_negatives.Samples, reason: str) -> None:
    said = too_little_to_tell(samples, SETTINGS)
    assert said.startswith(reason)
    assert bool(said) == bool(reason)


def test_the_row_of_an_empty_clip_is_unknown_with_the_reason(tmp_path: Path) -> None:
    encoding.write(tmp_path / "song.wav", music.song(1, 20.0))
    store = Store.open_or_create(str(tmp_path / "store"))
    pipeline.index([str(tmp_path / "song.wav")], store)
    encoding.write(tmp_path / "empty.wav", np.zeros(22050, np.float32))
    encoding.write(tmp_path / "other.wav", music.song(77, 20.0)[220500:270000])
    empty, other = pipeline.identify([str(tmp_path / name) for name in ("empty.wav", "other.wav")], store).to_pylist()
    assert (empty["status"], empty["message"]) == ("unknown", "silent for 1.0 s: nothing to tell it by")
    assert (other["status"], other["message"]) == ("unknown", None)
    (in_memory,) = pipeline.identify_samples(np.zeros(22050, np.float32), 22050, store).to_pylist()
    assert in_memory["message"] == empty["message"]


def test_a_song_too_short_to_index_says_so(tmp_path: Path) -> None:
    encoding.write(tmp_path / "blip.wav", music.song(1, 20.0)[220500:221000])
    store = Store.open_or_create(str(tmp_path / "store"))
    report = pipeline.index([str(tmp_path / "blip.wav")], store)
    assert ["too short" in failure.reason for failure in report.failures] == [True]
