"""What indexing costs: compared with `ffmpeg -f null` and `fpcalc` on the same files, stage by stage, and in bytes.

    python -m benchmarks.indexing MUSIC [--pairs 5] [--hours 1] [--shared-hours 8]

MUSIC is a folder of real music in any format; the same hours of it are encoded as MP3 (192 kbit/s), FLAC and Ogg Vorbis
first. The two runs of a pair follow each other, and only ratios within a pair count, since the speed of a machine
drifts. CPU time is user and system time of the process and its children. The time before the work begins (imports, the
start of a cluster) is left out for songprint and included for the others: a linked ffmpeg takes 0.09 s to start, a
quarter of its cost on files of some minutes. The gain of many workers is measured on the original music, and on more of
it: an hour ends before the workers have shared it evenly.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import imageio_ffmpeg

from benchmarks import targets
from benchmarks.machine import describe, median_and_range, table

CODECS = {"mp3": ["-c:a", "libmp3lame", "-b:a", "192k"], "flac": ["-c:a", "flac"], "ogg": ["-c:a", "libvorbis"]}
# People compare with the system's ffmpeg; the wheel's is the same everywhere. Builds differ by a factor of two.
WHEEL, SYSTEM = imageio_ffmpeg.get_ffmpeg_exe(), shutil.which("ffmpeg")
FFMPEG = SYSTEM or WHEEL

# Runs in a process of its own, so that its memory and CPU time are its own; prints CPU s, wall s, peak MB, bytes.
INDEX = r"""
import re, sys, time
from pathlib import Path
from pipeline.execution.executor import SerialExecutor
from pipeline.execution.process import block_pandas_import
from pipeline.indexing import index
from pipeline.store import Store
place, workers, paths = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
def ready(seconds):
    import pipeline.fingerprinting.extract, deltalake, mutagen, soundfile, soxr, pyarrow.parquet
    block_pandas_import()
    time.sleep(seconds)
def peak(_):
    status = Path("/proc/self/status").read_text()  # ru_maxrss would include the parent's peak
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024
def run(executor):
    before, began = time.process_time(), time.perf_counter()
    report = index(paths, Store.create(place), executor)
    assert not report.failures, report.failures
    return time.process_time() - before, time.perf_counter() - began
def main():
    ready(0)
    if workers:
        from pipeline.execution import dask_executor
        with dask_executor.local(workers) as running:
            running.map(ready, [1.0] * workers)  # long enough that each worker gets one
            cpu, wall = run(running)
            most = max(running.map(peak, range(workers)))
    else:
        cpu, wall = run(SerialExecutor())
        most = peak(0)
    stats = Store.open(place).snapshot().stats()
    print(cpu, wall, most, stats["bytes"], stats["postings"], stats["hours"])
if __name__ == "__main__":
    main()
"""


def encode(music: Path, hours: float, into: Path) -> dict[str, Path]:
    """Encode the first ``hours`` of the music under a folder in each codec, in a folder each."""
    from pipeline import catalog

    folders = {codec: into / codec for codec in CODECS}
    for folder in folders.values():
        folder.mkdir(parents=True)
    left_s = hours * 3600
    jobs = []
    for entry in catalog.walk([str(music)]):
        if left_s <= 0:
            break
        seconds = duration_s(entry.path)
        if seconds < 30:
            continue
        left_s -= seconds
        name = Path(entry.path).stem
        jobs += [(entry.path, folder / f"{name}.{codec}", CODECS[codec]) for codec, folder in folders.items()]

    def run(job: tuple[str, Path, list[str]]) -> None:
        source, target, options = job
        subprocess.run([FFMPEG, "-v", "fatal", "-y", "-i", source, "-vn", *options, target], check=True)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(run, jobs))
    return folders


def long_recording(folder: Path, into: Path, hours: float) -> Path:
    """Join the MP3s of a folder, repeated as often as needed, to one file in a folder of its own."""
    into.mkdir()
    names = into.with_suffix(".txt")
    once = "".join(f"file '{file}'\n" for file in sorted(folder.iterdir()))
    names.write_text(once * 100, encoding="utf-8")
    command = [FFMPEG, "-v", "fatal", "-y", "-f", "concat", "-safe", "0", "-i", str(names), "-t", str(hours * 3600)]
    subprocess.run([*command, "-c", "copy", str(into / "long.mp3")], check=True)
    return into


def duration_s(path: str) -> float:
    """Seconds of a file, by decoding it: slow, but exact."""
    from pipeline.audio import decoding

    return decoding.decode(path, 11025, lambda blocks: sum(map(len, blocks)))[0] / 11025


def cpu_of(commands: Iterator[list[str]]) -> tuple[float, float]:
    """CPU and wall seconds of commands run one after the other."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    for command in commands:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.perf_counter() - began


