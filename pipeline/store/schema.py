"""The three tables: their columns, and the names of what their commits carry."""

from __future__ import annotations

import pyarrow as pa

SONGS = "songs"
POSTINGS = "postings"
CONSTELLATIONS = "constellations"

# Names of numbers that the commits of `songs` carry (Delta calls them application transactions).
NEXT_SONG_ID = "songprint.next_song_id"
FENCE = "songprint.fence"
PINS = {POSTINGS: "songprint.postings", CONSTELLATIONS: "songprint.constellations"}

# Key in the configuration of a table and in the metadata of a file: the settings that it was made with.
SETTINGS = "songprint.settings"

INDEXED = "indexed"
REMOVED = "removed"

SCHEMAS = {
    SONGS: pa.schema(
        [
            pa.field("song_id", pa.int32(), nullable=False),
            pa.field("path", pa.string(), nullable=False),
            pa.field("title", pa.string()),
            pa.field("artist", pa.string()),
            pa.field("album", pa.string()),
            pa.field("duration_s", pa.float64(), nullable=False),
            pa.field("landmarks", pa.int32(), nullable=False),
            pa.field("digest", pa.string(), nullable=False),
            pa.field("decoder", pa.string(), nullable=False),
            pa.field("sample_rate", pa.int32(), nullable=False),
            pa.field("decoded_share", pa.float64(), nullable=False),
            pa.field("size_bytes", pa.int64(), nullable=False),
            pa.field("modified_ns", pa.int64(), nullable=False),
            pa.field("status", pa.string(), nullable=False),
            pa.field("indexed_at", pa.timestamp("us", tz="UTC"), nullable=False),
        ]
    ),
    POSTINGS: pa.schema(
        [
            pa.field("hash", pa.int32(), nullable=False),
            pa.field("song_id", pa.int32(), nullable=False),
            pa.field("offset", pa.int32(), nullable=False),
        ]
    ),
    CONSTELLATIONS: pa.schema(
        [
            pa.field("song_id", pa.int32(), nullable=False),
            pa.field("frame_step", pa.list_(pa.int32()), nullable=False),
            pa.field("bin", pa.list_(pa.int16()), nullable=False),
            pa.field("level", pa.list_(pa.int8()), nullable=False),
        ]
    ),
}
