"""Any audio file to mono samples, in blocks.

`DECODERS` is the table of decoders, in the order in which they are tried. libsndfile is the fast one; ffmpeg reads all
other formats, and every file that libsndfile cannot decode or does not read to its end.

To add a decoder: a module with a `Decoder`, which says itself what it accepts, and its entry in `DECODERS`.

Input files are untrusted. A name decides nothing: a file is identified by its first bytes, and a decoder reads a
descriptor that was opened here, never a name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import numbers
import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import BinaryIO, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.audio.decoder import MAX_CHANNELS, RATES, CannotDecode, Decoded, Decoder, DoesNotStart, Source, Unreadable
from pipeline.audio.ffmpeg import FfmpegDecoder
from pipeline.audio.formats import NOT_AUDIO, kind_of
from pipeline.audio.libsndfile import LibsndfileDecoder
from pipeline.audio.resampling import resample_blocks
from pipeline.errors import AudioError, NotTried, ParameterError
from pipeline.paths import audio_error, open_regular

log = logging.getLogger(__name__)

T = TypeVar("T")
DECODERS: tuple[type[Decoder], ...] = (LibsndfileDecoder, FfmpegDecoder)
"""Every decoder, the first to be tried first."""
_BLOCK_FRAMES = 1 << 16  # smaller blocks halve libsndfile's speed; larger ones do not fit the cache
_COPY_BYTES = 1 << 16
_LOUDEST = 1e8  # mean square of a block, above which its samples are looked at one by one
_SILENCE = 1e-8  # mean square: -80 dB
_CANCELLED = 0.1  # energy of the mean over that of a channel: below, channels are in opposite polarity


def decode(
    path: str,
    sample_rate: int,
    consume: Callable[[Iterator[NDArray[np.float32]]], T],
    limit_s: float | None = None,
    begun: Callable[[float | None], None] = lambda declared_s: None,
    stream: int | None = None,
) -> tuple[T, Decoded]:
    """Decode a file in blocks, which `consume` receives, and report how it was decoded.

    The samples depend on nothing but the file: they are the same whatever the size of the blocks.

    Parameters
    ----------
    path
        A local file. No other file is opened, whatever this one names (the entries of a playlist, a URL).
    sample_rate
        Hz, wanted.
    consume
        Takes an iterator of ``(n,)`` float32 blocks (mono, finite, about -1 to 1, some seconds each, each its own
        array) and may stop early. It is called *again from the start* when a decoder did not read the whole file and
        the next one is tried, and when a stream was silent and there are others; the result of a stream with sound
        counts, and that of the longer decode.
    limit_s
        Wall seconds that the file may take, `consume` included.
    begun
        Called before `consume` is, with the seconds that the file says it has, if it does.
    stream
        Which audio stream, from 1, of a file that has several. By default it is the one that the file marks as its
        default, else its first; and if that is silent the first one with sound.

    Returns
    -------
    tuple
        What `consume` returned, and a `Decoded`. A truncated file gives what could be decoded of it, with
        ``decoded_share`` below 1.

    Raises
    ------
    AudioError
        If the file is not audio, holds no sample, has a sample rate or a number of channels that no music has, or takes
        longer than `limit_s`. No file raises anything else.
    NotTried
        If it is not a regular file, cannot be opened, or no decoder of its format starts.
    """
    deadline = None if limit_s is None else time.monotonic() + limit_s
    best: tuple[T, Decoded] | None = None
    best_sounds = False
    fault = CannotDecode("no audio in it")
    with open_regular(path) as (fd, size):
        kind, start = kind_of(fd, size)
        if kind in NOT_AUDIO:
            raise audio_error(path, NOT_AUDIO[kind])
        source = Source(fd, size, kind, start, stream, deadline)
        attempts = [(decoder_type, source) for decoder_type in DECODERS if decoder_type.accepts(source)]
        while attempts:
            decoder_type, source = attempts.pop(0)
            os.lseek(fd, 0, os.SEEK_SET)
            try:
                with contextlib.closing(decoder_type(source)) as decoder:
                    mono = _Mono(decoder, sample_rate)
                    blocks = _in_time(mono.blocks(), path, limit_s, deadline)
                    first = next(blocks, None)
                    if first is not None:
                        begun(decoder.declared_s)
                        result = consume(itertools.chain([first], blocks))
                        whole = decoder.ended and next(blocks, None) is None  # else `consume` stopped early
                        decoded = decoder.decoded(decoder.declared_s if whole else None)
                        if best is None or (mono.sounds, decoded.duration_s) > (best_sounds, best[1].duration_s):
                            best, best_sounds = (result, decoded), mono.sounds
                        if not mono.sounds:
                            others = [dataclasses.replace(source, stream=number) for number in decoder.other_streams]
                            attempts = [*((decoder_type, other) for other in others), *attempts]
                        silent = not mono.sounds and attempts and attempts[0][0] is decoder_type
                        if not whole or (decoder.complete and not silent):
                            return best
                    fault = CannotDecode(decoder.fault) if decoder.fault else fault
            except CannotDecode as error:
                fault = error
                if isinstance(error, Unreadable):
                    break
            if deadline is not None and time.monotonic() > deadline:
                raise audio_error(path, f"not decoded within its limit of {limit_s:g} s")
        if best is None:
            raise audio_error(path, str(fault), NotTried if isinstance(fault, DoesNotStart) else AudioError)
        return best


def read(
    path: str, sample_rate: int, start_s: float = 0.0, stop_s: float | None = None, stream: int | None = None
) -> tuple[NDArray[np.float32], Decoded]:
    """A short file, or a span of a file, as one array.

    Parameters
    ----------
    path
        A local file.
    sample_rate
        Hz, wanted.
    start_s, stop_s
        The span, seconds from the file's start. What lies before it is decoded and dropped, what lies behind it is not
        decoded. None for `stop_s`: to the end of the file.
    stream
        As for `decode`.

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

    return decode(path, sample_rate, collect, stream=stream)


