"""`songprint remove`: songs out of a store."""

from __future__ import annotations

import fnmatch
import glob
import os
import unicodedata
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
    table = opened.snapshot().songs(["song_id", "path", "title", "artist", "other_paths"])
    ids = select_songs(table, songs)
    n_removed = opened.remove(ids)
    removed_songs = table.drop_columns("other_paths").filter(
        pa.array([song_id in ids for song_id in table["song_id"].to_pylist()], pa.bool_())
    )
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
    paths: dict[str, set[int]] = {}
    for path, song_id in zip(map(_nfc, table["path"].to_pylist()), table["song_id"].to_pylist(), strict=True):
        paths.setdefault(path, set()).add(song_id)
    known = set(table["song_id"].to_pylist())
    found: set[int] = set()
    for word in songs:
        if word.isdecimal() and int(word) in known:
            found.add(int(word))
            continue
        given, absolute = _nfc(word), _nfc(word if is_url(word) else os.path.abspath(word))
        chosen = paths.get(given, set()) | paths.get(absolute, set())
        if not chosen:
            below = _nfc(
                os.path.normpath(os.path.join(glob.escape(os.getcwd()), word))
            )  # a relative glob is one of this folder
            chosen = {one for path, ids in paths.items() if _matches(path, given, below) for one in ids}
        if not chosen:
            raise CatalogError(f"{word}: {_why_none({given, absolute}, table)}; `songprint songs` lists ids and paths")
        found |= chosen
    return found


def _matches(path: str, *patterns: str) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def _nfc(path: str) -> str:
    """The same name in one of its Unicode forms: a Mac writes é as two characters, other systems as one."""
    return unicodedata.normalize("NFC", path)


def _why_none(words: set[str], table: pa.Table) -> str:
    for song in table.to_pylist():
        if not words.isdisjoint(map(_nfc, song["other_paths"] or ())):
            return f"this file is the same as song {song['song_id']}, {song['path']}; give that"
    return "the store has no such song"
