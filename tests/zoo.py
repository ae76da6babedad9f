"""Every kind of file that a music folder can hold, made by code, each with its expected result.

`build` fills a folder. The well-made files hold the same music, so that a test can identify it in each of them. The
others are damaged copies of them, or something else under an audio name.
"""

from __future__ import annotations

import io
import os
import socket
import struct
import subprocess
import zlib
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import soundfile
from numpy.typing import NDArray

from pipeline.simulation import music

SECONDS = 10.0
RATE = 44100


@dataclass(frozen=True, slots=True)
class Animal:
    """A file and its fate.

    Parameters
    ----------
    name
        Below the zoo's folder; bytes that are no UTF-8 as surrogates.
    fate
        ``"indexed"``: the music is found in it. ``"partial"``: also, and ``decoded_share`` is below 0.98.
        ``"worn"``: the same, with ``decoded_share`` below 0.98 or not: a few bytes inside are wrong.
        ``"skipped"``: a walk skips it. ``"failed"``: a failure row.
    reason
        Of a failure: a regular expression.
    share
        Of the music that must come out of it (unless skipped or failed), from and to.
    mute
        It decodes, but there is no music in it: only an index, which wants landmarks, fails it.
    """

    name: str
    fate: str
    reason: str = ""
    share: tuple[float, float] = (0.98, 1.03)
    mute: bool = False


# What ffmpeg writes, in one run of it: name, options. Rates and channels besides the default 44.1 kHz stereo are in
# the options.
ENCODED = {
    "pcm-u8.wav": "-c:a pcm_u8",
    "pcm-s16.wav": "-c:a pcm_s16le",
    "pcm-s24.wav": "-c:a pcm_s24le",
    "pcm-s32.wav": "-c:a pcm_s32le",
    "pcm-float.wav": "-c:a pcm_f32le",
    "pcm-double.wav": "-c:a pcm_f64le",
    "ulaw.wav": "-c:a pcm_mulaw",
    "alaw.wav": "-c:a pcm_alaw",
    "adpcm-ms.wav": "-c:a adpcm_ms",
    "adpcm-ima.wav": "-c:a adpcm_ima_wav",
    "mp3-inside.wav": "-c:a libmp3lame",
    "rf64.wav": "-rf64 always",
    "wave64.w64": "-c:a pcm_s16le",
    "next.au": "-c:a pcm_s16be",
    "core.caf": "-c:a pcm_s16be",
    "aiff.aiff": "-c:a pcm_s16be",
    "creative.voc": "-c:a pcm_u8 -ac 1 -ar 20000",
    "mono.wav": "-ac 1",
    "quad.wav": "-ac 4 -channel_layout quad",
    "surround51.wav": "-ac 6",
    "surround71.wav": "-ac 8",
    "surround51.flac": "-ac 6",
    "surround51.m4a": "-ac 6",
    "rate8000.wav": "-ar 8000",
    "rate11025.wav": "-ar 11025",
    "rate96000.flac": "-ar 96000",
    "rate192000.wav": "-ar 192000",
    "lossless.flac": "",
    "lossless24.flac": "-sample_fmt s32",
    "cbr.mp3": "-b:a 128k",
    "cbr320.mp3": "-b:a 320k",
    "vbr.mp3": "-q:a 2",
    "vbr-no-xing.mp3": "-q:a 4 -write_xing 0",
    "mpeg25-8000.mp3": "-ar 8000 -b:a 16k",
    "layer2.mp2": "-b:a 192k",
    "vorbis.ogg": "-c:a libvorbis",
    "vorbis48.ogg": "-c:a libvorbis -ar 48000",
    "opus.opus": "-b:a 64k",
    "flac-inside.oga": "-c:a flac",
    "aac.m4a": "-b:a 128k",
    "alac.m4a": "-c:a alac",
    "faststart.m4a": "-movflags +faststart",
    "fragmented.mp4": "-c:a aac -movflags +frag_keyframe+empty_moov -frag_duration 1000000",
    "quicktime.mov": "-c:a pcm_s16le",
    "adts.aac": "-c:a aac",
    "windows.wma": "-c:a wmav2",
    "matroska.mka": "-c:a libvorbis",
    "web.webm": "-c:a libopus",
    "wavpack.wv": "",
    "true.tta": "",
    "dolby.ac3": "-b:a 192k",
    "dolby.eac3": "-b:a 192k",
    "dts.dts": "-c:a dca -strict -2 -b:a 768k",
    "phone.amr": "-c:a libopencore_amrnb -ar 8000 -ac 1 -b:a 12.2k",
    "flash.flv": "-c:a libmp3lame",
    "stream.ts": "-c:a aac",
    # A picture moves beside the music.
    "film.mp4": "-map 1:v -map 0:a -c:v mpeg4 -c:a aac",
    "film.mkv": "-map 1:v -map 0:a -c:v mpeg4 -c:a libvorbis",
    "film.avi": "-map 1:v -map 0:a -c:v mpeg4 -c:a libmp3lame",
    "film.mpg": "-map 1:v -map 0:a -c:v mpeg1video -c:a mp2",
    "silent-film.mp4": "-map 1:v -c:v mpeg4",
    # The first stream is silent, or another one is the default.
    "second-stream.mkv": "-map 2:a -map 0:a -c:a libvorbis -disposition:a 0",
    "default-stream.mkv": "-map 3:a -map 0:a -c:a libvorbis -disposition:a:0 0 -disposition:a:1 default",
    "second-stream.mp4": "-map 1:v -map 2:a -map 0:a -c:v mpeg4 -c:a aac",
}
# Encoders that pad with their delay, in formats that do not say so, or that end on a whole frame.
LOOSE = {"adts.aac", "windows.wma", "layer2.mp2", "stream.ts", "film.mpg", "film.avi", "flash.flv", "vbr-no-xing.mp3"}


