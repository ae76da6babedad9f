"""`songprint songs`: the songs that a store holds."""

from __future__ import annotations

from jobs import options

COLUMNS = (
    "song_id", "path", "title", "artist", "album", "duration_s", "landmarks", "digest",
    "decoder", "sample_rate", "decoded_share", "indexed_at",
    "album_artist", "track", "year", "isrc", "musicbrainz_recording_id", "acoustid",
)  # fmt: skip
SHOWN = ("song_id", "path", "title", "artist", "duration_s", "landmarks", "decoder", "decoded_share")


def songs(
    store: options.StoreUrl,
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
    table = Store.open(store).snapshot().songs(list(COLUMNS)).sort_by("song_id")
    tables.write([table], table.schema, output, format_, SHOWN, bom=bom)
