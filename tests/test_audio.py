"""Decoding: every format, the same samples whatever the blocks, and files whose names and headers are wrong."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline import catalog
from pipeline.audio import decoding, ffmpeg, formats
from pipeline.audio.decoder import CannotDecode, Decoded, Decoder, Source
from pipeline.audio.decoding import decode, read
from pipeline.errors import AudioError
from pipeline.fingerprinting.extract import fingerprint
from pipeline.simulation import encoding, music
from tests import zoo

RATE = 11025
SECONDS = 6.0
Encode = Callable[..., Path]


def sweep(seconds: float, rate: int = 44100, channels: int = 2) -> NDArray[np.float32]:
    """Rising tones under a slow beat, another one in each channel: no two moments are alike."""
    t = np.arange(round(seconds * rate)) / rate
    columns = [
        0.3 * np.sin(2 * np.pi * (200 + 150 * k + 90 * t) * t) * (1 + np.sin(5 * t)) / 2 for k in range(channels)
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def naive_mono(samples: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """All at once, as anyone would."""
    return np.asarray(soxr.resample(samples.mean(axis=1, dtype=np.float32), rate, RATE, quality="HQ"))


def joined(blocks: Iterator[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate(list(blocks))


def count(blocks: Iterator[NDArray[np.float32]]) -> int:
    return sum(len(block) for block in blocks)


def lag_s(got: NDArray[np.float32], true: NDArray[np.float32]) -> float:
    """By how many seconds `got` is late, from the peak of the correlation."""
    n = len(got) + len(true)
    spectrum = np.fft.rfft(got, n) * np.conj(np.fft.rfft(true, n))
    at = int(np.argmax(np.fft.irfft(spectrum, n)))
    return (at if at < n // 2 else at - n) / RATE


@pytest.fixture(scope="session")
def encode(tmp_path_factory: pytest.TempPathFactory) -> Encode:
    """A sweep in any format that ffmpeg writes: ``encode("x.m4a", "-b:a", "96k", seconds=3)``, made once."""
    folder = tmp_path_factory.mktemp("encoded")
    made: dict[object, Path] = {}

    def make(name: str, *options: str, seconds: float = SECONDS, rate: int = 44100, channels: int = 2) -> Path:
        key = (name, options, seconds, rate, channels)
        if key not in made:
            (folder / str(len(made))).mkdir()
            made[key] = folder / str(len(made)) / name
            source = made[key].with_name("source.wav")
            soundfile.write(source, sweep(seconds, rate, channels), rate, "FLOAT")
            command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(source), *options, str(made[key])]
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        return made[key]

    return make


FORMATS = {
    "a.wav": ("soundfile", []),
    "a.aiff": ("soundfile", []),
    "a.flac": ("soundfile", []),
    "a.mp3": ("soundfile", ["-b:a", "128k"]),
    "a.ogg": ("soundfile", ["-c:a", "libvorbis"]),
    "a.opus": ("soundfile", []),
    "a.m4a": ("ffmpeg", []),
    "alac.m4a": ("ffmpeg", ["-c:a", "alac"]),
    "a.wma": ("ffmpeg", []),
    "a.mka": ("ffmpeg", ["-c:a", "libopus"]),
    "a.webm": ("ffmpeg", ["-c:a", "libvorbis"]),
    "a.wv": ("ffmpeg", []),
    "a.caf": ("ffmpeg", []),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_music_at_the_same_position(name: str, encode: Encode) -> None:
    decoder, options = FORMATS[name]
    samples, decoded = read(str(encode(name, *options)), RATE)
    true = naive_mono(sweep(SECONDS), 44100)
    assert decoded.decoder == decoder
    assert decoded.channels == 2
    assert decoded.duration_s == pytest.approx(SECONDS, abs=0.06)
    assert decoded.decoded_share > 0.98
    # A WMA file does not say how far its encoder was ahead: one frame of 2048.
    assert abs(lag_s(samples, true) + (2048 / 44100 if name == "a.wma" else 0)) <= 0.003
    n = min(len(samples), len(true)) - RATE
    assert name == "a.wma" or np.corrcoef(samples[RATE // 2 : n], true[RATE // 2 : n])[0, 1] > 0.95


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.ogg", "a.opus"])
def test_both_decoders_agree(name: str, encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(encode(name, *FORMATS[name][1]))
    mine, _ = read(path, RATE)
    monkeypatch.setattr(decoding, "DECODERS", (ffmpeg.FfmpegDecoder,))
    theirs, decoded = read(path, RATE)
    assert decoded.decoder == "ffmpeg"
    assert abs(lag_s(mine, theirs)) <= 0.003
    assert abs(len(mine) - len(theirs)) <= 0.06 * RATE


def test_another_decoder_is_one_entry_and_comes_before_the_others(
    encode: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silence(Decoder):
        """One second of silence for every Ogg file; it cannot decode FLAC."""

        name = "silence"

        @classmethod
        def accepts(cls, source: Source) -> bool:
            return source.kind in ("ogg", "flac")

        def __init__(self, source: Source) -> None:
            if source.kind == "flac":
                raise CannotDecode("no FLAC")
            self.sample_rate, self.channels = RATE, 1

        def fill(self, buffer: NDArray[np.float32]) -> int:
            n = min(len(buffer), RATE - self.frames)
            buffer[:n] = 0
            self.frames += n
            self.ended = self.complete = self.frames == RATE
            return n

        def close(self) -> None:
            pass

    monkeypatch.setattr(decoding, "DECODERS", (Silence, *decoding.DECODERS))
    for name, decoder in (("a.ogg", "silence"), ("a.flac", "soundfile"), ("a.wav", "soundfile"), ("a.m4a", "ffmpeg")):
        samples, decoded = read(str(encode(name, *FORMATS[name][1])), RATE)
        assert decoded.decoder == decoder
        assert np.any(samples) == (decoder != "silence")


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.m4a"])
@pytest.mark.parametrize("block_frames", [1024, 5000, 1 << 22])
def test_the_samples_do_not_depend_on_the_blocks(
    name: str, block_frames: int, encode: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(encode(name, *FORMATS[name][1]))
    expected, _ = read(path, RATE)
    monkeypatch.setattr(decoding, "_BLOCK_FRAMES", block_frames)
    got, _ = read(path, RATE)
    np.testing.assert_array_equal(got, expected)


@given(st.integers(8000, 96000), st.lists(st.integers(1, 3000), min_size=1, max_size=30))
def test_the_resampler_gives_the_same_bits_in_one_block_or_many(rate: int, lengths: list[int]) -> None:
    x = np.random.default_rng(len(lengths)).standard_normal(sum(lengths)).astype(np.float32)
    stream = soxr.ResampleStream(rate, RATE, 1, dtype="float32", quality="HQ")
    pieces = [stream.resample_chunk(piece) for piece in np.split(x, np.cumsum(lengths)[:-1])]
    pieces.append(stream.resample_chunk(np.zeros(0, np.float32), last=True))
    np.testing.assert_array_equal(np.concatenate(pieces), soxr.resample(x, rate, RATE, quality="HQ"))


@pytest.mark.parametrize("channels", [1, 2, 3, 6, 8])
@pytest.mark.parametrize("rate", [8000, 11025, 44100, 96000, 192000])
def test_channels_are_averaged_and_rates_converted(rate: int, channels: int, tmp_path: Path) -> None:
    samples = sweep(0.5, rate, channels)
    soundfile.write(tmp_path / "a.wav", samples, rate, "FLOAT")
    got, decoded = read(str(tmp_path / "a.wav"), RATE)
    expected = naive_mono(samples, rate) if rate != RATE else samples.mean(axis=1)
    assert (decoded.sample_rate, decoded.channels) == (rate, channels)
    np.testing.assert_allclose(got, expected, atol=2e-6)


def test_a_file_at_the_wanted_rate_is_passed_through_untouched(tmp_path: Path) -> None:
    samples = sweep(0.5, RATE, 1)
    soundfile.write(tmp_path / "a.wav", samples, RATE, "FLOAT")
    got, _ = read(str(tmp_path / "a.wav"), RATE)
    np.testing.assert_array_equal(got, samples[:, 0])


@pytest.mark.parametrize("name", ["a.wav", "a.m4a"])
def test_a_span_is_cut_from_the_whole(name: str, encode: Encode) -> None:
    path = str(encode(name, *FORMATS[name][1]))
    whole, _ = read(path, RATE)
    part, decoded = read(path, RATE, 1.5, 2.25)
    np.testing.assert_array_equal(part, whole[round(1.5 * RATE) : round(2.25 * RATE)])
    assert decoded.decoded_share == 1.0
    beyond, _ = read(path, RATE, 5.5, 100.0)
    np.testing.assert_array_equal(beyond, whole[round(5.5 * RATE) :])
    assert len(read(path, RATE, 50.0, 60.0)[0]) == 0


def test_a_consumer_that_stops_early_is_called_once(encode: Encode) -> None:
    calls = []

    def first(blocks: Iterator[NDArray[np.float32]]) -> int:
        calls.append(1)
        return len(next(blocks))

    decode(str(encode("a.mp3", "-b:a", "128k", seconds=20)), RATE, first)
    assert len(calls) == 1


def test_what_the_consumer_raises_goes_through(encode: Encode) -> None:
    def broken(blocks: Iterator[NDArray[np.float32]]) -> None:
        raise KeyError("mine")

    for name in ("a.wav", "a.m4a"):
        with pytest.raises(KeyError, match="mine"):
            decode(str(encode(name)), RATE, broken)


# ---------------------------------------------------------------- channels and streams


@pytest.mark.parametrize("gains", [(1.0, -1.0), (0.8, -1.0), (-1.0, 1.0, -1.0, 1.0), (1.0, -1.0, 0.0)])
def test_channels_that_cancel_give_what_is_in_them(gains: tuple[float, ...], tmp_path: Path) -> None:
    one = sweep(3.0, RATE, 1)
    soundfile.write(tmp_path / "a.wav", one * np.float32(gains), RATE, "FLOAT")
    samples, _ = read(str(tmp_path / "a.wav"), RATE)
    expected = one[:, 0] * np.float32(np.sign(gains[0]) * np.mean(np.abs(gains)))
    np.testing.assert_allclose(samples, expected, atol=1e-6)
    in_memory, _ = decoding.array_blocks(one * np.float32(gains), RATE, RATE)
    np.testing.assert_allclose(np.concatenate(list(in_memory)), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["a.mp3", "a.m4a"])
def test_what_a_codec_leaves_of_channels_that_cancel_is_not_taken_for_the_music(name: str, tmp_path: Path) -> None:
    one = music.song(5, SECONDS, 44100)
    encoding.write(tmp_path / "mono.wav", one)
    soundfile.write(tmp_path / "a.wav", np.stack([one, -one], axis=1), 44100)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(tmp_path / "a.wav"), str(tmp_path / name)]
    subprocess.run(command, check=True)
    samples, _ = read(str(tmp_path / name), RATE)
    n = min(len(samples), round(SECONDS * RATE)) - RATE
    true = naive_mono(one[:, np.newaxis], 44100)
    assert np.corrcoef(samples[RATE:n], true[RATE:n])[0, 1] > 0.95


def test_channels_that_do_not_cancel_are_averaged_to_the_bit(tmp_path: Path, rng: np.random.Generator) -> None:
    one, other = rng.normal(0, 0.1, (2, RATE, 1)).astype(np.float32)
    for samples in (
        np.hstack([one, other]),
        np.hstack([one, 0 * one]),
        np.hstack([one, -0.3 * one]),
        0 * np.hstack([one, one]),
    ):
        soundfile.write(tmp_path / "a.wav", samples, RATE, "FLOAT")
        np.testing.assert_array_equal(read(str(tmp_path / "a.wav"), RATE)[0], samples.mean(axis=1))


def film(path: Path, *pitches_hz: int, default: int | None = None) -> str:
    """A film with a stream of one tone each, silent ones for 0 Hz."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y"]
    for hz in pitches_hz:
        command += ["-f", "lavfi", "-i", f"sine=frequency={hz}:duration=2" if hz else "anullsrc=duration=2"]
    maps = [word for place in range(len(pitches_hz)) for word in ("-map", f"{place}:a", f"-disposition:a:{place}", "0")]
    if default is not None:
        maps += [f"-disposition:a:{default}", "default"]
    subprocess.run([*command, *maps, "-c:a", "libvorbis", str(path)], check=True)
    return str(path)


