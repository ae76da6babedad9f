"""`songprint identify`: recordings to the songs in them."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import options
from jobs.output.text import count
from jobs.runtime import executor, log, messages, pace, progress_bar, speed

if TYPE_CHECKING:
    import pyarrow as pa


# Starting worker processes costs as much as identifying this many bytes of clips.
SMALL_BYTES = 20_000_000


def identify(
    paths: options.Paths,
    store: options.StoreUrl,
    output: options.Output = "-",
    format_: options.MatchFormat = "table",
    bom: options.Bom = False,
    false_positives: options.FalsePositives = 0.01,
    speed_range: Annotated[
        float,
        typer.Option("--speed-range", metavar="PERCENT", help="Find songs played up to so much faster or slower."),
    ] = 0.0,
    pitch_range: options.PitchRange = 0.0,
    tempo_range: options.TempoRange = 0.0,
    gaps: Annotated[
        bool, typer.Option("--gaps", help="Also a row for each stretch of a recording in which nothing is known.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE.html", help="Also write a page to look at: timelines and a table."),
    ] = None,
    workers: options.Workers = 0,
    scheduler: options.Scheduler = None,
    limit_s: options.LimitS = None,
    stream: options.Stream = None,
    strict: options.Strict = False,
    performance_report: options.PerformanceReport = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    log_json: options.LogJson = False,
) -> None:
    """Name the songs in clips and recordings, and where in them.

    One row per match, however long the recording; a clip in which no song is found is `unknown`. As --format cue,
    audacity or jams, each recording becomes a cue sheet, a label track or a JAMS file; give --output a folder for
    several.

    For a run of days, end --output in a slash, as matches.parquet/: the rows then come as files of a folder, and
    the same command goes on after an interruption.

    Example: songprint identify ~/recordings --store ~/music.songprint --output matches.csv --report matches.html
    """
    messages(quiet, verbose, log_json)
    from jobs.output import dataset, recordings, tables
    from jobs.output.formats import RECORDINGS
    from jobs.output.html_report import check_report, page
    from jobs.output.summary import SUMMARY, summarize
    from pipeline import catalog
    from pipeline.identification import identify_entries
    from pipeline.match_rows import MATCHES, with_gaps
    from pipeline.matching.types import Query
    from pipeline.paths import printable_path
    from pipeline.store import Store

    by_recording = format_ in RECORDINGS
    in_parts = dataset.is_dataset(output) and not by_recording
    if not by_recording and not in_parts:
        tables.check_output(output)
    tables.check_bom(bom, format_ if output == "-" else output)
    check_report(report)
    query = Query(
        false_positives=false_positives, speed_range=speed_range, pitch_range=pitch_range, tempo_range=tempo_range
    )
    opened = Store.open(store)
    found = catalog.find(paths)
    entries = found.entries
    if by_recording:
        recordings.check(format_, output, len(entries))
    if in_parts:
        run = {
            "store": opened.url,
            "false_positives": false_positives,
            "speed_range": speed_range,
            "pitch_range": pitch_range,
            "tempo_range": tempo_range,
            "gaps": gaps,
            "stream": stream,
        }
        done = dataset.open_dataset(output, run)
        total = len(entries)
        entries = [entry for entry in entries if printable_path(entry.path) not in done]
        if len(entries) < total:
            log.info("%d of %s have an answer in %s already.", total - len(entries), count(total, "clip"), output)
    # One recording is one task: other processes could not help.
    small = (sum(entry.size_bytes for entry in entries) < SMALL_BYTES or len(entries) == 1) and workers <= 1
    began = time.monotonic()
    audio_s = busy_s = 0.0
    durations_s: dict[str, float] = {}
    counts: dict[str, int] = {"matched": 0, "unknown": 0, "failed": 0}

    with (
        executor(workers, scheduler, performance_report, small=small) as running,
        progress_bar("identify", quiet, log_json) as progress,
        page(report, opened, query) as add_to_page,
    ):

        def matches() -> Iterator[pa.Table]:
            nonlocal audio_s, busy_s
            for rows in identify_entries(
                entries, opened, query, running, limit_s=limit_s, stream=stream, progress=progress
            ):
                audio_s += rows.audio_s
                busy_s += rows.busy_s
                statuses = dict(zip(rows.table["clip"].to_pylist(), rows.table["status"].to_pylist(), strict=True))
                for status in statuses.values():
                    counts[status] += 1
                if by_recording:
                    durations_s.update(rows.duration_s)
                    log_clips(rows.table, ("unknown", "failed"), logging.WARNING)  # they get no sheet
                else:  # people see the rows, programs that read a log see the log
                    log_clips(rows.table, ("failed",), logging.WARNING if log_json else logging.DEBUG)
                table = with_gaps(rows) if gaps or (by_recording and RECORDINGS[format_].gaps) else rows.table
                add_to_page(dataclasses.replace(rows, table=table) if gaps else rows)
                yield table

        if by_recording:
            recordings.write(matches(), format_, output, durations_s)
        elif in_parts:
            dataset.write(matches(), MATCHES, output, bom)
        elif output == "-" and format_ == "table":
            tables.write(summarize(matches()), SUMMARY)
        else:
            tables.write(matches(), MATCHES, output, format_, bom=bom)
    wall_s = time.monotonic() - began
    rates = speed(audio_s, busy_s, wall_s)
    log.info(
        "%s%s: %d matched, %d unknown, %d failed%s.",
        count(len(entries), "clip"), pace(audio_s, busy_s, wall_s), *counts.values(),
        f"; {catalog.kinds_text(found.passed_over)} passed over" if found.passed_over else "",
        extra={
            "fields": {
                "job": "identify",
                **counts,
                "passed_over": found.passed_over.total(),
                "audio_h": round(audio_s / 3600, 4),
                "wall_s": round(wall_s, 2),
                **rates,
            }
        },
    )  # fmt: skip
    if strict and counts["failed"]:
        raise typer.Exit(1)


def log_clips(table: pa.Table, statuses: Sequence[str], level: int) -> None:
    """Name the clips of these statuses, and why."""
    for clip, status, message in zip(*(table[name].to_pylist() for name in ("clip", "status", "message")), strict=True):
        if status in statuses:
            log.log(
                level, "%s: %s%s", clip, status, f": {message}" if message else "",
                extra={"fields": {"path": clip, "status": status, "reason": message}},
            )  # fmt: skip
