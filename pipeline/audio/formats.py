"""Audio formats: file name suffixes, what a file is by its first bytes, and what its header promises."""

from __future__ import annotations

import os
import re

from pipeline.paths import open_regular

_AUDIO = "aac ac3 aif aifc aiff amr ape asf au caf dsf dts eac3 flac m4a m4b m4p mka mp+ mp1 mp2 mp3 mpc oga ogg opus"
_AUDIO += " ra rf64 snd spx tak tta voc w64 wav wave weba wma wv"
_VIDEO = "3g2 3gp avi flv m2ts m4v mkv mov mp4 mpeg mpg mts ogv rm ts vob webm wmv"
SUFFIXES = frozenset("." + word for word in f"{_AUDIO} {_VIDEO}".split())
"""Suffixes of audio files and of video with sound: the files that a search of folders takes."""

NOT_AUDIO = {
    "empty": "the file is empty",
    "playlist": "a playlist, not audio; give the files that it lists",
    "text": "text, not audio",
}
"""Kinds that no decoder is tried on, with the reason for the user."""

_MAGIC = [  # (offset, bytes, kind); "other" stands for all kinds that no decoder tells apart
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


def is_audio(path: str) -> bool:
    """Whether a local regular file looks like audio (or video) by its first bytes.

    Raises
    ------
    AudioError
        If the file cannot be opened or is no regular file.
    """
    with open_regular(path) as (fd, size):
        return kind_of(fd, size) not in {*NOT_AUDIO, "unknown"}


HEAD_BYTES = 4096
"""Bytes of a stream that `is_container` looks at: three frames of MP3."""
_CONTAINER = re.compile(
    b"RIFF....WAVE|RF64....WAVE|FORM....AIF[FC]|fLaC|OggS|ID3|....ftyp|\x1a\x45\xdf\xa3|"
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11|wvpk|TTA1|caff|MAC |FLV|#!AMR",
    re.DOTALL,
)
_KBIT_S = {3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
           2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)}  # fmt: skip
_HZ = (44_100, 48_000, 32_000)


def is_container(head: bytes) -> bool:
    """Whether a stream that starts so is encoded audio, and not samples.

    Stricter than `kind_of`, since samples may be any bytes: MP3 and AAC are three frames in a row.
    """
    if _CONTAINER.match(head):
        return True
    offset = 0
    for _ in range(3):
        frame_bytes = _frame_bytes(head[offset : offset + 6])
        if frame_bytes < 6:
            return False
        offset += frame_bytes
    return True


def _frame_bytes(head: bytes) -> int:
    """The length of the frame of MP3, or of AAC in ADTS, that starts so; 0 if none does."""
    if len(head) < 6 or head[0] != 0xFF or head[1] < 0xE0:
        return 0
    if head[1] & 0xF6 == 0xF0:
        return (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    rate, hz = head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer != 1 or rate in (0, 15) or hz == 3:
        return 0
    kbit_s = _KBIT_S[3 if version == 3 else 2][rate]
    sample_rate = _HZ[hz] // {3: 1, 2: 2, 0: 4}[version]
    return (144 if version == 3 else 72) * 1000 * kbit_s // sample_rate + (head[2] >> 1 & 1)


def pread(fd: int, n: int, offset: int) -> bytes:
    """Bytes at a place, without moving the descriptor; nothing where the file cannot be read."""
    try:
        if hasattr(os, "pread"):
            return os.pread(fd, n, offset)
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, n)
    except OSError:
        return b""


def after_id3(fd: int) -> int:
    """Where the ID3v2 tags at the start of a file end (there may be several in a row)."""
    offset = 0
    for _ in range(8):
        head = pread(fd, 10, offset)
        if len(head) < 10 or head[:3] != b"ID3":
            break
        a, b, c, d = (byte & 0x7F for byte in head[6:10])
        offset += 10 + (a << 21 | b << 14 | c << 7 | d) + (10 if head[5] & 0x10 else 0)
    return offset


def kind_of(fd: int, size: int) -> str:
    """What a file is by its first bytes, behind any ID3 tags: a kind of audio, one of `NOT_AUDIO`, or "unknown"."""
    if size == 0:
        return "empty"
    offset = after_id3(fd)
    head = pread(fd, 512, offset)
    for at, sign, kind in _SIGNS:
        if sign.match(head, at):
            return kind
    if offset:
        return "mp3" if len(head) > 0 else "other"
    return "text" if head.isascii() and not re.search(rb"[\x00-\x08\x0e-\x1a\x7f]", head) else "unknown"


def riff_frames(fd: int, size: int, frame_bytes: int, big: bool) -> int | None:
    """Frames that the data chunk of a WAV or AIFF promises (libsndfile gives only those that are there).

    None when there is no promise: a writer to a pipe cannot know the length, and writes 0 or the largest number.
    """
    offset, rf64_bytes = 12, None
    for _ in range(1000):
        head = pread(fd, 8, offset)
        if len(head) < 8 or frame_bytes <= 0:
            return None
        name, n = head[:4], int.from_bytes(head[4:], "big" if big else "little")
        if name == b"ds64":
            rf64_bytes = int.from_bytes(pread(fd, 8, offset + 16), "little")
        if name in (b"data", b"SSND"):
            n = rf64_bytes if rf64_bytes is not None and n == 0xFFFFFFFF else n
            unknown = n == 0 or (n > size and 0x7FFFF000 <= n <= 0xFFFFFFFF)
            return None if unknown else (n - (8 if big else 0)) // frame_bytes
        offset += 8 + n + n % 2
    return None


def has_xing(fd: int) -> bool:
    """Whether an MP3's first frame gives the length; without it a decoder guesses the length from the bit rate."""
    head = pread(fd, 4096, after_id3(fd))
    return any(word in head for word in (b"Xing", b"Info", b"VBRI"))
