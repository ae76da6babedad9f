"""Several inputs, streams over HTTP that break, and the log of what they played; the servers are real."""

from __future__ import annotations

import http.server
import itertools
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import soxr
from numpy.typing import NDArray

import pipeline
from jobs.cli import run
from jobs.commands.listen import _name_and_input
from jobs.output.listening_log import COLUMNS, ListeningLog
from pipeline import Store, live
from pipeline.live import Listener
from pipeline.match_rows import MATCHES
from pipeline.matching.types import Query
from pipeline.monitoring import (
    Audio,
    Event,
    Input,
    Kind,
    Lost,
    Monitor,
    Piece,
    WallClock,
    read_file,
    read_url,
)
from pipeline.simulation import encoding, music
from pipeline.store import Snapshot

ROOT = Path(__file__).parents[1]
RATE = music.SAMPLE_RATE
SONG_S = 60.0
SOON_S = (0.01, 0.1)
Samples = NDArray[np.float32]
Connection = Callable[[http.server.BaseHTTPRequestHandler], None]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("music")
    for seed in (1, 2, 3):
        encoding.write(folder / f"{seed}.flac", music.song(seed, SONG_S), title=f"Song {seed}", artist="Anna")
    store = Store.open_or_create(str(tmp_path_factory.mktemp("streams") / "store"))
    pipeline.index([str(folder)], store)
    return store


@pytest.fixture(scope="module")
def snapshot(store: Store) -> Snapshot:
    return store.snapshot()


def cut(seed: int, start_s: float, stop_s: float) -> Samples:
    """Seconds of a song at the rate of the store."""
    samples: Samples = soxr.resample(music.song(seed, SONG_S), RATE, 11025)
    return samples[round(start_s * 11025) : round(stop_s * 11025)]


@pytest.fixture(scope="module")
def mp3(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, float, float], bytes]:
    """Seconds of a song as a radio sends them."""
    folder = tmp_path_factory.mktemp("mp3")

    def encode(seed: int, start_s: float, stop_s: float) -> bytes:
        path = folder / f"{seed} {start_s} {stop_s}.mp3"
        if not path.exists():
            encoding.write(path, music.song(seed, SONG_S)[round(start_s * RATE) : round(stop_s * RATE)])
        return path.read_bytes()

    return encode


class Server:
    """A server of one URL, which answers each connection with the next of some functions, and then with the last."""

    def __init__(self, connections: Sequence[Connection], port: int = 0) -> None:
        left = list(connections)
        self.over = over = threading.Event()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer = left.pop(0) if len(left) > 1 else left[0]
                answer(self)

            def log_message(self, *arguments: object) -> None:
                pass

        Handler.over = over  # type: ignore[attr-defined]
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/radio"

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()


def sends(data: bytes, then_waits: bool = False) -> Connection:
    """Send audio, without saying how long it is; then close the connection, or send nothing more."""

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "audio/mpeg")
        handler.end_headers()
        try:
            handler.wfile.write(data)
            handler.wfile.flush()
        except OSError:
            return
        if then_waits:
            handler.over.wait()  # type: ignore[attr-defined]

    return answer


