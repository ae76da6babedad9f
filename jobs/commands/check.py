"""`songprint check`: whether a store is damaged, and its repair."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs import options
from jobs.output.text import count
from jobs.runtime import executor, log, messages


def check(
    store: options.StoreUrl,
    repair: Annotated[
        bool, typer.Option("--repair", help="Repair what can be repaired, and list the songs to index again.")
    ] = False,
    workers: options.Workers = 0,
    scheduler: options.Scheduler = None,
    output: options.Output = "-",
    format_: options.TableFormat = "table",
    bom: options.Bom = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    log_json: options.LogJson = False,
) -> None:
    """Verify a store; exit with 1 and list what is wrong.

    Every file, count and invariant is verified. With --repair, damaged postings are made again from the songs' peaks;
    songs whose peaks are damaged are dropped and listed, to be indexed again. Let nothing else write to the store
    meanwhile.

    Example: songprint check --store ~/music.songprint
    """
    messages(quiet, verbose, log_json)
    import pyarrow as pa

    from jobs.output import tables
    from pipeline.store import Store

    tables.check_output(output)
    tables.check_bom(bom, format_ if output == "-" else output)
    with executor(workers, scheduler, None, small=workers <= 1 and not scheduler) as running:
        if repair:
            report = Store.repair(store, map=running.map)
            for sentence in report.done:
                log.info("%s", sentence)
            rows = [("lost", path) for path in report.lost]
            left = Store.open(store).check(map=running.map)
        else:
            rows, left = [], Store.open(store).check(map=running.map)
    rows += [(problem.place, problem.what) for problem in left]
    schema = pa.schema([("place", pa.string()), ("problem", pa.string())])
    table = pa.Table.from_pylist([{"place": place, "problem": what} for place, what in rows], schema=schema)
    if rows or output != "-" or format_ != "table":
        tables.write([table], schema, output, format_, bom=bom)
    if left:
        log.error(
            "%s; `songprint check --repair --store %s` brings back what can be.", count(len(left), "problem"), store
        )
        raise typer.Exit(1)
    log.info("The store is whole: %s.", count(Store.open(store).snapshot().n_songs, "song"))
