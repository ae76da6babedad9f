"""Encode samples as audio files, with tags; and change their tempo, which needs ffmpeg as well."""

from __future__ import annotations

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import soundfile
from numpy.typing import NDArray

from pipeline.errors import ParameterError
from pipeline.simulation.music import SAMPLE_RATE

SOUNDFILE_SUBTYPES = {".wav": "PCM_16", ".flac": "PCM_16", ".ogg": "VORBIS", ".mp3": "MPEG_LAYER_III"}
FFMPEG_CODECS = {".m4a": "aac", ".opus": "libopus"}


def at_tempo(samples: NDArray[np.float32], tempo: float, sample_rate: int = SAMPLE_RATE) -> NDArray[np.float32]:
    """Samples played faster or slower at the same pitch, by ffmpeg's ``atempo``; ``(n,)`` to ``(n / tempo,)`` float32.

    Parameters
    ----------
    tempo
        Over the samples' own, 0.5 to 2.
    """
    raw = ["-f", "f32le", "-ar", str(sample_rate), "-ac", "1"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-loglevel", "error", *raw, "-i", "pipe:0"]
    command += ["-filter:a", f"atempo={tempo:.6f}", *raw, "pipe:1"]
    done = subprocess.run(command, input=samples.astype("<f4").tobytes(), capture_output=True)
    if done.returncode:
        raise ParameterError(f"tempo {tempo:g}: ffmpeg refuses: {done.stderr.decode(errors='replace').strip()}")
    return np.frombuffer(done.stdout, "<f4").astype(np.float32)


def write(
    path: str | Path,
    samples: NDArray[np.float32],
    sample_rate: int = SAMPLE_RATE,
    title: str = "",
    artist: str = "",
    bitrate: str = "96k",
) -> None:
    """Write samples to an audio file; its format is that of the suffix.

    Parameters
    ----------
    path
        Ends in ``.wav``, ``.flac``, ``.ogg``, ``.mp3``, ``.m4a`` or ``.opus``.
    samples
        ``(n,)`` float32 mono or ``(n, channels)``, between -1 and 1.
    sample_rate
        Hz; MP3 and Opus allow only some.
    title, artist
        Tags; none is written for an empty one.
    bitrate
        Of M4A and Opus files, in ffmpeg's notation.

    Raises
    ------
    ParameterError
        If the suffix is another one, or the encoder refuses.
    """
    path = Path(path)
    tags = {"title": title, "artist": artist}
    if subtype := SOUNDFILE_SUBTYPES.get(path.suffix):
        channels = 1 if samples.ndim == 1 else samples.shape[1]
        with soundfile.SoundFile(path, "w", sample_rate, channels, subtype) as file:
            for tag, value in tags.items():
                if value:
                    setattr(file, tag, value)
            # In blocks: libsndfile's Vorbis encoder copies each write to the stack, which overflows.
            for start in range(0, len(samples), 65536):
                file.write(samples[start : start + 65536])
    elif codec := FFMPEG_CODECS.get(path.suffix):
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-loglevel", "error", "-y"]
        command += ["-f", "f32le", "-ar", str(sample_rate), "-ac", str(1 if samples.ndim == 1 else samples.shape[1])]
        command += ["-i", "pipe:0", "-c:a", codec, "-b:a", bitrate, "-fflags", "+bitexact", "-flags:a", "+bitexact"]
        command += [word for tag, value in tags.items() if value for word in ("-metadata", f"{tag}={value}")]
        done = subprocess.run([*command, f"file:{path}"], input=samples.astype("<f4").tobytes(), capture_output=True)
        if done.returncode:
            raise ParameterError(f"{path}: ffmpeg could not write it: {done.stderr.decode(errors='replace').strip()}")
    else:
        known = ", ".join([*SOUNDFILE_SUBTYPES, *FFMPEG_CODECS])
        raise ParameterError(f"{path}: no writer for {path.suffix or 'a name without a suffix'}; use one of {known}")
