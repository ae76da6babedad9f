"""Acoustic degradation of music: a small loudspeaker, a room, voices."""

from __future__ import annotations

import importlib.metadata
import importlib.util

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from pipeline.simulation.music import SAMPLE_RATE, Instrument, add_tone, noise_burst, play_note, rms

REFLECTIONS = 12
"""Order up to which reflections are simulated. In the median of 24 rooms the direct sound is then 7.7 dB below the
rest; an order ten times as high gives 8.0 dB, in fifty times the time."""
VOWELS_HZ = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (570, 840, 2410))


def recording(
    samples: NDArray[np.float32], snr_db: float, seed: int, sample_rate: int = SAMPLE_RATE
) -> NDArray[np.float32]:
    """Music as a phone across a room records it: a small loudspeaker, reverberation, voices and hiss.

    Parameters
    ----------
    samples
        ``(n,)`` float32, the clean music.
    snr_db
        Decibels of the music over everything else.
    seed
        Draws the reverberation and the voices.
    sample_rate
        Hz.

    Returns
    -------
    ndarray
        ``(n,)`` float32, peak at 0.7.
    """
    rng = np.random.default_rng([seed, 2])
    recorded = reverberate(loudspeaker(samples, sample_rate), rng, sample_rate)
    noise = babble(len(samples), rng, sample_rate)
    noise /= rms(noise)
    noise += 0.3 * rng.standard_normal(len(noise), dtype=np.float32)
    recorded += noise * np.float32(rms(recorded) / rms(noise) / 10 ** (snr_db / 20))
    recorded *= np.float32(0.7 / max(float(np.abs(recorded).max()), 1e-9))
    return recorded


def loudspeaker(
    samples: NDArray[np.float32], sample_rate: int = SAMPLE_RATE, band_hz: tuple[float, float] = (300.0, 5000.0)
) -> NDArray[np.float32]:
    """Music from a small loudspeaker: no bass, little treble, slightly overdriven."""
    low, high = band_hz
    size = scipy.fft.next_fast_len(len(samples), real=True)
    hz = scipy.fft.rfftfreq(size, 1 / sample_rate).astype(np.float32)
    gain = (hz / low) ** 2 / (1 + (hz / low) ** 2) / (1 + (hz / high) ** 4)
    thin = scipy.fft.irfft(scipy.fft.rfft(samples, size) * gain, size)[: len(samples)]
    driven: NDArray[np.float32] = np.tanh(thin / np.float32(4 * rms(thin)))
    return driven


def reverberate(
    samples: NDArray[np.float32], rng: np.random.Generator, sample_rate: int = SAMPLE_RATE
) -> NDArray[np.float32]:
    """Samples in a living room: the direct sound, and a decaying tail of noise, half a second long."""
    tail = rng.standard_normal(sample_rate // 2, dtype=np.float32)
    tail *= np.float32(0.04) * np.exp(np.linspace(0, -6.9, len(tail), dtype=np.float32))
    tail[0] = 1.0
    return convolve(samples, tail)


def convolve(samples: NDArray[np.float32], response: NDArray[np.float32]) -> NDArray[np.float32]:
    """Samples, filtered with an impulse response such as that of a `room`; ``(n,)`` as before."""
    size = scipy.fft.next_fast_len(len(samples) + len(response), real=True)
    wet: NDArray[np.float32] = scipy.fft.irfft(scipy.fft.rfft(samples, size) * scipy.fft.rfft(response, size), size)
    return wet[: len(samples)]


def room_simulator() -> str | None:
    """The name and version of the library that `room` simulates with, None where it is not installed."""
    if importlib.util.find_spec("pyroomacoustics") is None:
        return None
    return f"pyroomacoustics {importlib.metadata.version('pyroomacoustics')}"


def room(rng: np.random.Generator, sample_rate: int = SAMPLE_RATE, simulated: bool = False) -> NDArray[np.float32]:
    """The impulse response of some living room, between a loudspeaker and a microphone 0.5 to 4 m apart.

    Parameters
    ----------
    rng
        Draws the room (3 to 8 m by 3 to 7 m, 2.4 to 3.5 m high), the two places in it, and its reverberation time: 0.25
        to 0.6 s for 60 dB.
    simulated
        Simulate the reflections between the walls, with the library of `room_simulator`. Otherwise the response is the
        direct sound and decaying noise, at the level that the theory of diffuse sound gives.

    Returns
    -------
    ndarray
        ``(n,)`` float32, largest value 1.
    """
    distance_m, absorbed = 0.0, 1.0
    while not (0.5 < distance_m < 4 and absorbed < 1):
        size_m = rng.uniform([3, 3, 2.4], [8, 7, 3.5])
        decay_s = rng.uniform(0.25, 0.6)
        source, microphone = rng.uniform(0.4, size_m - 0.4), rng.uniform(0.4, size_m - 0.4)
        distance_m = float(np.linalg.norm(source - microphone))
        surface_m2 = 2 * (size_m[0] * size_m[1] + size_m[0] * size_m[2] + size_m[1] * size_m[2])
        absorbed = 0.161 * np.prod(size_m) / (surface_m2 * decay_s)  # Sabine
    if simulated:
        import pyroomacoustics

        box = pyroomacoustics.ShoeBox(
            size_m, fs=sample_rate, materials=pyroomacoustics.Material(absorbed), max_order=REFLECTIONS
        )
        box.add_source(source)
        box.add_microphone(microphone)
        box.compute_rir()
        response = np.asarray(box.rir[0][0], np.float32)
    else:
        response = rng.standard_normal(round(decay_s * sample_rate), dtype=np.float32)
        response *= np.exp(np.linspace(0, -np.log(1000), len(response), dtype=np.float32))
        diffuse = (
            16 * np.pi * distance_m**2 * (1 - absorbed) / (absorbed * surface_m2)
        )  # energy, over the direct sound's
        response *= np.float32(np.sqrt(diffuse / np.sum(response**2)))
        response[0] = 1.0
    loudest = np.abs(response).max()
    return np.asarray(response / loudest, np.float32)


def babble(n_samples: int, rng: np.random.Generator, sample_rate: int = SAMPLE_RATE) -> NDArray[np.float32]:
    """Five people who talk at the same time, ``(n_samples,)`` float32: voiced vowels that start with a hiss."""
    out = np.zeros(n_samples + sample_rate, dtype=np.float32)
    harmonic = np.arange(1, 25)
    for _speaker in range(5):
        voice_hz = rng.uniform(90, 230)
        at_s = rng.uniform(0, 0.3)
        while at_s < n_samples / sample_rate:
            length_s = rng.uniform(0.12, 0.3)
            hz = voice_hz * rng.uniform(0.85, 1.25)
            formants = np.array(VOWELS_HZ[rng.integers(len(VOWELS_HZ))])
            strength = np.exp(-(((harmonic[:, None] * hz - formants) / 150) ** 2)).sum(axis=1) + 0.02
            vowel = Instrument((strength / harmonic**0.5).astype(np.float32), 0.04, length_s, vibrato=0.01)
            add_tone(out, at_s, noise_burst(rng, 0.05, 1.0, sample_rate), 0.2, sample_rate)
            add_tone(out, at_s + 0.03, play_note(vowel, hz, length_s, sample_rate), rng.uniform(0.3, 1.0), sample_rate)
            at_s += length_s + (rng.uniform(0.2, 0.8) if rng.random() < 0.15 else 0.03)
    return out[:n_samples]