def build(folder: Path) -> list[Animal]:
    """Make the zoo in an empty folder: some 130 files, 80 MB (50 of them a hole), in a few seconds."""
    music = stereo()
    encode(folder, music)
    (folder / "hostile").mkdir()
    zoo = [Animal(name, "indexed", share=(0.94, 1.06) if name in LOOSE else (0.98, 1.03)) for name in ENCODED]
    zoo = [animal for animal in zoo if animal.name != "silent-film.mp4"]
    zoo.append(Animal("silent-film.mp4", "failed", "no audio stream"))
    for part in (_broken, _lies, _strange_sound, _impostors, _names, _tagged, _no_files):
        zoo += part(folder, music)
    return zoo


def stereo() -> NDArray[np.float32]:
    """``(n, 2)``: formula music with a little of it moved to one side."""
    mono = music.song(404, SECONDS, RATE)
    return np.stack([mono, np.float32(0.8) * mono], axis=1)


def encode(folder: Path, music: NDArray[np.float32], names: dict[str, str] | None = None) -> None:
    """Write `ENCODED` (or another such table) with one start of ffmpeg."""
    soundfile.write(folder / "source.tmp", music, RATE, format="WAV", subtype="PCM_16")
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-v",
        "error",
        "-nostdin",
        "-f",
        "wav",
        "-i",
        str(folder / "source.tmp"),
    ]
    command += ["-f", "lavfi", "-i", f"testsrc=size=32x32:rate=25:duration={SECONDS}"]
    command += ["-f", "lavfi", "-i", f"anullsrc=r={RATE}:cl=stereo:d={SECONDS}"]
    command += ["-f", "lavfi", "-i", f"sine=frequency=700:sample_rate={RATE}:duration={SECONDS}"]
    for name, options in (ENCODED if names is None else names).items():
        command += [*("" if "-map" in options else "-map 0:a").split(), *options.split(), str(folder / name)]
    subprocess.run(command, check=True)
    (folder / "source.tmp").unlink()


def wav(
    rate: int = RATE,
    channels: int = 2,
    bits: int = 16,
    data: bytes = bytes(4000),
    tag: int = 1,
    size: int | None = None,
) -> bytes:
    """A WAV file with any header, true or not."""
    frame = channels * bits // 8
    fmt = struct.pack("<HHIIHH", tag, channels, rate, (rate * frame) & 0xFFFFFFFF, frame & 0xFFFF, bits)
    body = b"WAVEfmt " + struct.pack("<I", 16) + fmt + b"data" + struct.pack("<I", len(data) if size is None else size)
    return b"RIFF" + struct.pack("<I", (len(body) + len(data)) & 0xFFFFFFFF) + body + data


