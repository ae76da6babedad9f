"""`songprint demo`: index and identify music made by formula, in a minute, with nothing to download."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs import options
from jobs.output.text import count, song_title
from jobs.runtime import executor, messages, progress_bar

if TYPE_CHECKING:
    from pipeline.simulation.demo import Clip


# A match is right when it is so near to the true place. A repeat elsewhere in a song would be right too; these songs
# have none.
RIGHT_WITHIN_S = 0.5


def demo(
    folder: Annotated[
        Path, typer.Option("--folder", metavar="FOLDER", help="Where songs, clips and the store are made and stay.")
    ] = Path("demo"),
    workers: options.Workers = 0,
    quiet: options.Quiet = False,
) -> None:
    """Make a small library by formula, and identify noisy clips.

    Needs nothing, takes about a minute, and shows the result. Everything stays in the folder, so a second run finds it
    there.

    Example: songprint demo
    """
    messages(quiet, verbose=False, log_json=False)
    import pyarrow as pa

    from jobs.output import tables
    from jobs.output.html_report import page
    from pipeline import catalog
    from pipeline.errors import ParameterError
    from pipeline.identification import identify_entries
    from pipeline.indexing import index_entries
    from pipeline.matching.types import Query
    from pipeline.simulation import demo
    from pipeline.store import Store

    if folder.exists() and not folder.is_dir():
        raise ParameterError(f"{folder}: a file; --folder takes a folder, which is made if it is not there")
    began = time.monotonic()
    music, store = folder / "music", folder / "store"
    with executor(workers, None, None, small=False) as running:
        print(f"Composing {demo.N_SONGS} songs of {demo.SONG_S:.0f} s, in {len(demo.SUFFIXES)} formats: {music}")
        demo.compose(folder, running.map)
        clips = demo.cut(folder)
        opened = Store.open_or_create(str(store))
        with progress_bar("index", quiet, False) as progress:
            report = index_entries(catalog.walk([str(music)]), opened, running, progress=progress)
        print(
            f"Indexed {count(report.added, 'song')}, {report.audio_s / 60:.0f} minutes of audio, "
            f"in {report.wall_s:.1f} s "
            f"({report.present} were there already): {store}"
        )
        identify_began = time.monotonic()
        rows: dict[str, dict[str, Any]] = {}
        with page(folder / "report.html", opened, Query()) as add_to_page:
            for batch in identify_entries(catalog.walk([clip.path for clip in clips]), opened, executor=running):
                add_to_page(batch)
                rows |= {row["clip"]: row for row in reversed(batch.table.to_pylist())}
        seconds = time.monotonic() - identify_began
    lines = [_line(clip, rows[clip.path]) for clip in clips]
    print(f"Identified {len(clips)} clips in {seconds:.1f} s: {folder / 'clips'}\n")
    columns = ("clip", "seconds", "condition", "match", "at", "confidence", "")
    schema = pa.schema([(name, pa.string()) for name in columns])
    tables.write([pa.Table.from_pylist([dict(zip(columns, line, strict=True)) for line in lines], schema)], schema)
    right = sum(line[-1] == "right" for line in lines)
    size = opened.snapshot().size()
    print(
        f"\n{right} of {len(clips)} clips are right, after {time.monotonic() - began:.0f} s in all.\n"
        f"The store has {size['songs']} songs in {size['bytes'] / 1e6:.1f} MB: {store}\n"
        f"The matches as a page: {folder / 'report.html'}\n"
        "Your own music next:\n"
        "  songprint index ~/Music --store ~/music.songprint\n"
        "  songprint identify some-recording.m4a --store ~/music.songprint"
    )


def _line(clip: Clip, row: dict[str, Any]) -> tuple[str, ...]:
    shown = (os.path.basename(clip.path), f"{clip.length_s:.0f}", clip.condition)
    if row["status"] != "matched":
        right = row["status"] == "unknown" and clip.song_path is None
        return (*shown, row["status"], "", "", "right" if right else "missed" if clip.song_path else row["message"])
    song_starts_s = row["song_start_s"] - row["clip_start_s"]
    right = os.path.abspath(clip.song_path or "") == row["song_path"]
    right = right and abs(song_starts_s - clip.start_s) <= RIGHT_WITHIN_S
    return (
        *shown,
        song_title(row),
        f"{song_starts_s:.1f} s",
        f"{row['confidence']:.3f}",
        "right" if right else "wrong",
    )