def pitch_hz(samples: NDArray[np.float32]) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(samples[:RATE])))) if np.abs(samples).max() > 0.01 else 0.0


def test_the_default_stream_is_read_else_the_first_with_sound_or_the_one_that_is_chosen(tmp_path: Path) -> None:
    plain = film(tmp_path / "plain.mka", 500, 700, 900)
    silent = film(tmp_path / "silent.mka", 0, 0, 900)
    marked = film(tmp_path / "marked.mka", 500, 700, 900, default=1)
    nothing = film(tmp_path / "nothing.mka", 0, 0)
    for path, expected in ((plain, 500), (silent, 900), (marked, 700), (nothing, 0)):
        assert pitch_hz(read(path, RATE)[0]) == pytest.approx(expected, abs=2)
    for stream, expected in ((1, 500), (2, 700), (3, 900)):
        assert pitch_hz(decode(marked, RATE, joined, stream=stream)[0]) == pytest.approx(expected, abs=2)
    with pytest.raises(AudioError, match=r"marked\.mka: no audio stream 4; it has 3$"):
        decode(marked, RATE, count, stream=4)
    soundfile.write(tmp_path / "a.wav", sweep(1.0), 44100)
    assert decode(str(tmp_path / "a.wav"), RATE, count, stream=1)[1].decoder == "soundfile"
    with pytest.raises(AudioError, match=r"a\.wav: no audio stream 2; it has 1$"):
        decode(str(tmp_path / "a.wav"), RATE, count, stream=2)


