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
import ctypes
import io
import itertools
import os
import re
import stat
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import IO, TypeVar, cast

import numpy as np
from audioread import ffdec
from numpy.typing import NDArray

from pipeline.errors import AudioError

T = TypeVar("T")

_AUDIO = "aac ac3 aif aifc aiff amr ape asf au caf dsf dts eac3 flac m4a m4b m4p mka mp+ mp1 mp2 mp3 mpc oga ogg opus"
_AUDIO += " ra rf64 snd spx tak tta voc w64 wav wave weba wma wv"
_VIDEO = "3g2 3gp avi flv m2ts m4v mkv mov mp4 mpeg mpg mts ogv rm ts vob webm wmv"
SUFFIXES = frozenset("." + word for word in f"{_AUDIO} {_VIDEO}".split())
"""Names that a walk over folders takes for audio, or for video with sound."""

_RATES = range(2_000, 768_001)  # Hz; below, a file of a few MB would stand for years of "audio"
_MAX_CHANNELS = 64
_BLOCK_FRAMES = 1 << 16  # less halves libsndfile's speed in the end; more does not fit the cache
_COMPLETE = 0.98  # of a file's bytes: a reader that ended before has lost something (tags at the end are smaller)
_OPUS_IN_PROCESS = 512 * 1024  # bytes; above, ffmpeg's faster Opus (230 against 155 x real time) outweighs its start
_FFMPEG_MEMORY = 2 << 30  # bytes of address space; it takes 0.6 GiB on ordinary files
_INTRODUCTION_S = 5.0  # for ffmpeg's words on a file to arrive once its samples have; it takes milliseconds
_FFMPEG_CPU_S = 3600  # when the caller sets no limit: an orphan that spins ends by itself

# Names of ffmpeg's demuxers. What reads a list of other files (hls, concat, dash, image2, rtsp ...) is not among them.
_DEMUXERS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dsf,iff,dts,dtshd,eac3,flac,flv,loas,matroska,mlp,mov,mp3,mpc,mpc8,mpeg,"
    "mpegts,nistsphere,ogg,oma,rm,tak,truehd,tta,voc,w64,wav,webm,wv,xwma"
)

_MAGIC = [  # (offset, bytes, what it is); "other" is audio that only ffmpeg reads
    (0, b"RIFF....WAVE", "wav"),
    (0, b"RF64....WAVE", "wav"),
    (0, b"FORM....AIF[FC]", "aiff"),
    (0, b"fLaC", "flac"),
    (0, b"OggS.{22}.{1,256}OpusHead", "opus"),
    (0, b"OggS", "ogg"),
    (4, b"ftyp|moov|mdat|wide|skip|free", "other"),  # mp4, m4a, mov, 3gp
    (0, b"\x1a\x45\xdf\xa3", "other"),  # Matroska, WebM
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "other"),  # ASF: wma, wmv
    (
        0,
        b"RIFF....AVI |FORM....8SVX|MAC |wvpk|MPCK|MP\\+|TTA1|tBaK|caff|\\.snd|DSD |#!AMR|FLV|\\.RMF|\\.ra\xfd",
        "other",
    ),
    (0, b"riff\x2e\x91\xcf\x11|NIST_1A|Creative Voice File", "other"),  # w64, sphere, voc
    (0, b"\x0b\x77|\x7f\xfe\x80\x01|\x00\x00\x01\xba|\x47.{187}\x47|.{4}\x47.{191}\x47", "other"),  # ac3, dts, mpeg
    (0, b"\xff[\xf0\xf1\xf8\xf9]", "other"),  # AAC in ADTS
    (0, b"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff][\x00-\xef]", "mp3"),  # sync, any layer, a bit rate that exists
    (0, b"\xef?\xbb?\xbf?\\s*(#EXT|ffconcat|\\[playlist\\]|<\\?xml|<asx|<smil|<MPD|File1=)", "playlist"),
]
_SIGNS = [(offset, re.compile(pattern, re.DOTALL | re.IGNORECASE if kind == "playlist" else re.DOTALL), kind)
          for offset, pattern, kind in _MAGIC]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Decoded:
    """How a file was decoded.

    Parameters
    ----------
    decoder
        ``"soundfile"`` or ``"ffmpeg"``.
    sample_rate, channels
        Of the file, before mixing and resampling.
    duration_s
        Seconds that came out of the decoder.
    declared_s
        Seconds that the file's own header promises, None where no header does, or where the caller did not ask for
        the whole file.
    """

    decoder: str
    sample_rate: int
    channels: int
    duration_s: float
    declared_s: float | None

    @property
    def decoded_share(self) -> float:
        """Decoded over declared duration, at most 1.0, and 1.0 when nothing is declared."""
        return min(1.0, self.duration_s / self.declared_s) if self.declared_s else 1.0


