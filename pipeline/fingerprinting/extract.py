"""One song from file to hashes: samples, spectrogram, peaks, landmarks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.audio.decoder import Decoded
from pipeline.audio.decoding import decode
from pipeline.fingerprinting.landmarks import Hashes, pair_peaks
from pipeline.fingerprinting.peaks import Peaks, find_maxima, most_salient
from pipeline.fingerprinting.settings import PEAK_REACH_BINS, PEAK_REACH_FRAMES, Settings
from pipeline.fingerprinting.spectrogram import power_batches


@dataclass(frozen=True, slots=True, eq=False)
class Fingerprint:
    """What a store keeps of one song, and how it was decoded."""

    hashes: Hashes
    peaks: Peaks
    decoded: Decoded


def constellation(blocks: Iterator[NDArray[np.float32]], settings: Settings) -> Peaks:
    """The peaks of a song.

    Parameters
    ----------
    blocks
        ``(n,)`` float32 mono samples at ``settings.sample_rate`` each.
    """
    maxima = find_maxima(power_batches(blocks, settings), settings, PEAK_REACH_FRAMES, PEAK_REACH_BINS)
    return most_salient(maxima, settings, settings.peaks_per_s)


def fingerprint(path: str, settings: Settings, limit_s: float | None = None) -> Fingerprint:
    """Decode a song and fingerprint it, block by block; memory grows only with the number of its peaks.

    Parameters
    ----------
    path
        A local audio file.
    limit_s
        Seconds of wall time that decoding may take.

    Raises
    ------
    AudioError
        If the file gives no usable samples.
    """
    peaks, decoded = decode(path, settings.sample_rate, lambda blocks: constellation(blocks, settings), limit_s)
    return Fingerprint(pair_peaks(peaks, settings.fan_out), peaks, decoded)