def ffmpeg(folder: Path, binary: str = FFMPEG) -> tuple[float, float]:
    """CPU and wall seconds of ffmpeg, decoding only."""
    files = sorted(folder.iterdir())
    return cpu_of([binary, "-v", "error", "-threads", "1", "-i", str(file), "-f", "null", "-"] for file in files)


def version(command: str) -> str:
    """The first words of a program's version text."""
    text = subprocess.run([command, "-version"], check=True, capture_output=True, text=True).stdout
    return " ".join(text.splitlines()[0].split()[:3])


def fpcalc(folder: Path) -> tuple[float, float]:
    """CPU and wall seconds of Chromaprint's fingerprinter, in C++."""
    return cpu_of(["fpcalc", "-length", "0", "-ignore-errors", str(file)] for file in sorted(folder.iterdir()))


def songprint(paths: Sequence[Path], workers: int = 0) -> tuple[float, ...]:
    """CPU s, wall s, peak MB, bytes, postings, hours of an index run into a new store; in one process when 0."""
    with tempfile.TemporaryDirectory() as place:
        script = Path(place) / "index_once.py"  # a file, because worker processes import it again
        script.write_text(INDEX, encoding="utf-8")
        command = [sys.executable, str(script), f"{place}/store", str(workers), *map(str, paths)]
        environment = os.environ | {"PYTHONPATH": os.getcwd()}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return tuple(float(word) for word in done.stdout.split())


def some(music: Path, hours: float) -> list[Path]:
    """The first files under a folder, about so many hours of them by their size."""
    from pipeline import catalog
    from pipeline.indexing import audio_estimate_s

    entries = catalog.walk([str(music)])
    before_s = itertools.accumulate(map(audio_estimate_s, entries), initial=0.0)
    return [Path(entry.path) for entry, start_s in zip(entries, before_s, strict=False) if start_s < hours * 3600]


