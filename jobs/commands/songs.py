"""`songprint songs`: the songs that a store holds."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs import options

COLUMNS = (
    "song_id", "path", "title", "artist", "album", "duration_s", "landmarks", "digest",
    "decoder", "sample_rate", "decoded_share", "indexed_at",
    "album_artist", "track", "year", "isrc", "musicbrainz_recording_id", "acoustid",
    "other_paths",
)  # fmt: skip
SHOWN = ("song_id", "path", "title", "artist", "duration_s", "landmarks", "decoder", "decoded_share")


def songs(
    store: options.StoreUrl,
    missing: Annotated[
        bool, typer.Option("--missing", help="Only songs of which there is no file any more; looks at every path.")
    ] = False,
    output: options.Output = "-",
    format_: options.TableFormat = "table",
    bom: options.Bom = False,
) -> None:
    """List the songs of a store.

    Example: songprint songs --store ~/music.songprint --output songs.csv
    """
    from jobs.output import tables
    from pipeline.store import Store

    tables.check_output(output)
    tables.check_bom(bom, format_ if output == "-" else output)
    snapshot = Store.open(store).snapshot()
    table = snapshot.songs(list(COLUMNS))
    if missing:
        from pipeline.indexing import missing_songs

        table = missing_songs(snapshot).select(list(COLUMNS))
    tables.write([table], table.schema, output, format_, SHOWN, bom=bom)
