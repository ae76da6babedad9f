"""`songprint remove`: songs out of a store."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import options
from jobs.output.text import count
from jobs.runtime import log, messages
from pipeline.errors import CatalogError
from pipeline.paths import is_url

if TYPE_CHECKING:
    import pyarrow as pa


def remove(
    songs: Annotated[
        list[str], typer.Argument(metavar="SONG…", help="Song ids, paths, or globs of paths such as '*/demos/*'.")
    ],
    store: options.StoreUrl,
    output: options.Output = "-",
    format_: options.TableFormat = "table",
    bom: options.Bom = False,
    quiet: options.Quiet = False,
    log_json: options.LogJson = False,
) -> None:
    """Remove songs from a store, by id, path or glob.

    Their audio is not needed. No query names them from now on; `songprint compact` gives the space back. Prints what
    was removed.

    Example: songprint remove '*/demos/*' 17 --store ~/music.songprint
    """
    messages(quiet, False, log_json)
    import pyarrow as pa

    from jobs.output import tables
    from pipeline.store import Store

    tables.check_output(output)
    tables.check_bom(bom, format_ if output == "-" else output)
    opened = Store.open(store)
    table = opened.snapshot().songs(["song_id", "path", "title", "artist"])
    ids = select_songs(table, songs)
    n_removed = opened.remove(ids)
    removed_songs = table.filter(pa.array([song_id in ids for song_id in table["song_id"].to_pylist()], pa.bool_()))
    tables.write([removed_songs], removed_songs.schema, output, format_, bom=bom)
    log.info(
        "%s removed, %d left.", count(n_removed, "song"), opened.snapshot().n_songs,
        extra={"fields": {"removed": n_removed}},
    )  # fmt: skip


def select_songs(table: pa.Table, songs: Iterable[str]) -> set[int]:
    """The ids of the songs that some words choose: an id, a path, or a glob whose ``*`` also crosses folders.

    Raises
    ------
    CatalogError
        If a word chooses no song.
    """
    paths = dict(zip(table["path"].to_pylist(), table["song_id"].to_pylist(), strict=True))
    known = set(paths.values())
    found: set[int] = set()
    for word in songs:
        if word.isdecimal() and int(word) in known:
            found.add(int(word))
            continue
        absolute = word if is_url(word) else os.path.abspath(word)
        chosen = {paths[path] for path in (word, absolute) if path in paths}
        chosen = chosen or {song_id for path, song_id in paths.items() if fnmatch.fnmatchcase(path, word)}
        if not chosen:
            raise CatalogError(f"{word}: the store has no such song; `songprint songs` lists ids and paths")
        found |= chosen
    return found