def shown(path: str) -> str:
    r"""A path as text that every table and message can hold.

    A name on disk is bytes; Python carries the bytes that are no UTF-8 as lone surrogates, with which the file can be
    opened again but which neither Parquet nor a terminal takes. Here they become ``\xNN``.

    Examples
    --------
    >>> shown("Caf\udce9.mp3")
    'Caf\\xe9.mp3'
    """
    try:
        return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a lone surrogate that stands for no byte
        return path.encode("utf-8", "backslashreplace").decode("utf-8")


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
    with opened(path) as (fd, size):
        kind = _kind(fd, size)
        if kind in _REFUSALS:
            raise _error(path, _REFUSALS[kind])
        decoders: list[type[_Soundfile] | type[_Ffmpeg]] = [_Ffmpeg]
        if kind in ("wav", "aiff", "flac", "mp3", "ogg") or (kind == "opus" and _is_short_opus(fd, size)):
            decoders.insert(0, _Soundfile)
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
            except _Refused as refused:
                fault = str(refused)
                if isinstance(refused, _Unfit):
                    break
            if deadline is not None and time.monotonic() > deadline:
                raise _error(path, f"not decoded within its limit of {limit_s:g} s")
        if best is None:
            raise _error(path, fault)
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


def is_audio(path: str) -> bool:
    """Whether a local regular file looks like audio (or video) by its first bytes.

    Raises
    ------
    AudioError
        If the file cannot be opened or is no regular file.
    """
    with opened(path) as (fd, size):
        return _kind(fd, size) in ("wav", "aiff", "flac", "mp3", "ogg", "opus", "other")


# ---------------------------------------------------------------------------------------------------- the file

_REFUSALS = {
    "empty": "the file is empty",
    "playlist": "a playlist, not audio; give the files that it lists",
    "text": "text, not audio",
}


def _error(path: str, reason: str) -> AudioError:
    """One line, whatever bytes the path or a decoder's words hold."""
    line = f"{shown(path)}: {reason}"
    return AudioError("".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line))


@contextlib.contextmanager
def opened(path: str) -> Iterator[tuple[int, int]]:
    """Descriptor and size of a regular file; devices and pipes, which would hang a reader, are not opened at all.

    Raises
    ------
    AudioError
        If the file is not regular or cannot be opened, with the reason.
    """
    try:
        # Asked twice: opening a device can already do something, and the name may lead elsewhere by now.
        _require_regular(path, os.stat(path))
        flags = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        fd = os.open(path, os.O_RDONLY | flags)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        raise _error(path, getattr(error, "strerror", None) or str(error)) from None
    try:
        status = os.fstat(fd)
        _require_regular(path, status)
        yield fd, status.st_size
    finally:
        os.close(fd)


def _require_regular(path: str, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise _error(path, "a folder, or one that cannot be listed; a file is needed")
    if not stat.S_ISREG(status.st_mode):
        raise _error(path, "a pipe, socket or device; only regular files are read")


def _pread(fd: int, n: int, offset: int) -> bytes:
    """Bytes at a place, without moving the descriptor; nothing where the file cannot be read."""
    try:
        if hasattr(os, "pread"):
            return os.pread(fd, n, offset)
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, n)
    except OSError:
        return b""


def _after_id3(fd: int) -> int:
    """Where the ID3v2 tags at the start of a file end (there may be several in a row)."""
    offset = 0
    for _ in range(8):
        head = _pread(fd, 10, offset)
        if len(head) < 10 or head[:3] != b"ID3":
            break
        a, b, c, d = (byte & 0x7F for byte in head[6:10])
        offset += 10 + (a << 21 | b << 14 | c << 7 | d) + (10 if head[5] & 0x10 else 0)
    return offset


