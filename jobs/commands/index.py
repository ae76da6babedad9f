"""`songprint index`: songs into a store."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from jobs import options
from jobs.output.text import count
from jobs.runtime import executor, log, messages, pace, progress_bar, speed

# Starting worker processes costs as much as fingerprinting this much.
SMALL_AUDIO_S = 900.0


def index(
    paths: options.Paths,
    store: options.StoreUrl,
    failures: Annotated[
        Path | None, typer.Option("--failures", metavar="FILE", help="Write the files that failed, with reasons.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--setting", metavar="NAME=VALUE", help="A setting of a new store, such as peaks_per_s=40; may be repeated."
        ),
    ] = None,
    workers: options.Workers = 0,
    scheduler: options.Scheduler = None,
    limit_s: options.LimitS = None,
    stream: options.Stream = None,
    retry: Annotated[
        bool, typer.Option("--retry", help="Also try files that failed before and have not changed since.")
    ] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove the songs below each PATH of which there is no file any more.")
    ] = False,
    strict: options.Strict = False,
    performance_report: options.PerformanceReport = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    log_json: options.LogJson = False,
) -> None:
    """Decode, fingerprint and add songs to a store.

    Songs that the store has already are skipped, by content, so an interrupted run is simply started again. The store
    follows the files: one that was moved or has other tags keeps its song, one with other audio replaces it. A file
    that cannot be read is listed and counted, stops nothing, and is not tried again until it changes. A PATH may also
    be another store: its songs are added without their audio.

    Example: songprint index ~/Music --store ~/music.songprint --failures failures.csv
    """
    messages(quiet, verbose, log_json)
    import pyarrow as pa

    from jobs.output import tables
    from pipeline import catalog
    from pipeline.fingerprinting.settings import Settings
    from pipeline.indexing import absorb, audio_estimate_s, index_entries, split_paths
    from pipeline.store import Store

    if failures is not None:
        tables.check_output(str(failures))
    stores, files = split_paths(paths)
    found = catalog.find(files) if files else catalog.Found([], Counter())
    entries = found.entries
    small = sum(map(audio_estimate_s, entries)) < SMALL_AUDIO_S and workers <= 1
    wanted = Settings.parse(settings) if settings else None
    if wanted is None and stores and not Store.exists(store):
        wanted = Store.open(stores[0]).settings
    opened = Store.open_or_create(store, wanted)
    with (
        executor(workers, scheduler, performance_report, small=small) as running,
        progress_bar("index", quiet, log_json) as progress,
    ):
        taken, known = absorb(stores, opened, running)
        report = index_entries(
            entries,
            opened,
            running,
            folders=files,
            limit_s=limit_s,
            stream=stream,
            retry=retry,
            prune=prune,
            progress=progress,
        )
    if stores:
        log.info("%s: %s added without audio, %d already there.", ", ".join(stores), count(taken, "song"), known)
    if report.moved:
        log.info("%s found under new paths.", count(report.moved, "song"))
    if report.retagged:
        log.info("%s with other tags.", count(report.retagged, "song"))
    if report.replaced:
        log.info("%s replaced: other audio lies under the path.", count(report.replaced, "song"))
    if report.missing and not prune:
        missing = count(report.missing, "song")
        log.info("%s without a file: `songs --missing` lists them, `index --prune` removes them.", missing)
    for failure in report.failures:
        fields = {"path": failure.path, "reason": failure.reason}
        log.warning("%s: %s", failure.path, failure.reason, extra={"fields": fields})
    if report.failed_before:
        files_ = count(len(report.failed_before), "file")
        log.info("%s failed before and did not change; --retry tries again.", files_)
    if failures is not None:
        schema = pa.schema([("path", pa.string()), ("reason", pa.string())])
        failed = sorted((*report.failures, *report.failed_before), key=lambda failure: failure.path)
        rows = [{"path": failure.path, "reason": failure.reason} for failure in failed]
        tables.write([pa.Table.from_pylist(rows, schema=schema)], schema, str(failures))
    size = opened.snapshot().size()
    rates = speed(report.audio_s, report.busy_s, report.wall_s)
    passed_over = f"; {catalog.kinds_text(found.passed_over)} passed over" if found.passed_over else ""
    done = (
        f"{count(report.added, 'song')} added{pace(report.audio_s, report.busy_s, report.wall_s)}, "
        f"{report.present} already there, {report.cut_short} cut short, {len(report.failures)} failed{passed_over}; the"
    )
    log.info(
        "%s store has %s, %.2f h, %.1f MB.",
        done if files else "The", count(size["songs"], "song"), size["hours"], size["bytes"] / 1e6,
        extra={
            "fields": {
                "job": "index",
                "added": report.added,
                "present": report.present,
                "moved": report.moved,
                "retagged": report.retagged,
                "replaced": report.replaced,
                "missing": report.missing,
                "removed": report.removed,
                "taken": taken,
                "cut_short": report.cut_short,
                "failed": len(report.failures),
                "failed_before": len(report.failed_before),
                "passed_over": found.passed_over.total(),
                "audio_h": round(report.audio_s / 3600, 4),
                "wall_s": round(report.wall_s, 2),
                **rates,
            }
        },
    )  # fmt: skip
    if strict and report.failures:
        raise typer.Exit(1)
