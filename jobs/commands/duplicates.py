"""`songprint duplicates`: the same recording more than once in a library."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from jobs import options
from jobs.output.text import count
from jobs.runtime import log, messages

SHOWN = ("group", "kind", "song_id", "song_path", "format", "bitrate_kbps", "duration_s", "share", "start_s", "end_s",
         "other_id", "other_path", "other_format", "other_bitrate_kbps", "other_duration_s", "other_share",
         "other_start_s", "other_end_s")  # fmt: skip


def duplicates(
    store: options.StoreUrl,
    accept: Annotated[
        list[int] | None,
        typer.Option("--accept", metavar="GROUP", help="These stay: list this group no more; may be repeated."),
    ] = None,
    speed_range: Annotated[
        float,
        typer.Option(
            "--speed-range", metavar="PERCENT", help="Also find songs that play faster or slower than another one."
        ),
    ] = 0.0,
    output: options.Output = "-",
    format_: options.TableFormat = "table",
    bom: options.Bom = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    log_json: options.LogJson = False,
) -> None:
    """List songs that hold the same recording, and where.

    Nothing is deleted. Of a group of n songs there are n - 1 rows. The kinds are: identical file, same recording,
    different start or length, excerpt, and common intro or jingle, whose groups have numbers below 0. A group that was
    accepted is listed again when another song or file comes to it.

    Example: songprint duplicates --store ~/music.songprint --output duplicates.csv
    """
    messages(quiet, verbose, log_json)
    import pyarrow as pa

    from jobs.output import tables
    from pipeline import duplicate_detection
    from pipeline.store import Store

    tables.check_output(output)
    tables.check_bom(bom, format_ if output == "-" else output)
    began = time.monotonic()
    opened = Store.open(store)
    snapshot = opened.snapshot()
    table = duplicate_detection.duplicates(snapshot, speed_range)
    if accept:
        duplicate_detection.accept(opened, accept, table)
        left = [group not in accept for group in table["group"].to_pylist()]
        table = table.filter(pa.array(left, pa.bool_()))
    shown = (*SHOWN, "speed") if speed_range else SHOWN
    tables.write([table], duplicate_detection.DUPLICATES, output, format_, shown, bom=bom)
    pairs = {*zip(table["song_id"].to_pylist(), table["other_id"].to_pylist(), strict=True)}
    groups = set(table["group"].to_pylist())
    wall_s = time.monotonic() - began
    log.info(
        "%s and %s in %s, in %.1f s.",
        count(len(pairs), "pair"), count(len(groups), "group"), count(snapshot.n_songs, "song"), wall_s,
        extra={"fields": {"job": "duplicates", "pairs": len(pairs), "groups": len(groups), "wall_s": round(wall_s, 2)}},
    )  # fmt: skip
