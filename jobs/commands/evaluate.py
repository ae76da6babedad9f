"""`songprint evaluate`: how many of a user's own songs are found, on clips that are cut from them."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Annotated

import typer

from jobs import options
from jobs.runtime import messages, progress_bar


def evaluate(
    paths: options.Paths,
    store: options.StoreUrl,
    output: options.Output = "-",
    songs: Annotated[int, typer.Option("--songs", min=1, metavar="N", help="Draw at most so many songs.")] = 50,
    conditions: Annotated[
        str,
        typer.Option(
            "--conditions",
            metavar="LIST",
            help="Of clean, codec, room10 (noise at 10 dB), noise0 (no room), speed2 and tempo10 (percent), pitch2 "
            "(semitones); also other numbers.",
        ),
    ] = "clean,codec,room10,room0,noise10,noise0,speed2",
    lengths: Annotated[
        str, typer.Option("--lengths", metavar="LIST", help="Seconds of the clips, up to 15.")
    ] = "1,2,3,4,5,10",
    noise: Annotated[
        list[str] | None,
        typer.Option("--noise", metavar="PATH", help="Recordings of noise; voices by formula without."),
    ] = None,
    clips: Annotated[
        int, typer.Option("--clips", min=1, metavar="N", help="Clips of each song, condition and length.")
    ] = 1,
    hide: Annotated[
        str,
        typer.Option(
            "--hide", metavar="WHAT", help="Hide the song, or all of its album or artist, for out-of-library clips."
        ),
    ] = "song",
    pictures: Annotated[
        Path | None, typer.Option("--pictures", metavar="FOLDER", help="Draw recall, confidence and time into it.")
    ] = None,
    false_positives: options.FalsePositives = 0.01,
    stream: options.Stream = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Another seed draws other clips.")] = 1,
    format_: options.TableFormat = "table",
    bom: options.Bom = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    log_json: options.LogJson = False,
) -> None:
    """Measure how many clips of your own songs are named rightly.

    Clips are cut and degraded. Each is identified twice: as it is, and with its song, album or artist hidden, as an
    out-of-library clip. `--output` keeps one row per clip. Rooms are simulated where the extra `evaluation` is
    installed, and by formula without.

    Example: songprint evaluate ~/Music --store ~/music.songprint --songs 20 --output clips.csv
    """
    messages(quiet, verbose, log_json)
    from jobs.output import tables
    from pipeline.errors import ParameterError
    from pipeline.evaluation import experiment, metrics
    from pipeline.evaluation.conditions import Plan, make_surroundings
    from pipeline.matching.types import Query
    from pipeline.store import Store

    tables.check_output(output)
    tables.check_bom(bom, output)
    try:
        seconds = tuple(float(part) for part in lengths.split(","))
    except ValueError:
        raise ParameterError(f"--lengths: {lengths!r} is no list of seconds; for example 1,2,5") from None
    plan = Plan(tuple(name.strip() for name in conditions.split(",")), seconds, songs, seed, clips, hide)
    query = Query(false_positives=false_positives)
    if pictures is not None:
        if importlib.util.find_spec("matplotlib") is None:
            raise ParameterError("--pictures needs the package matplotlib: pip install 'songprint[evaluation]'")
        os.makedirs(pictures, exist_ok=True)
    snapshot = Store.open(store).snapshot()
    surroundings = make_surroundings(noise or (), seed)

    with progress_bar("evaluate", quiet, log_json) as progress:
        rows = experiment.evaluate(paths, snapshot, query, plan, surroundings, progress, stream)
    if output != "-":
        tables.write([rows], rows.schema, output, format_, bom=bom)
    recall, timing, storage = metrics.recall(rows), metrics.timing(rows), metrics.storage(snapshot)
    parts = {
        "made": ("Made with", metrics.provenance(plan, surroundings, query)),
        "recall": ("Recall", recall),
        "out_of_library": (
            "Out-of-library clips named: high_percent is the upper bound (95 %)",
            metrics.out_of_library(rows),
        ),
        "out_of_library_by_length": (
            "The same by condition and length, in seconds",
            metrics.out_of_library_by_length(rows),
        ),
        "confidence": ("Confidence, stated and observed", metrics.reliability(rows)),
        "candidates": (
            "The same of all best candidates, named or not, of clips at the song's own speed",
            metrics.candidate_reliability(rows),
        ),
        "timing": ("Milliseconds to match, decoding excluded", timing),
        "storage": ("Storage", storage),
        "article": (f"Beside {metrics.ARTICLE}", metrics.compare_with_article(recall, timing, storage)),
    }
    if format_ == "json":
        print(json.dumps({name: table.to_pylist() for name, (_, table) in parts.items()}, indent=2))
    else:
        for title, table in parts.values():
            if format_ == "table":
                print(title)
            tables.write([table], table.schema, "-", format_)
            print()
    if pictures is not None:
        from pipeline import plots

        matches, times = metrics.matches(rows), metrics.match_times(rows)
        if recall.num_rows:
            plots.save(plots.recall_by_condition(recall.to_pylist()), pictures / "recall.png")
            plots.save(plots.time_to_match(times.length_s, times.match_ms), pictures / "time.png")
        plots.save(plots.reliability(matches.confidence, matches.is_right), pictures / "confidence.png")
