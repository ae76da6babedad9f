"""Staged output of a worker: finished songs, in two files whose names depend on the batch alone.

A song has no song id yet; in the files its id is its place in the batch, from 0, and its frames follow on those of the
song before. Song ids and frames are given at the commit, in the order of the plan, so that they depend neither on which
worker was faster nor on how often a batch was run.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.audio.tags import Tags
from pipeline.errors import ParameterError
from pipeline.fingerprinting.landmarks import Hashes
from pipeline.fingerprinting.peaks import Peaks
from pipeline.store import constellations, metadata, postings
from pipeline.store.postings import ShardPostings
from pipeline.store.storage import Location

FOLDER = "staging"
# Postings from one hash of a manifest's sample to the next; a merge plans its ranges from the sample.
SAMPLE_STEP = 8192


@dataclass(frozen=True, slots=True, eq=False)
class StagedSong:
    """One finished song.

    Parameters
    ----------
    path
        Path as the user gave it.
    duration_s
        Seconds that were decoded.
    digest
        Digest of the file's content, hex.
    decoder, sample_rate, decoded_share
        For reports: the decoder, the sample rate of the file in Hz, decoded over declared duration.
    size_bytes, modified_ns
        Size and time of change of the file, to see without reading it whether it is still the same.
    """

    path: str
    tags: Tags
    duration_s: float
    digest: str
    decoder: str
    sample_rate: int
    decoded_share: float
    size_bytes: int
    modified_ns: int
    hashes: Hashes
    peaks: Peaks

    @property
    def landmarks(self) -> int:
        """Postings of the song."""
        return len(self.hashes)

    @property
    def n_frames(self) -> int:
        """Frames up to its last peak or landmark: what it takes of a shard."""
        last = [int(part.max()) for part in (self.peaks.frame, self.hashes.offset) if len(part)]
        return 1 + max(last, default=0)

    def row(self) -> dict[str, Any]:
        """The row for the songs table, as plain JSON values."""
        names = [field.name for field in dataclasses.fields(self) if field.name not in ("tags", "hashes", "peaks")]
        row = {name: getattr(self, name) for name in names} | dataclasses.asdict(self.tags)
        row |= {"landmarks": self.landmarks, "n_frames": self.n_frames}
        # file names and tags need not be Unicode, a table's strings must
        return {
            name: value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
            for name, value in row.items()
        }


@dataclass(frozen=True, slots=True)
class Manifest:
    """Description of a staged batch for the commit; small and picklable.

    Parameters
    ----------
    songs
        The row of each song, in the order of the batch.
    sample
        The hash of every `SAMPLE_STEP`-th posting.
    """

    batch: str
    songs: tuple[dict[str, Any], ...]
    sample: tuple[int, ...]

    @property
    def folder(self) -> str:
        """The folder of the batch, inside the store."""
        return f"{FOLDER}/{self.batch}"

    @property
    def postings(self) -> str:
        """The file of the batch's postings, inside the store."""
        return f"{self.folder}/postings.parquet"

    @property
    def constellations(self) -> str:
        """The file of the batch's peaks, inside the store."""
        return f"{self.folder}/constellations.parquet"


def stage(store_url: str, batch: str, songs: Sequence[StagedSong]) -> Manifest:
    """Write finished songs to the staging folder; run twice, it writes the same files.

    Parameters
    ----------
    store_url
        Of an existing store.
    batch
        Name of the batch, the same for the same audio files: letters, digits, ``-`` and ``_``.
    songs
        At least one, in the order of the plan.

    Raises
    ------
    ParameterError
        If the name cannot be a folder's, if there is no song, or if hashes or peaks are not what they should be.
    StoreError, OSError
        If the store cannot be written.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", batch):
        raise ParameterError(f"batch name {batch!r}: use letters, digits, - and _ only")
    if not songs:
        raise ParameterError(f"batch {batch}: there is no song to stage")
    _, location = metadata.read(Location.of(store_url))
    staged = _batch_postings(songs)
    table = constellations.to_table(range(len(songs)), [song.peaks for song in songs])
    manifest = Manifest(batch, tuple(song.row() for song in songs), tuple(staged.hash[::SAMPLE_STEP].tolist()))

    def write_constellations(file: Any) -> None:
        with constellations.writer(file, "") as out:
            out.write_table(table, row_group_size=64)

    postings.write_staged(location, manifest.postings, staged)
    location.write_with(manifest.constellations, write_constellations)
    return manifest


def first_frames(n_frames: Sequence[int]) -> NDArray[np.int64]:
    """Where each song begins when they lie end to end."""
    lengths = np.array(n_frames, np.int64)
    return np.cumsum(lengths) - lengths


def _batch_postings(songs: Sequence[StagedSong]) -> ShardPostings:
    """The postings of a batch, sorted, its songs end to end."""
    hashes = np.concatenate([song.hashes.hash for song in songs])
    offsets = np.concatenate([song.hashes.offset for song in songs])
    if hashes.dtype != np.int32 or offsets.dtype != np.int32 or (len(hashes) and min(hashes.min(), offsets.min()) < 0):
        raise ParameterError("hashes and offsets must be int32 and not negative")
    first = first_frames([song.n_frames for song in songs])
    if first[-1] + songs[-1].n_frames > np.iinfo(np.int32).max:
        raise ParameterError(f"{len(songs)} songs are too long for one batch; stage fewer songs at once")
    key = hashes.astype(np.int64)
    key <<= 32  # in place: of many hours each copy takes tens of MB
    key |= offsets + np.repeat(first, [song.landmarks for song in songs])
    key.sort()
    return ShardPostings((key >> 32).astype(np.int32), (key & 0xFFFFFFFF).astype(np.int32))
