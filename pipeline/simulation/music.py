"""Synthetic songs for the demo and the tests: no download, no two alike, every sample known.

A song has what matters for a fingerprint: notes with attacks, decays and harmonics, chords that change, a bass, drums,
sections that return with another melody, silence before and after. One seed gives one song, byte for byte. A longer
song of the same seed starts with the shorter one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ParameterError

SAMPLE_RATE = 22050
"""Hz, by default: more than a fingerprint needs, at half the cost of a CD's rate."""

SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 3, 5, 7, 9, 10), (0, 2, 4, 5, 7, 9, 10))
TITLE_STARTS = (
    "Amber", "Blue", "Broken", "Distant", "Early", "Empty", "Golden", "Hollow", "Iron", "Late", "Little",
    "Lost", "Northern", "Paper", "Quiet", "Silver",
)  # fmt: skip
TITLE_ENDS = (
    "Avenue", "Bridge", "Carousel", "Engine", "Garden", "Harbour", "Lantern", "Letter", "Machine", "Meadow",
    "Orbit", "River", "Signal", "Station", "Summer", "Window",
)  # fmt: skip
ARTISTS = ("The Additive Four", "Nyquist & Daughters", "Seven Harmonics", "The Window Functions", "Lady Hann")


@dataclass(frozen=True, slots=True)
class Instrument:
    """How a note sounds: the strength of its harmonics, the fundamental first, and how it starts and fades."""

    harmonics: NDArray[np.float32]
    attack_s: float
    decay_s: float
    vibrato: float = 0.0


