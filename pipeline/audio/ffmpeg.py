"""The decoder for every other format, and for damaged files: ffmpeg, in a process of its own.

The program is the one that imageio-ffmpeg installs. It gets a descriptor that we opened, never a name, and may use no
other protocol, so that no playlist, whatever it is called, makes it open another file.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import select
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from typing import IO, cast

import numpy as np
from audioread import ffdec
from numpy.typing import NDArray

from pipeline.audio.decoder import CannotDecode, Decoder, DoesNotStart, Source, Unreadable, clean_message
from pipeline.audio.formats import has_xing

_FFMPEG_MEMORY = 2 << 30  # bytes of address space; it takes 0.6 GiB on ordinary files
_DESCRIPTION_S = 5.0  # to wait for ffmpeg's description of a file once samples have come; it takes milliseconds
_FFMPEG_CPU_S = 3600  # when the caller sets no limit: an orphan that spins ends by itself

_METADATA_S = 5.0  # to read the tags of a file, which takes 50 ms
_METADATA_BYTES = 1 << 20

# ffmpeg's demuxers that it may use: none that reads a list of other files (hls, concat, dash, image2, rtsp ...), and
# none without sound. A build has some of them.
_DEMUXERS = (
    "3dostr,aa,aac,ac3,ac4,act,adx,aea,afc,aiff,amr,amrnb,amrwb,apc,ape,asf,asf_o,ast,au,avi,avr,bfstm,bit,bonk,brstm,"
    "caf,dhav,dsf,dss,dts,dtshd,eac3,epaf,f4v,flac,flv,fwse,g723_1,genh,gxf,hca,hcom,iamf,iff,ilbc,ircam,iss,"
    "kvag,laf,libmodplug,libopenmpt,loas,lvf,lxf,matroska,mca,mlp,mmf,mov,mp3,mpc,mpc8,mpeg,mpegts,msf,mtaf,musx,mxf,"
    "nistsphere,nsp,nsv,nut,ogg,oma,osq,paf,pva,pvf,qcp,qoa,rka,rl2,rm,rsd,rso,sdr2,sds,sdx,shn,sol,sox,svag,svs,tak,"
    "truehd,tta,vag,voc,vqf,w64,wady,wav,wavarc,webm,wsd,wtv,wv,wve,xa,xvag,xwma"
)
# Demuxers of what other bytes may come before.
_FORCED = {"flac": "flac", "ogg": "ogg", "opus": "ogg", "wav": "wav"}


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
    def accepts(cls, source: Source) -> bool:
        return True

    def __init__(self, source: Source) -> None:
        self._open(source, source.stream or 1)
        if source.stream is None:
            first, *others = self.stderr_reader.streams() or [1]
            if first != 1:
                self.close()
                os.lseek(source.fd, 0, os.SEEK_SET)
                self._open(source, first)
            self.other_streams = tuple(others)
        self.declared_s = self._declared(source.fd, source.kind)

    def _open(self, source: Source, stream: int) -> None:
        """Start ffmpeg on one of the file's audio streams, and read what it says of it."""
        left_s = None if source.deadline is None else max(0.0, source.deadline - time.monotonic())
        output = ["-map", f"0:a:{stream - 1}", "-c:a", "pcm_f32le", "-map_metadata", "-1", "-bitexact", "-f", "wav"]
        self.proc = _start(source, output, left_s)
        assert self.proc.stdout is not None
        assert self.proc.stderr is not None
        self._pipe = cast(io.FileIO, self.proc.stdout)  # unbuffered
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
            n_streams = len(self.stderr_reader.streams())
            if source.stream is not None and 0 < n_streams < stream:
                raise Unreadable(f"no audio stream {stream}; it has {n_streams}") from None
            raise

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

    def streams(self) -> list[int]:
        """The numbers of the file's audio streams, from 1: those marked as default first."""
        found: dict[str, bool] = {}
        for line in self.first:
            if line.startswith("Stream mapping:"):
                break
            if stream := _AUDIO_STREAM.match(line):
                found.setdefault(stream[1], line.rstrip().endswith("(default)"))
        return sorted(range(1, len(found) + 1), key=lambda number: not list(found.values())[number - 1])

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


_AUDIO_STREAM = re.compile(r"  Stream #0:(\d+)\S*: Audio: ")
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
        raise DoesNotStart("needs ffmpeg, and none is there or it does not start; pip install imageio-ffmpeg") from None


def _start(source: Source, output: list[str], limit_s: float | None) -> subprocess.Popen[bytes]:
    """Start ffmpeg on a file, with its output in a pipe and a limit of CPU time."""
    input_ = ["-protocol_whitelist", "fd", "-format_whitelist", _DEMUXERS]
    if source.start and source.kind in _FORCED:
        input_ += ["-f", _FORCED[source.kind], "-skip_initial_bytes", str(source.start)]
    return _run([*input_, "-fd", str(source.fd), "-i", "fd:"], output, limit_s, (source.fd,))