def _kind(fd: int, size: int) -> str:
    """What a file is by its first bytes: a format, "empty", "playlist", "text" or "unknown"."""
    if size == 0:
        return "empty"
    offset = _after_id3(fd)
    head = _pread(fd, 512, offset)
    for at, sign, kind in _SIGNS:
        if sign.match(head, at):
            # libsndfile takes an ID3 tag only before MP3
            return "other" if offset and kind in ("wav", "aiff", "flac", "ogg", "opus") else kind
    if offset:
        return "mp3" if len(head) > 0 else "other"
    return "text" if head.isascii() and not re.search(rb"[\x00-\x08\x0e-\x1a\x7f]", head) else "unknown"


def _declared_by_riff(fd: int, size: int, frame_bytes: int, big: bool) -> int | None:
    """Frames that a WAV's or AIFF's data chunk promises (libsndfile tells only those that are there).

    None when there is no such promise: a writer to a pipe cannot know the length and writes 0 or the largest number.
    """
    offset, rf64_bytes = 12, None
    for _ in range(1000):
        head = _pread(fd, 8, offset)
        if len(head) < 8 or frame_bytes <= 0:
            return None
        name, n = head[:4], int.from_bytes(head[4:], "big" if big else "little")
        if name == b"ds64":
            rf64_bytes = int.from_bytes(_pread(fd, 8, offset + 16), "little")
        if name in (b"data", b"SSND"):
            n = rf64_bytes if rf64_bytes is not None and n == 0xFFFFFFFF else n
            unknown = n == 0 or (n > size and 0x7FFFF000 <= n <= 0xFFFFFFFF)
            return None if unknown else (n - (8 if big else 0)) // frame_bytes
        offset += 8 + n + n % 2
    return None


def _is_short_opus(fd: int, size: int) -> bool:
    """Whether libsndfile should read an Opus file: it is the faster one, and it does not lose a chained second part.

    (Of a chain in which all parts have one serial number libsndfile plays the first and then stands at the end.)
    """
    return size <= _OPUS_IN_PROCESS and _pread(fd, size, 0).count(b"OpusHead") == 1


def _has_xing(fd: int) -> bool:
    """Whether an MP3's first frame tells the length; without it a decoder's "length" is a guess from the bit rate."""
    head = _pread(fd, 4096, _after_id3(fd))
    return any(word in head for word in (b"Xing", b"Info", b"VBRI"))


# ---------------------------------------------------------------------------------------------------- the decoders


class _Refused(Exception):
    """A decoder cannot give samples; the words are for the user, without the path."""


class _Unfit(_Refused):
    """The file was understood, and no other decoder would make it better."""


class _Track:
    """What a decoder knows of one file while it reads it."""

    decoder: str
    sample_rate: int = 0
    channels: int = 0
    declared_s: float | None = None
    frames: int = 0  # decoded so far
    ended: bool = False  # the decoder gave its last frame
    complete: bool = False  # and it saw the whole file
    fault: str | None = None  # why not

    def fill(self, buffer: NDArray[np.float32]) -> int:
        """Read the next frames into ``(n_frames, channels)``; fewer than fit only at the end."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def decoded(self, declared_s: float | None) -> Decoded:
        return Decoded(self.decoder, self.sample_rate, self.channels, self.frames / self.sample_rate, declared_s)

    def check_shape(self) -> None:
        if self.sample_rate not in _RATES:
            raise _Unfit(f"a sample rate of {self.sample_rate} Hz; {_RATES.start} to {_RATES[-1]} Hz are read")
        if not 1 <= self.channels <= _MAX_CHANNELS:
            raise _Unfit(f"{self.channels} channels; 1 to {_MAX_CHANNELS} are read")


class _NoFunctions(ctypes.Structure):
    """How to read, write, seek and close a stream of glibc's: not at all."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("read", "write", "seek", "close")]


