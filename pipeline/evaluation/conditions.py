"""Test conditions: clips are cut from songs and degraded: by a codec, room acoustics, noise, another pitch or tempo."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline import catalog
from pipeline.audio import decoding
from pipeline.audio.resampling import at_speed
from pipeline.errors import AudioError, CatalogError, ParameterError
from pipeline.matching.types import Query
from pipeline.simulation import acoustics, encoding

CONDITIONS = ("clean", "codec", "room10", "room0", "noise10", "noise0", "speed2")
CONDITION = re.compile(r"clean|codec|(room|noise)-?\d{1,2}|speed1?\d|pitch[1-5]|tempo[1-4]?\d")
HIDE = ("song", "album", "artist")
LENGTHS_S = (1.0, 2.0, 3.0, 4.0, 5.0, 10.0)
LONGEST_CLIP_S = 15.0  # longer clips are recordings, which `identify` searches in another way

# Clips are made at the rate of a CD: noise above the band of a fingerprint counts in a signal to noise ratio too, and a
# codec that had no such band to keep would have more bits for the rest.
RATE = 44100
LEAD_S = 1.0  # played before the clip begins, so that the room already reverberates
EDGE_S = 10.0  # music fades in and out: no clip is from there if the song is long enough
QUIET = 0.01  # root mean square below which a span is silence, and makes no clip
LONGEST_READ_S = 900.0  # of a song or a recording of noise, so that a mix of hours fits into memory
N_ROOMS = 24
NOISE_S, NOISE_LAYERS = 60.0, 6  # of the mixed noise: so many recordings at once, so that it is never silent


@dataclass(frozen=True, slots=True)
class Plan:
    """What is cut and how it is treated.

    Parameters
    ----------
    conditions
        ``clean``; ``codec`` (Opus at 24 kbit/s); ``room10``, ``noise10`` and the like (a small loudspeaker in a room,
        and noise; noise alone: with the decibels of the music over the noise, which may be negative); ``speed2`` and
        the like (played so many percent fast or slow); ``tempo10`` (the same with the pitch kept); ``pitch2`` (so many
        semitones higher or lower, with the tempo kept).
    lengths_s
        Seconds of a clip, above 0, at most `LONGEST_CLIP_S`.
    songs
        At most so many songs are drawn; each gives `clips` for each condition and length.
    seed
        Fixes everything that is drawn.
    clips
        Clips of each song for each condition and length, at least 1.
    hide
        What is hidden from the library to make a clip an out-of-library clip: the clip's ``song``, or all songs of its
        ``album`` or its ``artist`` by their tags.

    Raises
    ------
    ParameterError
        If a condition or `hide` is unknown, or a number is out of range.
    """

    conditions: tuple[str, ...] = CONDITIONS
    lengths_s: tuple[float, ...] = LENGTHS_S
    songs: int = 50
    seed: int = 1
    clips: int = 1
    hide: str = "song"

    def __post_init__(self) -> None:
        if self.clips < 1:
            raise ParameterError(f"clips: {self.clips}; there is at least 1 for each condition and length")
        if self.hide not in HIDE:
            raise ParameterError(f"hide: {self.hide!r} unknown; there are {', '.join(HIDE)}")
        if odd := [name for name in self.conditions if not CONDITION.fullmatch(name)]:
            known = (
                "clean, codec, room10, noise10, speed2 (up to 19 %), tempo10 (up to 49 %) and pitch2 (up to 5 "
                "semitones), all but the first two with other numbers too"
            )
            raise ParameterError(f"conditions: {', '.join(odd)} unknown; there are {known}")
        if odd_s := [length_s for length_s in self.lengths_s if not 0 < length_s <= LONGEST_CLIP_S]:
            raise ParameterError(f"lengths: {odd_s[0]:g} s; a clip has above 0 and at most {LONGEST_CLIP_S:g} s")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The rooms and the noise in which clips are recorded.

    Parameters
    ----------
    rooms
        Impulse responses at `RATE`, of which each clip draws one.
    noise
        ``(n,)`` float32 at `RATE`, longer than any clip, root mean square 1; each clip draws a span.
    simulator, source
        How the rooms and the noise were made, for the user.
    """

    rooms: tuple[NDArray[np.float32], ...]
    noise: NDArray[np.float32]
    simulator: str
    source: str


@dataclass(frozen=True, slots=True)
class Clip:
    """A degraded clip, and its place in its song.

    Parameters
    ----------
    start_s
        Where the clip begins in the song.
    samples
        ``(n,)`` float32 at `RATE`, about `length_s` long.
    """

    condition: str
    length_s: float
    start_s: float
    samples: NDArray[np.float32]


def make_surroundings(noise_paths: Sequence[str] = (), seed: int = 1) -> Surroundings:
    """Simulate rooms, and mix noise.

    Parameters
    ----------
    noise_paths
        Recordings of noise, `NOISE_LAYERS` of which play at a time. Without any, voices are synthesised. Pink noise is
        added to both.

    Raises
    ------
    CatalogError
        If a path leads to no audio file that can be read.
    """
    rng = np.random.default_rng([seed, 0])
    simulator = acoustics.room_simulator()
    rooms = tuple(acoustics.room(rng, RATE, simulator is not None) for _ in range(N_ROOMS))
    n_samples = round(NOISE_S * RATE)
    entries = catalog.walk(noise_paths) if noise_paths else []
    noise = _mix_layers(entries, n_samples, rng) if entries else _normalise(acoustics.babble(n_samples, rng, RATE))
    spectrum = np.fft.rfft(rng.standard_normal(n_samples))
    pink = np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1)), n_samples)
    noise = _normalise(noise + np.float32(0.5) * _normalise(pink.astype(np.float32)))
    source = f"{len(entries)} recordings in {NOISE_LAYERS} layers" if entries else "voices by formula"
    return Surroundings(rooms, noise, simulator or "formula", f"{source}, over pink noise")


