"""Radio streams in real time on one machine: CPU, seconds to a name, songs missed and wrong names.

    python benchmarks/streams.py --store STORE --mixes MIXES --streams 20 --seconds 180

MIXES is a folder of recordings with ``truth.csv`` (columns mix, start_s, end_s, song), as benchmarks/README.md makes
them. Each stream is one of the recordings from another place on, as MP3 of 128 kbit/s, which a server of a process of
its own sends at its pace. `songprint listen` runs as a process, whose CPU is counted with that of its ffmpegs.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import http.server
import json
import multiprocessing
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import imageio_ffmpeg

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.sharedctypes import SynchronizedArray as Array

BYTES_PER_S = 16_000
BURST_S = 4  # sent at once, as Icecast does
STEP_S = 0.25
SHORTEST_S = 10.0  # of a song, so that it counts


def serve(files: list[str], opened: Array[float], ready: Connection) -> None:
    """Send each file at its pace, from when it is opened."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "audio/mpeg")
            self.end_headers()
            i = int(self.path[1:])
            opened[i] = began = time.time()
            with open(files[i], "rb") as file, contextlib.suppress(OSError):
                self.wfile.write(file.read(BYTES_PER_S * BURST_S))
                for step in range(1, 1 << 30):
                    time.sleep(max(0.0, began + step * STEP_S - time.time()))
                    self.wfile.write(file.read(round(BYTES_PER_S * STEP_S)))

        def log_message(self, *arguments: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 1000

    server = Server(("127.0.0.1", 0), Handler)
    ready.send(server.server_port)
    server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True)
    parser.add_argument("--mixes", required=True, type=Path)
    parser.add_argument("--streams", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--length", type=float, default=300.0, help="seconds of each mix")
    given = parser.parse_args()
    with open(given.mixes / "truth.csv", newline="") as file:
        truth = list(csv.DictReader(file))
    mixes = sorted({row["mix"] for row in truth})
    with tempfile.TemporaryDirectory() as folder:
        files, starts = [], []
        for i in range(given.streams):
            starts.append((mixes[i % len(mixes)], i * (given.length - given.seconds) / given.streams))
            files.append(f"{folder}/{i}.mp3")
            command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-ss", str(starts[i][1])]
            command += ["-i", str(given.mixes / starts[i][0]), "-t", str(given.seconds + 30)]
            subprocess.run([*command, "-ac", "2", "-b:a", "128k", "-write_xing", "0", files[i]], check=True)
        here, there = multiprocessing.Pipe()
        opened: Array[float] = multiprocessing.Array("d", given.streams)  # type: ignore[assignment]
        server = multiprocessing.Process(target=serve, args=(files, opened, there), daemon=True)
        server.start()
        port = here.recv()
        log = Path(folder) / "log.jsonl"
        command = [sys.executable, "-m", "jobs", "listen", "--store", given.store, "--log", str(log)]
        for i in range(given.streams):
            command += ["--input", f"{i}=http://127.0.0.1:{port}/{i}"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        named: list[tuple[int, str, float]] = []
        signal.signal(signal.SIGALRM, lambda *_: process.send_signal(signal.SIGTERM))
        signal.alarm(round(given.seconds))
        for line in process.stdout or []:
            if ", at " in line and "now at" not in line:
                stream, _, rest = line.split(maxsplit=2)
                named.append((int(stream), rest.rsplit(", at ", 1)[0], time.time()))
        process.wait()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        minutes = given.streams * given.seconds / 60
        server.kill()
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        delays, missed, wrong = [], [], []
        for i, (mix, from_s) in enumerate(starts):
            began = opened[i] - BURST_S  # when the first second was on air
            played = [
                (float(row["start_s"]) - from_s, float(row["end_s"]) - from_s, os.path.splitext(row["song"])[0])
                for row in truth
                if row["mix"] == mix
            ]
            found = [(title, at - began) for stream, title, at in named if stream == i]
            for start_s, end_s, song in played:
                first_s = max(start_s, 0.0)
                if not song or min(end_s, given.seconds - 5) - first_s < SHORTEST_S:
                    continue
                times = [at_s for title, at_s in found if title == song and at_s >= start_s]
                if times:
                    delays.append(min(times) - max(first_s, BURST_S))
                else:
                    missed.append((i, song, start_s, end_s))
            wrong += [(i, title, at_s) for title, at_s in found if title not in {song for *_, song in played}]
        offline = [row for row in rows if row["event"] == "offline"]
    delays.sort()
    print(
        f"{given.streams} streams for {given.seconds:.0f} s, {len(offline)} interruptions, {after.ru_maxrss >> 10} MB"
    )
    print(f"CPU: {cpu_s:.0f} s, {cpu_s / given.seconds:.2f} cores, {cpu_s / minutes:.2f} s for a minute of a stream")
    print(
        f"named: {len(delays)} songs, after {statistics.median(delays):.1f} s (median), {delays[-1]:.1f} s (the last)"
    )
    print(f"missed: {len(missed)} {missed}")
    print(f"wrong: {len(wrong)} {wrong}")


if __name__ == "__main__":
    main()