def id3(*frames: tuple[bytes, bytes], flags: int = 0, padding: int = 0) -> bytes:
    """An ID3v2.4 tag of raw frames."""

    def synchsafe(n: int) -> bytes:
        return bytes((n >> 21 & 0x7F, n >> 14 & 0x7F, n >> 7 & 0x7F, n & 0x7F))

    body = b"".join(name + synchsafe(len(data)) + struct.pack(">H", flags) + data for name, data in frames)
    return b"ID3\x04\x00\x00" + synchsafe(len(body) + padding) + body


def _pcm(music: NDArray[np.float32]) -> bytes:
    return (music * 32767).astype("<i2").tobytes()


def _broken(folder: Path, music: NDArray[np.float32]) -> list[Animal]:
    """Cut off, joined, with a hole in the middle."""
    rng = np.random.default_rng(9)
    zoo = []

    def add(name: str, data: bytes, fate: str, reason: str = "", share: tuple[float, float] = (0.3, 0.7)) -> None:
        (folder / "hostile" / name).write_bytes(data)
        zoo.append(Animal(f"hostile/{name}", fate, reason, share))

    def whole(name: str) -> bytes:
        return (folder / name).read_bytes()

    def half(name: str) -> bytes:
        return whole(name)[: len(whole(name)) // 2]

    def holed(name: str) -> bytes:
        data = bytearray(whole(name))
        middle = len(data) // 2
        data[middle : middle + 3000] = rng.bytes(3000)
        return bytes(data)

    for name in ("cbr.mp3", "vbr.mp3", "lossless.flac", "pcm-s16.wav", "pcm-s24.wav", "aiff.aiff", "faststart.m4a",
                 "wavpack.wv", "true.tta", "rf64.wav"):  # fmt: skip
        add(f"cut-{name}", half(name), "partial")
    # These do not know how long they were.
    for name in ("vorbis.ogg", "opus.opus", "adts.aac", "dolby.ac3", "vbr-no-xing.mp3", "stream.ts", "phone.amr",
                 "windows.wma", "film.avi"):  # fmt: skip
        add(f"cut-{name}", half(name), "indexed", share=(0.3, 0.7))
    for name in ("matroska.mka", "film.mkv"):
        add(f"cut-{name}", half(name), "partial")
    for name, options in (("cbr.mp3", "-b:a 128k"), ("aac.m4a", "-b:a 128k"), ("opus.opus", "-b:a 64k")):
        encode(folder / "hostile", music[:, :1] * np.float32([1.0, -1.0]), {f"opposite-sides-{name}": options})
        zoo.append(Animal(f"hostile/opposite-sides-{name}", "indexed", share=(0.98, 1.03)))
    add("cut-before-its-index.m4a", half("aac.m4a"), "failed", "index .moov. is missing")
    for name in ("lossless.flac", "vorbis.ogg", "opus.opus", "faststart.m4a", "matroska.mka"):
        add(f"only-its-header-{name}", whole(name)[:200], "failed", ".")
    for name in (
        "cbr.mp3",
        "lossless.flac",
        "vorbis.ogg",
        "opus.opus",
        "aac.m4a",
        "matroska.mka",
        "adts.aac",
        "wavpack.wv",
    ):
        add(f"garbage-inside-{name}", holed(name), "worn", share=(0.4, 1.1))
    add("twice.mp3", whole("cbr.mp3") * 2, "indexed", share=(1.96, 2.1))
    add("chained.ogg", whole("vorbis.ogg") + whole("vorbis.ogg"), "indexed", share=(1.96, 2.1))
    add("chained.opus", whole("opus.opus") * 2, "indexed", share=(1.96, 2.1))
    add("chained-at-another-rate.ogg", whole("vorbis.ogg") + whole("vorbis48.ogg"), "indexed", share=(0.98, 2.1))
    add("junk-in-front.mp3", rng.bytes(700) + whole("cbr.mp3"), "indexed", share=(0.98, 1.1))
    add("zeros-in-front.mp3", bytes(20_000) + whole("cbr.mp3"), "indexed", share=(0.98, 1.1))
    for name in ("lossless.flac", "vorbis.ogg", "opus.opus", "pcm-s16.wav"):
        add(f"junk-in-front-{name}", rng.bytes(700) + whole(name), "indexed", share=(0.98, 1.03))
    add("text-in-front.flac", b"HTTP/1.1 200 OK\r\n" * 50 + whole("lossless.flac"), "indexed", share=(0.98, 1.03))
    add("tags-and-zeros-in-front.flac", id3((b"TIT2", b"\x03x")) + bytes(3000) + whole("lossless.flac"), "indexed",
        share=(0.98, 1.03))  # fmt: skip
    add("junk-behind.flac", whole("lossless.flac") + rng.bytes(5000), "indexed", share=(0.98, 1.03))
    add("zeros-behind.mp3", whole("cbr.mp3") + bytes(300_000), "indexed", share=(0.98, 1.1))
    add("zeros-inside.m4a", _zeroed(whole("faststart.m4a"), 0.4, 0.45), "worn", share=(0.8, 1.1))
    add("mp4-header-bits.m4a", _zeroed(whole("aac.m4a"), 0.995, 1.0), "failed", ".")
    return zoo


def _zeroed(data: bytes, start: float, stop: float) -> bytes:
    out = bytearray(data)
    a, b = int(len(out) * start), int(len(out) * stop)
    out[a:b] = bytes(b - a)
    return bytes(out)


def _lies(folder: Path, music: NDArray[np.float32]) -> list[Animal]:
    """Headers that do not fit the data."""
    pcm = _pcm(music)
    zoo = []

    def add(name: str, data: bytes, fate: str, reason: str = "", share: tuple[float, float] = (0.98, 1.03)) -> None:
        (folder / "hostile" / name).write_bytes(data)
        zoo.append(Animal(f"hostile/{name}", fate, reason, share))

    add("data-of-4-gb.wav", wav(data=pcm, size=0xFFFFFFFF), "indexed")
    add("data-of-2-gb.wav", wav(data=pcm, size=0x7FFFFFFF), "indexed")
    add("data-of-0.wav", wav(data=pcm, size=0), "indexed")
    add("data-of-1-gb.wav", wav(data=pcm, size=1_000_000_000), "partial")
    add("rate-0.wav", wav(rate=0, data=pcm), "failed", "describe|damaged|rate")
    add("rate-1.wav", wav(rate=1, data=pcm), "failed", "sample rate of 1 Hz")
    add("rate-3-mhz.wav", wav(rate=3_000_000, data=pcm), "failed", "sample rate of 3000000 Hz")
    add("channels-0.wav", wav(channels=0, data=pcm), "failed", "number of channels")
    add("channels-1000.wav", wav(channels=1000, data=pcm), "failed", "1000 channels")
    add("channels-65535.wav", wav(channels=65535, data=pcm), "failed", "channels|damaged|describe")
    add("bits-0.wav", wav(bits=0, data=pcm), "failed", "describe")
    add("bits-65535.wav", wav(bits=65535, data=pcm), "failed", ".")
    add("codec-999.wav", wav(tag=999, data=pcm), "failed", "unknown codec")
    add("no-data.wav", wav(data=b""), "failed", "no audio in it")
    add("one-sample.wav", wav(data=pcm[:4]), "failed", "no audio in it")
    add("no-format.wav", b"RIFF\x0c\x00\x00\x00WAVEdata\x00\x00\x00\x00", "failed", ".")
    chunk = b"LIST" + struct.pack("<I", 0xFFFFFFF0)
    add("chunk-of-4-gb.wav", wav(data=pcm)[:12] + chunk + wav(data=pcm)[12:], "failed", ".")
    add("trailing-chunk.wav", wav(data=pcm) + b"LIST" + struct.pack("<I", 3_000_000) + bytes(3_000_000), "indexed")
    flac = bytearray((folder / "lossless.flac").read_bytes())
    flac[21:26] = bytes((flac[21] & 0xF0 | 0x0F, 255, 255, 255, 255))  # STREAMINFO's total samples: 2**36 - 1
    add("length-of-18-days.flac", bytes(flac), "partial")
    flac[21:26] = bytes((flac[21] & 0xF0, 0, 0, 0, 0))  # unknown
    add("length-of-0.flac", bytes(flac), "indexed")
    mp3 = bytearray((folder / "cbr.mp3").read_bytes())
    at = max(mp3.find(b"Xing"), mp3.find(b"Info"))
    mp3[at + 8 : at + 12] = struct.pack(">I", 10_000_000)  # frames: three days
    add("xing-of-3-days.mp3", bytes(mp3), "partial")
    atoms = b"".join(struct.pack(">I", 0x7FFFFFFF) + b"moov" for _ in range(5000))
    add("atoms-in-atoms.m4a", b"\0\0\0\x18ftypM4A \0\0\0\0M4A isom" + atoms, "failed", ".")
    ebml = b"\x1a\x45\xdf\xa3\x01\xff\xff\xff\xff\xff\xff\xfe" + bytes(1000)
    add("element-of-70-petabytes.mka", ebml, "failed", ".")
    return zoo


def _strange_sound(folder: Path, music: NDArray[np.float32]) -> list[Animal]:
    """Valid sound files with unusual samples."""
    zoo = []

    def add(name: str, samples: NDArray[np.floating], fate: str, reason: str = "", mute: bool = False) -> None:
        soundfile.write(folder / "hostile" / name, samples, RATE, format="WAV", subtype="FLOAT")
        zoo.append(Animal(f"hostile/{name}", fate, reason, mute=mute))

    poisoned = music.copy()
    poisoned[::50_000] = np.nan
    poisoned[25_000::50_000] = np.inf
    poisoned[30_000::50_000] = 3e38
    add("not-a-number.wav", poisoned, "indexed")
    add("loud-as-integers.wav", music * 32768, "indexed")
    add("very-quiet.wav", music * 1e-3, "indexed")
    add("direct-current.wav", music * 0.3 + 0.6, "indexed")
    add("one-side-only.wav", music * [1.0, 0.0], "indexed")
    add("silence.wav", music * 0, "failed", "no landmarks", mute=True)
    add("all-nan.wav", music * np.nan, "failed", "no landmarks", mute=True)
    add("only-direct-current.wav", music * 0 + 0.5, "failed", "no landmarks", mute=True)
    add("opposite-sides.wav", music[:, :1] * [1.0, -1.0], "indexed")
    add("of-1e20.wav", music * 1e20, "indexed")
    add("a-hundredth-of-a-second.wav", music[50_000:50_441], "failed", "no landmarks", mute=True)
    return zoo


def _impostors(folder: Path, music: NDArray[np.float32]) -> list[Animal]:
    """Something else under an audio name, and audio under a wrong one."""
    rng = np.random.default_rng(10)
    outside = os.path.abspath(folder / "cbr.mp3")
    playlist = "a playlist, not audio"
    text = "text, not audio"
    other = "no audio that ffmpeg knows|not one of the audio formats|no audio stream"
    kinds: dict[str, tuple[bytes, str]] = {
        "empty.mp3": (b"", "the file is empty"),
        "one-byte.mp3": (b"\xff", other),
        "zeros.mp3": (bytes(100_000), "."),
        "random.mp3": (rng.bytes(5000), "."),
        "text.mp3": (b"These are words.\n" * 50, text),
        "utf16.mp3": (("Words. " * 90).encode("utf-16"), "."),
        "page.mp3": (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", text),
        "script.mp3": (b"#!/bin/sh\nrm -rf /\n", text),
        "hls.mp3": (f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{outside}\n#EXT-X-ENDLIST\n".encode(), playlist),
        "hls-of-urls.m4a": (b"#EXTM3U\n#EXTINF:9,\nhttp://127.0.0.1:9/x.mp3\n#EXT-X-ENDLIST\n", playlist),
        "concat.mp3": (f"ffconcat version 1.0\nfile '{outside}'\n".encode(), playlist),
        "concat-behind-id3.mp3": (
            id3((b"TIT2", b"\x03x")) + f"ffconcat version 1.0\nfile '{outside}'\n".encode(),
            playlist,
        ),
        "stations.mp3": (f"[playlist]\nFile1={outside}\n".encode(), playlist),
        "dash.mp4": (f'<?xml version="1.0"?><MPD><BaseURL>{outside}</BaseURL></MPD>'.encode(), playlist),
        "session.mp3": (b"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n", text),
        "picture.mp3": (_png(), "an image, not audio"),
        "archive.mp3": (b"PK\x03\x04" + rng.bytes(3000), "an archive"),
        "program.mp3": (b"\x7fELF\x02\x01\x01" + rng.bytes(3000), "a program"),
        "document.mp3": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + rng.bytes(3000), "."),
        "midi.mp3": (b"MThd\0\0\0\x06\0\0\0\x01\0\x60MTrk\0\0\0\x04\0\xff\x2f\0", "."),
        "only-a-tag.mp3": (id3((b"TIT2", b"\x03Nothing")), "."),
        "only-a-big-tag.mp3": (id3((b"TIT2", b"\x03Nothing"), padding=300_000) + bytes(300_000), "."),
        "tag-longer-than-the-file.mp3": (id3((b"TIT2", b"\x03Nothing"), padding=100_000_000), "."),
        "protected.m4p": ((folder / "aac.m4a").read_bytes().replace(b"mp4a", b"drms"), "protected against copying"),
    }
    zoo = []
    for name, (data, reason) in kinds.items():
        (folder / "hostile" / name).write_bytes(data)
        zoo.append(Animal(f"hostile/{name}", "failed", reason))
    for source, name in (
        ("aac.m4a", "truly-m4a.mp3"),
        ("lossless.flac", "truly-flac.wav"),
        ("vorbis.ogg", "truly-ogg.m4a"),
        ("cbr.mp3", "truly-mp3.opus"),
        ("film.mkv", "truly-mkv.flac"),
    ):
        (folder / "hostile" / name).write_bytes((folder / source).read_bytes() + b"\0")  # not the same content
        zoo.append(Animal(f"hostile/{name}", "indexed"))
    for name in (
        "cover.jpg",
        "notes.txt",
        "disc.cue",
        "list.m3u8",
        "list.m3u",
        "song",
        "mp3",
        ".nomedia",
        "a.mp3.part",
        "._song.mp3",
    ):
        (folder / "hostile" / name).write_bytes((folder / "cbr.mp3").read_bytes())
        zoo.append(Animal(f"hostile/{name}", "skipped"))
    return zoo


def _png() -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(72))) + chunk(b"IEND", b"")
    )