def _mix_layers(entries: Sequence[catalog.Entry], n_samples: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Recordings one after another, at random levels, in several layers that are added."""
    mixed = np.zeros(n_samples, np.float32)
    usable = list(entries)
    for _ in range(NOISE_LAYERS):
        layer = np.zeros(n_samples, np.float32)
        place = 0
        while place < n_samples:
            if not usable:
                raise CatalogError(f"{entries[0].path}: none of {len(entries)} recordings of noise can be heard")
            entry = usable[int(rng.integers(len(usable)))]
            try:
                with catalog.local_copy(entry.path) as local:
                    samples, _ = decoding.read(local, RATE, stop_s=LONGEST_READ_S)
            except (AudioError, CatalogError):
                samples = np.zeros(0, np.float32)
            if len(samples) < RATE // 100 or not samples.any():
                usable.remove(entry)
                continue
            start = int(rng.integers(max(len(samples) - n_samples, 0) + 1))
            samples = _normalise(samples[start : start + n_samples])[: n_samples - place]
            layer[place : place + len(samples)] = np.float32(rng.uniform(0.3, 1.0)) * samples
            place += len(samples)
        mixed += np.roll(layer, int(rng.integers(n_samples)))  # otherwise few recordings would pause at the same time
    return mixed


CHANGES = ("speed", "pitch", "tempo")
"""Conditions that end in a number by which the speed, the pitch or the tempo is changed."""


def widened(query: Query, condition: str) -> Query:
    """The query with the range that it must search to find clips of a condition: one more than they are off."""
    kind = condition.rstrip("0123456789")
    if kind not in CHANGES:
        return query
    name = f"{kind}_range"
    return dataclasses.replace(query, **{name: max(getattr(query, name), _number(condition) + 1)})


def _number(condition: str) -> float:
    return float(condition.lstrip("abcdefghijklmnopqrstuvwxyz"))


def _ratio(condition: str, sign: float) -> float:
    """Of the speed, the pitch or the tempo of a condition; 1.0 if it changes none."""
    if not condition.startswith(CHANGES):
        return 1.0
    number = sign * _number(condition)
    return float(2 ** (number / 12)) if condition.startswith("pitch") else 1 + number / 100


def cut_clips(
    samples: NDArray[np.float32], plan: Plan, surroundings: Surroundings, rng: np.random.Generator
) -> Iterator[Clip]:
    """The clips of one song, for each condition and length, where the song is long and loud enough."""
    lead, edge = round(LEAD_S * RATE), round(EDGE_S * RATE)
    for _, condition in itertools.product(range(plan.clips), plan.conditions):
        for length_s in plan.lengths_s:
            ratio = _ratio(condition, float(rng.choice([-1, 1])))
            size = round(length_s * (1.0 if condition.startswith("pitch") else ratio) * RATE)
            first, last = edge, len(samples) - edge - size
            if last < first:
                first, last = lead, len(samples) - size
            if last < first:
                continue
            starts = rng.integers(first, last + 1, 50)
            loud = (start for start in starts if np.mean(samples[start : start + size] ** 2) > QUIET**2)
            start = int(next(loud, -1))
            if start >= 0:
                part = samples[start - lead : start + size]
                yield Clip(condition, length_s, start / RATE, degrade(part, condition, ratio, surroundings, rng))


def degrade(
    samples: NDArray[np.float32], condition: str, ratio: float, surroundings: Surroundings, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Treat a clip as one of the conditions of a `Plan` says.

    Parameters
    ----------
    samples
        ``(n,)`` float32 at `RATE`; the first `LEAD_S` are played before the clip begins, and are not part of it.
    ratio
        Of the clip's speed, pitch or tempo over the song's if the condition is ``speed…``, ``pitch…`` or ``tempo…``.
    """
    clip = samples[round(LEAD_S * RATE) :]
    if condition == "clean":
        return clip
    if condition == "codec":
        return _through_codec(clip)
    if condition.startswith("speed"):
        return at_speed(clip, 1 / ratio)
    if condition.startswith("tempo"):
        return encoding.at_tempo(clip, ratio, RATE)
    if condition.startswith("pitch"):
        return encoding.at_tempo(at_speed(clip, 1 / ratio), 1 / ratio, RATE)
    if condition.startswith("room"):
        band_hz = (rng.uniform(120, 300), rng.uniform(6000, 9000))
        played = acoustics.loudspeaker(samples, RATE, band_hz)
        clip = acoustics.convolve(played, surroundings.rooms[int(rng.integers(len(surroundings.rooms)))])[-len(clip) :]
    start = int(rng.integers(len(surroundings.noise) - len(clip)))
    noise = surroundings.noise[start : start + len(clip)]
    snr_db = float(condition.removeprefix("room").removeprefix("noise"))
    mixed: NDArray[np.float32] = clip + noise * (_rms(clip) / _rms(noise) * np.float32(10 ** (-snr_db / 20)))
    return mixed


def _through_codec(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Opus at 24 kbit/s and back."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "clip.opus")
        encoding.write(path, samples, RATE, bitrate="24k")
        return decoding.read(path, RATE)[0]


def _rms(samples: NDArray[np.float32]) -> np.float32:
    return np.float32(np.sqrt(np.mean(samples**2)) + 1e-9)


def _normalise(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    return samples / _rms(samples)
