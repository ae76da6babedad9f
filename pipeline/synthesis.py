"""Music by formula, and what a room, a small loudspeaker and other people's voices do to it: the demo and the tests
need songs that nobody had to download, that are no two alike, and whose every second is known.

A song here is not art, but it behaves like music where fingerprinting cares: notes with attacks, decays and
harmonics, chords that move, a bass, drums, sections that return with another melody, silence before and after.
One seed gives one song, byte for byte, whatever its length: a longer one starts with the shorter one's music.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import scipy.fft
import soundfile
from numpy.typing import NDArray

from pipeline.errors import ParameterError

SAMPLE_RATE = 22050
"""Hz of what is made here unless asked otherwise: above what a fingerprint looks at, half of a CD's cost."""

SOUNDFILE_SUBTYPES = {".wav": "PCM_16", ".flac": "PCM_16", ".ogg": "VORBIS", ".mp3": "MPEG_LAYER_III"}
FFMPEG_CODECS = {".m4a": "aac", ".opus": "libopus"}

REFLECTIONS = 12
"""How often sound is followed from wall to wall: of 24 rooms the direct sound is 7.7 dB below the rest in the median,
with ten times as many reflections 8.0 dB, which cost fifty times as long."""

SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 3, 5, 7, 9, 10), (0, 2, 4, 5, 7, 9, 10))
VOWELS_HZ = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (570, 840, 2410))
TITLE_STARTS = (
    "Amber", "Blue", "Broken", "Distant", "Early", "Empty", "Golden", "Hollow", "Iron", "Late", "Little",
    "Lost", "Northern", "Paper", "Quiet", "Silver",
)  # fmt: skip
TITLE_ENDS = (
    "Avenue", "Bridge", "Carousel", "Engine", "Garden", "Harbour", "Lantern", "Letter", "Machine", "Meadow",
    "Orbit", "River", "Signal", "Station", "Summer", "Window",
)  # fmt: skip
ARTISTS = ("The Additive Four", "Nyquist & Daughters", "Seven Harmonics", "The Window Functions", "Lady Hann")


@dataclass(frozen=True, slots=True)
class Instrument:
    """How a note sounds: the strength of its harmonics, the fundamental first, and how it starts and fades."""

    harmonics: NDArray[np.float32]
    attack_s: float
    decay_s: float
    vibrato: float = 0.0


