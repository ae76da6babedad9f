"""Audio formats: file name suffixes, what a file is by its first bytes, and what its header promises."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from pipeline.paths import open_regular

_AUDIO = """
    aac ac3 aif aifc aiff amr ape asf au awb caf dff dsf dts eac3 flac it m4a m4b m4p m4r mka mo3 mod mp+ mp1 mp2 mp3
    mpc mpga mtm oga ogg ofr ofs oma omg opus ptm qcp ra rf64 s3m shn snd spx stm tak thd tta ult umx voc vqf w64 wav
    wave weba wma wv xm
"""
_VIDEO = """
    3g2 3gp asx avi divx f4v flv m1v m2p m2ts m2v m4v mj2 mkv mov mp4 mpe mpeg mpg mpv mts mxf nut ogm ogv ogx qt rm
    rmvb swf tp trp ts vob webm wmv wtv
"""
SUFFIXES = frozenset("." + word for word in f"{_AUDIO} {_VIDEO}".split())
"""Suffixes of audio files and of video with sound: the files that a search of folders takes."""

NOT_AUDIO = {
    "empty": "the file is empty",
    "playlist": "a playlist, not audio; give the files that it lists",
    "text": "text, not audio",
    "image": "an image, not audio",
    "archive": "an archive, not audio; unpack it first",
    "document": "a document, not audio",
    "program": "a program, not audio",
}
"""Kinds that no decoder is tried on, with the reason for the user."""

_ASF = b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"
_MAGIC = [  # (offset, bytes, kind)
    (0, b"RIFF....WAVE|RF64....WAVE|BW64....WAVE", "wav"),
    (0, b"FORM....AIF[FC]", "aiff"),
    (0, b"fLaC", "flac"),
    (0, b"OggS.{22}.{1,256}OpusHead", "opus"),
    (0, b"OggS", "ogg"),
    (4, b"ftyp(heic|heix|mif1|msf1|avif|avis)", "image"),
    (4, b"ftypqt  |moov|mdat|wide|skip|free|pnot", "mov"),
    (4, b"ftyp", "mp4"),
    (0, b"\x1a\x45\xdf\xa3", "matroska"),
    (0, re.escape(_ASF), "asf"),
    (0, b"RIFF....AVI ", "avi"),
    (0, b"MAC ", "monkeys"),
    (0, b"wvpk", "wavpack"),
    (0, b"MPCK|MP\\+", "musepack"),
    (0, b"TTA1", "tta"),
    (0, b"tBaK", "tak"),
    (0, b"OFR ", "optimfrog"),
    (0, b"DSD ", "dsf"),
    (0, b"FRM8", "dff"),
    (0, b"FORM....8SVX|caff|\\.snd|#!AMR|FLV|\\.RMF|\\.ra\xfd", "other"),
    (0, b"riff\x2e\x91\xcf\x11|NIST_1A|Creative Voice File", "other"),  # w64, sphere, voc
    (0, b"\x0b\x77|\x7f\xfe\x80\x01|\x00\x00\x01\xba|\x47.{187}\x47|.{4}\x47.{191}\x47", "other"),  # ac3, dts, mpeg
    (0, b"\xff[\xf0\xf1\xf8\xf9]", "aac"),  # AAC in ADTS
    (0, b"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff][\x00-\xef]", "mp3"),  # sync, any layer, a bit rate that exists
    (0, b"\xef?\xbb?\xbf?\\s*(#EXT|ffconcat|\\[playlist\\]|<\\?xml|<asx|<smil|<MPD|File1=)", "playlist"),
    (0, b"\x89PNG\r\n|\xff\xd8\xff|GIF8[79]a|RIFF....WEBP|II\\*\0|MM\0\\*|BM.{12}[\x0c\x28\x6c\x7c]\0\0\0", "image"),
    (0, b"PK[\x03\x05]|Rar!|7z\xbc\xaf|\x1f\x8b\x08|BZh[1-9]|\xfd7zXZ", "archive"),
    (0, b"%PDF-|\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1|SQLite format 3", "document"),
    (0, b"\x7fELF|MZ.{58}[\x00-\xff]{2}\0\0", "program"),
]  # fmt: skip
_SIGNS = [(offset, re.compile(pattern, re.DOTALL | re.IGNORECASE if kind == "playlist" else re.DOTALL), kind)
          for offset, pattern, kind in _MAGIC]  # fmt: skip
_INSIDE = re.compile(b"(fLaC[\x00\x80]\0\0\x22)|(OggS\0\x02)|(RIFF....WAVEfmt )", re.DOTALL)
_INSIDE_BYTES = 1 << 20
_CHUNKS = 1000


def is_audio(path: str) -> bool:
    """Whether a local regular file may be audio (or video with sound) by its first bytes: decoders know more formats.

    Raises
    ------
    AudioError
        If the file cannot be opened or is no regular file.
    """
    with open_regular(path) as (fd, size):
        return kind_of(fd, size)[0] not in NOT_AUDIO


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


def after_id3(fd: int, offset: int = 0, tags: int = 8) -> int:
    """Where the ID3v2 tags at a place of a file end (there may be several in a row)."""
    for _ in range(tags):
        head = pread(fd, 10, offset)
        if len(head) < 10 or head[:3] != b"ID3":
            break
        a, b, c, d = (byte & 0x7F for byte in head[6:10])
        offset += 10 + (a << 21 | b << 14 | c << 7 | d) + (10 if head[5] & 0x10 else 0)
    return offset


def kind_of(fd: int, size: int) -> tuple[str, int]:
    """What a file is by its first bytes, behind any ID3 tags, and at which byte that begins.

    Returns
    -------
    kind
        A kind of audio, "other" for those that nothing here tells apart, one of `NOT_AUDIO`, or "unknown".
    start
        Bytes before it: ID3 tags; before FLAC, Ogg and WAV also others.
    """
    if size == 0:
        return "empty", 0
    offset = after_id3(fd)
    head = pread(fd, 512, offset)
    for at, sign, kind in _SIGNS:
        if sign.match(head, at):
            return kind, offset
    if inside := _INSIDE.search(pread(fd, _INSIDE_BYTES, offset)):
        kind = ("flac", "ogg", "wav")[(inside.lastindex or 1) - 1]
        return kind, offset + inside.start()
    if offset:
        return ("mp3" if head else "other"), offset
    return ("text" if head.isascii() and not re.search(rb"[\x00-\x08\x0e-\x1a\x7f]", head) else "unknown"), 0


def chunks(fd: int, start: int, stop: int, big: bool) -> Iterator[tuple[bytes, int, int]]:
    """The chunks of a WAV or AIFF, or those of a list in it.

    Parameters
    ----------
    start, stop
        The bytes in which they lie.
    big
        Whether numbers are big-endian, as in AIFF.

    Yields
    ------
    name, offset, length
        The offset in the file, and the bytes that it claims to have.
    """
    rf64_bytes = None
    for _ in range(_CHUNKS):
        head = pread(fd, 8, start)
        if len(head) < 8 or start >= stop:
            return
        name, n = head[:4], int.from_bytes(head[4:], "big" if big else "little")
        if name == b"ds64":
            rf64_bytes = int.from_bytes(pread(fd, 8, start + 16), "little")
        if name == b"data" and n == 0xFFFFFFFF and rf64_bytes is not None:
            n = rf64_bytes
        yield name, start + 8, n
        start += 8 + n + n % 2


def riff_frames(fd: int, size: int, frame_bytes: int, big: bool) -> int | None:
    """Frames that the data chunk of a WAV or AIFF promises (libsndfile gives only those that are there).

    None when there is no promise: a writer to a pipe cannot know the length, and writes 0 or the largest number.
    """
    for name, _, n in chunks(fd, 12, size, big) if frame_bytes > 0 else ():
        if name in (b"data", b"SSND"):
            unknown = n == 0 or (n > size and 0x7FFFF000 <= n <= 0xFFFFFFFF)
            return None if unknown else (n - (8 if big else 0)) // frame_bytes
    return None


def has_xing(fd: int) -> bool:
    """Whether an MP3's first frame gives the length; without it a decoder guesses the length from the bit rate."""
    head = pread(fd, 4096, after_id3(fd))
    return any(word in head for word in (b"Xing", b"Info", b"VBRI"))
