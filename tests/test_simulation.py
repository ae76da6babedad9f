"""Formula music must be what tests and the demo take it for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.errors import ParameterError
from pipeline.simulation import acoustics, encoding, music
from tests.conftest import SUFFIXES


def test_a_seed_gives_the_same_song_and_a_longer_one_starts_with_it() -> None:
    short, long = music.song(5, 4.0), music.song(5, 9.0)
    assert np.array_equal(short, music.song(5, 4.0))
    assert np.array_equal(short, long[: len(short)])


def test_songs_of_other_seeds_differ_and_none_repeats_itself() -> None:
    songs = [music.song(seed, 8.0) for seed in range(6)]
    correlations = np.corrcoef(songs) - np.eye(len(songs))
    assert np.abs(correlations).max() < 0.3
    spectrum = np.abs(np.fft.rfft(songs[0], 2 * len(songs[0]))) ** 2
    echo = np.fft.irfft(spectrum)[: len(songs[0])]
    assert echo[music.SAMPLE_RATE :].max() < 0.8 * echo[0]


@pytest.mark.parametrize("snr_db", [10.0, 0.0])
def test_a_recording_is_as_noisy_as_asked(snr_db: float) -> None:
    samples = music.song(2, 5.0)
    recorded = acoustics.recording(samples, snr_db, seed=1)
    quiet = acoustics.recording(samples, 200.0, seed=1)
    gain = np.dot(recorded, quiet) / np.dot(quiet, quiet)
    noise = recorded - gain * quiet
    assert recorded.shape == samples.shape
    assert recorded.dtype == np.float32
    assert 20 * np.log10(np.std(gain * quiet) / np.std(noise)) == pytest.approx(snr_db, abs=1.0)


@pytest.mark.parametrize("sample_rate", [11025, 44100])
def test_rooms_by_formula_and_simulated_ones_are_as_reverberant_at_any_rate(sample_rate: int) -> None:
    if acoustics.room_simulator() is None:
        pytest.skip("the extra evaluation is not installed")

    def direct_over_rest_db(simulated: bool) -> float:
        shares = []
        for seed in range(24):
            power = acoustics.room(np.random.default_rng(seed), sample_rate, simulated) ** 2
            first = int(np.argmax(power > 0.25 * power[: sample_rate // 50].max()))
            direct = power[max(first - sample_rate // 1000, 0) : first + sample_rate // 1000].sum()
            shares.append(10 * np.log10(direct / (power.sum() - direct)))
        return float(np.median(shares))

    assert direct_over_rest_db(False) == pytest.approx(direct_over_rest_db(True), abs=1.5)


def test_a_room_keeps_the_length_and_the_place_of_a_sound(rng: np.random.Generator) -> None:
    click = np.zeros(22050, np.float32)
    click[5000] = 1.0
    recorded = acoustics.convolve(click, acoustics.room(rng))
    assert recorded.shape == click.shape
    assert int(np.argmax(np.abs(recorded))) == 5000
    assert np.abs(recorded[:5000]).max() < 1e-5


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_is_written_with_its_tags(suffix: str, tmp_path: Path) -> None:
    import mutagen

    path = tmp_path / f"song{suffix}"
    encoding.write(path, music.song(1, 2.0), title="A title", artist="Someone")
    if suffix != ".m4a":
        assert soundfile.info(path).duration == pytest.approx(2.0, abs=0.1)
    if suffix != ".wav":
        assert mutagen.File(path, easy=True)["title"] == ["A title"]


def test_an_unknown_format_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"no writer for \.wma; use one of \.wav"):
        encoding.write(tmp_path / "song.wma", music.song(1, 1.0))


def test_a_song_of_no_length_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"duration_s is 0\.0; it must be above 0"):
        music.song(1, 0.0)
