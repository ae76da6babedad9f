"""`songprint upgrade`: a store of the format before, converted without the audio."""

from __future__ import annotations

from jobs import options
from jobs.runtime import executor, log, messages


def upgrade(
    store: options.StoreUrl,
    workers: options.Workers = 0,
    scheduler: options.Scheduler = None,
    format_: options.TableFormat = "table",
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    log_json: options.LogJson = False,
) -> None:
    """Convert a store of format 2, without the audio.

    It needs space for a second copy until it is done. If it is ended at any moment, the store is what it was, or
    converted; the same command goes on. Let nothing else use the store meanwhile.

    Example: songprint upgrade --store ~/music.songprint
    """
    messages(quiet, verbose, log_json)
    import dataclasses

    from jobs.output import tables
    from pipeline.store import Store

    with executor(workers, scheduler, None, small=workers <= 1 and not scheduler) as running:
        done = Store.upgrade(store, map=running.map)
    if done is None:
        log.info("The store has format 3 already.")
        return
    tables.write_object(dataclasses.asdict(done), format_)
    log.info("The store has format 3 now.")