def refuses(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.send_error(503)


def listen_until(enough: Callable[[list[Event]], bool], inputs: dict[str, Input], snapshot: Snapshot) -> list[Event]:
    """The events up to the one with which there are enough, and what follows when it stops then."""
    events: list[Event] = []
    with Monitor(inputs, snapshot, Query()) as monitor:
        for event in monitor.events():
            events.append(event)
            if enough(events):
                monitor.stop()
    return events


def has(kind: Kind, times: int = 1) -> Callable[[list[Event]], bool]:
    return lambda events: sum(event.kind is kind for event in events) == times


def kinds(events: list[Event], *wanted: Kind) -> list[Kind]:
    return [event.kind for event in events if event.kind in wanted]


def songs(events: list[Event]) -> list[int]:
    return [event.matches[0].song_id for event in events if event.kind is Kind.SONG]


def song_id(store: Store, seed: int) -> int:
    table = store.snapshot().songs(["song_id", "title"]).to_pydict()
    return int(table["song_id"][table["title"].index(f"Song {seed}")])


# streams


def test_a_stream_that_breaks_is_opened_again_and_its_song_is_one(
    store: Store, snapshot: Snapshot, mp3: Callable[[int, float, float], bytes]
) -> None:
    parts = [sends(mp3(2, 0, 14)), refuses, sends(mp3(2, 14, 30)), refuses]
    with Server(parts) as server:
        events = listen_until(has(Kind.LOST, 2), {"radio": read_url(server.url, 11025, SOON_S)}, snapshot)
    assert kinds(events, Kind.NAMED, Kind.LOST, Kind.BACK) == [Kind.NAMED, Kind.LOST, Kind.BACK, Kind.LOST]
    assert songs(events) == [song_id(store, 2)]
    (song,) = [event for event in events if event.kind is Kind.SONG]
    assert (song.start_s, song.end_s) == (pytest.approx(0, abs=2), pytest.approx(30, abs=3))
    assert len([event for event in events if event.kind is Kind.OFFLINE]) == 2


def test_a_stream_that_sends_nothing_more_is_opened_again(
    snapshot: Snapshot, mp3: Callable[[int, float, float], bytes]
) -> None:
    with Server([sends(mp3(3, 0, 12), then_waits=True)]) as server:
        radio = read_url(server.url, 11025, SOON_S, stalled_s=2.0)
        events = listen_until(has(Kind.BACK), {"radio": radio}, snapshot)
    assert "no audio for 2 s" in {event.message for event in events}


def test_a_stream_that_is_not_there_yet_is_waited_for_and_said_once(
    store: Store, snapshot: Snapshot, mp3: Callable[[int, float, float], bytes]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    servers: list[Server] = []

    def serve_once_lost(events: list[Event]) -> bool:
        if events[-1].kind is Kind.LOST and not servers:
            servers.append(Server([sends(mp3(1, 10, 24), then_waits=True)], port))
        return has(Kind.NAMED)(events)

    radio = read_url(f"http://127.0.0.1:{port}/radio", 11025, SOON_S)
    try:
        events = listen_until(serve_once_lost, {"radio": radio}, snapshot)
    finally:
        for server in servers:
            server.__exit__()
    assert kinds(events, Kind.LOST, Kind.BACK, Kind.NAMED) == [Kind.LOST, Kind.BACK, Kind.NAMED]
    assert events[0].message == "Connection refused"
    assert songs(events) == [song_id(store, 1)]


class Folder:
    """A server of the files in a folder, and the paths that were wanted."""

    def __init__(self, folder: Path) -> None:
        self.wanted: list[str] = []
        wanted = self.wanted

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *arguments: object) -> None:
                super().__init__(*arguments, directory=str(folder))  # type: ignore[arg-type]

            def log_message(self, *arguments: object) -> None:
                wanted.append(self.path)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def make_playlist(folder: Path, seed: int) -> None:
    """An HLS playlist of 16 s of a song, in segments of 4 s."""
    encoding.write(folder / "song.wav", music.song(seed, SONG_S)[: 16 * RATE])
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", "song.wav", "-c:a", "aac", "-f", "hls"]
    subprocess.run([*command, "-hls_time", "4", "-hls_list_size", "0", "radio.m3u8"], cwd=folder, check=True)


def test_an_hls_playlist_is_a_stream(store: Store, snapshot: Snapshot, tmp_path: Path) -> None:
    make_playlist(tmp_path, 2)
    with Folder(tmp_path) as server:
        radio = read_url(f"{server.url}/radio.m3u8", 11025, (60.0, 60.0))
        events = listen_until(has(Kind.LOST), {"radio": radio}, snapshot)
    assert kinds(events, Kind.NAMED, Kind.LOST) == [Kind.NAMED, Kind.LOST]
    assert songs(events) == [song_id(store, 2)]
    assert "/radio3.ts" in server.wanted


def test_what_a_server_sends_opens_no_file(snapshot: Snapshot, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "public").mkdir()
    make_playlist(tmp_path / "secret", 2)
    segments = [f"{prefix}{tmp_path}/secret/radio0.ts" for prefix in ("file://", "file:", "concat:", "subfile,,:")]
    for i, segment in enumerate(segments):
        playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{segment}\n#EXT-X-ENDLIST\n"
        (tmp_path / "public" / f"{i}.m3u8").write_text(playlist)
    with Folder(tmp_path / "public") as server:
        inputs = {name: read_url(f"{server.url}/{name}.m3u8", 11025, (60.0, 60.0)) for name in "0123"}
        events = listen_until(has(Kind.LOST, 4), inputs, snapshot)
    assert {event.input for event in events if event.kind is Kind.LOST} == set("0123")
    assert not kinds(events, Kind.NAMED, Kind.SONG)
    assert all(event.end_s < 1 for event in events if event.kind is Kind.LOST)


# what is reported


def test_songs_and_unknown_stretches_and_outages_cover_all_seconds(snapshot: Snapshot, store: Store) -> None:
    began = 1_700_000_000.0
    first = np.concatenate([cut(1001, 0, 12), cut(2, 5, 30), cut(1002, 0, 20)])
    second = np.concatenate([cut(1003, 0, 15), cut(1, 0, 20)])

    def read(put: Callable[[Piece], None], stop: threading.Event) -> None:
        put(Audio(first, began + 57))
        put(Lost("the stream ended", began + 57.5))
        put(Lost("Connection refused", began + 107.5))
        put(Audio(second, began + 157.5 + 35))

    events = listen_until(lambda events: False, {"radio": Input(read, live=True)}, snapshot)
    reported = [event for event in events if event.kind in (Kind.SONG, Kind.UNKNOWN, Kind.OFFLINE)]
    assert [event.kind.value for event in reported] == ["unknown", "song", "unknown", "offline", "unknown", "song"]
    assert songs(events) == [song_id(store, 2), song_id(store, 1)]
    edges = [0, 12, 37, 57, 192, 207, 227]
    assert [event.start_s for event in reported] == pytest.approx(edges[:-1], abs=2)
    assert [event.end_s for event in reported] == pytest.approx(edges[1:], abs=2)
    assert [event.start - began for event in reported] == pytest.approx([0, 12, 37, 57.5, 157.5, 172.5], abs=2)
    assert [event.end - began for event in reported] == pytest.approx([12, 37, 57, 192.5, 172.5, 192.5], abs=2)
    known = [event for event in reported if event.kind is not Kind.SONG]
    assert all(later.start_s >= event.start_s for event, later in itertools.pairwise(reported))
    assert "the stream ended" in known[2].message


def test_an_input_that_cannot_be_read_leaves_the_others_alone(snapshot: Snapshot, store: Store, tmp_path: Path) -> None:
    encoding.write(tmp_path / "evening.flac", music.song(3, SONG_S)[: 12 * RATE])
    (tmp_path / "broken.flac").write_bytes(b"fLaC and nothing else")
    inputs = {name: read_file(str(tmp_path / f"{name}.flac"), 11025) for name in ("broken", "evening")}
    events = listen_until(lambda events: False, inputs, snapshot)
    assert [event.input for event in events if event.kind is Kind.FAILED] == ["broken"]
    assert songs(events) == [song_id(store, 3)]


def test_an_error_in_a_thread_is_raised(snapshot: Snapshot) -> None:
    def read(put: Callable[[Piece], None], stop: threading.Event) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        listen_until(lambda events: False, {"radio": Input(read, live=True)}, snapshot)


# listening for months


def test_a_short_interruption_does_not_end_a_song(snapshot: Snapshot, store: Store) -> None:
    listener = Listener(snapshot, Query())
    named = listener.add(cut(2, 0, 12))
    listener.skip(5)
    named += listener.add(cut(2, 17, 30))
    assert [match.song_id for match in named] == [song_id(store, 2)]
    (match,) = listener.finish()
    assert (match.clip_start_s, match.clip_end_s) == (pytest.approx(0, abs=2), pytest.approx(30, abs=2))
    assert listener.duration_s == 30


def test_a_song_that_is_over_is_handed_out_and_forgotten(snapshot: Snapshot, store: Store) -> None:
    listener = Listener(snapshot, Query())
    listener.add(cut(2, 0, 12))
    assert listener.open_since_s < 3
    listener.skip(3600)
    assert [[match.song_id for match in matches] for matches in listener.ended] == [[song_id(store, 2)]]
    assert listener.open_since_s == np.inf
    listener.ended.clear()
    assert listener.finish() == []


def test_a_song_that_is_repeated_all_night_leaves_little_in_memory(
    snapshot: Snapshot, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "HORIZON_S", 30)
    listener = Listener(snapshot, Query())
    pieces = np.concatenate([cut(2, 0, 10), cut(1001, 0, 10)])
    named, traces = [], []
    for _ in range(12):
        named += listener.add(pieces)
        traces.append(sum(map(len, listener._recording._traces)))
    assert [match.song_id for match in named] == [song_id(store, 2)] * 12
    assert max(traces) <= 2 * max(traces[:4])
    starts = [match.clip_start_s for match in listener.finish()]
    assert starts == pytest.approx([20 * i for i in range(12)], abs=2)


def test_a_song_that_is_longer_than_the_evidence_is_kept_is_one(
    snapshot: Snapshot, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "HORIZON_S", 10)
    listener = Listener(snapshot, Query())
    for start_s in range(0, 60, 5):
        listener.add(cut(3, start_s, start_s + 5))
    listener.skip(100)
    ((match,),) = listener.ended
    assert (match.clip_start_s, match.clip_end_s) == (pytest.approx(0, abs=2), pytest.approx(60, abs=2))
    assert match.song_start_s == pytest.approx(match.clip_start_s, abs=0.1)


# wall clock


def test_the_burst_of_a_connection_was_on_air_before_it() -> None:
    clock = WallClock(1000.0)
    clock.connect(0.0, 1000.0)
    clock.advance(4.0, 1000.5)  # four seconds at once
    for second in range(5, 60):
        clock.advance(second, 996.5 + second + (second % 7) / 3)  # some come late
    assert clock.at(0.0) == pytest.approx(996.5, abs=0.1)
    assert clock.at(30.0) == pytest.approx(1026.5, abs=0.1)


def test_a_clock_that_runs_fast_or_slow_is_followed_for_days() -> None:
    for pace in (0.9998, 1.0002):
        clock = WallClock(0.0)
        clock.connect(0.0, 0.0)
        for minute in range(1, 10 * 24 * 60):
            clock.advance(60.0 * minute, 60.0 * minute * pace)
        assert clock.at(60.0 * minute) == pytest.approx(60.0 * minute * pace, abs=0.1)


def test_seconds_before_a_reconnection_keep_their_time() -> None:
    clock = WallClock(0.0)
    clock.connect(0.0, 100.0)
    clock.advance(10.0, 110.0)
    clock.connect(40.0, 500.0)
    clock.advance(50.0, 510.0)
    assert (clock.at(5.0), clock.at(45.0)) == (105.0, 505.0)


# the log


def test_a_line_has_what_identify_says_of_a_song() -> None:
    assert set(MATCHES.names) - set(COLUMNS) == {"clip", "status", "clip_start_s", "clip_end_s"}


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_log_is_continued_also_behind_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    ListeningLog(path).write("started", "radio", 0.0, 0.0, [], "")
    path.write_bytes(path.read_bytes() + b'{"event": "so')
    ListeningLog(path).write("unknown", "rädio", 1.5, 3.25, [], "")
    first, torn, last = path.read_text().splitlines()
    assert torn == '{"event": "so'
    assert json.loads(first).keys() == json.loads(last).keys()
    row = json.loads(last)
    assert (row["input"], row["start"], row["end"]) == (
        "rädio",
        "1970-01-01T00:00:01.500+00:00",
        "1970-01-01T00:00:03.250+00:00",
    )


def test_rows_that_could_not_be_written_follow_later(tmp_path: Path) -> None:
    path = tmp_path / "away" / "log.jsonl"
    log = ListeningLog(path)
    with pytest.raises(FileNotFoundError):
        log.write("started", "radio", 0.0, 0.0, [], "")
    path.parent.mkdir()
    log.write("stopped", "radio", 1.0, 1.0, [], "")
    assert [row["event"] for row in rows(path)] == ["started", "stopped"]


# the command


def test_sigterm_ends_the_command_with_all_songs_in_its_log(
    store: Store, mp3: Callable[[int, float, float], bytes], tmp_path: Path
) -> None:
    path = tmp_path / "played.jsonl"
    with (
        Server([sends(mp3(1, 0, 14), then_waits=True)]) as one,
        Server([sends(mp3(2, 20, 34), then_waits=True)]) as two,
    ):
        command = [sys.executable, "-m", "jobs", "listen", "--store", store.url, "--log", str(path)]
        command += ["--input", f"one={one.url}", "--input", f"two={two.url}"]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout
            named = sorted(process.stdout.readline() for _ in range(2))
            process.send_signal(signal.SIGTERM)
            rest, messages = process.communicate()
    assert (process.returncode, rest, messages) == (0, "", "stopped\n")
    assert [(line.split()[0], "Anna - Song" in line) for line in named] == [("one", True), ("two", True)]
    events = [(row["event"], row["input"], row["title"]) for row in rows(path) if row["event"] != "unknown"]
    assert events[:2] == [("started", "one", None), ("started", "two", None)]
    assert sorted(events[2:4]) == [("song", "one", "Song 1"), ("song", "two", "Song 2")]  # type: ignore[type-var]
    assert events[4:] == [("stopped", "one", None), ("stopped", "two", None)]


def test_several_files_are_listed_by_name(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (1, 2):
        encoding.write(tmp_path / f"{seed}.flac", music.song(seed, SONG_S)[: 10 * RATE])
    command = ["listen", "--store", store.url, "--format", "json"]
    assert run([*command, "--input", f"A={tmp_path}/1.flac", "--input", f"B={tmp_path}/2.flac"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(row["clip"], row["title"]) for row in listed] == [("A", "Song 1"), ("B", "Song 2")]


def test_an_input_may_have_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _name_and_input("One=https://radio.example/a?b=c") == ("One", "https://radio.example/a?b=c")
    url = "https://me:secret@radio.example/a?b=c"
    assert _name_and_input(url) == ("https://radio.example/a?b=c", url)
    assert _name_and_input(f"One={url}") == ("One", url)
    assert _name_and_input("-") == ("-", "-")
    assert _name_and_input("tuner=-") == ("tuner", "-")
    monkeypatch.chdir(tmp_path)
    Path("x=1.flac").touch()
    assert _name_and_input("x=1.flac") == ("x=1.flac", "x=1.flac")
    assert _name_and_input("folder/x=2.flac") == ("folder/x=2.flac", "folder/x=2.flac")


def test_inputs_of_one_name_are_refused(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["listen", "--store", store.url, "--input", "a=x.flac", "--input", "a=y.flac"]) == 1
    assert "given twice" in capsys.readouterr().err


def test_a_file_that_cannot_be_read_is_an_error(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["listen", "--store", store.url, "--input", "none.flac"]) == 1
    assert capsys.readouterr().err.startswith("AudioError: none.flac: No such file")
