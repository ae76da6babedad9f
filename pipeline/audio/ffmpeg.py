"""The decoder for every other format, and for damaged files: ffmpeg, in a process of its own.

The program is the one that imageio-ffmpeg installs. It gets a descriptor that we opened, never a name, and may use no
other protocol, so that no playlist, whatever it is called, makes it open another file.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from functools import lru_cache
from typing import IO, cast

import numpy as np
from audioread import ffdec
from numpy.typing import NDArray

from pipeline.audio.decoder import CannotDecode, Decoder, Unreadable, clean_message
from pipeline.audio.formats import has_xing

_FFMPEG_MEMORY = 2 << 30  # bytes of address space; it takes 0.6 GiB on ordinary files
_DESCRIPTION_S = 5.0  # to wait for ffmpeg's description of a file once samples have come; it takes milliseconds
_FFMPEG_CPU_S = 3600  # when the caller sets no limit: an orphan that spins ends by itself

# ffmpeg's demuxers that it may use: none that reads a list of other files (hls, concat, dash, image2, rtsp ...).
_DEMUXERS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dsf,iff,dts,dtshd,eac3,flac,flv,loas,matroska,mlp,mov,mp3,mpc,mpc8,mpeg,"
    "mpegts,nistsphere,ogg,oma,rm,tak,truehd,tta,voc,w64,wav,webm,wv,xwma"
)


class FfmpegDecoder(Decoder, ffdec.FFmpegAudioFile):  # type: ignore[misc]  # audioread has no types
    """audioread's ffmpeg backend, changed for untrusted files by the million.

    Kept of audioread: an object that owns the process, and how the process is ended. Changed:

    - what ffmpeg may open;
    - 32 bit floats in a WAV stream, whose header gives rate and channels (audioread reads them from stderr, and takes
      "quad" for mono);
    - reads that wait for the consumer, in place of a queue without bound;
    - the return code is checked;
    - limits of time and memory.

    ffmpeg ends with this process: its output is a pipe, and a write to it fails when nobody reads. An ffmpeg that loops
    without writing ends at its limit of CPU time. A death signal (``PR_SET_PDEATHSIG``) would need code between fork
    and exec, which is not safe in the threads of a Dask worker.
    """

    name = "ffmpeg"

    @classmethod
    def accepts(cls, fd: int, size: int, kind: str) -> bool:
        return True

    def __init__(self, fd: int, size: int, kind: str, deadline: float | None) -> None:
        command = [_ffmpeg(), "-hide_banner", "-nostdin", "-nostats", "-threads", "1"]
        command += ["-protocol_whitelist", "fd", "-format_whitelist", _DEMUXERS, "-fd", str(fd), "-i", "fd:"]
        command += ["-map", "0:a:0", "-c:a", "pcm_f32le", "-map_metadata", "-1", "-bitexact", "-f", "wav", "pipe:1"]
        # FFREPORT would make it write a file, the others would colour the messages that are read below.
        left_out = ("FFREPORT", "AV_LOG_FORCE_COLOR", "AV_LOG_FORCE_256COLOR")
        environment = {name: value for name, value in os.environ.items() if name not in left_out}
        try:
            # Its own process group: Ctrl-C would make it end early but cleanly, which looks like a short song.
            self.proc: subprocess.Popen[bytes] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
                pass_fds=(fd,), process_group=0, env=environment,
            )  # fmt: skip
        except OSError as error:
            raise CannotDecode(f"ffmpeg does not start: {error.strerror}") from None
        assert self.proc.stdout is not None
        assert self.proc.stderr is not None
        self._pipe = cast(io.FileIO, self.proc.stdout)  # unbuffered
        left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        _limit(self.proc.pid, _FFMPEG_CPU_S if left_s is None else int(left_s) + 1)
        self._watchdog = threading.Timer(left_s, self.proc.kill) if left_s is not None else None
        if self._watchdog is not None:
            self._watchdog.daemon = True
            self._watchdog.start()
        self.stderr_reader = _StderrReader(self.proc.stderr)
        self.stderr_reader.start()
        try:
            self._read_header()
            self.check_shape()
            self.stderr_reader.described.wait(_DESCRIPTION_S)  # samples may come first
            if any(_PROTECTED.search(line) for line in self.stderr_reader.first):
                raise Unreadable("protected against copying (DRM)")
        except CannotDecode:
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
        raise CannotDecode(self.stderr_reader.reason())

    def _exactly(self, n: int) -> bytes:
        got = bytearray()
        while len(got) < n and (piece := self._pipe.read(min(n - len(got), 1 << 16))):
            got += piece
        return bytes(got)

    def _declared(self, fd: int, kind: str) -> float | None:
        messages = " ".join(self.stderr_reader.first)
        found = re.search(r"Duration: (\d+):(\d+):(\d+\.\d+)", messages)
        if found is None or "Estimating duration from bitrate" in messages or (kind == "mp3" and not has_xing(fd)):
            return None
        return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3])

    def fill(self, buffer: NDArray[np.float32]) -> int:
        if self.ended:
            return 0
        space = memoryview(buffer.data).cast("B")
        n = 0
        while n < len(space) and (k := self._pipe.readinto(space[n:])):
            n += k
        frames = n // (4 * self.channels)
        self.frames += frames
        if n < len(space):
            self.ended = True
            self.complete = self.proc.wait() == 0
            if not self.complete:
                self.stderr_reader.join()
                self.fault = self.stderr_reader.reason()
        return frames

    def close(self) -> None:
        watchdog: threading.Timer | None = getattr(self, "_watchdog", None)  # audioread's __del__ calls this too
        if watchdog is not None:
            watchdog.cancel()
        super(Decoder, self).close()  # audioread's: kills, waits, joins, closes the pipes


_PROTECTED = re.compile(r"Stream #0:.* Audio: .*\((drms|enca) / 0x")  # ffmpeg would decode the cipher, to noise


class _StderrReader(threading.Thread):
    """Empties ffmpeg's stderr, so that it never blocks, and keeps the first and the last lines of it."""

    def __init__(self, pipe: IO[bytes]) -> None:
        super().__init__(daemon=True)
        self._pipe = pipe
        self.described = threading.Event()  # ffmpeg has described the file
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
                    self.described.set()
        self.last.append(rest.decode("utf-8", "replace"))
        self.described.set()

    def reason(self) -> str:
        """Why ffmpeg gave up, from the most telling line."""
        lines = [line for line in (clean_message(line) for line in [*self.first, *self.last]) if line]
        for pattern, reason in _REASONS:
            if any(pattern in line for line in lines):
                return reason
        for line in lines:
            if unclear := re.search(r"Could not find codec parameters for stream \d+ \(Audio: .*\): (.+)", line):
                return f"its header does not describe the audio: {unclear[1]}"
        error = re.compile(r"error|invalid|not found|failed|unsupported|could not", re.IGNORECASE)
        errors = [line for line in lines if error.search(line) and "Error opening output" not in line]
        return f"ffmpeg: {errors[-1]}" if errors else "ffmpeg ended early"


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


@lru_cache(maxsize=1)
def _ffmpeg() -> str:
    import imageio_ffmpeg  # starts ffmpeg once, to check that it runs

    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:
        raise CannotDecode("needs ffmpeg, and none is there or it does not start; pip install imageio-ffmpeg") from None


def ffmpeg_is_there() -> bool:
    """Whether there is an ffmpeg that starts."""
    try:
        return bool(_ffmpeg())
    except CannotDecode:
        return False


def _limit(pid: int, cpu_s: int) -> None:
    """Bound a child's CPU time and memory from outside, since code between fork and exec is not safe in threads."""
    if sys.platform == "linux":
        import resource

        with contextlib.suppress(OSError):  # it may have ended already
            resource.prlimit(pid, resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
            resource.prlimit(pid, resource.RLIMIT_AS, (_FFMPEG_MEMORY, _FFMPEG_MEMORY))
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, 0))
            resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
