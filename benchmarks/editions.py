"""Two editions of a recording in one library: how often the one that is named is the one that plays.

    python -m benchmarks.editions MUSIC [MUSIC ...] [--songs 20] [--seed 1]

Of each drawn song a minute is taken, and two other editions of it are made by formula: equalised, compressed, limited,
encoded (Ogg Vorbis at its lowest qualities), or all but the last. Each pair of an original and an edition, with all
other songs' minutes beside them, is a library; clips of both are identified in it. Printed is how often the right one
comes first, by kind and by clip: clean of 2 and 5 s, and 5 s under voices in a room at 10 dB.
"""

from __future__ import annotations

import argparse
import io
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import scipy.ndimage
import scipy.signal
import soundfile
import soxr
from numpy.typing import NDArray

from pipeline import catalog
from pipeline.audio import decoding
from pipeline.fingerprinting.settings import Settings
from pipeline.matching.search import find_matches
from pipeline.matching.types import Query
from pipeline.simulation import acoustics
from tests.fakes import MemoryLibrary

RATE = 22050  # Hz of the editions
SETTINGS = Settings()
PAIR = (100_001, 100_002)  # song ids of an original and its edition, above those of all other songs
START_S, LENGTH_S = 20, 60  # of the minute that is taken of a song
CLIPS = {"clean, 2 s": (2, False), "clean, 5 s": (5, False), "room, 10 dB, 5 s": (5, True)}

Samples = NDArray[np.float64]


def equalise(samples: Samples, rng: np.random.Generator) -> Samples:
    """A slope of up to 1.2 dB an octave, and three bells of up to 5 dB."""
    spectrum = np.fft.rfft(samples)
    octaves = np.log2(np.maximum(np.fft.rfftfreq(len(samples), 1 / RATE), 30) / 1000)
    gain_db = rng.uniform(-1.2, 1.2) * octaves
    for _ in range(3):
        gain_db += rng.uniform(-5, 5) * np.exp(-(((octaves - rng.uniform(-4, 3)) / rng.uniform(0.3, 1)) ** 2))
    return np.fft.irfft(spectrum * 10 ** (gain_db / 20), len(samples))


def compress(samples: Samples, rng: np.random.Generator) -> Samples:
    """Above -30 to -18 dB the level rises 2 to 5 times less."""
    threshold, ratio = 10 ** (rng.uniform(-30, -18) / 20), rng.uniform(2, 5)
    decay = np.exp(-1 / (RATE * rng.uniform(0.05, 0.2)))
    peaks = scipy.ndimage.maximum_filter1d(np.abs(samples), RATE // 100)
    envelope = np.maximum(scipy.signal.lfilter([1 - decay], [1, -decay], peaks), 1e-9)
    return np.asarray(samples * np.where(envelope > threshold, (envelope / threshold) ** (1 / ratio - 1), 1.0))


def limit(samples: Samples, rng: np.random.Generator) -> Samples:
    """6 to 12 dB louder than what fits, softly clipped."""
    return np.asarray(np.tanh(samples / np.abs(samples).max() * 10 ** (rng.uniform(6, 12) / 20)))


def encode(samples: Samples, rng: np.random.Generator) -> Samples:
    """Ogg Vorbis at its lowest fifth of qualities, and back."""
    file = io.BytesIO()
    level = float(rng.uniform(0.8, 1.0))
    soundfile.write(file, samples, RATE, format="OGG", subtype="VORBIS", compression_level=level)
    file.seek(0)
    return np.asarray(soundfile.read(file)[0][: len(samples)])


EDITIONS: dict[str, tuple[Callable[[Samples, np.random.Generator], Samples], ...]] = {
    "equalised": (equalise,),
    "compressed": (compress,),
    "limited": (limit,),
    "encoded": (encode,),
    "remastered": (equalise, compress, limit),
}


def edition(kind: str, samples: Samples, rng: np.random.Generator) -> Samples:
    """An edition of a recording, ``(n,)`` at `RATE`, peak at 0.8."""
    for change in EDITIONS[kind]:
        samples = change(samples, rng)
    return samples / max(float(np.abs(samples).max()), 1e-9) * 0.8


def at_fingerprint_rate(samples: Samples) -> NDArray[np.float32]:
    """What the decoder gives of an edition."""
    return np.asarray(soxr.resample(samples.astype(np.float32), RATE, SETTINGS.sample_rate), np.float32)


def read_minute(path: str) -> Samples | None:
    """A minute of a song, ``(n,)`` at `RATE`, peak at 0.8; None if the song is shorter or silent."""
    samples = decoding.read(path, RATE, stop_s=START_S + LENGTH_S + 10)[0]
    minute = samples[START_S * RATE : (START_S + LENGTH_S) * RATE].astype(float)
    peak = float(np.abs(minute).max(initial=0.0))
    return minute / peak * 0.8 if len(minute) == LENGTH_S * RATE and peak > 0.02 else None


def clips_of(pair: tuple[Samples, Samples], rng: np.random.Generator) -> dict[str, list[NDArray[np.float32]]]:
    """For each of `CLIPS` a clip of each of a pair, at the rate of a fingerprint."""
    made = {}
    for name, (length_s, in_room) in CLIPS.items():
        clips = []
        for samples in pair:
            start = int(rng.integers(5 * RATE, len(samples) - 12 * RATE))
            clip = samples[start : start + length_s * RATE].astype(np.float32)
            clips.append(acoustics.recording(clip, 10.0, int(rng.integers(1 << 20)), RATE) if in_room else clip)
        made[name] = [at_fingerprint_rate(clip) for clip in clips]
    return made


def right_first(
    pair: tuple[Samples, Samples], others: MemoryLibrary, rng: np.random.Generator
) -> dict[str, list[bool]]:
    """For each of `CLIPS`, whether the right one of a pair comes first, for a clip of each of both."""
    library = others.with_samples(dict(zip(PAIR, map(at_fingerprint_rate, pair), strict=True)))
    right = {}
    for name, clips in clips_of(pair, rng).items():
        found = find_matches(clips, library, Query())
        right[name] = [bool(matches) and matches[0].song_id == id_ for matches, id_ in zip(found, PAIR, strict=True)]
    return right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("music", nargs="+", metavar="MUSIC")
    parser.add_argument("--songs", type=int, default=20, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="S")
    chosen = parser.parse_args()
    rng = np.random.default_rng(chosen.seed)
    entries = catalog.walk(chosen.music)
    minutes: dict[int, Samples] = {}
    for place in rng.permutation(len(entries))[: chosen.songs].tolist():
        minute = read_minute(entries[place].path)
        if minute is not None:
            minutes[place] = minute
    kinds = list(EDITIONS)
    counted: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for number, (place, minute) in enumerate(minutes.items()):
        others = {id_: at_fingerprint_rate(other) for id_, other in minutes.items() if id_ != place}
        library = MemoryLibrary.of_samples(others, SETTINGS)
        for kind in (kinds[number % 5], kinds[(number + 2) % 5]):
            for clip, right in right_first((minute, edition(kind, minute, rng)), library, rng).items():
                counted[kind, clip] += right
    print(f"{'right edition first, %':24}" + "".join(f"{clip:>20}" for clip in CLIPS))
    for kind in (*kinds, "all"):
        cells = [
            [r for (k, c), rs in counted.items() if c == clip and kind in (k, "all") for r in rs] for clip in CLIPS
        ]
        print(f"{kind:24}" + "".join(f"{100 * np.mean(cell):9.1f} of {len(cell):3} " + " " * 4 for cell in cells))


if __name__ == "__main__":
    main()