def test_a_file_of_any_suffix_that_ffmpeg_knows_is_read_when_it_is_named(encode: Encode, tmp_path: Path) -> None:
    path = tmp_path / "recording.2026"
    path.write_bytes(encode("a.sox").read_bytes())  # a format that is not known by its first bytes here
    assert [entry.path for entry in catalog.walk([str(path)])] == [str(path)]
    n, decoded = decode(str(path), RATE, count)
    assert (n / RATE, decoded.decoder) == (pytest.approx(SECONDS, abs=0.01), "ffmpeg")


@pytest.mark.parametrize("scale", [1e20, 3e38, -1e30])
@pytest.mark.parametrize("gains", [(1.0,), (1.0, 1.0), (1.0, -1.0)])
def test_samples_beyond_all_bounds_cause_no_warning(scale: float, gains: tuple[float, ...], tmp_path: Path) -> None:
    samples = sweep(1.0, 44100, 1) * np.float32(scale) * np.float32(gains)
    soundfile.write(tmp_path / "a.wav", samples, 44100, "FLOAT")
    for found in (fingerprint(tmp_path / "a.wav"), fingerprint(samples, sample_rate=44100)):
        assert len(found.peaks)
        assert np.isfinite(found.peaks.level).all()


# ---------------------------------------------------------------- decoders that stop early without an error


