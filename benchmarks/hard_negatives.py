"""Sounds that are hardly music, by formula: none of them is in a library, so none may be named.

    python -m benchmarks.hard_negatives STORE [--count N] [--files FOLDER ...] [--seed S]

Each kind of sound is made `count` times, with lengths mostly from 0.3 to 5 s and up to 60 s, and identified in the
store. Printed are the clips of each kind that are named, at the default share of false positives and at 0.001, with the
95 % upper bound of their share. With `--files`, also the files of some folders (one-shots, single words), each as a
kind; they must hold nothing that is in the store.
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline import catalog
from pipeline.audio import decoding
from pipeline.errors import SongprintError
from pipeline.evaluation.metrics import wilson
from pipeline.identification import LONGEST_CLIP_S
from pipeline.matching.recording import Recording
from pipeline.matching.search import find_matches
from pipeline.matching.types import Library, Match, Query
from pipeline.simulation import acoustics, music
from pipeline.store import Store

RATE = 11025  # Hz: what a fingerprint sees
SHARES = (0.01, 0.001)  # of false positives
AT_ONCE = 64

Samples = NDArray[np.float32]
Maker = Callable[[np.random.Generator, float], Samples]
"""Makes a sound of a length in seconds, ``(n,)`` float32."""


def _seconds(length_s: float) -> NDArray[np.float64]:
    return np.arange(round(length_s * RATE)) / RATE


def _pitch(rng: np.random.Generator, low_hz: float, high_hz: float) -> float:
    """A frequency, drawn evenly in octaves."""
    return float(np.exp(rng.uniform(np.log(low_hz), np.log(high_hz))))


def _place(out: Samples, at_s: float, sound: NDArray[np.floating], gain: float = 1.0) -> None:
    """Add a sound to the samples; what lies beyond the end is cut off."""
    start = round(at_s * RATE)
    stop = min(start + len(sound), len(out))
    if stop > start:
        out[start:stop] += (gain * sound[: stop - start]).astype(np.float32)


def _repeated(
    rng: np.random.Generator, length_s: float, gap_s: tuple[float, float], make: Callable[[], Samples]
) -> Samples:
    """Sounds one after another, each starting a drawn gap after the one before."""
    out = np.zeros(round(length_s * RATE), np.float32)
    at_s = rng.uniform(0, 0.2)
    while at_s < length_s:
        _place(out, at_s, make())
        at_s += rng.uniform(*gap_s)
    return out


def tone(rng: np.random.Generator, length_s: float) -> Samples:
    """A sine, a square or a sweep that lasts."""
    t = _seconds(length_s)
    hz = _pitch(rng, 60, 4500)
    sweep = rng.choice([0.0, 0.0, 0.0, 0.3, 2.0])  # octaves
    phase = 2 * np.pi * hz * (t if not sweep else np.cumsum(2.0 ** (sweep * t / length_s)) / RATE)
    wave = np.sin(phase)
    if rng.random() < 0.25:
        wave = sum((np.sin(k * phase) / k for k in range(3, 12, 2) if k * hz < RATE / 2), wave)
    return wave.astype(np.float32)


def hum(rng: np.random.Generator, length_s: float) -> Samples:
    """The mains with harmonics, or a fan or an engine that runs evenly."""
    t = _seconds(length_s)
    hz = float(rng.choice([50.0, 60.0, _pitch(rng, 25, 200)]))
    wave = np.zeros(len(t))
    for k in range(1, int(rng.integers(3, 40))):
        if k * hz < RATE / 2:
            wave += (
                rng.uniform(0.1, 1) / k ** rng.uniform(0.3, 1.5) * np.sin(2 * np.pi * k * hz * t + rng.uniform(0, 6))
            )
    return (wave + rng.choice([0.0, 0.01, 0.1]) * rng.standard_normal(len(t))).astype(np.float32)


DTMF_HZ = ((697, 770, 852, 941), (1209, 1336, 1477, 1633))


def dial_tone(rng: np.random.Generator, length_s: float) -> Samples:
    """Dial tones, ringing and busy tones, and dialled numbers."""
    t = _seconds(length_s)
    kind = rng.integers(5)
    if kind == 4:
        on_s, off_s = rng.uniform(0.06, 0.3), rng.uniform(0.04, 0.2)

        def key() -> Samples:
            at = _seconds(on_s)
            low, high = (float(rng.choice(hz)) for hz in DTMF_HZ)
            return (np.sin(2 * np.pi * low * at) + np.sin(2 * np.pi * high * at)).astype(np.float32)

        return _repeated(rng, length_s, (on_s + off_s, on_s + off_s + 0.02), key)
    pair = ((350, 440), (440, 480), (480, 620), (425, 425))[kind]
    on_s, off_s = ((9e9, 0.0), (2.0, 4.0), (0.5, 0.5), (0.25, 0.25))[kind]
    wave = sum(np.sin(2 * np.pi * hz * t) for hz in pair)
    start_s = rng.uniform(0, on_s) if kind else 0.0
    return np.asarray(wave * ((t + start_s) % (on_s + off_s) < on_s), np.float32)


def beeps(rng: np.random.Generator, length_s: float) -> Samples:
    """An alarm clock, a microwave oven, a reversing lorry."""
    on_s, off_s, hz = rng.uniform(0.03, 0.5), rng.uniform(0.03, 1.0), _pitch(rng, 300, 4000)
    second_hz = hz * rng.choice([1.0, 1.0, 1.26, 1.5])
    pitches = itertools.cycle([hz, second_hz])

    def beep() -> Samples:
        at = _seconds(on_s)
        return (np.sin(2 * np.pi * next(pitches) * at) * np.minimum(1, at / 0.003)).astype(np.float32)

    return _repeated(rng, length_s, (on_s + off_s, on_s + off_s + 0.001), beep)


def noise_burst(rng: np.random.Generator, length_s: float) -> Samples:
    """Bursts of noise: a hiss, a clap, a door; or noise all along, of some colour."""
    if rng.random() < 0.3:
        return _coloured(rng, round(length_s * RATE))
    return _repeated(
        rng,
        length_s,
        (0.1, 3.0),
        lambda: music.noise_burst(rng, _pitch(rng, 0.01, 0.5), float(rng.uniform(0, 1)), RATE),
    )


def _coloured(rng: np.random.Generator, n_samples: int) -> Samples:
    spectrum = np.fft.rfft(rng.standard_normal(n_samples))
    hz = np.fft.rfftfreq(n_samples, 1 / RATE)
    spectrum *= np.maximum(hz, 20.0) ** -rng.uniform(0, 1)
    if rng.random() < 0.5:  # a band
        centre, width = _pitch(rng, 100, 4000), rng.uniform(0.1, 1.0)
        spectrum *= np.exp(-((np.log2(np.maximum(hz, 1.0) / centre) / width) ** 2))
    return np.fft.irfft(spectrum, n_samples).astype(np.float32)


def drum(rng: np.random.Generator, length_s: float) -> Samples:
    """One kick, snare, tom, hat, cymbal or cowbell."""
    at = _seconds(min(length_s, rng.uniform(0.2, 2.0)))
    kind = rng.integers(6)
    decay_s = _pitch(rng, 0.03, 0.4)
    fall = np.exp(-at / decay_s)
    noise = rng.standard_normal(len(at))
    if kind == 0:
        wave = np.sin(2 * np.pi * (rng.uniform(40, 70) * at - rng.uniform(2, 6) * np.exp(-at / 0.03))) * fall
        wave += 0.3 * noise * np.exp(-at / 0.004)
    elif kind == 1:
        wave = 0.7 * noise * fall + np.sin(2 * np.pi * rng.uniform(150, 250) * at) * np.exp(-at / 0.08)
    elif kind == 2:
        hz = rng.uniform(70, 300)
        wave = sum(np.sin(2 * np.pi * hz * k * at) * np.exp(-at * k / decay_s) / k for k in (1.0, 1.59, 2.14, 2.65))
    elif kind == 3:
        wave = np.diff(noise, prepend=0.0) * np.exp(-at / rng.uniform(0.02, 0.1))
    elif kind == 4:
        partials = rng.uniform(300, 5400, 30)
        wave = sum(
            np.sin(2 * np.pi * hz * at + rng.uniform(0, 6)) * np.exp(-at / rng.uniform(0.1, 1)) for hz in partials
        )
    else:
        hz = rng.uniform(400, 900)
        wave = (np.sin(2 * np.pi * hz * at) + np.sin(2 * np.pi * 1.48 * hz * at)) * fall
    out = np.zeros(round(length_s * RATE), np.float32)
    _place(out, rng.choice([0.0, 0.0, rng.uniform(0, length_s / 3)]), np.asarray(wave))
    return out


def _note(rng: np.random.Generator, hz: float, length_s: float) -> Samples:
    order = np.arange(1, 24)
    strength = rng.uniform(0.2, 1, len(order)) / order ** rng.uniform(0.5, 2)
    attack_s, decay_s = rng.choice([0.002, 0.02, 0.2]), rng.choice([0.1, 0.3, 1.0, 4.0])
    voice = music.Instrument(strength.astype(np.float32), attack_s, decay_s, rng.choice([0.0, 0.0, 0.005]))
    return music.play_note(voice, hz, length_s, RATE)


def synth(rng: np.random.Generator, length_s: float) -> Samples:
    """One note of an instrument."""
    out = np.zeros(round(length_s * RATE), np.float32)
    at_s = rng.choice([0.0, rng.uniform(0, length_s / 3)])
    _place(out, at_s, _note(rng, 440 * 2 ** (rng.integers(-30, 24) / 12), rng.uniform(0.1, 1.0) * length_s))
    return out


def chord(rng: np.random.Generator, length_s: float) -> Samples:
    """One chord of three or four notes."""
    out = np.zeros(round(length_s * RATE), np.float32)
    root = int(rng.integers(-24, 6))
    shape = ((0, 4, 7), (0, 3, 7), (0, 4, 7, 10), (0, 5, 7), (0, 3, 6), (0, 7, 12))[rng.integers(6)]
    held_s, strum_s = rng.uniform(0.3, 1.0) * length_s, rng.choice([0.0, 0.03])
    seed = int(rng.integers(1 << 30))
    for i, step in enumerate(shape):  # the same instrument for each note
        _place(out, i * strum_s, _note(np.random.default_rng(seed), 440 * 2 ** ((root + step) / 12), held_s))
    return out


def word(rng: np.random.Generator, length_s: float) -> Samples:
    """One word of one to three syllables: voiced vowels with moving formants, and hisses."""
    out = np.zeros(round(length_s * RATE), np.float32)
    at_s, voice_hz = rng.uniform(0, 0.1), rng.uniform(80, 260)
    for _ in range(int(rng.integers(1, 4))):
        syllable_s = rng.uniform(0.1, 0.4)
        t = _seconds(syllable_s)
        pitch = voice_hz * (1 + rng.uniform(-0.2, 0.2) * t / syllable_s) * (1 + 0.01 * np.sin(2 * np.pi * 5 * t))
        phase = 2 * np.pi * np.cumsum(pitch) / RATE
        first, last = (np.array(acoustics.VOWELS_HZ[rng.integers(len(acoustics.VOWELS_HZ))]) for _ in range(2))
        share = (t / syllable_s)[:, None]
        formants = first * (1 - share) + last * share
        wave = np.zeros(len(t))
        for k in range(1, 40):
            gain = np.exp(-(((k * pitch)[:, None] - formants) ** 2) / 2 / 90**2).sum(axis=1) + 0.01
            wave += np.where(k * pitch < RATE / 2, gain * np.sin(k * phase) / k**0.5, 0.0)
        wave *= np.sin(np.pi * np.minimum(t / syllable_s, 1.0)) ** 0.5
        if rng.random() < 0.6:
            _place(out, at_s, music.noise_burst(rng, rng.uniform(0.01, 0.05), 1.0, RATE), rng.uniform(0.1, 0.6))
            at_s += 0.03
        _place(out, at_s, wave)
        at_s += syllable_s + rng.uniform(0, 0.08)
    return out + rng.choice([0.0, 0.003]).astype(np.float32) * rng.standard_normal(len(out), dtype=np.float32)


def footsteps(rng: np.random.Generator, length_s: float) -> Samples:
    """Steps: a dull thump and some scraping each."""

    def step() -> Samples:
        at = _seconds(rng.uniform(0.08, 0.25))
        thump = np.sin(2 * np.pi * rng.uniform(60, 140) * at) * np.exp(-at / 0.03)
        return (thump + rng.uniform(0.1, 1) * rng.standard_normal(len(at)) * np.exp(-at / 0.02)).astype(np.float32)

    return _repeated(rng, length_s, (0.35, 0.8), step)


def click(rng: np.random.Generator, length_s: float) -> Samples:
    """Silence with a click or two, or a step of the level."""
    out = np.zeros(round(length_s * RATE), np.float32)
    for _ in range(int(rng.integers(1, 4))):
        _place(
            out, rng.uniform(0, length_s), rng.choice([-1.0, 1.0]) * np.exp(-_seconds(0.02) / _pitch(rng, 1e-4, 5e-3))
        )
    return out


KINDS: dict[str, Maker] = {
    made.__name__: made
    for made in (tone, hum, dial_tone, beeps, noise_burst, drum, synth, chord, word, footsteps, click)
}
ONCE = {"drum", "synth", "chord", "word", "click"}  # a sound that is over soon: hardly ever in a long file


def clip_of(kind: str, seed: int) -> Samples:
    """A sound of a kind, the same for the same seed, with a level, and often the noise of a recording.

    Returns
    -------
    ndarray
        ``(n,)`` float32 at `RATE`; most often 0.3 to 5 s, one in ten 5 to 60 s.
    """
    rng = np.random.default_rng([seed, *kind.encode()])
    length_s = _pitch(rng, 5.0, 15.0 if kind in ONCE else 60.0) if rng.random() < 0.1 else _pitch(rng, 0.3, 5.0)
    samples = KINDS[kind](rng, length_s)
    samples *= np.float32(10 ** rng.uniform(-1.5, -0.05) / max(float(np.abs(samples).max()), 1e-9))
    if rng.random() < 0.4:  # a fade at either end
        ramp = np.minimum(1.0, np.arange(len(samples)) / (RATE * rng.uniform(0.005, 0.1)))
        samples *= (ramp * ramp[::-1]).astype(np.float32)
    if rng.random() < 0.4:  # a microphone
        samples += np.float32(10 ** rng.uniform(-4.5, -2)) * rng.standard_normal(len(samples), dtype=np.float32)
    if rng.random() < 0.5:  # as 16 bits keep it
        samples = (np.rint(samples * 32767) / 32767).astype(np.float32)
    return samples


def clips_of(kind: str, seeds: Iterable[int]) -> Iterator[Samples]:
    """A sound of a kind for each seed."""
    return (clip_of(kind, seed) for seed in seeds)


def find_in_each(clips: Sequence[Samples], library: Library, query: Query) -> list[list[Match]]:
    """What `pipeline.identification` finds in each: short ones as clips, long ones as recordings."""
    longest = round(LONGEST_CLIP_S * library.settings.sample_rate)
    short = [samples for samples in clips if len(samples) <= longest]
    found = iter(find_matches(short, library, query))
    matches = []
    for samples in clips:
        if len(samples) <= longest:
            matches.append(next(found))
        else:
            recording = Recording(library, query)
            recording.feed(samples)
            matches.append(recording.finish())
    return matches


def files_of(folder: str) -> Iterator[Samples]:
    """The samples of the files of a folder; a file that cannot be read is skipped."""
    for entry in catalog.walk([folder]):
        try:
            samples = decoding.read(entry.path, RATE)[0]
        except SongprintError:
            continue
        if len(samples):
            yield samples


def count_named(clips: Iterator[Samples], library: Library) -> tuple[dict[float, int], int]:
    """How many clips are named at each of `SHARES`, and how many clips there are."""
    named, n_clips = dict.fromkeys(SHARES, 0), 0
    while some := list(itertools.islice(clips, AT_ONCE)):
        n_clips += len(some)
        for share in SHARES:  # falling: what is named at a smaller share is named at a larger one
            found = find_in_each(some, library, Query(false_positives=share))
            some = [samples for samples, matches in zip(some, found, strict=True) if matches]
            named[share] += len(some)
    return named, n_clips


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", metavar="STORE")
    parser.add_argument("--count", type=int, default=1000, metavar="N", help="clips of each kind")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="the first clip of each kind")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), metavar="KIND")
    parser.add_argument("--files", nargs="*", default=[], metavar="FOLDER")
    chosen = parser.parse_args()
    library = Store.open(chosen.store).snapshot()
    seeds = range(chosen.seed, chosen.seed + chosen.count)
    kinds = {kind: clips_of(kind, seeds) for kind in chosen.kinds if chosen.count}
    kinds |= {os.path.basename(os.path.normpath(folder)): files_of(folder) for folder in chosen.files}
    print(f"{'kind':24} {'clips':>6} " + " ".join(f"{f'at {share:g}':>10} {'at most':>9}" for share in SHARES))
    for kind, clips in kinds.items():
        named, n_clips = count_named(clips, library)
        _, most = wilson(np.array([named[share] for share in SHARES]), np.array([n_clips] * len(SHARES)))
        figures = (f"{named[share]:10} {100 * high:7.2f} %" for share, high in zip(SHARES, most, strict=True))
        print(f"{kind:24} {n_clips:6} " + " ".join(figures), flush=True)


if __name__ == "__main__":
    main()
