"""`songprint listen`: what plays now."""

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
        typer.Option("--input", metavar="FILE", help="Hear a file, or samples on standard input (-: s16le, mono)."),
    ] = None,
    rate: Annotated[
        int, typer.Option("--rate", min=4000, max=384_000, metavar="HZ", help="Sample rate of what --input - reads.")
    ] = 44_100,
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="Number or name of the microphone.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=1, metavar="SECONDS", help="Stop after so much audio.")
    ] = None,
    output: options.Output = "-",
    format_: options.TableFormat = options.Format.TABLE,
    false_positives: Annotated[
        float, typer.Option("--false-positives", metavar="SHARE", help="Share of strangers that may be named.")
    ] = 0.01,
    quiet: options.Quiet = False,
    log_json: options.LogJson = False,
) -> None:
    """Identify what the microphone hears, live; at the end (Ctrl-C) list what was heard.

    Each song is named as soon as that is sure, some seconds after it starts. The list at the end has the columns of
    `identify`. With --input - any capture program can feed it.

    Example: songprint listen --store ~/music.songprint --output evening.jsonl
    """
    messages(quiet, False, log_json)
    from jobs.output import sheets, tables
    from pipeline import identification
    from pipeline.audio import decoding, resampling
    from pipeline.live import Listener, limited, microphone, raw
    from pipeline.matching.types import Query
    from pipeline.store import Store

    tables.check_output(output)
    snapshot = Store.open(store).snapshot()
    query = Query(false_positives=false_positives)
    wanted = snapshot.settings.sample_rate
    shown = output == "-" and format_ is options.Format.TABLE

    def hear(blocks: Iterable[NDArray[np.float32]]) -> list[Match]:
        listener = Listener(snapshot, query)
        try:
            for samples in blocks if seconds is None else limited(blocks, seconds * wanted):
                for start in range(0, len(samples), wanted):
                    for match in listener.hear(samples[start : start + wanted]):
                        tell(match, listener.heard_s)
        except KeyboardInterrupt:  # how one stops listening
            log.info("stopped after %s", sheets.minutes(listener.heard_s))
        return listener.finish()

    def tell(match: Match, now_s: float) -> None:
        row = identification.answer_table("", [match], snapshot).to_pylist()[0]
        place_s = match.song_end_s + (now_s - match.clip_end_s) * match.speed
        line = f"{sheets.minutes(now_s):>7}  {sheets.song(row)}, at {sheets.minutes(place_s)} ({match.confidence:.2f})"
        # Standard output is for the list, unless a person reads both.
        print(line, file=sys.stdout if shown else sys.stderr, flush=True)

    if input_ is None:
        name = "microphone"
        device_rate, blocks = microphone(device)
        log.info("listening; Ctrl-C to stop")
        matches = hear(resampling.resample_blocks(blocks, device_rate, wanted))
    elif input_ == "-":
        name = "-"
        matches = hear(resampling.resample_blocks(raw(sys.stdin.buffer), rate, wanted))
    else:
        name = input_
        matches, _ = decoding.decode(input_, wanted, hear)
    table = identification.answer_table(name, matches, snapshot)
    if shown:
        print()
        tables.write(sheets.compact([table]), sheets.COMPACT, output, format_, sheets.COMPACT.names)
    else:
        tables.write([table], identification.ANSWERS, output, format_, identification.ANSWERS.names)