def _names(folder: Path, music: NDArray[np.float32]) -> list[Animal]:
    """The same song under names that break careless quoting."""
    names = ["-i.mp3", "--help.mp3", "a:b.mp3", "http:x.mp3", "pipe:0.mp3", "new\nline.mp3", "caf\udce9.mp3",
             "日本 🎵.mp3", " lead and trail .mp3", "%d%n%s.mp3", "$(id)`id`;&|<>*?.mp3", "\"quotes'.mp3",
             "back\\slash.mp3", "x" * 251 + ".mp3",
             "\x1b[31mred.mp3", "=1+1.mp3", "SHOUT.MP3", "..mp3", "concat:a|b.mp3", "\u202egnp.mp3"]  # fmt: skip
    zoo = []
    (folder / "names").mkdir()
    mp3 = (folder / "cbr.mp3").read_bytes()
    for number, name in enumerate(names):
        (folder / "names" / name).write_bytes(mp3 + b"TAG" + b"%3d" % number + bytes(122))  # each its own content
        zoo.append(Animal(f"names/{name}", "indexed"))
    (folder / "names" / "folder.mp3" / "deep\n" / "-").mkdir(parents=True)
    (folder / "names" / "folder.mp3" / "deep\n" / "-" / "song.mp3").write_bytes(mp3 + b"TAGdir" + bytes(122))
    return [*zoo, Animal("names/folder.mp3/deep\n/-/song.mp3", "indexed")]


