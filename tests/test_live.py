"""Live, without a microphone: a pipe that any capture program could feed."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import pipeline
from jobs.cli import run
from pipeline import Store, live
from pipeline.audio import formats
from pipeline.errors import AudioError
from pipeline.live import Listener
from pipeline.matching.types import Match, Query
from pipeline.simulation import acoustics, encoding, music

ROOT = Path(__file__).parents[1]
RATE = music.SAMPLE_RATE
SONG_S = 30.0


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("music")
    for seed in (1, 2, 3):
        encoding.write(folder / f"{seed}.wav", music.song(seed, SONG_S), title=f"Song {seed}")
    store = Store.open_or_create(str(tmp_path_factory.mktemp("live") / "store"))
    pipeline.index([str(folder)], store)
    return store


@pytest.fixture(scope="module")
def evening() -> NDArray[np.float32]:
    """Song 2, an out-of-library song, then song 1 from its tenth second, under voices in a room."""
    parts = [music.song(2, 20.0), music.song(1001, 15.0), music.song(1, SONG_S)[10 * RATE : 28 * RATE]]
    return acoustics.recording(np.concatenate(parts), 10.0, seed=1)


def as_bytes(samples: NDArray[np.float32]) -> bytes:
    return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()


def test_samples_on_standard_input_become_names_and_a_list(store: Store, evening: NDArray[np.float32]) -> None:
    command = ["listen", "--store", store.url, "--input", "-", "--rate", str(RATE), "--format", "json"]
    done = subprocess.run(
        [sys.executable, "-m", "jobs", *command], input=as_bytes(evening), cwd=ROOT, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    rows = json.loads(done.stdout)
    assert [Path(row["song_path"]).stem for row in rows] == ["2", "1"]
    assert [row["clip_start_s"] for row in rows] == pytest.approx([0.0, 35.0], abs=2.0)
    assert [row["clip_end_s"] for row in rows] == pytest.approx([20.0, 53.0], abs=2.0)
    named = [line for line in done.stderr.decode().splitlines() if ", at " in line]
    assert len(named) == 2


def test_a_song_is_named_once_and_soon_after_it_starts(store: Store, evening: NDArray[np.float32]) -> None:
    import soxr

    rate = store.settings.sample_rate
    samples = soxr.resample(evening, RATE, rate)
    listener = Listener(store.snapshot(), Query())
    named: list[tuple[float, Match]] = []
    for start in range(0, len(samples), rate // 2):
        new = listener.add(samples[start : start + rate // 2])
        named += [(listener.duration_s, match) for match in new]
    assert [match.song_id for _, match in named] == [match.song_id for match in listener.finish()]
    assert [at_s for at_s, _ in named] == pytest.approx([6.5, 41.5], abs=6.5)


def test_a_song_whose_position_jumps_is_named_once_and_corrected(store: Store) -> None:
    import soxr

    rate = store.settings.sample_rate
    song = music.song(2, SONG_S)
    samples = soxr.resample(np.concatenate([song[: 10 * RATE], song[18 * RATE :]]), RATE, rate)
    listener = Listener(store.snapshot(), Query())
    named, corrected = [], []
    for start in range(0, len(samples), rate):
        named += listener.add(samples[start : start + rate])
        corrected += listener.corrected
    assert [match.song_id for match in named] == [2]
    assert [round(match.song_start_s - match.clip_start_s) for match in corrected] == [8]


def test_a_song_that_plays_again_later_is_named_again(store: Store) -> None:
    import soxr

    rate = store.settings.sample_rate
    song = music.song(2, SONG_S)[: 10 * RATE]
    samples = soxr.resample(np.concatenate([song, music.song(1001, 15.0), song]), RATE, rate)
    listener = Listener(store.snapshot(), Query())
    named = [match for start in range(0, len(samples), rate) for match in listener.add(samples[start : start + rate])]
    assert [match.song_id for match in named] == [2, 2]


def test_a_file_is_identified_as_a_pipe_is(
    store: Store, evening: NDArray[np.float32], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoding.write(tmp_path / "evening.flac", evening)
    output = tmp_path / "history.jsonl"
    command = ["listen", "--store", store.url, "--input", str(tmp_path / "evening.flac"), "--output", str(output)]
    assert run([*command, "--seconds", "15"]) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [Path(row["song_path"]).stem for row in rows] == ["2"]
    capsys.readouterr()
    assert run(command[:-2]) == 0
    shown = capsys.readouterr().out
    assert shown.index("2, at") < shown.index("1, at") < shown.index("clip")


def encoded(samples: NDArray[np.float32], suffix: str, folder: Path) -> bytes:
    encoding.write(folder / f"piped{suffix}", samples)
    return (folder / f"piped{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".opus"])
def test_encoded_audio_on_standard_input_is_decoded(suffix: str, store: Store, tmp_path: Path) -> None:
    data = encoded(music.song(2, 20.0), suffix, tmp_path)
    command = [sys.executable, "-m", "jobs", "listen", "--store", store.url, "--input", "-", "--format", "json"]
    done = subprocess.run(command, input=data, cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert [Path(row["song_path"]).stem for row in json.loads(done.stdout)] == ["2"]


def test_encoded_audio_that_cannot_be_read_from_a_pipe_is_refused(store: Store, tmp_path: Path) -> None:
    data = encoded(music.song(2, 20.0), ".m4a", tmp_path)  # its index is at its end
    command = [sys.executable, "-m", "jobs", "listen", "--store", store.url, "--input", "-"]
    done = subprocess.run(command, input=data, cwd=ROOT, capture_output=True)
    assert done.returncode == 1
    assert re.fullmatch(r"AudioError: standard input: .*; if it is a file, give its name\n", done.stderr.decode())


def test_samples_are_not_taken_for_a_container(rng: np.random.Generator) -> None:
    for scale in (1, 3, 1000):
        for _ in range(300):
            samples = rng.normal(0, scale, formats.HEAD_BYTES // 2).astype("<i2")
            samples[0] = -1  # as a header of MP3 starts
            assert not formats.is_container(samples.tobytes())
    assert not formats.is_container(b"")
    assert not formats.is_container(bytes(formats.HEAD_BYTES))
    assert not formats.is_container(b"\xff" * formats.HEAD_BYTES)


def test_samples_may_come_in_any_pieces(rng: np.random.Generator) -> None:
    samples = rng.integers(-32768, 32767, 5000, dtype=np.int16)

    class Trickle(io.BytesIO):
        def read1(self, size: int | None = -1) -> bytes:
            return self.read(int(rng.integers(1, 300)))

    got = np.concatenate(list(live.read_pcm(Trickle(samples.tobytes()))))
    assert np.array_equal(got, samples.astype(np.float32) / 32768)


@pytest.mark.parametrize(
    ("error", "message"), [(ImportError, "needs the package sounddevice"), (OSError, "needs the PortAudio library")]
)
def test_without_a_microphone_one_sentence_says_what_to_do(
    error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import builtins

    real = builtins.__import__

    def importing(name: str, *arguments: object, **more: object) -> object:
        if name == "sounddevice":
            raise error(name)
        return real(name, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", importing)
    with pytest.raises(AudioError, match=message):
        live.microphone()
