"""A library that several workers of a cluster search together, each some of its shards.

A shard gives its fullest windows by itself, wherever it is searched, and the windows of all shards are joined as if
they were of one. So a task that identifies clips can have each group of shards searched by a task beside it. Those of
a group run on the same workers each time: no worker reads the whole store, or needs the memory to cache it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.execution.executor import MapTasks
from pipeline.fingerprinting.peaks import Peaks
from pipeline.fingerprinting.settings import Settings
from pipeline.matching.types import Result, Shard
from pipeline.store import Snapshot


@dataclass(frozen=True, slots=True)
class SharedLibrary:
    """A snapshot whose shards are searched by further tasks.

    Parameters
    ----------
    groups
        Numbers of the shards that are searched together.
    map_tasks
        Runs these tasks.
    """

    snapshot: Snapshot
    groups: tuple[tuple[int, ...], ...]
    map_tasks: MapTasks[Any, Any]

    @property
    def settings(self) -> Settings:
        """Those of the snapshot."""
        return self.snapshot.settings

    @property
    def n_songs(self) -> int:
        """All songs."""
        return self.snapshot.n_songs

    def map_shards(self, task: Callable[[Sequence[Shard]], Result]) -> list[Result]:
        """What a function gives for each group of shards."""
        return self.map_tasks(call_on_shards, [(task, self.snapshot, numbers) for numbers in self.groups])

    def constellations(self, song_ids: Iterable[int]) -> dict[int, Peaks]:
        """Read by the task itself."""
        return self.snapshot.constellations(song_ids)


def call_on_shards(call: tuple[Callable[[Sequence[Shard]], Result], Snapshot, tuple[int, ...]]) -> Result:
    """What a function gives for some shards of a snapshot: the task of a group."""
    task, snapshot, numbers = call
    return task([shard for shard in snapshot.shards if shard.number in numbers])


def group_shards(numbers: Sequence[int], workers: int) -> tuple[tuple[int, ...], ...]:
    """Shards in as many groups as there are workers, if there are so many; none where there is nothing to share."""
    n_groups = min(len(numbers), workers)
    return tuple(tuple(numbers[place::n_groups]) for place in range(n_groups)) if n_groups > 1 else ()