def _tagged(folder: Path, music: NDArray[np.float32]) -> list[Animal]:
    """Tags of any size and content before intact music."""
    mp3 = (folder / "cbr.mp3").read_bytes()
    mp3 = mp3[mp3.find(b"\xff\xfb") :]
    bomb = zlib.compress(b"\x03" + bytes(200_000_000), 9)
    tags = {
        "escapes.mp3": id3((b"TIT2", b"\x03\x1b]0;owned\x07\x1b[2J\r\n\x00<script>alert(1)</script>")),
        "formula.mp3": id3((b"TIT2", b'\x03=HYPERLINK("http://127.0.0.1/")'), (b"TPE1", b"\x03@SUM(1+1)")),
        "long-title.mp3": id3((b"TIT2", b"\x03" + b"x" * 1_000_000)),
        "bad-utf8.mp3": id3((b"TIT2", b"\x03\xff\xfe\xfa"), (b"TPE1", b"\x01\xff"), (b"TALB", b"\x09?")),
        "cover.mp3": id3((b"APIC", b"\x00image/png\x00\x03\x00" + _png() + bytes(2_000_000))),
        "bad-cover.mp3": id3((b"APIC", b"\x00image/jpeg\x00\x03\x00" + b"\xff\xd8 no picture"), (b"TIT2", b"\x03Fine")),
        "zip-bomb.mp3": id3((b"TIT2", struct.pack(">I", 0x0A0A0A0A) + bomb), flags=0x09),
        "two-tags.mp3": id3((b"TIT2", b"\x03One")) + id3((b"TIT2", b"\x03Two")),
        "frame-of-256-mb.mp3": id3((b"TIT2", b"\x03One")).replace(b"\0\0\0\x04\0\0", b"\x7f\x7f\x7f\x7f\0\0"),
    }
    zoo = []
    for name, tag in tags.items():
        (folder / "hostile" / name).write_bytes(tag + mp3)
        zoo.append(Animal(f"hostile/{name}", "indexed", share=(0.98, 1.1)))
    with open(folder / "hostile" / "tag-of-50-mb.mp3", "wb") as file:
        file.write(id3((b"TIT2", b"\x03Big"), padding=50_000_000))
        file.seek(50_000_000, io.SEEK_CUR)
        file.write(mp3)
    zoo.append(Animal("hostile/tag-of-50-mb.mp3", "indexed", share=(0.98, 1.1)))
    tail = b"APETAGEX" + struct.pack("<IIII", 2000, 32, 1, 0) + bytes(8)
    (folder / "hostile" / "ape-tag-behind.mp3").write_bytes(mp3 + bytes(32) + tail + b"TAG" + bytes(125))
    zoo.append(Animal("hostile/ape-tag-behind.mp3", "indexed", share=(0.98, 1.1)))
    flac = (folder / "lossless.flac").read_bytes()
    (folder / "hostile" / "id3-in-front.flac").write_bytes(id3((b"TIT2", b"\x03Front")) + flac)
    zoo.append(Animal("hostile/id3-in-front.flac", "indexed"))
    return zoo


