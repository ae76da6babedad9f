"""`songprint evaluate`: how well the songs of a store are recognised, on clips cut from the user's own music."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from jobs import options
from jobs.running import messages

# Dejavu's README: 45 songs, clips heard by a laptop's microphone; seconds to match t = 1.364757 * length - 0.034373.
ORIGINAL = {1: 60.0, 2: 95.6, 3: 97.8, 4: 97.8, 5: 100.0, 6: 100.0}
ORIGINAL_MB = {"mp3": 339, "wav": 1885, "fingerprints": 377}


def evaluate(
    paths: options.Paths,
    store: options.StoreUrl,
    output: options.Output = "-",
    songs: Annotated[int, typer.Option("--songs", min=1, metavar="N", help="Draw at most so many songs.")] = 50,
    conditions: Annotated[
        str,
        typer.Option("--conditions", metavar="LIST", help="Of clean, codec, room10, room0, noise10, noise0, speed2."),
    ] = "clean,codec,room10,room0,noise10,noise0,speed2",
    lengths: Annotated[str, typer.Option("--lengths", metavar="LIST", help="Seconds of the clips.")] = "1,2,3,5,10",
    noise: Annotated[
        list[str] | None,
        typer.Option("--noise", metavar="PATH", help="Recordings of noise; voices by formula without."),
    ] = None,
    false_positives: Annotated[
        float, typer.Option("--false-positives", metavar="SHARE", help="Share of strangers that may be named.")
    ] = 0.01,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Another seed draws other clips.")] = 1,
    format_: options.TableFormat = options.Format.TABLE,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    log_json: options.LogJson = False,
) -> None:
    """Cut and degrade clips of your songs, identify them, and print how many were right.

    Each clip is asked twice: as it is, and with its song hidden, as a stranger. `--output` keeps one row per clip.

    Example: songprint evaluate ~/Music --store ~/music.songprint --songs 20 --output clips.csv
    """
    messages(quiet, verbose, log_json)
    from jobs import tables
    from pipeline import evaluation
    from pipeline.errors import ParameterError
    from pipeline.recognise import Query
    from pipeline.store import Store

    tables.check_output(output)
    wanted = tuple(name.strip() for name in conditions.split(","))
    if odd := [name for name in wanted if name not in evaluation.CONDITIONS]:
        raise ParameterError(f"--conditions: {', '.join(odd)} unknown; there are {', '.join(evaluation.CONDITIONS)}")
    try:
        seconds = tuple(float(part) for part in lengths.split(","))
    except ValueError:
        raise ParameterError(f"--lengths: {lengths!r} is no list of seconds; for example 1,2,5") from None
    plan = evaluation.Plan(wanted, seconds, songs, seed)
    snapshot = Store.open(store).snapshot()

    def progress(done: int, total: int) -> None:
        if sys.stderr.isatty() and not quiet:
            print(f"\r{done} of {total} songs", end="\n" if done == total else "", file=sys.stderr, flush=True)

    rows = evaluation.evaluate(
        paths, snapshot, Query(false_positives=false_positives), plan, noise or (), progress=progress
    )
    if output != "-":
        tables.write([rows], rows.schema, output, format_, rows.schema.names)
    parts = {
        "Recall": evaluation.recall(rows),
        "Clips of songs that are not in the library": evaluation.strangers(rows),
        "Confidence, stated and observed": evaluation.reliability(rows),
        "Seconds to match": evaluation.timing(rows),
        "Storage": evaluation.storage(snapshot),
    }
    for title, table in parts.items():
        if format_ is options.Format.TABLE:
            print(f"\n{title}")
        tables.write([table], table.schema, "-", format_, table.schema.names)
    if format_ is options.Format.TABLE:
        heard = ", ".join(f"{length} s {percent:g} %" for length, percent in ORIGINAL.items())
        print(f"\nThe original article (45 songs): microphone {heard};")
        print("seconds to match = 1.365 x length - 0.034; MB " + ", ".join(f"{k} {v}" for k, v in ORIGINAL_MB.items()))
