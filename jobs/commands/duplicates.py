"""`songprint duplicates`: the same recording more than once in a library."""

from __future__ import annotations

import time

from jobs import options
from jobs.output.text import count
from jobs.runtime import log, messages

SHOWN = ("group", "kind", "song_id", "song_path", "share", "start_s", "end_s", "other_id", "other_path", "other_share",
         "other_start_s", "other_end_s")  # fmt: skip


def duplicates(
    store: options.StoreUrl,
    output: options.Output = "-",
    format_: options.TableFormat = "table",
    bom: options.Bom = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    log_json: options.LogJson = False,
) -> None:
    """List songs that hold the same recording, and where.

    Nothing is deleted. The kinds are: same recording, different start or length, excerpt, and common intro or jingle.

    Example: songprint duplicates --store ~/music.songprint --output duplicates.csv
    """
    messages(quiet, verbose, log_json)
    from jobs.output import tables
    from pipeline import duplicate_detection
    from pipeline.store import Store

    tables.check_output(output)
    tables.check_bom(bom, format_ if output == "-" else output)
    began = time.monotonic()
    snapshot = Store.open(store).snapshot()
    table = duplicate_detection.duplicates(snapshot)
    tables.write([table], duplicate_detection.DUPLICATES, output, format_, SHOWN, bom=bom)
    pairs = {*zip(table["song_id"].to_pylist(), table["other_id"].to_pylist(), strict=True)}
    groups = {group for group in table["group"].to_pylist() if group is not None}
    wall_s = time.monotonic() - began
    log.info(
        "%s and %s in %s, in %.1f s.",
        count(len(pairs), "pair"), count(len(groups), "group"), count(snapshot.n_songs, "song"), wall_s,
        extra={"fields": {"job": "duplicates", "pairs": len(pairs), "groups": len(groups), "wall_s": round(wall_s, 2)}},
    )  # fmt: skip