def decode_stream(
    pipe: BinaryIO, head: bytes, sample_rate: int, stream: int | None = None
) -> Generator[NDArray[np.float32], None, None]:
    """Decode encoded audio as it comes from a pipe, in any format of ffmpeg's that can be read from its start.

    Parameters
    ----------
    pipe
        What comes after ``head``.
    head
        The first bytes, which were read to see that they are no samples.
    sample_rate
        Hz, wanted.
    stream
        Which audio stream, from 1; its default one when ``None``.

    Yields
    ------
    samples
        Blocks as those of `decode`.

    Raises
    ------
    AudioError
        If ffmpeg cannot read it.
    """
    output, input_ = os.pipe()
    threading.Thread(target=_copy, args=(head, pipe, input_), daemon=True).start()
    try:
        with contextlib.closing(FfmpegDecoder(Source(output, 0, "other", stream=stream))) as decoder:
            yield from _Mono(decoder, sample_rate).blocks()
            if not decoder.frames:
                raise CannotDecode(decoder.fault or "no audio in it")
            if decoder.fault:
                log.warning("standard input: %s, after %.1f s", decoder.fault, decoder.frames / decoder.sample_rate)
    except CannotDecode as error:
        raise audio_error("standard input", f"{error}; if it is a file, give its name") from None
    finally:
        os.close(output)  # a copy that goes on then ends


def _copy(head: bytes, pipe: BinaryIO, fd: int) -> None:
    read = getattr(pipe, "read1", pipe.read)  # what the pipe has; `read` would wait until a block is full
    with contextlib.suppress(OSError), open(fd, "wb", buffering=0) as file:
        file.write(head)
        while data := read(_COPY_BYTES):
            file.write(data)


