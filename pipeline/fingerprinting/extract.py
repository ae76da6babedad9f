"""One song from file to hashes: samples, spectrogram, peaks, landmarks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.audio.decoder import Decoded
from pipeline.audio.decoding import array_blocks, decode
from pipeline.errors import ParameterError
from pipeline.fingerprinting.landmarks import Hashes, pair_peaks
from pipeline.fingerprinting.peaks import Peaks, find_maxima, most_salient
from pipeline.fingerprinting.settings import PEAK_REACH_BINS, PEAK_REACH_FRAMES, Settings
from pipeline.fingerprinting.spectrogram import power_batches
from pipeline.paths import PathLike, path_text


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


def fingerprint(
    source: PathLike | ArrayLike,
    settings: Settings | None = None,
    limit_s: float | None = None,
    *,
    sample_rate: float | None = None,
    stream: int | None = None,
) -> Fingerprint:
    """Fingerprint a song, block by block; memory grows only with the number of its peaks.

    Parameters
    ----------
    source
        A local audio file; or samples in memory, ``(n,)`` or ``(n, channels)`` floating point, about -1 to 1.
    settings
        How fingerprints are made; the defaults when ``None``. Only those of equal settings can be compared.
    limit_s
        Seconds of wall time that decoding a file may take.
    sample_rate
        Hz, of samples in memory; a file has its own.
    stream
        Which audio stream of a file, from 1; its default one when ``None``.

    Raises
    ------
    AudioError
        If the file gives no usable samples.
    ParameterError
        If an argument is out of range.
    """
    settings = settings or Settings()
    if isinstance(source, str | os.PathLike):
        if sample_rate is not None:
            raise ParameterError("sample_rate: only for samples in memory; a file has its own")
        path = path_text(source, "source")
        peaks, decoded = decode(
            path, settings.sample_rate, lambda blocks: constellation(blocks, settings), limit_s, stream=stream
        )
    else:
        if sample_rate is None:
            raise ParameterError("sample_rate: missing; samples in memory need one, for example sample_rate=44100")
        blocks, decoded = array_blocks(source, sample_rate, settings.sample_rate)
        peaks = constellation(blocks, settings)
    return Fingerprint(pair_peaks(peaks, settings.fan_out), peaks, decoded)