def song(seed: int, duration_s: float = 60.0, sample_rate: int = SAMPLE_RATE) -> NDArray[np.float32]:
    """One song: the same for the same seed, another one for another.

    Parameters
    ----------
    seed
        At least 0; everything about the song follows from it: key, tempo, instruments, chords, melody, drums.
    duration_s
        Seconds, above 0.
    sample_rate
        Hz.

    Returns
    -------
    ndarray
        ``(round(duration_s * sample_rate),)`` float32, mono, peak at 0.7.

    Raises
    ------
    ParameterError
        If ``duration_s`` is not above 0.

    Examples
    --------
    >>> song(7, duration_s=2.0).shape
    (44100,)
    """
    if not duration_s > 0:
        raise ParameterError(f"song: duration_s is {duration_s!r}; it must be above 0")
    rng = np.random.default_rng([seed, 0])
    tonic_hz = 55.0 * 2 ** (rng.integers(0, 12) / 12)
    scale = np.array(SCALES[rng.integers(len(SCALES))])
    beat_s = 60.0 / rng.uniform(72, 156)
    swing = rng.choice([0.0, 0.0, 0.16])
    lead, chords, bass = _instrument(rng, 10, 0.02), _instrument(rng, 6, 0.08), _instrument(rng, 4, 0.01)
    sections = [rng.permutation(7)[:4] for _ in range(3)]
    kicks, snares = rng.random(16) < 0.3, rng.random(16) < 0.12
    kicks[[0, 8]], snares[[4, 12]] = True, True
    lead_in_s = rng.uniform(0.1, 0.6)

    # A bar's notes come from a generator of the bar's own, so that a longer song starts like a shorter one.
    bar_s = 4 * beat_s
    out = np.zeros(round((duration_s + bar_s + 3.0) * sample_rate), dtype=np.float32)
    degree = int(rng.integers(14, 21))
    for bar in range(int(duration_s / bar_s) + 1):
        start_s = lead_in_s + bar * bar_s
        notes = np.random.default_rng([seed, 1, bar])
        section = sections[(bar // 8) % 3]
        root = int(section[bar % 4])
        for step in (0, 2, 4, 6 if notes.random() < 0.3 else 0):
            hz = _pitch_hz(tonic_hz * 2, scale, root + step)
            _add(out, start_s, _note(chords, hz, bar_s, sample_rate), 0.10, sample_rate)
        for beat in np.flatnonzero(notes.random(4) < 0.8):
            hz = _pitch_hz(tonic_hz, scale, root + int(notes.choice([0, 0, 0, 4])))
            _add(out, start_s + beat * beat_s, _note(bass, hz, beat_s, sample_rate), 0.30, sample_rate)
        at = 0.0
        while at < 4.0:
            length = float(notes.choice([0.5, 0.5, 1.0, 1.0, 1.5]))
            degree = int(np.clip(degree + notes.integers(-3, 4), 12, 26))
            if notes.random() < 0.85:
                early_s = swing * beat_s if at % 1.0 == 0.5 else 0.0
                tone = _note(lead, _pitch_hz(tonic_hz, scale, degree), length * beat_s, sample_rate)
                loudness = 0.25 * notes.uniform(0.6, 1.0)
                _add(out, start_s + at * beat_s + early_s, tone, loudness, sample_rate)
            at += length
        for sixteenth in range(16):
            hit_s = start_s + sixteenth * beat_s / 4
            if kicks[sixteenth]:
                _add(out, hit_s, _kick(sample_rate), 0.5, sample_rate)
            if snares[sixteenth]:
                _add(out, hit_s, _burst(notes, 0.12, 0.0, sample_rate), 0.16, sample_rate)
            if sixteenth % 2 == 0 and notes.random() < 0.8:
                _add(out, hit_s, _burst(notes, 0.03, 1.0, sample_rate), 0.07, sample_rate)
    # Not scaled by the whole song's peak, which would depend on its length: a limiter that leaves quiet music alone.
    return np.float32(0.7) * np.tanh(out[: round(duration_s * sample_rate)])


def title(seed: int) -> str:
    """The title of the song of this seed.

    Examples
    --------
    >>> title(3)
    'Distant Letter'
    """
    return f"{TITLE_STARTS[seed % 16]} {TITLE_ENDS[(7 * seed + seed // 16 + 2) % 16]}"


def artist(seed: int) -> str:
    """The artist of the song of this seed."""
    return ARTISTS[seed % len(ARTISTS)]


def recording(
    samples: NDArray[np.float32], snr_db: float, seed: int, sample_rate: int = SAMPLE_RATE
) -> NDArray[np.float32]:
    """What a phone across the room hears of music: a small loudspeaker, the room's echo, voices and hiss.

    Parameters
    ----------
    samples
        ``(n,)`` float32, the clean music.
    snr_db
        Decibels of the music over everything else.
    seed
        Which room, which voices.
    sample_rate
        Hz.

    Returns
    -------
    ndarray
        ``(n,)`` float32, peak at 0.7.
    """
    rng = np.random.default_rng([seed, 2])
    heard = reverberate(loudspeaker(samples, sample_rate), rng, sample_rate)
    noise = babble(len(samples), rng, sample_rate)
    noise /= _rms(noise)
    noise += 0.3 * rng.standard_normal(len(noise), dtype=np.float32)
    heard += noise * np.float32(_rms(heard) / _rms(noise) / 10 ** (snr_db / 20))
    heard *= np.float32(0.7 / max(float(np.abs(heard).max()), 1e-9))
    return heard


def loudspeaker(
    samples: NDArray[np.float32], sample_rate: int = SAMPLE_RATE, band_hz: tuple[float, float] = (300.0, 5000.0)
) -> NDArray[np.float32]:
    """Music from a small loudspeaker: no bass, little treble, slightly overdriven."""
    low, high = band_hz
    size = scipy.fft.next_fast_len(len(samples), real=True)
    hz = scipy.fft.rfftfreq(size, 1 / sample_rate).astype(np.float32)
    gain = (hz / low) ** 2 / (1 + (hz / low) ** 2) / (1 + (hz / high) ** 4)
    thin = scipy.fft.irfft(scipy.fft.rfft(samples, size) * gain, size)[: len(samples)]
    driven: NDArray[np.float32] = np.tanh(thin / np.float32(4 * _rms(thin)))
    return driven


def reverberate(
    samples: NDArray[np.float32], rng: np.random.Generator, sample_rate: int = SAMPLE_RATE
) -> NDArray[np.float32]:
    """The samples in a living room: the direct sound, then noise that has died away after half a second."""
    tail = rng.standard_normal(sample_rate // 2, dtype=np.float32)
    tail *= np.float32(0.04) * np.exp(np.linspace(0, -6.9, len(tail), dtype=np.float32))
    tail[0] = 1.0
    return heard_in(samples, tail)


def heard_in(samples: NDArray[np.float32], response: NDArray[np.float32]) -> NDArray[np.float32]:
    """The samples through the impulse response of a `room`, ``(n,)`` as they were."""
    size = scipy.fft.next_fast_len(len(samples) + len(response), real=True)
    wet: NDArray[np.float32] = scipy.fft.irfft(scipy.fft.rfft(samples, size) * scipy.fft.rfft(response, size), size)
    return wet[: len(samples)]


def room_simulator() -> str | None:
    """The name and version of the library that `room` simulates with, None where it is not installed."""
    if importlib.util.find_spec("pyroomacoustics") is None:
        return None
    return f"pyroomacoustics {importlib.metadata.version('pyroomacoustics')}"


def room(rng: np.random.Generator, sample_rate: int = SAMPLE_RATE, simulated: bool = False) -> NDArray[np.float32]:
    """The impulse response of some living room, between a loudspeaker and a microphone 0.5 to 4 m apart.

    Parameters
    ----------
    rng
        Draws the room (3 to 8 m by 3 to 7 m, 2.4 to 3.5 m high), the two places in it, and how long it rings: 0.25 to
        0.6 s for 60 dB.
    simulated
        Follow the reflections between the walls, with the library of `room_simulator`. Else the direct sound and, as
        loud over it as the theory of diffuse sound has it, noise that dies away.

    Returns
    -------
    ndarray
        ``(n,)`` float32, largest value 1.
    """
    distance_m, absorbed = 0.0, 1.0
    while not (0.5 < distance_m < 4 and absorbed < 1):
        size_m = rng.uniform([3, 3, 2.4], [8, 7, 3.5])
        rings_s = rng.uniform(0.25, 0.6)
        source, microphone = rng.uniform(0.4, size_m - 0.4), rng.uniform(0.4, size_m - 0.4)
        distance_m = float(np.linalg.norm(source - microphone))
        surface_m2 = 2 * (size_m[0] * size_m[1] + size_m[0] * size_m[2] + size_m[1] * size_m[2])
        absorbed = 0.161 * np.prod(size_m) / (surface_m2 * rings_s)  # Sabine
    if simulated:
        import pyroomacoustics

        box = pyroomacoustics.ShoeBox(
            size_m, fs=sample_rate, materials=pyroomacoustics.Material(absorbed), max_order=REFLECTIONS
        )
        box.add_source(source)
        box.add_microphone(microphone)
        box.compute_rir()
        response = np.asarray(box.rir[0][0], np.float32)
    else:
        response = rng.standard_normal(round(rings_s * sample_rate), dtype=np.float32)
        response *= np.exp(np.linspace(0, -np.log(1000), len(response), dtype=np.float32))
        diffuse = (
            16 * np.pi * distance_m**2 * (1 - absorbed) / (absorbed * surface_m2)
        )  # energy, over the direct sound's
        response *= np.float32(np.sqrt(diffuse / np.sum(response**2)))
        response[0] = 1.0
    loudest = np.abs(response).max()
    return np.asarray(response / loudest, np.float32)


def babble(n_samples: int, rng: np.random.Generator, sample_rate: int = SAMPLE_RATE) -> NDArray[np.float32]:
    """Five people talking at once, ``(n_samples,)`` float32: syllables of voiced vowels with hissed beginnings."""
    out = np.zeros(n_samples + sample_rate, dtype=np.float32)
    harmonic = np.arange(1, 25)
    for _speaker in range(5):
        voice_hz = rng.uniform(90, 230)
        at_s = rng.uniform(0, 0.3)
        while at_s < n_samples / sample_rate:
            length_s = rng.uniform(0.12, 0.3)
            hz = voice_hz * rng.uniform(0.85, 1.25)
            formants = np.array(VOWELS_HZ[rng.integers(len(VOWELS_HZ))])
            strength = np.exp(-(((harmonic[:, None] * hz - formants) / 150) ** 2)).sum(axis=1) + 0.02
            vowel = Instrument((strength / harmonic**0.5).astype(np.float32), 0.04, length_s, vibrato=0.01)
            _add(out, at_s, _burst(rng, 0.05, 1.0, sample_rate), 0.2, sample_rate)
            _add(out, at_s + 0.03, _note(vowel, hz, length_s, sample_rate), rng.uniform(0.3, 1.0), sample_rate)
            at_s += length_s + (rng.uniform(0.2, 0.8) if rng.random() < 0.15 else 0.03)
    return out[:n_samples]


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
        Written as tags unless empty.
    bitrate
        Of M4A and Opus files, as ffmpeg writes it.

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
            # In blocks: libsndfile's Vorbis encoder puts what it is given on the stack, and overflows it.
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


def _instrument(rng: np.random.Generator, n_harmonics: int, attack_s: float) -> Instrument:
    order = np.arange(1, n_harmonics + 1)
    strength = rng.uniform(0.3, 1.0, n_harmonics) / order ** rng.uniform(0.7, 1.8)
    if rng.random() < 0.3:
        strength[1::2] *= 0.1  # as a clarinet: odd harmonics only
    strength[0] = max(strength[0], 0.5)
    vibrato = float(rng.choice([0.0, 0.004]))
    return Instrument(
        (strength / strength.sum()).astype(np.float32),
        attack_s * rng.uniform(0.3, 1.5),
        float(rng.choice([0.25, 0.6, 1.5, 4.0])),
        vibrato,
    )


def _pitch_hz(tonic_hz: float, scale: NDArray[np.int64], degree: int) -> float:
    octave, step = divmod(degree, len(scale))
    return float(tonic_hz * 2.0 ** (octave + scale[step] / 12))


def _note(instrument: Instrument, hz: float, length_s: float, sample_rate: int) -> NDArray[np.float32]:
    """One note with a short release after its length; harmonics that do not fit under Nyquist are left out."""
    release_s = 0.05
    seconds = np.arange(int((length_s + release_s) * sample_rate), dtype=np.float32) / np.float32(sample_rate)
    phase = np.float32(2 * np.pi * hz) * seconds
    if instrument.vibrato:
        phase += np.float32(instrument.vibrato * hz / 5.5) * np.sin(np.float32(2 * np.pi * 5.5) * seconds)
    # sin((k + 1) x) = 2 cos(x) sin(k x) - sin((k - 1) x): two sines a note instead of one a harmonic.
    twice_cos, before, wave = 2 * np.cos(phase), np.zeros_like(phase), np.sin(phase)
    tone = np.zeros_like(phase)
    for strength in instrument.harmonics[: max(1, int(0.45 * sample_rate / hz))]:
        tone += strength * wave
        before, wave = wave, twice_cos * wave - before
    tone *= np.exp(seconds / np.float32(-instrument.decay_s))
    tone *= np.minimum(seconds / np.float32(instrument.attack_s), 1.0)
    tone *= np.clip((np.float32(length_s + release_s) - seconds) / np.float32(release_s), 0.0, 1.0)
    return tone


def _kick(sample_rate: int) -> NDArray[np.float32]:
    seconds = np.arange(int(0.18 * sample_rate), dtype=np.float32) / np.float32(sample_rate)
    fall = np.exp(seconds / np.float32(-0.04))
    wave: NDArray[np.float32] = np.sin(np.float32(2 * np.pi) * (48 * seconds - np.float32(4.5) * fall))
    wave *= np.sqrt(fall)
    return wave


def _burst(rng: np.random.Generator, decay_s: float, bright: float, sample_rate: int) -> NDArray[np.float32]:
    """Noise that fades: as a snare at brightness 0, as a hi-hat or an s at 1."""
    noise = rng.standard_normal(int(4 * decay_s * sample_rate), dtype=np.float32)
    noise[1:] -= np.float32(bright) * noise[:-1]
    return noise * np.exp(np.linspace(0, -4, len(noise), dtype=np.float32))


def _add(out: NDArray[np.float32], at_s: float, tone: NDArray[np.float32], loudness: float, sample_rate: int) -> None:
    start = round(at_s * sample_rate)
    stop = min(start + len(tone), len(out))
    out[start:stop] += np.float32(loudness) * tone[: stop - start]


def _rms(samples: NDArray[np.float32]) -> float:
    return max(float(np.sqrt(np.mean(np.square(samples)))), 1e-9)
