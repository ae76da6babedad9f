"""`songprint compact`: a store made small and fast again."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs import options
from jobs.output.text import count
from jobs.runtime import executor, log, messages

# Rewriting less than this in one process takes less time than starting several.
SMALL_BYTES = 300_000_000

Grace = Annotated[
    int,
    typer.Option(
        "--grace-hours",
        min=0,
        metavar="HOURS",
        help="Keep replaced files and leftovers of dead jobs for so long, for queries that run; 0 deletes them now.",
    ),
]


def compact(
    store: options.StoreUrl,
    grace_hours: Grace = 24,
    workers: options.Workers = 0,
    scheduler: options.Scheduler = None,
    format_: options.TableFormat = "table",
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    log_json: options.LogJson = False,
) -> None:
    """Merge small files, drop removed songs, clean up.

    Queries go on meanwhile. What jobs left that died is cleaned, too.

    Example: songprint compact --store ~/music.songprint
    """
    messages(quiet, verbose, log_json)
    import dataclasses

    from jobs.output import tables
    from pipeline.store import Store

    opened = Store.open(store)
    small = opened.snapshot().size()["bytes"] < SMALL_BYTES and workers <= 1
    with executor(workers, scheduler, None, small=small) as running:
        done = opened.compact(map=running.map, grace_hours=grace_hours)
    tables.write_object(dataclasses.asdict(done), format_)
    if done.bytes_waiting:
        log.info(
            "%.1f MB of replaced files stay for queries that may still read them; compact again in %s.",
            done.bytes_waiting / 1e6,
            count(grace_hours, "hour"),
        )
