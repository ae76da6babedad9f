"""`songprint listen`: identify what plays now."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import options
from jobs.runtime import log, messages

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.matching.types import Match


def listen(
    store: options.StoreUrl,
    input_: Annotated[
        str | None,
        typer.Option(
            "--input",
            metavar="FILE",
            help="Read a file, or standard input (-): samples (s16le, mono), or any audio format.",
        ),
    ] = None,
    rate: Annotated[
        int,
        typer.Option(
            "--rate", min=4000, max=384_000, metavar="HZ", help="Sample rate of the samples that --input - reads."
        ),
    ] = 44_100,
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="Number or name of the microphone.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=1, metavar="SECONDS", help="Stop after so much audio.")
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
    """Identify what the microphone records, live; then list it.

    Each song is named as soon as that is sure, some seconds after it starts. A line with "now at" corrects the position
    of the song that plays. Ctrl-C ends the command; the list at the end has the columns of `identify`. With --input -
    any capture program can feed it, or a stream: curl -s URL | songprint listen --input -

    Example: songprint listen --store ~/music.songprint --output evening.jsonl
    """
    messages(quiet, False, log_json)
    from jobs.output import tables
    from jobs.output.summary import SUMMARY, summarize
    from jobs.output.text import minutes, song_name
    from pipeline import match_rows
    from pipeline.audio import decoding, formats, resampling
    from pipeline.live import Listener, limit, microphone, read_pcm
    from pipeline.matching.types import Query
    from pipeline.store import Store

    tables.check_output(output)
    tables.check_bom(bom, format_ if output == "-" else output)
    snapshot = Store.open(store).snapshot()
    query = Query(false_positives=false_positives, pitch_range=pitch_range, tempo_range=tempo_range)
    sample_rate = snapshot.settings.sample_rate
    for_people = output == "-" and format_ == "table"

    def identify_live(blocks: Iterable[NDArray[np.float32]]) -> list[Match]:
        listener = Listener(snapshot, query)
        try:
            for samples in blocks if seconds is None else limit(blocks, seconds * sample_rate):
                for start in range(0, len(samples), sample_rate):
                    for match in listener.add(samples[start : start + sample_rate]):
                        print_match(match, listener.duration_s)
                    for match in listener.corrected:
                        print_match(match, listener.duration_s, corrects=True)
        except KeyboardInterrupt:  # how a user stops it
            log.info("stopped after %s", minutes(listener.duration_s))
        return listener.finish()

    def print_match(match: Match, now_s: float, corrects: bool = False) -> None:
        row = match_rows.match_table("", [match], snapshot).to_pylist()[0]
        place_s = match.song_end_s + (now_s - match.clip_end_s) * match.speed
        what = f"now at {minutes(place_s)}" if corrects else f"{song_name(row)}, at {minutes(place_s)}"
        line = f"{minutes(now_s):>7}  {what} ({match.confidence:.2f})"
        # Standard output is for the list, unless a person reads both.
        print(line, file=sys.stdout if for_people else sys.stderr, flush=True)

    if input_ is None:
        name = "microphone"
        device_rate, blocks = microphone(device)
        log.info("listening; Ctrl-C to stop")
        matches = identify_live(resampling.resample_blocks(blocks, device_rate, sample_rate))
    elif input_ == "-":
        name = "-"
        stream = sys.stdin.buffer
        head = stream.read(formats.HEAD_BYTES)
        if formats.is_container(head):
            matches = identify_live(decoding.decode_stream(stream, head, sample_rate))
        else:
            matches = identify_live(resampling.resample_blocks(read_pcm(stream, head), rate, sample_rate))
    else:
        name = input_
        matches, _ = decoding.decode(input_, sample_rate, identify_live)
    table = match_rows.match_table(name, matches, snapshot)
    if for_people:
        print()
        tables.write(summarize([table]), SUMMARY)
    else:
        tables.write([table], match_rows.MATCHES, output, format_, bom=bom)
