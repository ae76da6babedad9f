"""`songprint identify`: recordings to the songs in them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import options
from jobs.running import executor, log, messages, progress_bar, speed

if TYPE_CHECKING:
    import pyarrow as pa

# Starting worker processes costs as much as asking for this many bytes of clips.
SMALL_BYTES = 20_000_000
SHOWN = ("clip", "status", "title", "song_path", "clip_start_s", "clip_end_s", "song_start_s", "confidence", "message")


def identify(
    paths: options.Paths,
    store: options.StoreUrl,
    output: options.Output = "-",
    format_: options.TableFormat = options.Format.TABLE,
    false_positives: Annotated[
        float,
        typer.Option("--false-positives", metavar="SHARE", help="Share of strangers that may be named."),
    ] = 0.01,
    speed_range: Annotated[
        float,
        typer.Option("--speed-range", metavar="PERCENT", help="Find songs played up to so much faster or slower."),
    ] = 0.0,
    workers: options.Workers = 0,
    scheduler: options.Scheduler = None,
    limit_s: options.LimitS = None,
    strict: options.Strict = False,
    performance_report: options.PerformanceReport = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    log_json: options.LogJson = False,
) -> None:
    """Name the songs in clips and recordings, and where in them.

    One row per match, however long the recording; a clip in which nothing stands out is `unknown`.

    Example: songprint identify ~/recordings --store ~/music.songprint --output matches.csv
    """
    messages(quiet, verbose, log_json)
    from jobs import tables
    from pipeline import catalog
    from pipeline.identification import ANSWERS, answer
    from pipeline.recognise import Query
    from pipeline.store import Store

    tables.check_output(output)
    query = Query(false_positives=false_positives, speed_range=speed_range)
    opened = Store.open(store)
    entries = catalog.walk(paths)
    small = sum(entry.size_bytes for entry in entries) < SMALL_BYTES and workers <= 1
    began = time.monotonic()
    audio_s = busy_s = 0.0
    counts: dict[str, int] = {"matched": 0, "unknown": 0, "failed": 0}

    with (
        executor(workers, scheduler, performance_report, small=small) as running,
        progress_bar("identify", quiet, log_json) as progress,
    ):

        def answers() -> Iterator[pa.Table]:
            nonlocal audio_s, busy_s
            for batch in answer(entries, opened, query, running, limit_s=limit_s, progress=progress):
                audio_s += batch.audio_s
                busy_s += batch.busy_s
                status = dict(zip(batch.table["clip"].to_pylist(), batch.table["status"].to_pylist(), strict=True))
                for word in status.values():
                    counts[word] += 1
                yield batch.table

        tables.write(answers(), ANSWERS, output, format_, SHOWN)
    wall_s = time.monotonic() - began
    rates = speed(audio_s, busy_s, wall_s)
    log.info(
        "%d clips (%.2f h of audio in %.1f s: %.0fx real time, %.0fx a worker, %.1f workers busy): "
        "%d matched, %d unknown, %d failed.",
        len(entries), audio_s / 3600, wall_s, *rates.values(), counts["matched"], counts["unknown"], counts["failed"],
        extra={
            "fields": {
                "job": "identify",
                **counts,
                "audio_h": round(audio_s / 3600, 4),
                "wall_s": round(wall_s, 2),
                **rates,
            }
        },
    )  # fmt: skip
    if strict and counts["failed"]:
        raise typer.Exit(1)