class _Silence:
    """What C code prints on stderr while libsndfile works goes nowhere: libmpg123 has a line for each broken frame.

    C's stream ``stderr`` is exchanged, not descriptor 2: what Python, Rust and other processes write there goes on to
    appear, whatever thread it is in. Only where C's library is glibc; elsewhere the lines are seen.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0  # threads that decode now
        self._stream: ctypes.c_void_p | None = None
        self._null: int | None = None

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1 and (stream := self._find()) is not None:
                self._shown = stream.value
                stream.value = self._null

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._stream is not None:
                self._stream.value = self._shown

    def _find(self) -> ctypes.c_void_p | None:
        if self._null is None and sys.platform == "linux":
            libc = ctypes.CDLL(None)
            self._null = 0
            if hasattr(libc, "gnu_get_libc_version"):  # the stream of musl is in memory that cannot be written
                libc.fopencookie.restype = ctypes.c_void_p
                self._null = libc.fopencookie(None, b"w", _NoFunctions())  # discards, and takes no descriptor
            self._stream = ctypes.c_void_p.in_dll(libc, "stderr") if self._null else None
        return self._stream


_SILENCE = _Silence()


class _Soundfile(_Track):
    decoder = "soundfile"

    def __init__(self, fd: int, size: int, kind: str, deadline: float | None) -> None:
        import soundfile  # 20 ms that a query of Opus or m4a need not pay

        self._error = soundfile.SoundFileError
        try:
            # By descriptor: from a name libsndfile takes the extension's word, and we could not ask where it stopped.
            with _SILENCE:
                self._file = soundfile.SoundFile(fd, closefd=False)
        except (soundfile.SoundFileError, ValueError, TypeError) as error:
            raise _Refused(_words(str(error))) from None
        # Else soundfile seeks to where it is after every read, and an MP3 that is sought loses what its next frame
        # needs of those before it: 0.07 of full scale off at a block's start, and libmpg123 complains on stderr.
        self._file.seekable = lambda: False
        self._fd, self._size, self._kind = fd, size, kind
        self.sample_rate, self.channels = self._file.samplerate, self._file.channels
        try:
            self.check_shape()
        except _Refused:
            self._file.close()
            raise
        self._promised = self._file.frames
        declared = self._declared()
        self.declared_s = declared / self.sample_rate if declared else None

    def _declared(self) -> int | None:
        if self._kind in ("wav", "aiff") and self._file.subtype in _SAMPLE_BYTES:
            frame_bytes = _SAMPLE_BYTES[self._file.subtype] * self.channels
            return _declared_by_riff(self._fd, self._size, frame_bytes, self._kind == "aiff")
        if self._kind == "mp3" and not _has_xing(self._fd):
            return None
        return self._promised if self._promised < 1 << 60 else None  # chained Ogg: 2**63 - 1

    def fill(self, buffer: NDArray[np.float32]) -> int:
        if self.ended:
            return 0
        try:
            with _SILENCE:
                n = len(self._file.read(out=buffer))
                if n < len(buffer):
                    self._file.seek(self.frames + n)  # drops what was read ahead: the descriptor is then at the end
        except (self._error, RuntimeError) as error:
            n, self.fault = 0, _words(str(error)) or "damaged"
        self.frames += n
        if n < len(buffer):
            self.ended = True
            at = os.lseek(self._fd, 0, os.SEEK_CUR)
            # A WAV may end in chunks that are no audio, so there the header's count of frames is believed.
            seen = at >= _COMPLETE * self._size or (self._kind in ("wav", "aiff") and 0 < self._promised <= self.frames)
            self.complete = seen and self.fault is None
            if not self.complete and self.fault is None:
                self.fault = f"libsndfile stopped after {at / self._size:.0%} of the file"
        return n

    def close(self) -> None:
        self._file.close()


_SAMPLE_BYTES = {"PCM_S8": 1, "PCM_U8": 1, "ULAW": 1, "ALAW": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4}


class _Ffmpeg(_Track, ffdec.FFmpegAudioFile):  # type: ignore[misc]  # audioread has no types
    """audioread's ffmpeg backend, with what reading strangers' files by the million needs.

    Kept of audioread: the process as an object that is closed, and how it is closed. Changed: what ffmpeg may open,
    32 bit floats in a WAV stream that names its own rate and channels (audioread reads them from stderr, where it
    takes "quad" for mono), reads that wait for the consumer instead of a queue without bound, the return code,
    limits of time and memory.

    ffmpeg dies with us: its output is a pipe to this process, and a write to it fails when we are gone; one that spins
    without writing ends at its limit of CPU time. A death signal (``PR_SET_PDEATHSIG``) would need code between fork
    and exec, which is not safe in the threads of a Dask worker.
    """

    decoder = "ffmpeg"

    def __init__(self, fd: int, size: int, kind: str, deadline: float | None) -> None:
        command = [_ffmpeg(), "-hide_banner", "-nostdin", "-nostats", "-threads", "1"]
        command += ["-protocol_whitelist", "fd", "-format_whitelist", _DEMUXERS, "-fd", str(fd), "-i", "fd:"]
        command += ["-map", "0:a:0", "-c:a", "pcm_f32le", "-map_metadata", "-1", "-bitexact", "-f", "wav", "pipe:1"]
        # FFREPORT would make it write a file, the others colour the words that are read below.
        left_out = ("FFREPORT", "AV_LOG_FORCE_COLOR", "AV_LOG_FORCE_256COLOR")
        environment = {name: value for name, value in os.environ.items() if name not in left_out}
        try:
            # Its own process group: Ctrl-C would make it end early but cleanly, which looks like a short song.
            self.proc: subprocess.Popen[bytes] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
                pass_fds=(fd,), process_group=0, env=environment,
            )  # fmt: skip
        except OSError as error:
            raise _Refused(f"ffmpeg does not start: {error.strerror}") from None
        assert self.proc.stdout is not None
        assert self.proc.stderr is not None
        self._pipe = cast(io.FileIO, self.proc.stdout)  # unbuffered
        left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        _limit(self.proc.pid, _FFMPEG_CPU_S if left_s is None else int(left_s) + 1)
        self._watchdog = threading.Timer(left_s, self.proc.kill) if left_s is not None else None
        if self._watchdog is not None:
            self._watchdog.daemon = True
            self._watchdog.start()
        self.stderr_reader = _LastWords(self.proc.stderr)
        self.stderr_reader.start()
        try:
            self._read_header()
            self.check_shape()
            self.stderr_reader.introduced.wait(_INTRODUCTION_S)  # the samples may come before the words are read
            if any(_PROTECTED.search(line) for line in self.stderr_reader.first):
                raise _Unfit("protected against copying (DRM)")
        except _Refused:
            self.close()
            raise
        self.declared_s = self._declared(fd, kind)

    def _read_header(self) -> None:
        """Rate and channels from the WAV header that ffmpeg sends, up to the first sample."""
        if len(self._exactly(12)) == 12:
            while len(head := self._exactly(8)) == 8 and head[:4] != b"data":
                body = self._exactly(int.from_bytes(head[4:], "little"))
                if head[:4] == b"fmt ":
                    self.channels, self.sample_rate = struct.unpack_from("<HI", body, 2)
            if len(head) == 8 and self.sample_rate:
                return
        self.proc.wait()
        self.stderr_reader.join()
        raise _Refused(self.stderr_reader.reason())

    def _exactly(self, n: int) -> bytes:
        got = bytearray()
        while len(got) < n and (piece := self._pipe.read(min(n - len(got), 1 << 16))):
            got += piece
        return bytes(got)

    def _declared(self, fd: int, kind: str) -> float | None:
        words = " ".join(self.stderr_reader.first)
        found = re.search(r"Duration: (\d+):(\d+):(\d+\.\d+)", words)
        if found is None or "Estimating duration from bitrate" in words or (kind == "mp3" and not _has_xing(fd)):
            return None
        return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3])

    def fill(self, buffer: NDArray[np.float32]) -> int:
        if self.ended:
            return 0
        room = memoryview(buffer.data).cast("B")
        n = 0
        while n < len(room) and (k := self._pipe.readinto(room[n:])):
            n += k
        frames = n // (4 * self.channels)
        self.frames += frames
        if n < len(room):
            self.ended = True
            self.complete = self.proc.wait() == 0
            if not self.complete:
                self.stderr_reader.join()
                self.fault = self.stderr_reader.reason()
        return frames

    def close(self) -> None:
        watchdog: threading.Timer | None = getattr(self, "_watchdog", None)  # audioread's __del__ comes here too
        if watchdog is not None:
            watchdog.cancel()
        super(_Track, self).close()  # audioread's: kills, waits, joins, closes the pipes


_PROTECTED = re.compile(r"Stream #0:.* Audio: .*\((drms|enca) / 0x")  # ffmpeg would decode the cipher, to noise


class _LastWords(threading.Thread):
    """Empties ffmpeg's stderr, so that it never blocks, and keeps the first and the last lines of it."""

    def __init__(self, pipe: IO[bytes]) -> None:
        super().__init__(daemon=True)
        self._pipe = pipe
        self.introduced = threading.Event()  # ffmpeg has said what it found in the file
        self.first: list[str] = []
        self.last: deque[str] = deque(maxlen=20)

    def run(self) -> None:
        rest = b""
        while piece := self._pipe.read(1 << 16):
            *lines, rest = (rest + piece).split(b"\n")
            rest = rest[-4096:]
            for line in lines:
                text = line[:1000].decode("utf-8", "replace")
                if len(self.first) < 200:
                    self.first.append(text)
                self.last.append(text)
                if text.startswith("Stream mapping:"):
                    self.introduced.set()
        self.last.append(rest.decode("utf-8", "replace"))
        self.introduced.set()

    def reason(self) -> str:
        """The line that says most about why ffmpeg gave up."""
        lines = [line for line in (_words(line) for line in [*self.first, *self.last]) if line]
        for pattern, reason in _REASONS:
            if any(pattern in line for line in lines):
                return reason
        for line in lines:
            if unclear := re.search(r"Could not find codec parameters for stream \d+ \(Audio: .*\): (.+)", line):
                return f"its header does not describe the audio: {unclear[1]}"
        blame = re.compile(r"error|invalid|not found|failed|unsupported|could not", re.IGNORECASE)
        wrong = [line for line in lines if blame.search(line) and "Error opening output" not in line]
        return f"ffmpeg: {wrong[-1]}" if wrong else "ffmpeg ended early"


