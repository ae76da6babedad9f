"""A small synthetic library and clips with known answers, for `songprint demo` and the notebooks.

The library has 24 songs of a minute, in six formats. The clips are cut from the samples before they were encoded:
clean, through a codec at a low bit rate, and as a phone across a room records them. Some are of songs that are not in
the library, for which ``unknown`` is right.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.indexing import index
from pipeline.simulation import acoustics, encoding, music
from pipeline.store import Store

N_SONGS = 24
SONG_S = 60.0
SUFFIXES = (".mp3", ".flac", ".ogg", ".m4a", ".opus", ".wav")
OUT_OF_LIBRARY = (901, 902, 903)
"""Seeds of songs that have clips and are not in the library."""


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip, and where it is from.

    Parameters
    ----------
    path
        The clip's file.
    condition
        How the clip was degraded, for the user.
    song_path
        The song's file in the library; ``None`` for an out-of-library clip, for which ``unknown`` is right.
    start_s, length_s
        The clip's span in its song.
    """

    path: str
    condition: str
    song_path: str | None
    start_s: float
    length_s: float


# Seed of the song, where the clip starts in it, its length, and how it is degraded.
CLIPS = (
    (3, 12.0, 2.0, "cut from the song"),
    (8, 31.5, 5.0, "cut from the song"),
    (14, 20.2, 3.0, "Opus at 16 kbit/s"),
    (21, 44.0, 5.0, "Opus at 16 kbit/s"),
    (5, 8.3, 3.0, "voices at 10 dB"),
    (10, 25.0, 5.0, "voices at 10 dB"),
    (17, 33.7, 5.0, "voices at 10 dB"),
    (0, 40.0, 5.0, "voices at 0 dB"),
    (12, 15.4, 8.0, "voices at 0 dB"),
    (23, 5.0, 10.0, "voices at 0 dB"),
    (OUT_OF_LIBRARY[0], 10.0, 5.0, "out-of-library song"),
    (OUT_OF_LIBRARY[1], 30.0, 10.0, "out-of-library song"),
    (OUT_OF_LIBRARY[2], 22.0, 5.0, "voices at 10 dB"),
)


def song_path(folder: str | Path, seed: int) -> str:
    """The path of the song of a seed."""
    name = f"{music.title(seed)}{SUFFIXES[seed % len(SUFFIXES)]}"
    return os.path.join(folder, "music", music.artist(seed), name)


def compose(
    folder: str | Path, mapper: Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]] = map
) -> list[str]:
    """Write the songs of the library under ``folder/music``, unless they are there.

    Parameters
    ----------
    folder
        Created if it does not exist.
    mapper
        Called as ``map`` is; an executor's ``map`` spreads the songs over its workers.

    Returns
    -------
    list of str
        The songs' paths, by seed.
    """
    paths = [song_path(folder, seed) for seed in range(N_SONGS)]
    missing = [(seed, path) for seed, path in enumerate(paths) if not os.path.exists(path)]
    list(mapper(_compose_one, missing))
    return paths


def open_store(folder: str | Path) -> Store:
    """Open the store of the library under ``folder``, as `songprint demo` leaves it; it is made if it is not there."""
    compose(folder)
    store = Store.open_or_create(os.path.join(folder, "store"))
    index([os.path.join(folder, "music")], store)
    return store


def cut(folder: str | Path) -> list[Clip]:
    """Write the clips under ``folder/clips`` unless they are there, and list them."""
    clips = []
    for number, (seed, start_s, length_s, condition) in enumerate(CLIPS, start=1):
        suffix = ".opus" if condition.startswith("Opus") else ".wav"
        path = os.path.join(folder, "clips", f"{number:02d}{suffix}")
        if not os.path.exists(path):
            span = slice(round(start_s * music.SAMPLE_RATE), round((start_s + length_s) * music.SAMPLE_RATE))
            samples = music.song(seed, SONG_S)[span]
            if condition.startswith("voices"):
                samples = acoustics.recording(samples, 0.0 if " 0 dB" in condition else 10.0, seed)
            _write_whole(path, samples, bitrate="16k")
        clips.append(Clip(path, condition, song_path(folder, seed) if seed < N_SONGS else None, start_s, length_s))
    return clips


def _compose_one(seed_and_path: tuple[int, str]) -> None:
    seed, path = seed_and_path
    _write_whole(path, music.song(seed, SONG_S), title=music.title(seed), artist=music.artist(seed))


def _write_whole(
    path: str, samples: NDArray[np.float32], title: str = "", artist: str = "", bitrate: str = "96k"
) -> None:
    """Write under another name, then rename, so that an interrupted demo leaves no partial song."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    stem, suffix = os.path.splitext(path)
    part = f"{stem}.part{suffix}"
    encoding.write(part, samples, title=title, artist=artist, bitrate=bitrate)
    os.replace(part, path)
