"""The store: the library on disk or in an object store, and how it changes in whole commits.

A store is a folder (or a prefix of an object store) with three Delta tables and one small JSON file:

    songprint.json    format version and settings, written once
    songs/            one row per song: a song that is not in here is not in the library
    postings/         hash, song_id, offset; sorted by hash inside each file
    constellations/   the peaks of each song, for verification
    staging/          staged output of workers, which no commit has added yet
    failures.parquet  files that gave no song, so that they are not tried again; in no version

The commit of `songs` is the commit point of all three. It carries the versions of the other two that belong to it, so
that a reader gets one immutable snapshot of three tables. Four rules make this safe for any number of writers, and for
writers that die at any moment:

1. A song id is reserved by a commit before anything is written under it, and is never given twice.
2. Postings and constellations are committed before the songs they belong to. Those of an id that `songs` does not
   know do not count, so nothing has to be undone.
3. Only `compact` removes anything, and only what can never belong to a song: postings of songs that were removed, and
   of ids below a fence that it commits first. A writer whose reserved ids fell below the fence takes new ones.
4. Hence the content of a version never depends on which later version of `postings` one reads, and two writers need
   to agree on nothing but the order of their commits to `songs`, which Delta decides.

`Store` is the handle, `Snapshot` one version of it; a worker calls `stage` with finished songs. This package is the
only one that imports deltalake (`delta_log`) and that knows the schemas of the tables and how their Parquet files are
written; `jobs.output` writes other Parquet files, and `pipeline.catalog` reads music through fsspec as well.
data/README.md describes the layout for readers in other languages.
"""

from pipeline.store.append import Changes
from pipeline.store.failures import FailedFile
from pipeline.store.snapshot import Snapshot
from pipeline.store.song_paths import FoundFile
from pipeline.store.staging import Manifest, StagedSong, stage
from pipeline.store.store import Store

__all__ = ["Changes", "FailedFile", "FoundFile", "Manifest", "Snapshot", "StagedSong", "Store", "stage"]