def _run(
    input_: list[str], output: list[str], limit_s: float | None, pass_fds: tuple[int, ...] = ()
) -> subprocess.Popen[bytes]:
    command = [_ffmpeg(), "-hide_banner", "-nostdin", "-nostats", "-threads", "1", *input_, *output, "pipe:1"]
    # FFREPORT would make it write a file, the others would colour the messages that are read below.
    left_out = ("FFREPORT", "AV_LOG_FORCE_COLOR", "AV_LOG_FORCE_256COLOR")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    try:
        # Its own process group: Ctrl-C would make it end early but cleanly, which looks like a short song.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
            pass_fds=pass_fds, process_group=0, env=environment,
        )  # fmt: skip
    except OSError as error:
        raise DoesNotStart(f"ffmpeg does not start: {error.strerror}") from None
    _limit(process.pid, _FFMPEG_CPU_S if limit_s is None else int(limit_s) + 1)
    return process


def read_metadata(source: Source) -> list[tuple[str, str]]:
    """Names and texts of a container's tags, as ffmpeg calls them."""
    os.lseek(source.fd, 0, os.SEEK_SET)
    process = _start(source, ["-loglevel", "quiet", "-f", "ffmetadata"], _METADATA_S)
    watchdog = threading.Timer(_METADATA_S, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        with io.BufferedReader(cast(io.FileIO, process.stdout)) as output:
            text = output.read(_METADATA_BYTES).decode("utf-8", "replace")
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()
    found = []
    for line in re.split(r"(?<!\\)\n", text):
        if line.startswith("["):  # of a chapter
            break
        name, sign, value = line.partition("=")
        if sign:
            found.append((name, re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)))
    return found


def _limit(pid: int, cpu_s: int) -> None:
    """Bound a child's CPU time and memory from outside, since code between fork and exec is not safe in threads."""
    if sys.platform == "linux":
        import resource

        with contextlib.suppress(OSError):  # it may have ended already
            resource.prlimit(pid, resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
            resource.prlimit(pid, resource.RLIMIT_AS, (_FFMPEG_MEMORY, _FFMPEG_MEMORY))
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, 0))
            resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))


_NETWORK = "http,https,tcp,tls,httpproxy,crypto"
_STREAM_FAULT = re.compile(r"Error (?:opening input files|during demuxing): (.{1,200})")
_POLL_S = 0.5
_ORPHAN_S = 300  # without data, when nobody is left to end it


class FfmpegStream:
    """Audio from a URL as it comes: radio over HTTP (also Icecast's and Shoutcast's) and HLS playlists.

    This is the only place where ffmpeg may use the network, and it may open nothing else: what a server sends, a
    playlist or a redirection, leads to other URLs over HTTP at most, and to no file.

    Parameters
    ----------
    url
        ``http://…`` or ``https://…``.
    sample_rate
        Hz, wanted. ffmpeg mixes and resamples: that is the work of its own process.
    stream
        Which audio stream, from 1.

    Raises
    ------
    CannotDecode
        If ffmpeg does not start.
    """

    def __init__(self, url: str, sample_rate: int, stream: int = 1) -> None:
        input_ = ["-protocol_whitelist", _NETWORK, "-format_whitelist", f"{_DEMUXERS},hls"]
        input_ += ["-rw_timeout", str(_ORPHAN_S * 1_000_000), "-i", url]
        # four blocks a second, each sent when it is full: else it sends 32 kB, which are most of a second
        output = ["-map", f"0:a:{stream - 1}", "-af", f"asetnsamples=n={sample_rate // 4}:p=0", "-flush_packets", "1"]
        output += ["-ac", "1", "-ar", str(sample_rate), "-c:a", "pcm_f32le", "-f", "f32le"]
        self._process = _run(input_, output, None)
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._pipe = self._process.stdout
        self._stderr = _StderrReader(self._process.stderr)
        self._stderr.start()

    def blocks(self, stalled_s: float, stop: threading.Event) -> Iterator[NDArray[np.float32]]:
        """Mono samples, ``(n,)`` float32, as they come, until `stop` is set.

        Parameters
        ----------
        stalled_s
            Wall seconds without a sample after which the stream is given up.

        Raises
        ------
        CannotDecode
            With the reason why the stream is over.
        """
        poll = select.poll()
        poll.register(self._pipe, select.POLLIN)
        rest, waited_s = b"", 0.0
        while not stop.is_set():
            if not poll.poll(_POLL_S * 1000):
                waited_s += _POLL_S
                if waited_s >= stalled_s:
                    raise CannotDecode(f"no audio for {stalled_s:g} s")
                continue
            waited_s = 0.0
            data = rest + self._pipe.read(1 << 16)
            if data == rest:
                break
            whole = len(data) // 4 * 4
            rest = data[whole:]
            samples = np.frombuffer(data[:whole], "<f4").astype(np.float32)
            yield np.clip(np.nan_to_num(samples, copy=False, nan=0.0, posinf=0.0, neginf=0.0), -1e6, 1e6)
        else:
            return
        self._process.wait()
        self._stderr.join()
        faults = [str(found[1]) for line in self._stderr.last if (found := _STREAM_FAULT.search(line))]
        if any("matches no streams" in line for line in self._stderr.last):
            faults.append("it has no such audio stream")
        reason = faults[-1] if faults else "the stream ended"
        is_list = reason.startswith("Invalid data")
        raise CannotDecode(f"{reason}; of a list of streams (.m3u, .pls) give one of its URLs" if is_list else reason)

    def close(self) -> None:
        """End ffmpeg, wherever it is."""
        self._process.kill()
        self._process.wait()
        self._stderr.join()
        self._pipe.close()
        assert self._process.stderr is not None
        self._process.stderr.close()