def song(
    seed: int, duration_s: float = 60.0, sample_rate: int = SAMPLE_RATE, tempo: float = 1.0
) -> NDArray[np.float32]:
    """Compose the song of a seed.

    Parameters
    ----------
    seed
        At least 0; fixes the song: key, tempo, instruments, chords, melody, drums.
    duration_s
        Seconds, above 0.
    sample_rate
        Hz.
    tempo
        The same song so many times as fast, at the same pitch.

    Returns
    -------
    ndarray
        ``(round(duration_s * sample_rate),)`` float32, mono, peak at 0.7.

    Raises
    ------
    ParameterError
        If ``duration_s`` is not above 0.

    Examples
    --------
    >>> song(7, duration_s=2.0).shape
    (44100,)
    """
    if not duration_s > 0:
        raise ParameterError(f"song: duration_s is {duration_s!r}; it must be above 0")
    rng = np.random.default_rng([seed, 0])
    tonic_hz = 55.0 * 2 ** (rng.integers(0, 12) / 12)
    scale = np.array(SCALES[rng.integers(len(SCALES))])
    beat_s = 60.0 / rng.uniform(72, 156) / tempo
    swing = rng.choice([0.0, 0.0, 0.16])
    lead, chords, bass = _instrument(rng, 10, 0.02), _instrument(rng, 6, 0.08), _instrument(rng, 4, 0.01)
    sections = [rng.permutation(7)[:4] for _ in range(3)]
    kicks, snares = rng.random(16) < 0.3, rng.random(16) < 0.12
    kicks[[0, 8]], snares[[4, 12]] = True, True
    lead_in_s = rng.uniform(0.1, 0.6) / tempo

    # Each bar has its own generator, so that a longer song starts like a shorter one.
    bar_s = 4 * beat_s
    out = np.zeros(round((duration_s + bar_s + 3.0) * sample_rate), dtype=np.float32)
    degree = int(rng.integers(14, 21))
    for bar in range(int(duration_s / bar_s) + 1):
        start_s = lead_in_s + bar * bar_s
        notes = np.random.default_rng([seed, 1, bar])
        section = sections[(bar // 8) % 3]
        root = int(section[bar % 4])
        for step in (0, 2, 4, 6 if notes.random() < 0.3 else 0):
            hz = _pitch_hz(tonic_hz * 2, scale, root + step)
            add_tone(out, start_s, play_note(chords, hz, bar_s, sample_rate), 0.10, sample_rate)
        for beat in np.flatnonzero(notes.random(4) < 0.8):
            hz = _pitch_hz(tonic_hz, scale, root + int(notes.choice([0, 0, 0, 4])))
            add_tone(out, start_s + beat * beat_s, play_note(bass, hz, beat_s, sample_rate), 0.30, sample_rate)
        at = 0.0
        while at < 4.0:
            length = float(notes.choice([0.5, 0.5, 1.0, 1.0, 1.5]))
            degree = int(np.clip(degree + notes.integers(-3, 4), 12, 26))
            if notes.random() < 0.85:
                early_s = swing * beat_s if at % 1.0 == 0.5 else 0.0
                tone = play_note(lead, _pitch_hz(tonic_hz, scale, degree), length * beat_s, sample_rate)
                loudness = 0.25 * notes.uniform(0.6, 1.0)
                add_tone(out, start_s + at * beat_s + early_s, tone, loudness, sample_rate)
            at += length
        for sixteenth in range(16):
            hit_s = start_s + sixteenth * beat_s / 4
            if kicks[sixteenth]:
                add_tone(out, hit_s, _kick(sample_rate), 0.5, sample_rate)
            if snares[sixteenth]:
                add_tone(out, hit_s, noise_burst(notes, 0.12, 0.0, sample_rate), 0.16, sample_rate)
            if sixteenth % 2 == 0 and notes.random() < 0.8:
                add_tone(out, hit_s, noise_burst(notes, 0.03, 1.0, sample_rate), 0.07, sample_rate)
    # Not scaled by the peak of the whole song, which depends on its length, but limited; quiet music hardly changes.
    return np.float32(0.7) * np.tanh(out[: round(duration_s * sample_rate)])


def title(seed: int) -> str:
    """The title of the song of this seed.

    Examples
    --------
    >>> title(3)
    'Distant Letter'
    """
    return f"{TITLE_STARTS[seed % 16]} {TITLE_ENDS[(7 * seed + seed // 16 + 2) % 16]}"


def artist(seed: int) -> str:
    """The artist of the song of this seed."""
    return ARTISTS[seed % len(ARTISTS)]


def _instrument(rng: np.random.Generator, n_harmonics: int, attack_s: float) -> Instrument:
    order = np.arange(1, n_harmonics + 1)
    strength = rng.uniform(0.3, 1.0, n_harmonics) / order ** rng.uniform(0.7, 1.8)
    if rng.random() < 0.3:
        strength[1::2] *= 0.1  # odd harmonics only, as a clarinet has them
    strength[0] = max(strength[0], 0.5)
    vibrato = float(rng.choice([0.0, 0.004]))
    return Instrument(
        (strength / strength.sum()).astype(np.float32),
        attack_s * rng.uniform(0.3, 1.5),
        float(rng.choice([0.25, 0.6, 1.5, 4.0])),
        vibrato,
    )


def _pitch_hz(tonic_hz: float, scale: NDArray[np.int64], degree: int) -> float:
    octave, step = divmod(degree, len(scale))
    return float(tonic_hz * 2.0 ** (octave + scale[step] / 12))


def play_note(instrument: Instrument, hz: float, length_s: float, sample_rate: int) -> NDArray[np.float32]:
    """One note with a short release after its length; harmonics that do not fit under Nyquist are left out."""
    release_s = 0.05
    seconds = np.arange(int((length_s + release_s) * sample_rate), dtype=np.float32) / np.float32(sample_rate)
    phase = np.float32(2 * np.pi * hz) * seconds
    if instrument.vibrato:
        phase += np.float32(instrument.vibrato * hz / 5.5) * np.sin(np.float32(2 * np.pi * 5.5) * seconds)
    # sin((k + 1) x) = 2 cos(x) sin(k x) - sin((k - 1) x): two sines a note instead of one a harmonic.
    twice_cos, before, wave = 2 * np.cos(phase), np.zeros_like(phase), np.sin(phase)
    tone = np.zeros_like(phase)
    for strength in instrument.harmonics[: max(1, int(0.45 * sample_rate / hz))]:
        tone += strength * wave
        before, wave = wave, twice_cos * wave - before
    tone *= np.exp(seconds / np.float32(-instrument.decay_s))
    tone *= np.minimum(seconds / np.float32(instrument.attack_s), 1.0)
    tone *= np.clip((np.float32(length_s + release_s) - seconds) / np.float32(release_s), 0.0, 1.0)
    return tone


def _kick(sample_rate: int) -> NDArray[np.float32]:
    seconds = np.arange(int(0.18 * sample_rate), dtype=np.float32) / np.float32(sample_rate)
    fall = np.exp(seconds / np.float32(-0.04))
    wave: NDArray[np.float32] = np.sin(np.float32(2 * np.pi) * (48 * seconds - np.float32(4.5) * fall))
    wave *= np.sqrt(fall)
    return wave


def noise_burst(rng: np.random.Generator, decay_s: float, bright: float, sample_rate: int) -> NDArray[np.float32]:
    """Decaying noise: like a snare at brightness 0, like a hi-hat or an s at 1."""
    noise = rng.standard_normal(int(4 * decay_s * sample_rate), dtype=np.float32)
    noise[1:] -= np.float32(bright) * noise[:-1]
    return noise * np.exp(np.linspace(0, -4, len(noise), dtype=np.float32))


def add_tone(
    out: NDArray[np.float32], at_s: float, tone: NDArray[np.float32], loudness: float, sample_rate: int
) -> None:
    start = round(at_s * sample_rate)
    stop = min(start + len(tone), len(out))
    out[start:stop] += np.float32(loudness) * tone[: stop - start]


def rms(samples: NDArray[np.float32]) -> float:
    return max(float(np.sqrt(np.mean(np.square(samples)))), 1e-9)