_REASONS = [
    ("Protocol not found", "this ffmpeg is older than 6.0; install a newer one or unset IMAGEIO_FFMPEG_EXE"),
    ("Option fd not found", "this ffmpeg is older than 6.0; install a newer one or unset IMAGEIO_FFMPEG_EXE"),
    ("not on whitelist", "not one of the audio formats that are read"),
    ("matches no streams", "no audio stream in it"),
    ("moov atom not found", "its index (moov) is missing; is the file cut off?"),
    ("Error opening input files: End of file", "cut off inside its header"),
    ("Error opening input files: Input/output error", "cut off inside its header"),
    ("Invalid data found when processing input", "no audio that ffmpeg knows, or damaged"),
    ("Cannot allocate memory", f"ffmpeg needs more than its {_FFMPEG_MEMORY >> 30} GiB of memory"),
]


def _words(message: str) -> str:
    """A decoder's message without its addresses ("[mov @ 0x55d...]"), and not endless."""
    return re.sub(r"\[[^\]]*@ 0x[0-9a-f]+\]\s*|Error opening \d+: ", "", message).strip()[:200]


@lru_cache(maxsize=1)
def _ffmpeg() -> str:
    import imageio_ffmpeg  # starts ffmpeg once to see whether it runs

    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:
        raise _Refused("needs ffmpeg, and none is there or it does not start; pip install imageio-ffmpeg") from None


