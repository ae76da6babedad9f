"""The decoder for WAV, AIFF, FLAC, MP3 and Ogg: libsndfile, through soundfile, in this process.

It is two to three times as fast as ffmpeg, and does not cost the 90 ms of starting a process. But it stops *silently*
before the end of some files: concatenated MP3, VBR MP3 without a Xing tag, chained Ogg. So it checks how much of the
file it has read.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading

import numpy as np
from numpy.typing import NDArray

from pipeline.audio.decoder import CannotDecode, Decoder, Source, clean_message
from pipeline.audio.formats import has_xing, pread, riff_frames

_KINDS = ("wav", "aiff", "flac", "mp3", "ogg")  # and short Opus files
_LONGEST_OPUS = 512 * 1024  # bytes; above, ffmpeg's faster Opus (230 against 155 x real time) outweighs its start
_COMPLETE = 0.98  # of a file's bytes: a reader that ended before has lost something (tags at the end are smaller)
_SAMPLE_BYTES = {"PCM_S8": 1, "PCM_U8": 1, "ULAW": 1, "ALAW": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4}


class _NullFunctions(ctypes.Structure):
    """glibc's functions to read, write, seek and close a stream: none, which makes a stream that discards."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("read", "write", "seek", "close")]


class _StderrSilencer:
    """Discards what C code prints on stderr while libsndfile works: libmpg123 prints a line for each broken frame.

    It replaces C's stream ``stderr``, not descriptor 2: what Python, Rust and other processes write to stderr still
    appears, whatever thread writes it. It works with glibc only; with other C libraries the lines appear.
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
                self._original = stream.value
                stream.value = self._null

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._stream is not None:
                self._stream.value = self._original

    def _find(self) -> ctypes.c_void_p | None:
        if self._null is None and sys.platform == "linux":
            libc = ctypes.CDLL(None)
            self._null = 0
            if hasattr(libc, "gnu_get_libc_version"):  # the stream of musl is in memory that cannot be written
                libc.fopencookie.restype = ctypes.c_void_p
                self._null = libc.fopencookie(None, b"w", _NullFunctions())  # discards, and takes no descriptor
            self._stream = ctypes.c_void_p.in_dll(libc, "stderr") if self._null else None
        return self._stream


_SILENCER = _StderrSilencer()


class LibsndfileDecoder(Decoder):
    """libsndfile, as soundfile wraps it, reading from a descriptor."""

    name = "soundfile"

    @classmethod
    def accepts(cls, source: Source) -> bool:
        if source.kind != "mp3" and source.start:  # libsndfile takes an ID3 tag only before MP3
            return False
        if (source.stream or 1) > 1:
            return False
        if source.kind == "opus":
            # One part only: of a chain whose parts have one serial number libsndfile plays the first, and then is at
            # the end of the file as if it had read it all.
            return source.size <= _LONGEST_OPUS and pread(source.fd, source.size, 0).count(b"OpusHead") == 1
        return source.kind in _KINDS

    def __init__(self, source: Source) -> None:
        import soundfile  # 20 ms that a query of Opus or m4a need not pay

        self._error = soundfile.SoundFileError
        try:
            # By descriptor: of a name libsndfile believes the extension, and the place where it stopped is unknown.
            with _SILENCER:
                self._file = soundfile.SoundFile(source.fd, closefd=False)
        except (soundfile.SoundFileError, ValueError, TypeError) as error:
            raise CannotDecode(clean_message(str(error))) from None
        # Otherwise soundfile seeks to its own place after every read. A seek in an MP3 loses what the next frame needs
        # of the frames before it: the start of a block is off by 0.07 of full scale, and libmpg123 prints warnings.
        self._file.seekable = lambda: False
        self._fd, self._size, self._kind = source.fd, source.size, source.kind
        self.sample_rate, self.channels = self._file.samplerate, self._file.channels
        try:
            self.check_shape()
        except CannotDecode:
            self._file.close()
            raise
        self._promised = self._file.frames
        declared = self._declared()
        self.declared_s = declared / self.sample_rate if declared else None

    def _declared(self) -> int | None:
        if self._kind in ("wav", "aiff") and self._file.subtype in _SAMPLE_BYTES:
            frame_bytes = _SAMPLE_BYTES[self._file.subtype] * self.channels
            return riff_frames(self._fd, self._size, frame_bytes, self._kind == "aiff")
        if self._kind == "mp3" and not has_xing(self._fd):
            return None
        return self._promised if self._promised < 1 << 60 else None  # chained Ogg: 2**63 - 1

    def fill(self, buffer: NDArray[np.float32]) -> int:
        if self.ended:
            return 0
        try:
            with _SILENCER:
                n = len(self._file.read(out=buffer))
                if n < len(buffer):
                    self._file.seek(self.frames + n)  # drops what was read ahead: the descriptor is then at the end
        except (self._error, RuntimeError) as error:
            n, self.fault = 0, clean_message(str(error)) or "damaged"
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
