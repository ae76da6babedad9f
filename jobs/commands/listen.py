"""`songprint listen`: identify what plays now, on one input or on many."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs import options
from jobs.runtime import log, messages

if TYPE_CHECKING:
    from pipeline.matching.types import Match
    from pipeline.monitoring import Event, Input

_URL = re.compile("https?://", re.IGNORECASE)
_CREDENTIALS = re.compile("(?<=://)[^/@]*@")


def listen(
    store: options.StoreUrl,
    input_: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="[NAME=]INPUT",
            help="Read a stream (http://…, https://…), a file, or standard input (-): samples (s16le, mono), or any "
            "audio format. Several times: listen to all of them.",
        ),
    ] = None,
    rate: Annotated[
        int,
        typer.Option(
            "--rate", min=4000, max=384_000, metavar="HZ", help="Sample rate of the samples that --input - reads."
        ),
    ] = 44_100,
    stream: options.Stream = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="Number or name of the microphone.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=1, metavar="SECONDS", help="Stop after so much audio.")
    ] = None,
    log_file: Annotated[
        Path | None,
        typer.Option(
            "--log",
            metavar="FILE",
            help="Append what each input plays, as JSON lines: songs, unknown stretches, time without a stream.",
        ),
    ] = None,
    output: options.Output = "-",
    format_: options.TableFormat = "table",
    bom: options.Bom = False,
    false_positives: options.FalsePositives = 0.01,
    pitch_range: options.PitchRange = 0.0,
    tempo_range: options.TempoRange = 0.0,
    quiet: options.Quiet = False,
    log_json: options.LogJson = False,
) -> None:
    """Identify what a microphone or radio plays, live; then list it.

    Each song is named as soon as that is sure, some seconds after it starts. A line with "now at" corrects the position
    of the song that plays. Ctrl-C or SIGTERM ends the command; the list at the end has the columns of `identify`; with
    --log it is left out unless --output names a file. A stream that breaks is opened again, for as long as it takes.

    Example: songprint listen --store ~/music.songprint --input one=https://radio.example/stream.mp3 --log played.jsonl
    """
    messages(quiet, False, log_json)
    from jobs.output import tables
    from jobs.output.listening_log import ListeningLog
    from jobs.output.summary import SUMMARY, summarize
    from jobs.output.text import minutes, song_name
    from pipeline.errors import AudioError
    from pipeline.match_rows import MATCHES, match_table
    from pipeline.matching.types import Query
    from pipeline.monitoring import Kind, Monitor
    from pipeline.store import Store

    tables.check_output(output)
    tables.check_bom(bom, format_ if output == "-" else output)
    if log_file:
        tables.check_folder(str(log_file))
    snapshot = Store.open(store).snapshot()
    inputs = _inputs(input_, rate, device, stream, snapshot.settings.sample_rate)
    query = Query(false_positives=false_positives, pitch_range=pitch_range, tempo_range=tempo_range)
    for_people = output == "-" and format_ == "table"
    listed = output != "-" or log_file is None
    matches: dict[str, list[Match]] = {name: [] for name in inputs}
    failures: list[str] = []
    listening_log = ListeningLog(log_file) if log_file else None
    width = max(map(len, inputs))

    def rows(event: Event) -> list[dict[str, Any]]:
        return match_table(event.input, event.matches, snapshot).to_pylist() if event.matches else []

    def show(event: Event) -> None:
        if event.kind in (Kind.NAMED, Kind.CORRECTED):
            (match,), (row,) = event.matches, rows(event)
            place_s = match.song_end_s + (event.end_s - match.clip_end_s) * match.speed
            what = f"now at {minutes(place_s)}"
            what = what if event.kind is Kind.CORRECTED else f"{song_name(row)}, at {minutes(place_s)}"
            line = f"{minutes(event.end_s):>7}  {what} ({match.confidence:.2f})"
            # Standard output is for the list, unless a person reads both.
            print(prefix(event.input) + line, file=sys.stdout if for_people else sys.stderr, flush=True)
        elif event.kind is Kind.LOST:
            log.warning("%s: %s; trying again until it is back", event.input, event.message)
        elif event.kind is Kind.BACK:
            log.info("%s: is back", event.input)
        elif event.kind is Kind.FAILED:
            failures.append(event.message)
            write_log("failed", event.input, event.start, event.end, [], event.message)
            if len(inputs) > 1:
                log.warning("%s", event.message)
        else:
            if listed:
                matches[event.input] += event.matches
            write_log(event.kind.value, event.input, event.start, event.end, rows(event), event.message)

    def prefix(name: str) -> str:
        return f"{name:<{width}}  " if len(inputs) > 1 else ""

    def write_log(what: str, name: str, start: float, end: float, found: list[dict[str, Any]], message: str) -> None:
        if listening_log:
            try:
                listening_log.write(what, name, start, end, found, message)
            except OSError as error:
                log.warning("%s: %s; its rows are kept until they can be written", log_file, error.strerror)

    def write_log_of_all(what: str) -> None:
        now = time.time()
        for name in inputs:
            write_log(what, name, now, now, [], "")

    with (
        Monitor(inputs, snapshot, query, seconds) as monitor,
        _called_when_stopped(monitor.stop) as stopped,
    ):
        if not input_:
            log.info("listening; Ctrl-C to stop")
        write_log_of_all("started")
        for event in monitor.events():
            show(event)
        write_log_of_all("stopped")
        if stopped():
            log.info("stopped")
    if len(failures) == len(inputs):
        raise AudioError(failures[0])
    if not listed:
        return
    found = [match_table(name, of_input, snapshot) for name, of_input in matches.items()]
    if for_people:
        print()
        tables.write(summarize(found), SUMMARY)
    else:
        tables.write(found, MATCHES, output, format_, bom=bom)


def _inputs(
    given: list[str] | None, rate: int, device: str | None, stream: int | None, sample_rate: int
) -> dict[str, Input]:
    """The inputs by their names."""
    from pipeline.audio import resampling
    from pipeline.errors import ParameterError
    from pipeline.live import microphone
    from pipeline.monitoring import read_blocks, read_file, read_url
    from pipeline.paths import is_url

    if not given:
        if stream is not None:
            raise ParameterError("--stream: a microphone has none to choose; give an --input")
        device_rate, blocks = microphone(device)
        return {"microphone": read_blocks(resampling.resample_blocks(blocks, device_rate, sample_rate), live=True)}
    inputs: dict[str, Input] = {}
    for text in given:
        name, input_ = _name_and_input(text)
        if name in inputs:
            raise ParameterError(f"--input {name}: given twice; give each a name of its own: --input NAME={input_}")
        if input_ == "-":
            inputs[name] = _standard_input(rate, stream, sample_rate)
        elif _URL.match(input_):
            inputs[name] = read_url(input_, sample_rate, stream=stream)
        elif is_url(input_):
            raise ParameterError(f"--input {input_}: give a stream (http://…, https://…), a local file, or -")
        else:
            inputs[name] = read_file(input_, sample_rate, stream)
    return inputs


def _name_and_input(text: str) -> tuple[str, str]:
    """The name of an input, which may come before it; else it is called as it is given, without a password."""
    name, sign, rest = text.partition("=")
    if sign and name and rest and not re.search("[/:]", name) and not os.path.exists(text):
        return name, rest
    return _CREDENTIALS.sub("", text), text


def _standard_input(rate: int, stream: int | None, sample_rate: int) -> Input:
    """Samples, or any audio format that can be read from a pipe."""
    from pipeline.audio import decoding, formats, resampling
    from pipeline.errors import ParameterError
    from pipeline.live import read_pcm
    from pipeline.monitoring import read_blocks

    # Not sys.stdin: Python waits for the lock of its buffer when it ends, and a thread that reads has it.
    pipe = io.FileIO(0, closefd=False)
    head = b""
    while len(head) < formats.HEAD_BYTES and (data := pipe.read(formats.HEAD_BYTES - len(head))):
        head += data
    if formats.is_container(head):
        return read_blocks(decoding.decode_stream(pipe, head, sample_rate, stream), live=False)
    if stream is not None:
        raise ParameterError("--stream: standard input has samples, and no streams to choose from")
    return read_blocks(resampling.resample_blocks(read_pcm(pipe, head), rate, sample_rate), live=False)


@contextlib.contextmanager
def _called_when_stopped(stop: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Call a function at the first Ctrl-C or SIGTERM, which ends the command in order; the second one interrupts it.

    Yields
    ------
    callable
        Tells whether there was one.
    """
    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if callable(signal.getsignal(number))]
    before = {number: signal.getsignal(number) for number in numbers}
    received: list[int] = []

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number: int, frame: object) -> None:
        restore()
        received.append(number)
        stop()

    for number in numbers:
        signal.signal(number, handle)
    try:
        yield lambda: bool(received)
    finally:
        restore()
