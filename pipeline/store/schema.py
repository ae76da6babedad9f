"""The three tables: their columns and partitions, and the names of what their commits carry."""

from __future__ import annotations

import dataclasses

import pyarrow as pa

from pipeline.audio.tags import Tags

SONGS = "songs"
POSTINGS = "postings"
CONSTELLATIONS = "constellations"

# Names of numbers that the commits of `songs` carry (Delta calls them application transactions).
NEXT_SONG_ID = "songprint.next_song_id"
NEXT_SHARD = "songprint.next_shard"
NEXT_FRAME = "songprint.next_frame"
FENCE = "songprint.fence"
PINS = {POSTINGS: "songprint.postings", CONSTELLATIONS: "songprint.constellations"}

# Key in the log entry of a commit: what tells it from all others.
COMMIT = "songprint.commit"

# Key in the configuration of a table and in the metadata of a file: the settings that it was made with.
SETTINGS = "songprint.settings"

# The column that a table is partitioned by: it stands in the log and in the folder's name, not in the files.
SHARD = "shard"
PARTITIONED_BY = {POSTINGS: SHARD}

# Frames of a shard, in the configuration of the songs table.
SHARD_FRAMES = "songprint.shard_frames"

# What a token of `accepted` begins with when the songs of the group only have a part in common.
PART = "part-"
INDEXED = "indexed"
REMOVED = "removed"

# The columns of `songs` that hold a file's tags.
TAGS = tuple(field.name for field in dataclasses.fields(Tags))

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
            pa.field("shard", pa.int32(), nullable=False),
            pa.field("first_frame", pa.int32(), nullable=False),
            pa.field("n_frames", pa.int32(), nullable=False),
            pa.field("status", pa.string(), nullable=False),
            pa.field("indexed_at", pa.timestamp("us", tz="UTC"), nullable=False),
            # Added to format 3 later: a store has them since it was last written to.
            pa.field("album_artist", pa.string()),
            pa.field("track", pa.int32()),
            pa.field("year", pa.int32()),
            pa.field("isrc", pa.string()),
            pa.field("musicbrainz_recording_id", pa.string()),
            pa.field("acoustid", pa.string()),
            pa.field("other_paths", pa.list_(pa.string())),
            pa.field("other_modified_ns", pa.list_(pa.int64())),
            pa.field("mount_point", pa.string()),
            pa.field("accepted", pa.list_(pa.string())),
        ]
    ),
    POSTINGS: pa.schema(
        [
            pa.field("hash", pa.int32(), nullable=False),
            pa.field("position", pa.int32(), nullable=False),
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


def delta_schema(table: str) -> pa.Schema:
    """The columns of a table as its log has them: those of its files, and what it is partitioned by."""
    schema = SCHEMAS[table]
    return schema.append(pa.field(SHARD, pa.int32(), nullable=False)) if table in PARTITIONED_BY else schema


def has_columns(table: str, found: pa.Schema) -> bool:
    """Whether a file has the columns of its table; those that may be null may be missing: some were added later."""
    wanted = pa.schema([field for field in SCHEMAS[table] if field.name in found.names or not field.nullable])
    return bool(found.equals(wanted))


def shard_folder(shard: int) -> str:
    """Where the postings of a shard lie, inside the table's folder."""
    return f"{SHARD}={shard}"
