"""`songprint remove`, `compact` and `check`: keeping a store in order for years."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import options
from jobs.runtime import executor, log, messages
from pipeline.errors import CatalogError
from pipeline.paths import is_url

if TYPE_CHECKING:
    import pyarrow as pa


# Rewriting or reading less than this in one process takes less time than starting several.
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


def remove(
    songs: Annotated[
        list[str], typer.Argument(metavar="SONG…", help="Song ids, paths, or globs of paths such as '*/demos/*'.")
    ],
    store: options.StoreUrl,
    output: options.Output = "-",
    format_: options.TableFormat = options.Format.TABLE,
    quiet: options.Quiet = False,
    log_json: options.LogJson = False,
) -> None:
    """Remove songs from a store, by id, path or glob; their audio is not needed.

    No query names them from now on; `songprint compact` gives the space back. Prints what was removed.

    Example: songprint remove '*/demos/*' 17 --store ~/music.songprint
    """
    messages(quiet, False, log_json)
    import pyarrow as pa

    from jobs.output import tables
    from pipeline.store import Store

    tables.check_output(output)
    opened = Store.open(store)
    table = opened.snapshot().songs(["song_id", "path", "title", "artist"])
    ids = chosen(table, songs)
    removed = opened.remove(ids)
    gone = table.filter(pa.array([song_id in ids for song_id in table["song_id"].to_pylist()], pa.bool_()))
    tables.write([gone], gone.schema, output, format_, gone.schema.names)
    log.info(
        "%d songs removed, %d are left.", removed, opened.snapshot().n_songs, extra={"fields": {"removed": removed}}
    )


def chosen(table: pa.Table, songs: Iterable[str]) -> set[int]:
    """The ids of the songs that a user means: each word is an id, a path, or a glob whose ``*`` also crosses folders.

    Raises
    ------
    CatalogError
        If a word means no song.
    """
    paths = dict(zip(table["path"].to_pylist(), table["song_id"].to_pylist(), strict=True))
    known = set(paths.values())
    found: set[int] = set()
    for word in songs:
        if word.isdecimal() and int(word) in known:
            found.add(int(word))
            continue
        whole = word if is_url(word) else os.path.abspath(word)
        here = {paths[path] for path in (word, whole) if path in paths}
        here = here or {song_id for path, song_id in paths.items() if fnmatch.fnmatchcase(path, word)}
        if not here:
            raise CatalogError(f"{word}: the store has no such song; `songprint songs` lists ids and paths")
        found |= here
    return found


def compact(
    store: options.StoreUrl,
    grace_hours: Grace = 24,
    workers: options.Workers = 0,
    scheduler: options.Scheduler = None,
    format_: options.TableFormat = options.Format.TABLE,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    log_json: options.LogJson = False,
) -> None:
    """Merge small files, drop removed songs, clean what jobs left that died; queries go on meanwhile.

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
    tables.show(dataclasses.asdict(done), format_)
    if done.bytes_waiting:
        log.info(
            "%.1f MB of replaced files stay for queries that may still read them; compact again in %d hours.",
            done.bytes_waiting / 1e6,
            grace_hours,
        )


def check(
    store: options.StoreUrl,
    repair: Annotated[
        bool, typer.Option("--repair", help="Bring back what can be, and say which songs to index again.")
    ] = False,
    workers: options.Workers = 0,
    scheduler: options.Scheduler = None,
    output: options.Output = "-",
    format_: options.TableFormat = options.Format.TABLE,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    log_json: options.LogJson = False,
) -> None:
    """Verify every file, count and invariant of a store; exit with 1 and say what is wrong.

    With --repair, damaged postings are made again from the songs' peaks; songs whose peaks are damaged are dropped and
    listed, to be indexed again. Let nothing else write to the store meanwhile.

    Example: songprint check --store ~/music.songprint
    """
    messages(quiet, verbose, log_json)
    import pyarrow as pa

    from jobs.output import tables
    from pipeline.store import Store

    tables.check_output(output)
    with executor(workers, scheduler, None, small=workers <= 1 and not scheduler) as running:
        if repair:
            mended = Store.repair(store, map=running.map)
            for sentence in mended.done:
                log.info("%s", sentence)
            rows = [("lost", path) for path in mended.lost]
            left = Store.open(store).check(map=running.map)
        else:
            rows, left = [], Store.open(store).check(map=running.map)
    rows += [(problem.place, problem.what) for problem in left]
    schema = pa.schema([("place", pa.string()), ("problem", pa.string())])
    table = pa.Table.from_pylist([{"place": place, "problem": what} for place, what in rows], schema=schema)
    if rows or output != "-" or format_ is not options.Format.TABLE:
        tables.write([table], schema, output, format_, schema.names)
    if left:
        log.error("%d problems; `songprint check --repair --store %s` brings back what can be.", len(left), store)
        raise typer.Exit(1)
    log.info("The store is whole: %d songs.", Store.open(store).snapshot().n_songs)