def array_blocks(samples: ArrayLike, sample_rate: float, wanted: int) -> tuple[Iterator[NDArray[np.float32]], Decoded]:
    """Samples in memory as blocks, the same as `decode` makes of a file that holds them.

    Parameters
    ----------
    samples
        ``(n,)`` or ``(n, channels)`` floating point, about -1 to 1.
    sample_rate
        Hz, of the samples.
    wanted
        Hz, of the blocks.

    Raises
    ------
    ParameterError
        If an argument is out of range.
    """
    frames = np.asarray(samples)
    if frames.dtype.kind != "f":
        hint = f"; divide it by {np.iinfo(frames.dtype).max + 1}" if frames.dtype.kind == "i" else ""
        raise ParameterError(f"samples: {frames.dtype}; floating point is needed, about -1 to 1{hint}")
    if frames.ndim not in (1, 2):
        raise ParameterError(f"samples: shape {frames.shape}; it must be (n,) or (n, channels)")
    if frames.ndim == 1:
        frames = frames[:, np.newaxis]
    channels = frames.shape[1]
    if not 1 <= channels <= MAX_CHANNELS:
        hint = "; is it (channels, n)? give its transpose" if len(frames) <= MAX_CHANNELS else ""
        raise ParameterError(
            f"samples: {channels} channels in shape {frames.shape}; 1 to {MAX_CHANNELS} are read{hint}"
        )
    if not isinstance(sample_rate, numbers.Real) or sample_rate % 1 or int(sample_rate) not in RATES:
        raise ParameterError(f"sample_rate: {sample_rate!r}; it must be a whole number, {RATES[0]} to {RATES[-1]} Hz")
    rate = int(sample_rate)
    duration_s = len(frames) / rate

    def blocks() -> Iterator[NDArray[np.float32]]:
        for start in range(0, len(frames), _BLOCK_FRAMES):
            with np.errstate(over="ignore", invalid="ignore"):
                block = frames[start : start + _BLOCK_FRAMES].astype(np.float32)
            yield _mix(block)[0]

    return resample_blocks(blocks(), rate, wanted), Decoded("array", rate, channels, duration_s, duration_s)


class _Mono:
    """The samples of a decoder as mono blocks; no block is empty.

    Attributes
    ----------
    sounds
        Whether any block so far is louder than silence.
    """

    def __init__(self, decoder: Decoder, sample_rate: int) -> None:
        self._decoder = decoder
        self._sample_rate = sample_rate
        self.sounds = False

    def blocks(self) -> Generator[NDArray[np.float32], None, None]:
        yield from resample_blocks(self._mixed(), self._decoder.sample_rate, self._sample_rate)

    def _mixed(self) -> Generator[NDArray[np.float32], None, None]:
        channels = self._decoder.channels
        buffer = np.empty((max(1024, _BLOCK_FRAMES * 2 // max(2, channels)), channels), np.float32)
        while n := self._decoder.fill(buffer):
            mixed, energy = _mix(buffer[:n])
            self.sounds |= energy > _SILENCE * n
            yield mixed


def _mix(frames: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """The mean of the channels, as a new array, and its energy.

    NaN and infinity, which the resampler would spread over all that follows, become 0, and what is beyond 1e6 is cut
    off. Where the channels cancel, those in opposite polarity are turned round: what is left of them in the mean is
    what a codec has changed.

    Parameters
    ----------
    frames
        ``(n, channels)``; changed where samples are not finite.
    """
    channels = frames.shape[1]
    with np.errstate(all="ignore"):
        energy = _energy(frames)
        if not energy <= _LOUDEST * frames.size:  # also for NaN
            np.nan_to_num(frames, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
            np.clip(frames, -1e6, 1e6, out=frames)  # keeps float files that are scaled to 16 or 24 bit integers
            energy = _energy(frames)
        mixed = _mean(frames)
        if channels == 1:
            return mixed, energy
        mixed_energy = _energy(mixed)
        if mixed_energy < _CANCELLED * energy / channels:
            products = frames.T @ frames
            signs = np.where(products[np.argmax(products.diagonal())] < 0, np.float32(-1), np.float32(1))
            mixed = frames @ (signs * signs[0] / np.float32(channels))
            mixed_energy = _energy(mixed)
    return mixed, mixed_energy


def _energy(samples: NDArray[np.float32]) -> float:
    """The sum of squares."""
    every = samples.ravel()
    return float(np.dot(every, every))


def _mean(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of the channels, as a new array; ``mean(axis=1)`` costs 20 times as much as adding columns."""
    channels = frames.shape[1]
    if channels == 1:
        return frames[:, 0].copy()
    mixed = frames[:, 0] + frames[:, 1]
    for channel in range(2, channels):
        mixed += frames[:, channel]
    mixed *= np.float32(1 / channels)
    return mixed


def _in_time(
    blocks: Generator[NDArray[np.float32], None, None], path: str, limit_s: float | None, deadline: float | None
) -> Generator[NDArray[np.float32], None, None]:
    """The same blocks; `AudioError` once the time is over."""
    for block in blocks:
        if deadline is not None and time.monotonic() > deadline:
            break
        yield block
    if deadline is not None and time.monotonic() > deadline:
        raise audio_error(path, f"not decoded within its limit of {limit_s:g} s")
