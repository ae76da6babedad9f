"""Coverage-guided fuzzing of what songprint itself parses: ``python -m tests.fuzz_parsers 60`` (seconds for all).

libFuzzer, through atheris, varies the inputs that reach new code. Inputs: a file's first bytes and its tags
(`audio`), the metadata of a store, a Delta log entry, and the words of a command line. Wrong
is any exception that does not belong there, and a run of one input over its time. Each target is a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

SLOW_S = 20  # for one input, on a busy machine


def audio_file(data: bytes) -> None:
    """The kind of a file, its declared length, and its tags."""
    from pipeline.audio import formats, libsndfile
    from pipeline.audio.decoder import Source
    from pipeline.audio.tags import read_tags

    fd = os.memfd_create("fuzz")
    try:
        os.write(fd, data)
        size = len(data)
        formats.has_xing(fd)
        kind, start = formats.kind_of(fd, size)
        for source in (Source(fd, size, "opus"), Source(fd, size, kind, start)):
            libsndfile.LibsndfileDecoder.accepts(source)
        for big in (False, True):
            declared = formats.riff_frames(fd, size, 4, big)
            assert declared is None or declared >= -2
        tags = read_tags(f"/proc/self/fd/{fd}")
        for value in dataclasses.astuple(tags):
            assert value is None or 0 < len(str(value).encode("utf-8")) <= 2000
    finally:
        os.close(fd)


def store_metadata(data: bytes) -> None:
    """songprint.json."""
    from pipeline import Store

    _store_with("songprint.json", data, lambda url: Store.open(url))


def log_entry(data: bytes) -> None:
    """The last entry of a table's log: numbers of versions, names and figures of files."""
    from pipeline import Store

    def take(url: str) -> None:
        store = Store.open(url)
        store.snapshot().songs()
        store.check()

    _store_with(f"songs/_delta_log/{1:020d}.json", data, take)


def options(data: bytes) -> None:
    """The words of a command line, for commands that write nothing."""
    from jobs.cli import run

    words = [word for word in data.decode("utf-8", "surrogateescape").replace("\0", "").split("\n") if word][:12]
    if not words or words[0] not in ("songs", "stats", "check", "identify", "duplicates"):
        words = ["songs", *words]
    words = [
        word for word in words if not word.startswith(("-o", "--o", "--perf", "--sch", "--w")) and "://" not in word
    ]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert run(words) in (0, 1, 2)


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (audio_file, store_metadata, log_entry, options)
}
_store: list[str] = []


def _store_with(name: str, data: bytes, take: Callable[[str], object]) -> None:
    """Let ``take`` meet a store in which one file has these bytes."""
    from pipeline import Store
    from pipeline.errors import SongprintError

    if not _store:
        _store.append(Store.create(f"{tempfile.mkdtemp()}/store").url)
    path = Path(_store[0], name)
    before = path.read_bytes() if path.exists() else None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    try:
        take(_store[0])
    except SongprintError:
        pass
    finally:
        path.unlink(missing_ok=True)
        if before is not None:
            path.write_bytes(before)


def corpus(target: str, folder: Path) -> None:
    """Seeds: files as they are made, cut to what is parsed."""
    from pipeline import Settings, Store
    from tests import zoo

    folder.mkdir()
    seeds: list[bytes] = []
    if target == "audio_file":
        made = folder.parent / "zoo"
        made.mkdir()
        names = (
            "pcm-s16.wav",
            "rf64.wav",
            "aiff.aiff",
            "lossless.flac",
            "cbr.mp3",
            "vorbis.ogg",
            "opus.opus",
            "aac.m4a",
        )
        zoo.encode(made, zoo.stereo()[: zoo.RATE // 4], {name: zoo.ENCODED[name] for name in names})
        seeds = [path.read_bytes()[:6000] for path in sorted(made.iterdir())]
        text = [(b"TIT2", b"\x03Title"), (b"TPE1", b"\x01\xff\xfeA\0"), (b"TALB", b"\x00Album")]
        seeds += [zoo.id3(*text), zoo.id3(*text, flags=0x09), b"ID3\x02" + zoo.id3(*text)[4:], b"#EXTM3U\nx", b"<?xml "]
    elif target in ("store_metadata", "log_entry"):
        store = Store.create(str(folder.parent / "store"))
        seeds = [Path(store.url, "songprint.json").read_bytes(), json.dumps(Settings().to_dict()).encode()]
        if target == "log_entry":
            add = {"path": "a.parquet", "partitionValues": {}, "size": 1, "modificationTime": 1, "dataChange": True}
            add["stats"] = json.dumps({"numRecords": 1, "minValues": {"song_id": 1}, "maxValues": {"song_id": 1}})
            txn = {"appId": "songprint.next_song_id", "version": 5}
            info = {"timestamp": 1, "operation": "WRITE"}
            seeds = [
                json.dumps({name: value}).encode() for name, value in (("add", add), ("txn", txn), ("commitInfo", info))
            ]
            seeds.append(b"\n".join(seeds))
    else:
        seeds = [b"songs\n--store\n/nowhere\n--format\njson", b"identify\n/nowhere\n--limit-s\n1e9\n--speed-range\n2"]
        seeds += [b"stats\n--store\n/dev/null", b"duplicates\n--store\n.", b"check\n--repair\n--store\n/nowhere"]
    for number, seed in enumerate(seeds):
        (folder / f"{number:02d}").write_bytes(seed)


def fuzz(name: str) -> None:
    """Run one target under libFuzzer, whose options are the words that are left; does not return."""
    import atheris

    with atheris.instrument_imports(include=["pipeline", "jobs", "mutagen"]):
        import jobs.cli  # noqa: F401
        import pipeline.audio.tags
        import pipeline.catalog
        import pipeline.store  # noqa: F401
    atheris.Setup([sys.argv[0], *sys.argv[3:]], TARGETS[name])
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seconds", type=int)
    parser.add_argument("--seed", type=int, default=1)
    options_ = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed: nothing was fuzzed")
        return 1
    wrong = False
    for name in TARGETS:
        folder = Path(tempfile.mkdtemp(prefix=f"songprint-{name}-"))
        corpus(name, folder / "corpus")
        command = [sys.executable, "-m", "tests.fuzz_parsers", "--target", name, f"-seed={options_.seed}"]
        command += [f"-max_total_time={max(1, options_.seconds // len(TARGETS))}", f"-timeout={SLOW_S}"]
        command += ["-rss_limit_mb=2048", f"-artifact_prefix={folder}/wrong-", "-max_len=8192", str(folder / "corpus")]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TMPDIR": str(folder)})
        last = [line for line in done.stderr.splitlines() if line.startswith(("Done", "#"))][-2:]
        print(f"{name}: {'WRONG' if done.returncode else 'nothing wrong'}; {' | '.join(last)}", flush=True)
        if done.returncode:
            wrong = True
            print("\n".join((done.stdout + done.stderr).splitlines()[-60:]))
            print(f"  the input is in {folder}")
        else:
            shutil.rmtree(folder)
    return int(wrong)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--target"]:
        fuzz(sys.argv[2])
    sys.exit(main())