def test_concatenated_mp3_is_read_to_its_end(encode: Encode, tmp_path: Path) -> None:
    one = encode("a.mp3", "-b:a", "128k").read_bytes()
    (tmp_path / "a.mp3").write_bytes(one + one)
    n, decoded = decode(str(tmp_path / "a.mp3"), RATE, count)
    assert n == pytest.approx(2 * SECONDS * RATE, rel=0.02)
    assert decoded.decoder == "ffmpeg"
    assert decoded.decoded_share == 1.0


def test_vbr_mp3_without_a_xing_tag_is_read_to_its_end(encode: Encode) -> None:
    n, decoded = decode(str(encode("a.mp3", "-q:a", "4", "-write_xing", "0")), RATE, count)
    assert n == pytest.approx(SECONDS * RATE, rel=0.02)
    assert decoded.decoded_share == 1.0


def test_chained_ogg_is_read_to_its_end(encode: Encode, tmp_path: Path) -> None:
    for suffix, options in ((".ogg", ["-c:a", "libvorbis"]), (".opus", [])):
        first, second = encode(f"a{suffix}", *options), encode(f"b{suffix}", *options, seconds=4)
        (tmp_path / f"a{suffix}").write_bytes(first.read_bytes() + second.read_bytes())
        n, decoded = decode(str(tmp_path / f"a{suffix}"), RATE, count)
        assert n == pytest.approx((SECONDS + 4) * RATE, rel=0.02), decoded


def test_garbage_inside_an_mp3_is_stepped_over(encode: Encode, tmp_path: Path, rng: np.random.Generator) -> None:
    data = bytearray(encode("a.mp3", "-b:a", "128k").read_bytes())
    data[40_000:44_000] = rng.bytes(4000)
    (tmp_path / "a.mp3").write_bytes(data)
    n, decoded = decode(str(tmp_path / "a.mp3"), RATE, count)
    assert n == pytest.approx(SECONDS * RATE, rel=0.1), decoded


