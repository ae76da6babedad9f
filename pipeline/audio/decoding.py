"""Any file to mono samples, in blocks: the only room that knows audio formats.

Two decoders share the work. libsndfile (through soundfile) reads WAV, AIFF, FLAC, MP3 and Ogg in this process, two
to three times as fast as ffmpeg and without the 90 ms that starting ffmpeg costs. ffmpeg (audioread's backend, with
the wheel-borne binary of imageio-ffmpeg) reads everything else, and whatever libsndfile fails on or leaves before
its end: libsndfile stops *silently* on concatenated MP3, on VBR MP3 without a Xing tag and on chained Ogg.

Files are strangers here. The name decides nothing: a file is known by its first bytes. ffmpeg gets a descriptor
that we opened, never a name, and may use no other protocol than that, so that no playlist, whatever it is called,
makes it open anything else.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.audio.decoder import CannotDecode, Decoded, Decoder, Unreadable
from pipeline.audio.ffmpeg import FfmpegDecoder
from pipeline.audio.formats import kind_of
from pipeline.audio.libsndfile import LibsndfileDecoder, is_short_opus
from pipeline.audio.resampling import resample_blocks
from pipeline.paths import audio_error, open_regular

T = TypeVar("T")
_BLOCK_FRAMES = 1 << 16  # less halves libsndfile's speed in the end; more does not fit the cache


def decode(
    path: str,
    sample_rate: int,
    consume: Callable[[Iterator[NDArray[np.float32]]], T],
    limit_s: float | None = None,
    begun: Callable[[float | None], None] = lambda declared_s: None,
) -> tuple[T, Decoded]:
    """Hand a file's samples to `consume`, in blocks, and say how they were decoded.

    The blocks do not depend on anything but the file: the same file gives the same samples, however they are cut.

    Parameters
    ----------
    path
        A local file. What lies outside it (a playlist's entries, a URL) is never opened.
    sample_rate
        Hz, wanted.
    consume
        Takes an iterator of ``(n,)`` float32 blocks (mono, finite, about -1 to 1, some seconds each, each its own
        array) and may stop early. It is called *again from the start* when libsndfile failed or fell short and
        ffmpeg takes over; the result of the longer decode counts.
    limit_s
        Wall seconds that the file may take, `consume` included.
    begun
        Called before `consume` is, with the seconds that the file says it has, if it does.

    Returns
    -------
    tuple
        What `consume` returned, and a `Decoded`. A truncated file gives what could be decoded of it, with
        ``decoded_share`` below 1.

    Raises
    ------
    AudioError
        If the file cannot be opened, is no regular file, is no audio, holds no sample, has a sample rate or a number
        of channels that no music has, or takes longer than `limit_s`. Nothing else is raised for any file.
    """
    deadline = None if limit_s is None else time.monotonic() + limit_s
    best: tuple[T, Decoded] | None = None
    fault = "no audio in it"
    with open_regular(path) as (fd, size):
        kind = kind_of(fd, size)
        if kind in _REFUSALS:
            raise audio_error(path, _REFUSALS[kind])
        decoders: list[type[LibsndfileDecoder] | type[FfmpegDecoder]] = [FfmpegDecoder]
        if kind in ("wav", "aiff", "flac", "mp3", "ogg") or (kind == "opus" and is_short_opus(fd, size)):
            decoders.insert(0, LibsndfileDecoder)
        for start in decoders:
            os.lseek(fd, 0, os.SEEK_SET)
            try:
                with contextlib.closing(start(fd, size, kind, deadline)) as track:
                    blocks = _in_time(_mono(track, sample_rate), path, limit_s, deadline)
                    first = next(blocks, None)
                    if first is not None:
                        begun(track.declared_s)
                        result = consume(itertools.chain([first], blocks))
                        whole = track.ended and next(blocks, None) is None  # else `consume` had enough
                        told = track.decoded(track.declared_s if whole else None)
                        if best is None or told.duration_s > best[1].duration_s:
                            best = (result, told)
                        if not whole or track.complete:
                            return best
                    fault = track.fault or fault
            except CannotDecode as refused:
                fault = str(refused)
                if isinstance(refused, Unreadable):
                    break
            if deadline is not None and time.monotonic() > deadline:
                raise audio_error(path, f"not decoded within its limit of {limit_s:g} s")
        if best is None:
            raise audio_error(path, fault)
        return best


def read(
    path: str, sample_rate: int, start_s: float = 0.0, stop_s: float | None = None
) -> tuple[NDArray[np.float32], Decoded]:
    """A short file, or a span of a file, as one array.

    Parameters
    ----------
    path
        A local file.
    sample_rate
        Hz, wanted.
    start_s, stop_s
        The span in seconds from the file's start; what lies before is decoded and dropped, what lies behind is not
        decoded. To the end if `stop_s` is None.

    Returns
    -------
    tuple
        ``(n_samples,)`` float32, fewer than asked for where the file ends, and a `Decoded` of the part decoded.

    Raises
    ------
    AudioError
        As `decode`.
    """
    start = max(0, round(start_s * sample_rate))
    stop = sys.maxsize if stop_s is None else max(start, round(stop_s * sample_rate))

    def collect(blocks: Iterator[NDArray[np.float32]]) -> NDArray[np.float32]:
        kept = [np.zeros(0, np.float32)]
        position = 0
        for block in blocks:
            kept.append(block[max(0, start - position) : stop - position])
            position += len(block)
            if position >= stop:
                break
        return np.concatenate(kept)

    return decode(path, sample_rate, collect)


_REFUSALS = {
    "empty": "the file is empty",
    "playlist": "a playlist, not audio; give the files that it lists",
    "text": "text, not audio",
}


def _mono(track: Decoder, sample_rate: int) -> Generator[NDArray[np.float32], None, None]:
    """Mix, sanitise and resample; no empty block comes out."""
    buffer = np.empty((max(1024, _BLOCK_FRAMES * 2 // max(2, track.channels)), track.channels), np.float32)

    def blocks() -> Iterator[NDArray[np.float32]]:
        while n := track.fill(buffer):
            yield _finite(_mix(buffer[:n]))

    yield from resample_blocks(blocks(), track.sample_rate, sample_rate)


def _mix(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of the channels, as a new array; ``mean(axis=1)`` costs 20 times as much as adding columns."""
    channels = frames.shape[1]
    with np.errstate(over="ignore", invalid="ignore"):
        mixed = frames[:, 0] + frames[:, 1] if channels > 1 else frames[:, 0].copy()
        for channel in range(2, channels):
            mixed += frames[:, channel]
        if channels > 1:
            mixed *= np.float32(1 / channels)
    return mixed


def _finite(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Samples without NaN and infinity, which would spread over all that follows, and without absurd loudness."""
    if not np.dot(samples, samples) <= 1e8 * len(samples):  # also false for NaN; one pass where nothing is wrong
        np.nan_to_num(samples, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        np.clip(samples, -1e6, 1e6, out=samples)  # float files scaled to 16 or 24 bit integers stay as they are
    return samples


def _in_time(
    blocks: Generator[NDArray[np.float32], None, None], path: str, limit_s: float | None, deadline: float | None
) -> Generator[NDArray[np.float32], None, None]:
    """The same blocks; an error once the time is over."""
    for block in blocks:
        if deadline is not None and time.monotonic() > deadline:
            break
        yield block
    if deadline is not None and time.monotonic() > deadline:
        raise audio_error(path, f"not decoded within its limit of {limit_s:g} s")
