"""Random damage to files of every format, through the real decoders: ``python -m tests.fuzz_audio 20000``.

Each corrupted file is decoded and its tags are read in a worker process, so that a crash of a decoder is seen and
counted, and the rest goes on. What is wrong: a crash, any exception but `AudioError`, a file over its time, samples
that are not finite, memory that grows. Those files are kept in the folder that is printed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.audio import decoding
from pipeline.audio.tags import read_tags
from pipeline.errors import AudioError
from tests import zoo

LIMIT_S = 10.0  # as `--limit-s`: what `decode` promises to keep
GRACE_S = 60.0  # a worker that says nothing for so long hangs outside of `decode`'s reach
FORMATS = {
    "cbr.mp3": "-b:a 128k",
    "vbr.mp3": "-q:a 2",
    "no-xing.mp3": "-q:a 4 -write_xing 0",
    "lossless.flac": "",
    "vorbis.ogg": "-c:a libvorbis",
    "opus.opus": "-b:a 64k",
    "aac.m4a": "-b:a 128k",
    "faststart.m4a": "-movflags +faststart",
    "alac.m4a": "-c:a alac",
    "pcm.wav": "",
    "adpcm.wav": "-c:a adpcm_ms",
    "float.wav": "-c:a pcm_f32le",
    "aiff.aiff": "",
    "matroska.mka": "-c:a libvorbis",
    "windows.wma": "-c:a wmav2",
    "adts.aac": "-c:a aac",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result for one file: a word that is counted, and a detail that is printed."""

    word: str
    detail: str
    seconds: float
    worker_mb: float


def corrupt(data: bytes, rng: np.random.Generator) -> bytes:
    """Damage as disks, networks and attackers do it; headers twice as often as the rest."""
    out = bytearray(data)
    front = min(len(out), 600)
    for _ in range(rng.integers(1, 4)):
        size = len(out)
        if size < 20:
            break
        at = int(rng.integers(front if rng.random() < 0.6 else size)) % size
        kind = rng.integers(8)
        if kind == 0:
            out[at] ^= 1 << rng.integers(8)
        elif kind == 1:
            for place in rng.integers(size, size=rng.integers(1, 50)):
                out[place] = rng.integers(256)
        elif kind == 2:
            length = int(rng.integers(1, 4000))
            out[at : at + length] = rng.bytes(min(length, size - at))
        elif kind == 3:
            out[at : at + 4] = rng.choice([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\x80"])
        elif kind == 4:
            del out[max(20, at) :]
        elif kind == 5:
            del out[at : at + int(rng.integers(1, 3000))]
        elif kind == 6:
            out[at:at] = out[: int(rng.integers(1, 3000))]
        else:
            out[at:at] = bytes(int(rng.integers(1, 3000)))
    return bytes(out)


def one(path: str) -> Outcome:
    """Decode a file as an index run does, in a worker."""
    began = time.monotonic()
    try:
        samples, decoded = decoding.decode(
            path, 11025, lambda blocks: all(np.isfinite(block).all() for block in blocks), limit_s=LIMIT_S
        )
        word = "decoded" if decoded.decoded_share >= 0.98 else "partial"
        detail = ""
        if not samples:
            word, detail = "WRONG", "samples that are not finite"
    except AudioError as error:
        word, detail = "refused", str(error)
        if not detail.isprintable():
            word = "WRONG"
    except Exception as error:  # counting these is the point
        word, detail = "WRONG", f"decode: {error!r}"
    try:
        read_tags(path)
    except Exception as error:
        word, detail = "WRONG", f"tags: {error!r}"
    seconds = time.monotonic() - began
    if seconds > LIMIT_S + 5:
        word, detail = "WRONG", f"{seconds:.0f} s"
    os.unlink(path) if word != "WRONG" else None
    return Outcome(word, detail, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _quiet() -> None:
    """A worker's start: libmpg123 talks of every broken frame on the process's own stderr."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("n", type=int, help="how many corrupted files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop early after so long")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="songprint-fuzz-"))
    zoo.encode(folder, zoo.stereo()[: 2 * zoo.RATE], FORMATS)
    originals = {name: (folder / name).read_bytes() for name in FORMATS}
    for name in FORMATS:
        (folder / name).unlink()
    counts: Counter[tuple[str, str]] = Counter()
    wrongs: list[str] = []
    slowest, largest_mb = Outcome("", "", 0.0, 0.0), 0.0
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(options.workers, context, _quiet)
    began = time.monotonic()
    done = 0

    def settle(name: str, path: str, future: Future[Outcome]) -> None:
        nonlocal slowest, largest_mb, done
        done += 1
        outcome = future.result()
        counts[name.rpartition(".")[2], outcome.word] += 1
        slowest, largest_mb = max(slowest, outcome, key=lambda o: o.seconds), max(largest_mb, outcome.worker_mb)
        if outcome.word == "WRONG":
            wrongs.append(f"{path}: {outcome.detail}")

    number = 0
    while number < options.n and time.monotonic() - began < options.seconds:
        batch = {}
        for _ in range(min(200, options.n - number)):
            rng = np.random.default_rng([options.seed, number])
            name = list(FORMATS)[number % len(FORMATS)]
            path = str(folder / f"{number}-{name}")
            Path(path).write_bytes(corrupt(originals[name], rng))
            batch[name, path] = pool.submit(one, path)
            number += 1
        wait(batch.values(), timeout=GRACE_S * len(batch))
        again = []
        for (name, path), future in batch.items():
            try:
                settle(name, path, future) if future.done() else again.append((name, path))
            except BrokenProcessPool:
                done -= 1
                again.append((name, path))
        if again:  # a worker died or hangs: each of those files alone, to know which
            pool.shutdown(wait=False, cancel_futures=True)
            for name, path in again:
                if os.path.exists(path):
                    with ProcessPoolExecutor(1, context, _quiet) as alone:
                        try:
                            settle(name, path, alone.submit(one, path))
                        except BrokenProcessPool:
                            counts[name.rpartition(".")[2], "CRASH"] += 1
                            wrongs.append(f"{path}: kills its process")
            pool = ProcessPoolExecutor(options.workers, context, _quiet)
    pool.shutdown()
    words = sorted({word for _, word in counts})
    print(f"{done} corrupted files in {time.monotonic() - began:.0f} s, seed {options.seed}")
    for kind in sorted({kind for kind, _ in counts}):
        print(f"  {kind:5}", ", ".join(f"{counts[kind, word]} {word}" for word in words if counts[kind, word]))
    print(f"  slowest {slowest.seconds:.1f} s, largest worker {largest_mb:.0f} MB")
    for line in wrongs:
        print("  WRONG", line)
    if wrongs:
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