@pytest.mark.parametrize("name", ["a.mp3", "a.flac", "a.wav", "a.aiff", "fast.m4a", "a.mka"])
def test_a_truncated_file_gives_what_it_has_and_says_its_share(name: str, encode: Encode, tmp_path: Path) -> None:
    options = {"a.mp3": ["-b:a", "128k"], "fast.m4a": ["-movflags", "+faststart"], "a.mka": ["-c:a", "libmp3lame"]}
    whole = encode(name, *options.get(name, []), seconds=12).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    n, decoded = decode(str(tmp_path / name), RATE, count)
    assert n / RATE == pytest.approx(decoded.duration_s, abs=0.01)
    assert decoded.declared_s == pytest.approx(12.0, abs=0.1)
    assert 0.3 < decoded.decoded_share < 0.6


def test_a_wav_of_unknown_length_declares_nothing(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", sweep(1.0), 44100)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    for size in (0xFFFFFFFF, 0):
        data[40:44] = struct.pack("<I", size)
        (tmp_path / "a.wav").write_bytes(data)
        n, decoded = decode(str(tmp_path / "a.wav"), RATE, count)
        assert n == RATE
        assert decoded.decoded_share == 1.0


# ---------------------------------------------------------------- wrong names and kinds


def test_the_name_decides_nothing(encode: Encode, tmp_path: Path) -> None:
    for name in ("a.m4a", "a.flac", "a.ogg"):
        path = tmp_path / f"{name}.mp3"
        path.write_bytes(encode(name, *FORMATS[name][1]).read_bytes())
        _, decoded = decode(str(path), RATE, count)
        assert decoded.duration_s == pytest.approx(SECONDS, abs=0.06)


@pytest.mark.parametrize(
    "name", ["-i.m4a", "a:b.m4a", "http:x.m4a", "%d.m4a", "new\nline.m4a", "caf\udce9.m4a", "x" * 250 + ".m4a"]
)
def test_odd_names_are_only_names(name: str, encode: Encode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).write_bytes(encode("a.m4a").read_bytes())
    monkeypatch.chdir(tmp_path)
    for path in (name, str(tmp_path / name)):
        _, decoded = decode(path, RATE, count)
        assert decoded.duration_s == pytest.approx(SECONDS, abs=0.06)


def test_messages_are_one_line_of_text_whatever_the_name(tmp_path: Path) -> None:
    path = tmp_path / "caf\udce9\n\x1b[31m.mp3"
    path.write_bytes(b"")
    with pytest.raises(AudioError, match=r"caf\\xe9\\n\\x1b\[31m\.mp3: the file is empty$") as caught:
        decode(str(path), RATE, count)
    assert str(caught.value).isprintable()


PLAYLISTS = {
    "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{victim}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{victim}'\n",
    "pls": "[playlist]\nFile1={victim}\nNumberOfEntries=1\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n",
    "mpd": '\ufeff<?xml version="1.0"?><MPD><BaseURL>{victim}</BaseURL></MPD>',
}


@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("sniffing", [True, False])
def test_a_playlist_opens_nothing(
    kind: str, sniffing: bool, encode: Encode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "innocent.mp3"
    path.write_text(PLAYLISTS[kind].format(victim=encode("a.mp3", "-b:a", "128k")), encoding="utf-8")
    if not sniffing:  # what if a playlist is not known for one: ffmpeg itself must refuse
        monkeypatch.setattr(decoding, "kind_of", lambda fd, size: ("other", 0))
    with pytest.raises(
        AudioError,
        match=r"innocent\.mp3: (a playlist|text, not audio|no audio that ffmpeg knows|not one of the audio formats)",
    ):
        decode(str(path), RATE, count)


def test_pipes_sockets_devices_and_folders_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp3")
    (tmp_path / "folder.mp3").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s.mp3"))
        for path in (tmp_path / "pipe.mp3", tmp_path / "s.mp3", Path("/dev/zero")):
            with pytest.raises(AudioError, match="only regular files"):
                decode(str(path), RATE, count)
    with pytest.raises(AudioError, match="a folder"):
        decode(str(tmp_path / "folder.mp3"), RATE, count)
    with pytest.raises(AudioError, match="No such file"):
        decode(str(tmp_path / "none.mp3"), RATE, count)
    with pytest.raises(AudioError, match="null"):
        decode(str(tmp_path / "a\0b.mp3"), RATE, count)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"rate": 0}, "."),
        ({"rate": 1}, "sample rate of 1 Hz"),
        ({"rate": 3_000_000}, "sample rate of 3000000 Hz"),
        ({"channels": 0}, "."),
        ({"channels": 1000}, "1000 channels"),
        ({"bits": 0}, "."),
        ({"data": b""}, "."),
    ],
)
def test_headers_that_no_music_has_are_refused_with_a_reason(
    header: dict[str, object], reason: str, tmp_path: Path
) -> None:
    (tmp_path / "a.wav").write_bytes(zoo.wav(**header))  # type: ignore[arg-type]
    with pytest.raises(AudioError, match=rf"a\.wav: .*({reason})"):
        decode(str(tmp_path / "a.wav"), RATE, count)