def stages(folder: Path, repeats: int) -> list[tuple[str, float]]:
    """CPU seconds per hour of audio that each stage adds, the least of some repeats."""
    from pipeline import catalog
    from pipeline.audio import decoding
    from pipeline.audio.tags import read_tags
    from pipeline.fingerprinting.extract import constellation
    from pipeline.fingerprinting.landmarks import pair_peaks
    from pipeline.fingerprinting.settings import Settings
    from pipeline.fingerprinting.spectrogram import power_batches

    settings = Settings()
    files = [str(file) for file in sorted(folder.iterdir())]

    def cpu_s(work: Callable[[Any], object], items: Sequence[Any] = files) -> float:
        best = float("inf")
        for _ in range(repeats):
            began = time.process_time()
            for item in items:
                work(item)
            best = min(best, time.process_time() - began)
        return best

    def decoded(path: str, consume: Callable[..., object]) -> object:
        return decoding.decode(path, settings.sample_rate, consume)[0]

    def spectrogram(path: str) -> object:
        return decoded(path, lambda blocks: sum(len(batch) for batch in power_batches(blocks, settings)))

    def peaks(path: str) -> Any:
        return decoded(path, lambda blocks: constellation(blocks, settings))

    hours = sum(map(duration_s, files)) / 3600
    steps = [
        ("digest of the file", cpu_s(catalog.digest)),
        ("tags", cpu_s(read_tags)),
        ("decode, mix, resample", cpu_s(lambda path: decoded(path, lambda blocks: sum(map(len, blocks))))),
        ("spectrogram", cpu_s(spectrogram)),
        ("peaks", cpu_s(peaks)),
        ("landmarks and hashes", cpu_s(lambda found: pair_peaks(found, settings.fan_out), list(map(peaks, files)))),
    ]
    own = dict(steps)
    own["peaks"] -= own["spectrogram"]
    own["spectrogram"] -= own["decode, mix, resample"]
    return [(name, seconds / hours) for name, seconds in own.items()]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="What indexing costs, as Markdown.")
    parser.add_argument("music", type=Path, help="folder of real music")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--hours", type=float, default=1.0, help="how much of it to encode")
    parser.add_argument("--shared-hours", type=float, default=8.0, help="how much of it to share among workers")
    options = parser.parse_args()
    decoders = {"PATH": SYSTEM, "wheel": WHEEL} if SYSTEM else {"wheel": WHEEL}
    print(f"## Indexing\n\n{describe()}\n")
    print(", ".join(f"{name}'s {version(binary)}" for name, binary in decoders.items() if binary), end="")
    print(f", {version('fpcalc')}\n" if shutil.which("fpcalc") else "; no fpcalc on the PATH\n")
    met = []
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folders = encode(options.music, options.hours, place)
        rows = []
        for codec, folder in folders.items():
            ours: list[tuple[float, ...]] = []
            walls, prints = [], []
            ratios: dict[str, list[float]] = {name: [] for name in decoders}
            for _ in range(options.pairs):
                run = songprint([folder])
                ours.append(run)
                for name, binary in decoders.items():
                    cpu, wall = ffmpeg(folder, binary or WHEEL)
                    ratios[name].append(run[0] / cpu)
                    if binary == FFMPEG:
                        walls.append(run[1] / wall)
                if shutil.which("fpcalc"):
                    prints.append(run[0] / fpcalc(folder)[0])
            hours = ours[0][5]
            rows.append(
                [
                    codec,
                    median_and_range([hours * 3600 / run[0] for run in ours], "{:.0f}"),
                    *map(median_and_range, ratios.values()),
                    median_and_range(walls),
                    median_and_range(prints) if prints else "-",
                    median_and_range([run[2] for run in ours], "{:.0f}"),
                ]
            )
            if codec == "mp3":
                met += [targets.row(targets.FFMPEG, ratios[name], f"the {name}'s") for name in decoders]
                met += [targets.row(targets.FPCALC, prints)] if prints else []
        head = ["format", "x real time per core", *(f"CPU over {name}'s ffmpeg" for name in decoders),
                f"wall over {next(iter(decoders))}'s", "CPU over fpcalc", "peak MB"]  # fmt: skip
        print(table(head, rows))
        cores = len(os.sched_getaffinity(0))
        shared = some(options.music, options.shared_hours)
        pairs = [(songprint(shared, 1), songprint(shared, cores)) for _ in range(options.pairs)]
        speed_ups = [single[1] / parallel[1] for single, parallel in pairs]
        audio = f"{pairs[0][0][5]:.1f} hours"
        print(
            f"\n{cores} workers over 1, wall, {audio}, without their start: "
            f"{median_and_range(speed_ups)} times as fast\n"
        )
        if cores in targets.WORKERS:
            met.append(targets.row(targets.WORKERS[cores], speed_ups, audio))
        print(table(["stage (mp3)", "CPU s per hour of audio"],
                    [[name, f"{seconds:.2f}"] for name, seconds in stages(folders["mp3"], 3)]))  # fmt: skip
        _, _, peak, _, _, hours = songprint([long_recording(folders["mp3"], place / "long", 3.0)], 1)
        print(f"\nPeak memory of a worker, an MP3 of {hours:.1f} hours: {peak:.0f} MB")
        met.append(targets.row(targets.MEMORY, [peak], f"{hours:.1f} hours"))
        *_, size, postings, hours = ours[0]
        print(f"\n{size / hours / 1e6:.2f} MB per hour of audio, {postings / hours / 3600:.0f} postings per second\n")
    print(targets.report(met))


if __name__ == "__main__":
    main()
