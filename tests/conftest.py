"""Shared fixtures: a seeded generator, and a library of synthetic songs on disk, known to the sample."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline import Store
from pipeline.simulation import acoustics, encoding, music

hypothesis.settings.register_profile("songprint", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("songprint")

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".m4a", ".opus")
SONG_S = 30.0
OUT_OF_LIBRARY = 1001
"""Seed of a song that no library has."""


@dataclass(frozen=True, slots=True)
class FormulaLibrary:
    """A folder of formula songs, two of each format.

    Parameters
    ----------
    folder
        Where the files are, with a sub-folder, as collections have.
    paths
        Sorted, as a catalog lists them.
    seeds
        Of the song in each of ``paths``.
    """

    folder: Path
    paths: tuple[str, ...]
    seeds: tuple[int, ...]

    def clean(self, song: int, start_s: float, length_s: float) -> NDArray[np.float32]:
        """Seconds of the song with this index in ``paths``, as composed: before any codec."""
        whole = music.song(self.seeds[song], SONG_S)
        rate = music.SAMPLE_RATE
        return whole[round(start_s * rate) : round((start_s + length_s) * rate)]

    def noisy(self, song: int, start_s: float, length_s: float, snr_db: float = 10.0) -> NDArray[np.float32]:
        """The same seconds, as a phone across the room records them."""
        return acoustics.recording(self.clean(song, start_s, length_s), snr_db, seed=song)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C stops this process and those that it starts, also where the shell of a script had it ignored.

    A shell without job control starts what runs in its background with SIGINT ignored, and Python keeps that.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a child starts with the default
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def whole_stores(tmp_path: Path) -> Iterator[None]:
    """After the test every store that it made in its folder checks clean."""
    yield
    for metadata in sorted(tmp_path.rglob("songprint.json")):
        assert Store.open(str(metadata.parent)).check() == [], metadata


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator that gives the same numbers in every run."""
    return np.random.default_rng(2003)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> FormulaLibrary:
    """A dozen songs of half a minute in every format; tests must not change the folder."""
    folder = tmp_path_factory.mktemp("music")
    (folder / "more").mkdir()
    seeds = {}
    for seed in range(2 * len(SUFFIXES)):
        place = folder / "more" if seed >= len(SUFFIXES) else folder
        path = place / f"{seed:02d} {music.title(seed)}{SUFFIXES[seed % len(SUFFIXES)]}"
        samples = music.song(seed, SONG_S)
        # Opus files are at 48 kHz whatever they were made from; the others keep the rate.
        encoding.write(path, samples, title=music.title(seed), artist=music.artist(seed))
        seeds[str(path)] = seed
    paths = tuple(sorted(seeds))
    return FormulaLibrary(folder, paths, tuple(seeds[path] for path in paths))


@pytest.fixture(scope="session")
def out_of_library() -> NDArray[np.float32]:
    """Ten seconds of a song that the library does not have, at `music.SAMPLE_RATE`."""
    return music.song(OUT_OF_LIBRARY, 20.0)[-10 * music.SAMPLE_RATE :]


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `songprint demo` leaves, and its output in ``output.txt`` beside it."""
    folder = tmp_path_factory.mktemp("checkout") / "demo"
    command = [sys.executable, "-m", "jobs", "demo", "--folder", str(folder), "--workers", "2"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], check=True, capture_output=True, text=True)
    (folder.parent / "output.txt").write_text(done.stdout)
    return folder