@given(
    st.sampled_from(
        [b"", b"ID3\4\0\0", b"RIFF\0\0\0\0WAVE", b"FORM\0\0\0\0AIFF", b"RF64\0\0\0\0WAVE", b"OggS", b"\xff\xfb"]
    ),
    st.binary(max_size=200),
)
def test_whatever_the_first_bytes_are_they_are_some_kind_and_never_an_error(start: bytes, rest: bytes) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(start + rest)
        file.flush()
        fd, size = file.fileno(), len(start + rest)
        kind, at = formats.kind_of(fd, size)
        assert kind in {kind for *_, kind in formats._MAGIC} | {"empty", "text", "unknown"}
        assert at >= 0
        assert (formats.riff_frames(fd, size, 4, start[:1] == b"F") or 0) >= -2
        formats.has_xing(fd)


def test_not_a_number_and_infinity_stay_where_they_are(tmp_path: Path) -> None:
    samples = sweep(2.0)
    expected = naive_mono(samples, 44100)
    samples[44100:44110] = [np.nan, np.inf]
    samples[44110:44120] = [np.inf, -np.inf]
    samples[44120:44130] = 3e38
    soundfile.write(tmp_path / "a.wav", samples, 44100, "FLOAT")
    got, _ = read(str(tmp_path / "a.wav"), RATE)
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got[: RATE // 2], expected[: RATE // 2], atol=1e-2)
    np.testing.assert_allclose(got[-RATE // 2 :], expected[-RATE // 2 :], atol=1e-2)


def test_loud_float_files_keep_their_shape(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", sweep(1.0) * 32768, 44100, "FLOAT")
    got, _ = read(str(tmp_path / "a.wav"), RATE)
    np.testing.assert_allclose(got / 32768, naive_mono(sweep(1.0), 44100), atol=1e-5)


# ---------------------------------------------------------------- time, memory, processes


def test_a_file_over_its_time_is_an_error(encode: Encode) -> None:
    for name in ("a.wav", "a.m4a"):
        with pytest.raises(AudioError, match=r"not decoded within its limit of 0 s"):
            decode(str(encode(name)), RATE, count, limit_s=0)


def test_a_decoder_that_hangs_is_ended_at_the_limit(
    encode: Encode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper = tmp_path / "ffmpeg"
    sleeper.write_text("#!/bin/sh\nexec sleep 60\n")
    sleeper.chmod(0o755)
    monkeypatch.setattr(ffmpeg, "_ffmpeg", lambda: str(sleeper))
    with pytest.raises(AudioError, match=r"not decoded within its limit of 0\.3 s"):
        decode(str(encode("a.m4a")), RATE, count, limit_s=0.3)


def test_a_decoder_that_fails_at_the_end_keeps_what_it_gave(
    encode: Encode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = tmp_path / "ffmpeg"
    failing.write_text(f'#!/bin/sh\n"{imageio_ffmpeg.get_ffmpeg_exe()}" "$@"\nexit 3\n')
    failing.chmod(0o755)
    monkeypatch.setattr(ffmpeg, "_ffmpeg", lambda: str(failing))
    n, _ = decode(str(encode("a.m4a")), RATE, count)
    assert n == pytest.approx(SECONDS * RATE, rel=0.02)


def test_the_description_of_ffmpeg_is_awaited(encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ffmpeg._StderrReader.run

    def late(self: ffmpeg._StderrReader) -> None:
        time.sleep(0.2)
        run(self)

    monkeypatch.setattr(ffmpeg._StderrReader, "run", late)
    _, decoded = decode(str(encode("a.m4a")), RATE, count)
    assert decoded.declared_s == pytest.approx(SECONDS, abs=0.06)


def test_a_missing_ffmpeg_is_one_sentence(encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
    ffmpeg._ffmpeg.cache_clear()
    try:
        with pytest.raises(AudioError, match="ffmpeg does not start: No such file"):
            decode(str(encode("a.m4a")), RATE, count)
    finally:
        ffmpeg._ffmpeg.cache_clear()


def test_ffmpeg_dies_with_its_parent(encode: Encode) -> None:
    path = encode("long.mka", "-c:a", "libmp3lame", seconds=120)
    program = (
        "import sys, time; from pipeline.audio import decoding\n"
        "def slow(blocks):\n"
        "    next(blocks); print('decoding', flush=True); time.sleep(60)\n"
        "decoding.decode(sys.argv[1], 11025, slow)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"decoding\n"
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    assert len(children) == 1
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    command = Path(f"/proc/{children[0]}/cmdline")
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        while b"ffmpeg" in command.read_bytes():  # for ever, if it does not die; a zombie has no command
            time.sleep(0.05)


def test_nothing_is_left_open_or_running(encode: Encode, tmp_path: Path) -> None:
    (tmp_path / "broken.m4a").write_bytes(encode("a.m4a").read_bytes()[:5000])

    def everything() -> None:
        decode(str(encode("a.m4a")), RATE, count)
        decode(str(encode("a.m4a", seconds=60)), RATE, lambda blocks: len(next(blocks)))
        decode(str(encode("a.wav")), RATE, lambda blocks: len(next(blocks)))
        with pytest.raises(AudioError, match="moov"):
            decode(str(tmp_path / "broken.m4a"), RATE, count)

    me = os.getpid()
    children = Path(f"/proc/{me}/task/{me}/children")
    others = set(children.read_text().split())  # of other tests in this process

    everything()
    before, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(3):
        everything()
    assert len(os.listdir("/proc/self/fd")) == before
    assert threading.active_count() == threads
    assert set(children.read_text().split()) <= others


@pytest.mark.parametrize(("suffix", "minutes"), [("mp3", 120), ("aac", 20)])
def test_two_hours_stream_in_less_than_100_mb(suffix: str, minutes: int, encode: Encode, tmp_path: Path) -> None:
    # The same two minutes again and again: MP3 and AAC frames can simply follow each other.
    options = ["-b:a", "32k", "-write_xing", "0"] if suffix == "mp3" else ["-b:a", "32k"]
    path = tmp_path / f"long.{suffix}"
    path.write_bytes(encode(f"two.{suffix}", *options, seconds=120).read_bytes() * (minutes // 2))
    program = (
        "import sys, resource; from pipeline.audio import decoding; import soundfile, soxr\n"
        "kb = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "start = kb()\n"
        "n, _ = decoding.decode(sys.argv[1], 11025, lambda blocks: sum(len(b) for b in blocks))\n"
        "print(n / 11025, (kb() - start) / 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, check=True)
    seconds, mb = map(float, done.stdout.split())
    assert seconds == pytest.approx(60 * minutes, rel=0.01)
    assert mb < 100


def test_decoded_share_is_bounded() -> None:
    assert Decoded("ffmpeg", 44100, 2, 31.0, 214.0).decoded_share == pytest.approx(31 / 214)
    assert Decoded("ffmpeg", 44100, 2, 31.0, None).decoded_share == 1.0
    assert Decoded("ffmpeg", 44100, 2, 31.0, 15.0).decoded_share == 1.0


def test_an_mp3_read_in_blocks_gives_what_one_read_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    encoding.write(tmp_path / "a.mp3", music.song(1, 12.0))  # of few bits, so that frames lean on those before
    whole, _ = read(str(tmp_path / "a.mp3"), music.SAMPLE_RATE)
    monkeypatch.setattr(decoding, "_BLOCK_FRAMES", 5000)
    blocks, _ = read(str(tmp_path / "a.mp3"), music.SAMPLE_RATE)
    assert blocks == pytest.approx(whole, abs=1e-6)
    assert capfd.readouterr().err == ""