def _limit(pid: int, cpu_s: int) -> None:
    """Bound a child's CPU time and memory from outside, since code between fork and exec is not safe in threads."""
    if sys.platform == "linux":
        import resource

        with contextlib.suppress(OSError):  # it may have ended already
            resource.prlimit(pid, resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
            resource.prlimit(pid, resource.RLIMIT_AS, (_FFMPEG_MEMORY, _FFMPEG_MEMORY))
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, 0))
            resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))


# ---------------------------------------------------------------------------------------------------- the samples


def _mono(track: _Track, sample_rate: int) -> Generator[NDArray[np.float32], None, None]:
    """Mix, sanitise and resample; no empty block comes out."""
    buffer = np.empty((max(1024, _BLOCK_FRAMES * 2 // max(2, track.channels)), track.channels), np.float32)

    def blocks() -> Iterator[NDArray[np.float32]]:
        while n := track.fill(buffer):
            yield _finite(_mix(buffer[:n]))

    yield from resampled(blocks(), track.sample_rate, sample_rate)


def resampled(
    blocks: Iterable[NDArray[np.float32]], sample_rate: int, wanted: int
) -> Generator[NDArray[np.float32], None, None]:
    """A stream of ``(n,)`` float32 samples at another rate, in Hz; no empty block comes out."""
    import soxr

    if sample_rate == wanted:
        yield from (block for block in blocks if len(block))
        return
    resampler = soxr.ResampleStream(sample_rate, wanted, 1, dtype="float32", quality="HQ")
    for block in blocks:
        block = resampler.resample_chunk(block)
        if len(block):
            yield block
    block = resampler.resample_chunk(np.zeros(0, np.float32), last=True)
    if len(block):
        yield block


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
        raise _error(path, f"not decoded within its limit of {limit_s:g} s")
