"""Where each hash begins in a postings file: a table from hash to row, which lies in the file itself.

It is derived: the file's column of hashes says the same. Two bytes a hash, counted from the row at which its block of
256 hashes begins; four where a block has more rows than two bytes count.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BLOCK_BITS = 8
# Under which a file's metadata says where its directory lies.
KEY = "songprint.directory"


@dataclass(frozen=True, slots=True, eq=False)
class Directory:
    """From hash to rows.

    Parameters
    ----------
    low
        The first hash that it has.
    base
        ``(n_hashes // 256 + 1,)`` uint32: the first row of each block of hashes; empty when ``row`` is not relative.
    row
        ``(n_hashes + 1,)`` uint16 or uint32: the first row of each hash, relative to its block's, and at the end the
        number of rows.
    """

    low: int
    base: NDArray[np.uint32]
    row: NDArray[np.uint16] | NDArray[np.uint32]

    @property
    def n_hashes(self) -> int:
        """From the first hash to the last."""
        return len(self.row) - 1

    def first_rows(self, place: NDArray[np.integer]) -> NDArray[np.int64]:
        """The first row of hashes, given by their place after `low`, up to and including `n_hashes`."""
        row: NDArray[np.int64] = self.row[place].astype(np.int64)
        if len(self.base):
            row += self.base[place >> BLOCK_BITS]
        return row

    def find(self, hashes: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The first row of each hash, and how many it has; none for those beyond the ends."""
        place = hashes.astype(np.int64) - self.low
        inside = (place >= 0) & (place < self.n_hashes)
        place = np.where(inside, place, 0)
        first = self.first_rows(place)
        return first, np.where(inside, self.first_rows(place + 1) - first, 0)

    def all_rows(self) -> NDArray[np.int64]:
        """``(n_hashes + 1,)``: the first row of every hash, and the number of rows."""
        return self.first_rows(np.arange(len(self.row)))

    def to_bytes(self) -> bytes:
        """As it lies in a file."""
        return self.base.astype("<u4").tobytes() + self.row.astype("<u2" if len(self.base) else "<u4").tobytes()

    def metadata(self, at: int) -> str:
        """What the file's metadata says of it when it begins at a byte."""
        return json.dumps({"at": at, "low": self.low, "hashes": self.n_hashes, "wide": not len(self.base)})


def build(low: int, high: int, parts: Sequence[tuple[NDArray[np.int32], NDArray[np.int64]]]) -> Directory:
    """A directory of the hashes from ``low`` to ``high``, from hashes and how many rows each has."""
    rows = np.zeros(high - low + 2, np.int64)
    for hashes, counts in parts:
        rows[hashes.astype(np.int64) - low + 1] = counts
    np.cumsum(rows, out=rows)
    base = rows[:: 1 << BLOCK_BITS]
    relative = rows - np.repeat(base, 1 << BLOCK_BITS)[: len(rows)]
    if relative.max(initial=0) > np.iinfo(np.uint16).max:
        return Directory(low, np.zeros(0, np.uint32), rows.astype(np.uint32))
    return Directory(low, base.astype(np.uint32), relative.astype(np.uint16))


def place_of(metadata: str) -> tuple[int, int]:
    """First byte and number of bytes of a directory in its file."""
    recorded = json.loads(metadata)
    rows = int(recorded["hashes"]) + 1
    blocks = 0 if recorded["wide"] else (rows - 1 >> BLOCK_BITS) + 1
    return int(recorded["at"]), 4 * blocks + (4 if recorded["wide"] else 2) * rows


def from_bytes(metadata: str, data: NDArray[np.uint8]) -> Directory:
    """The directory that `Directory.metadata` and `Directory.to_bytes` describe."""
    recorded = json.loads(metadata)
    rows = int(recorded["hashes"]) + 1
    if recorded["wide"]:
        return Directory(int(recorded["low"]), np.zeros(0, np.uint32), data.view("<u4"))
    blocks = (rows - 1 >> BLOCK_BITS) + 1
    return Directory(int(recorded["low"]), data[: 4 * blocks].view("<u4"), data[4 * blocks :].view("<u2"))
