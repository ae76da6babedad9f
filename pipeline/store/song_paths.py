"""Which files each song has: one path, one song.

A song is a content, known by its digest. It may lie under several paths, and every path belongs to one song. What a run
has found under some paths is applied to the songs table in one commit, together with the songs that the run adds. So
no version of the store names a song under a path that is known to hold another one.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.store.delta_log import Version
from pipeline.store.schema import INDEXED
from pipeline.store.songs import read_file
from pipeline.store.storage import Location

# Of a song, what its files decide.
FILE_COLUMNS = ("path", "digest", "size_bytes", "modified_ns", "other_paths", "other_modified_ns", "mount_point")


@dataclass(frozen=True, slots=True)
class FoundFile:
    """What was found under a path.

    Parameters
    ----------
    digest
        Of its content.
    mount_point
        Of its file system; ``None`` if that is not known.
    """

    digest: str
    size_bytes: int
    modified_ns: int
    mount_point: str | None = None


# By path as the songs table has it; `None`: there is no file any more.
Found = Mapping[str, FoundFile | None]


@dataclass(frozen=True, slots=True)
class Resolved:
    """What becomes of some songs, given what was found.

    Parameters
    ----------
    changes
        By song id: the `FILE_COLUMNS` that change.
    moved
        Songs that have another `path`, because there is no such file any more, or it has other content.
    replaced
        Songs that have no file left, under one of whose paths lies other content.
    gone
        Songs that have no file left.
    """

    changes: dict[int, dict[str, Any]] = field(default_factory=dict)
    moved: list[int] = field(default_factory=list)
    replaced: list[int] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)


def by_digest(found: Found) -> dict[str, dict[str, FoundFile]]:
    """The paths of each content that was found."""
    where: dict[str, dict[str, FoundFile]] = {}
    for path, file in found.items():
        if file is not None:
            where.setdefault(file.digest, {})[path] = file
    return where


def affected_songs(location: Location, songs: Version, found: Found, digests: Collection[str]) -> list[dict[str, Any]]:
    """The indexed songs that have one of these digests, or one of these paths, as rows by song id."""
    contents = {file.digest for file in found.values() if file is not None}
    wanted_digests = pa.array(sorted({*digests, *contents}), pa.string())
    wanted_paths = pa.array(sorted(found), pa.string())
    columns = ("song_id", "landmarks", "n_frames", *FILE_COLUMNS)
    rows: list[dict[str, Any]] = []
    for file in songs.files:
        # 50,000 songs: 4 ms for the digests, 9 with the paths
        looked_at = ["digest", "path", "other_paths"] if found else ["digest"]
        keys = read_file(location, file, looked_at, use_threads=False)
        hit = pc.is_in(keys["digest"], wanted_digests)
        if found:
            hit = pc.or_(pc.or_(hit, pc.is_in(keys["path"], wanted_paths)), _any_in(keys["other_paths"], wanted_paths))
        if pc.any(hit).as_py():
            some = read_file(location, file, [*columns, "status"]).filter(hit)
            rows += some.filter(pc.equal(some["status"], INDEXED)).select(columns).to_pylist()
    return sorted(rows, key=lambda row: int(row["song_id"]))


def _any_in(lists: pa.ChunkedArray, values: pa.Array) -> pa.Array:
    """Of each list, whether one of its elements is among the values."""
    column = lists.combine_chunks()
    rows = pc.list_parent_indices(column).filter(pc.is_in(pc.list_flatten(column), values))
    return pc.is_in(pa.array(range(len(column)), rows.type), rows)


def resolve(rows: Iterable[Mapping[str, Any]], found: Found) -> Resolved:
    """Give each song the paths under which its content was found, and take those that hold something else.

    Parameters
    ----------
    rows
        Songs with their `FILE_COLUMNS`, as `affected_songs` gives them.
    """
    where = by_digest(found)
    result = Resolved()
    for row in rows:
        song_id = row["song_id"]
        had = {row["path"]: row["modified_ns"]}
        had |= zip(row["other_paths"] or (), row["other_modified_ns"] or (), strict=True)
        here = where.get(row["digest"], {})
        kept = {path: modified for path, modified in had.items() if path not in found}
        kept |= {path: file.modified_ns for path, file in here.items()}
        if not kept:
            result.gone.append(song_id)
            if any(found[path] is not None for path in had):
                result.replaced.append(song_id)
        main = row["path"] if row["path"] in kept or not kept else best_path(kept, row["path"])
        if main != row["path"]:
            result.moved.append(song_id)
        values: dict[str, Any] = {"path": main, **others_of(kept, main)}
        if main in kept:
            values["modified_ns"] = kept[main]
        if main in here and here[main].mount_point is not None:
            values["mount_point"] = here[main].mount_point
        elif main != row["path"]:
            values["mount_point"] = None
        if changed := {name: value for name, value in values.items() if value != row[name]}:
            result.changes[song_id] = changed
    return result


def files_of(row: Mapping[str, Any], here: Mapping[str, FoundFile]) -> dict[str, Any]:
    """The columns of a new song that say where else it lies, given the paths under which its content was found."""
    if row["path"] not in here:
        return {}
    modified_ns = {path: file.modified_ns for path, file in here.items()}
    return {"mount_point": here[row["path"]].mount_point, **others_of(modified_ns, row["path"])}


def others_of(modified_ns: Mapping[str, int], main: str) -> dict[str, list[Any] | None]:
    """The columns for the other paths of a song.

    Parameters
    ----------
    modified_ns
        Of each path of the song.
    main
        The path that is no other one.
    """
    others = sorted(path for path in modified_ns if path != main)
    return {"other_paths": others or None, "other_modified_ns": [modified_ns[path] for path in others] or None}


def best_path(paths: Iterable[str], old: str) -> str:
    """The path to which a song was moved: one with the same file name, else the first."""
    name = _file_name(old)
    return min(paths, key=lambda path: (_file_name(path) != name, path))


def best_song(path: str, candidates: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Songs that may be the one that now lies under a path, the likeliest first: same path, same file name, oldest."""
    name = _file_name(path)
    return sorted(
        candidates, key=lambda row: (row["path"] != path, _file_name(row["path"]) != name, int(row["song_id"]))
    )


def _file_name(path: str) -> str:
    """The last part of a path; Unicode has several forms of one name."""
    return unicodedata.normalize("NFC", os.path.basename(path))