def _no_files(folder: Path, music: NDArray[np.float32]) -> list[Animal]:
    """Directory entries that are no regular files."""
    place = folder / "hostile"
    os.mkfifo(place / "pipe.mp3")
    here = os.getcwd()
    with socket.socket(socket.AF_UNIX) as listening:
        os.chdir(place)  # a socket's address is at most 108 bytes
        try:
            listening.bind("socket.mp3")
        finally:
            os.chdir(here)
    (place / "itself.mp3").symlink_to("itself.mp3")
    (place / "round").symlink_to("..", target_is_directory=True)
    (place / "dangling.mp3").symlink_to("nowhere")
    (place / "outside.mp3").symlink_to("/etc/passwd")
    (place / "inside.mp3").symlink_to("../cbr.mp3")
    names = ["pipe.mp3", "socket.mp3", "itself.mp3", "round", "dangling.mp3", "outside.mp3", "inside.mp3"]
    zoo = [Animal(f"hostile/{name}", "skipped") for name in names]
    if os.geteuid() == 0:
        try:
            os.mknod(place / "zero.mp3", 0o600 | 0o020000, os.makedev(1, 5))
            zoo.append(Animal("hostile/zero.mp3", "skipped"))
        except OSError:  # not allowed in this container
            pass
    else:
        (place / "unreadable.mp3").write_bytes(b"x")
        (place / "unreadable.mp3").chmod(0)
        zoo.append(Animal("hostile/unreadable.mp3", "failed", "Permission denied"))
    return zoo
