"""Fingerprints fixed to the byte: whoever changes them is told to raise the format of the store."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.fingerprinting.extract import constellation
from pipeline.fingerprinting.landmarks import pair_peaks
from pipeline.fingerprinting.settings import Settings
from pipeline.store.metadata import FORMAT

CHANGED = (
    "fingerprints have changed: stores made before cannot be queried with these. Raise store.metadata.FORMAT, let the"
    " new version read or convert the format before it, and fix the digests here"
)
# Format of the store, number of peaks and of hashes, and SHA-256 of their bytes.
GOLDEN = (
    3,
    1237,
    2457,
    "c5715d420db45d947f6ee2b8232c86761ca76b7a302d459e9b2f23df343706d8",
    "e87aa82dababdc8f937ff6230067c4e670592c56b9273899a19beca7d698d320",
)


def formula_song(seconds: int, rate: int) -> NDArray[np.float32]:
    """Notes of triangle waves with decays, by integer arithmetic: the same bits on every machine."""
    n_samples = seconds * rate
    total = np.zeros(n_samples, np.int64)
    state = 2003
    for _ in range(12 * seconds):
        state = (state * 1103515245 + 12345) % (1 << 31)
        start = (state >> 4) % n_samples
        state = (state * 1103515245 + 12345) % (1 << 31)
        step = 1200 + (state >> 8) % 16000  # of a phase of 16 bits: 200 to 2,900 Hz
        n = np.arange(min(n_samples - start, rate // 2), dtype=np.int64)
        phase = n * step % 65536
        triangle = np.minimum(phase, 65536 - phase) - 16384
        total[start : start + len(n)] += triangle * (rate // 2 - n) // (rate // 2)
    return (total // 8).astype(np.float32) / np.float32(1 << 15)


def sha256(*arrays: NDArray[np.generic]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def fingerprint_of(samples: NDArray[np.float32]) -> tuple[int, int, str, str]:
    peaks = constellation(iter([samples]), Settings())
    hashes = pair_peaks(peaks, Settings().fan_out)
    return (
        len(peaks),
        len(hashes),
        sha256(peaks.frame, peaks.bin, peaks.level),
        sha256(hashes.hash, hashes.offset),
    )


def test_peaks_and_hashes_of_a_formula_song_are_those_of_this_format() -> None:
    song = formula_song(20, Settings().sample_rate)
    if (FORMAT, *fingerprint_of(song)) != GOLDEN:
        pytest.fail(CHANGED)


def test_the_golden_fingerprint_does_not_hang_on_the_last_bit_of_a_sample() -> None:
    song = formula_song(20, Settings().sample_rate)
    nearly = song * np.float32(1 + 2**-22)
    assert fingerprint_of(nearly) == GOLDEN[1:]
