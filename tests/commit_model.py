"""A model of the commits of the three tables: every order of the steps of several jobs, which may die anywhere.

The rules are those of `pipeline.store`, the invariants those of data/README.md. A step is one access to the store that
no other job divides; it has the name of the function of `pipeline.store` that makes it. `explore` tries every order and
gives the first one after which an invariant does not hold. `BROKEN` has the rules, each to be left out in turn.

A song is its id and its digest. Where it lies in a shard is given and reserved as its id is, and is not modelled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

TABLES = ("postings", "constellations")
# Each rule, and what breaks it.
BROKEN = {
    "reserve": "a writer takes ids that it has not reserved by a commit",
    "order": "a writer commits the songs before their postings and peaks",
    "base": "a commit of songs does not fail when another one came first",
    "digest": "a writer does not look for its digests again before it commits its songs",
    "fence": "a compaction drops unknown ids without a fence",
    "read fence": "a writer does not look for a fence before it commits its songs",
    "end": "a compaction drops ids that were given after its fence, too",
    "merged": "a compaction drops such ids from files that another one has merged across its end",
    "pins": "a commit of songs may pin an older version of a table than the commit before",
    "replaced": "a compaction does not look whether the files that it replaces are still there",
    "grace": "a compaction deletes what was replaced or written within the hours of grace",
    "oldest": "a compaction deletes what was replaced before, though songs pinned it within the hours of grace",
    "pinned": "a reader takes the latest versions of the tables instead of those that its songs pin",
}


class File(NamedTuple):
    """A file of postings or peaks: who wrote it, in which attempt, and the songs that it has."""

    by: str
    attempt: int
    song_ids: frozenset[int]


class Table(NamedTuple):
    """A version of postings or peaks."""

    number: int
    files: frozenset[File]


class Song(NamedTuple):
    """A row of the songs table."""

    song_id: int
    digest: str
    indexed: bool


class Songs(NamedTuple):
    """A version of the songs table: what its commit carries, and its rows."""

    number: int
    next_id: int
    fence: int
    pins: tuple[Table, Table]
    rows: frozenset[Song]

    @property
    def indexed(self) -> frozenset[Song]:
        return frozenset(song for song in self.rows if song.indexed)

    @property
    def digests(self) -> set[str]:
        return {song.digest for song in self.rows if song.indexed}


class World(NamedTuple):
    """What is on the disk, as far as it can still be read; beside it what has happened, for the invariants.

    Parameters
    ----------
    songs, tables
        The latest versions.
    disk
        The files of postings and of peaks that are there.
    recent
        Those that were written or replaced within the hours of grace.
    replaced
        Those that were replaced, each with the number of the version that first lacked it.
    oldest
        The versions of the tables that belonged to the songs when the hours of grace began.
    given, twice
        Ids that were ever reserved; whether one was reserved twice.
    committed, removed
        Digests that were added, and not removed since; ids that were removed.
    """

    songs: Songs
    tables: tuple[Table, Table]
    disk: tuple[frozenset[File], frozenset[File]]
    recent: tuple[frozenset[File], frozenset[File]]
    replaced: tuple[frozenset[tuple[File, int]], frozenset[tuple[File, int]]]
    oldest: tuple[Table, Table]
    given: frozenset[int]
    twice: bool
    committed: frozenset[str]
    removed: frozenset[int]


class Job(NamedTuple):
    """A job: what it does, the step that comes next, and what it knows.

    Parameters
    ----------
    kind
        ``add``, ``remove``, ``compact`` or ``read``; or ``wait``, by which the hours of grace pass.
    step
        Of `STEPS`; ``done`` and ``died`` have no next one.
    base
        Version of the songs table that it decides on; ``None``: the latest is to be loaded.
    song_id
        The id that it reserved.
    pins
        Versions of the tables that have what it wrote.
    end, drop
        The first id behind the fence, and ids that can be dropped.
    new, replaced
        What it wrote for the table at hand, and for which files.
    """

    kind: str
    name: str
    digest: str = ""
    step: str = ""
    attempt: int = 0
    base: Songs | None = None
    song_id: int = 0
    pins: tuple[Table, Table] = (Table(0, frozenset()), Table(0, frozenset()))
    end: int = 0
    drop: frozenset[int] = frozenset()
    new: File | None = None
    replaced: frozenset[File] = frozenset()


Next = tuple[World, Job]

# What each kind of job does, step by step: the function that does it, and the table.
STEPS: dict[str, tuple[str, ...]] = {
    "add": (
        "add_songs",
        "_write_tables",
        "_commit_files postings",
        "_commit_files constellations",
        "_commit_songs",
    ),
    "remove": ("_commit_edited_songs",),
    "compact": (
        "_set_fence",
        "run_task postings",
        "_rewrite postings",
        "run_task constellations",
        "_rewrite constellations",
        "_rewrite_songs",
        "_delete_leftovers",
    ),
    "read": ("snapshot", "read"),
    "wait": ("wait",),
}
ORDER_BROKEN = (*STEPS["add"][:2], STEPS["add"][4], *STEPS["add"][2:4])


class Model:
    """The steps of all jobs.

    Parameters
    ----------
    broken
        A key of `BROKEN`; nothing for the rules as they are.
    tables
        Those of `TABLES` that there are. They are treated alike, and one of them has a tenth of the states of two.
    """

    def __init__(self, broken: str = "", tables: Sequence[str] = TABLES) -> None:
        self.broken = broken
        self.tables = tables
        order = STEPS | ({"add": ORDER_BROKEN} if broken == "order" else {})
        absent = tuple(set(TABLES) - set(tables))
        self._steps = {
            kind: tuple(step for step in steps if not step.endswith(absent)) for kind, steps in order.items()
        }

    def first(self, job: Job) -> Job:
        return job._replace(step=self._steps[job.kind][0])

    def _done(self, job: Job) -> Job:
        """The next step, which loads the latest version anew."""
        steps = self._steps[job.kind]
        place = steps.index(job.step) + 1
        step = steps[place] if place < len(steps) else "done"
        if step == "done":
            return Job(job.kind, job.name, job.digest, "done")
        return job._replace(step=step, base=None)

    def next(self, world: World, job: Job, others: Sequence[Job]) -> Next:
        """The world and the job after the job's next step.

        A job that loads the songs and finds that another commit came first loads them again. So what it does is what
        it would do if nobody could come between, and its two steps are taken at once: a hundredth of the states.
        """
        name, _, table = job.step.partition(" ")
        if name in ("_commit_files", "run_task", "_rewrite"):
            return getattr(self, name)(world, job, TABLES.index(table))
        if name == "wait":
            return self.wait(world, job, others)
        after, moved = getattr(self, name)(world, job)
        if moved.step == job.step and moved.base and self.broken != "base":
            after, moved = getattr(self, name)(after, moved)
        return after, moved

    def _commit(self, world: World, base: Songs, **new: object) -> World | None:
        """Commit songs on a base; ``None`` if another commit came first."""
        if base.number != world.songs.number and self.broken != "base":
            return None
        return world._replace(songs=base._replace(number=world.songs.number + 1, **new))

    # add

    def add_songs(self, world: World, job: Job) -> Next:
        """Reserve an id, unless the digest is there."""
        if job.base is None:
            if job.digest in world.songs.digests:
                return world, job._replace(step="done")
            return world, job._replace(base=world.songs)
        song_id = job.base.next_id
        after = world
        if self.broken != "reserve":
            committed = self._commit(world, job.base, next_id=song_id + 1)
            if committed is None:
                return world, job._replace(base=None)
            after = committed
        after = after._replace(given=after.given | {song_id}, twice=after.twice or song_id in after.given)
        return after, self._done(job._replace(song_id=song_id, base=after.songs))

    def _write_tables(self, world: World, job: Job) -> Next:
        file = File(job.name, job.song_id, frozenset({job.song_id}))
        for table in range(len(TABLES)):
            world = written(world, table, file)
        return world, self._done(job._replace(new=file))

    def _commit_files(self, world: World, job: Job, table: int) -> Next:
        assert job.new
        latest = world.tables[table]
        after = Table(latest.number + 1, latest.files | {job.new})
        world = world._replace(tables=changed(world.tables, table, after))
        return world, self._done(job._replace(pins=changed(job.pins, table, after)))

    def _commit_songs(self, world: World, job: Job) -> Next:
        if job.base is None:
            if world.songs.fence > job.song_id and self.broken != "read fence":
                return world, Job(job.kind, job.name, job.digest, "add_songs")
            if job.digest in world.songs.digests and self.broken != "digest":
                return world, job._replace(step="done")
            return world, job._replace(base=world.songs)
        after = self._commit(
            world,
            job.base,
            next_id=max(job.base.next_id, job.song_id + 1),
            rows=job.base.rows | {Song(job.song_id, job.digest, True)},
            pins=self._pins(job),
        )
        if after is None:
            return world, job._replace(base=None)
        return after._replace(committed=after.committed | {job.digest}), self._done(job)

    def _pins(self, job: Job) -> tuple[Table, Table]:
        """The newer of what the job wrote and what is pinned."""
        assert job.base
        if self.broken == "pins":
            return job.pins
        return max(job.pins[0], job.base.pins[0], key=number), max(job.pins[1], job.base.pins[1], key=number)

    # remove

    def _commit_edited_songs(self, world: World, job: Job) -> Next:
        if job.base is None:
            return world, job._replace(base=world.songs)
        song = next((song for song in job.base.indexed if song.digest == job.digest), None)
        if song is None:
            return world, job._replace(step="done")
        after = self._commit(world, job.base, rows=job.base.rows - {song} | {song._replace(indexed=False)})
        if after is None:
            return world, job._replace(base=None)
        after = after._replace(committed=after.committed - {job.digest}, removed=after.removed | {song.song_id})
        return after, self._done(job)

    # compact

    def _set_fence(self, world: World, job: Job) -> Next:
        if job.base is None:
            return world, job._replace(base=world.songs)
        end = job.base.next_id
        given = frozenset(range(1, end))
        known = {song.song_id for song in job.base.rows}
        ready = self._done(job._replace(end=end, drop=given - {song.song_id for song in job.base.indexed}))
        if self.broken == "fence" or set(range(job.base.fence, end)) <= known:
            return world, ready
        after = self._commit(world, job.base, fence=end)
        return (world, job._replace(base=None)) if after is None else (after, ready)

    def run_task(self, world: World, job: Job, table: int) -> Next:
        """Plan on the latest version, and write the new file."""
        latest = world.tables[table].files
        replaced = frozenset(f for f in latest if self.broken == "end" or min(f.song_ids, default=0) < job.end)
        had = frozenset(song_id for file in replaced for song_id in file.song_ids)
        # a file that another compaction has merged may have ids on both sides of the end
        kept = frozenset(i for i in had - job.drop if i < job.end or self.broken not in ("end", "merged"))
        if len(replaced) < 2 and kept == had:
            return world, self._done(job._replace(new=None, replaced=frozenset()))
        file = File(job.name, job.attempt, kept)
        return written(world, table, file), self._done(job._replace(new=file, replaced=replaced))

    def _rewrite(self, world: World, job: Job, table: int) -> Next:
        latest = world.tables[table]
        if job.new is None:
            return world, self._done(job._replace(pins=changed(job.pins, table, latest)))
        if not job.replaced <= latest.files and self.broken != "replaced":  # another compaction has replaced them
            return world, job._replace(step=f"run_task {TABLES[table]}", attempt=job.attempt + 1)
        after = Table(latest.number + 1, latest.files - job.replaced | {job.new})
        world = world._replace(
            tables=changed(world.tables, table, after),
            recent=changed(world.recent, table, world.recent[table] | job.replaced),
            replaced=changed(world.replaced, table, world.replaced[table] | {(f, after.number) for f in job.replaced}),
        )
        done = job._replace(pins=changed(job.pins, table, after), new=None, replaced=frozenset(), attempt=0)
        return world, self._done(done)

    def _rewrite_songs(self, world: World, job: Job) -> Next:
        if job.base is None:
            return world, job._replace(base=world.songs)
        rows = frozenset(song for song in job.base.rows if song.song_id not in job.drop)
        after = self._commit(world, job.base, rows=rows, pins=self._pins(job))
        return (world, job._replace(base=None)) if after is None else (after, self._done(job))

    def _delete_leftovers(self, world: World, job: Job) -> Next:
        """Delete what is in no version from the oldest on that may be read, and was not written just now."""
        for table, latest in enumerate(world.tables):
            needed = set(latest.files)
            if self.broken != "grace":
                needed |= world.recent[table]
            if self.broken not in ("grace", "oldest"):
                needed |= {file for file, number in world.replaced[table] if number > world.oldest[table].number}
            left = world.disk[table] & needed
            replaced = frozenset(pair for pair in world.replaced[table] if pair[0] in left)
            world = world._replace(
                disk=changed(world.disk, table, left), replaced=changed(world.replaced, table, replaced)
            )
        return world, self._done(job)

    # time

    def wait(self, world: World, job: Job, others: Sequence[Job]) -> Next:
        """The hours of grace pass. No job takes longer than these: each ends before, or begins afterwards."""
        if any(other.step not in ("done", "died", self._steps[other.kind][0]) for other in others):
            return world, job
        return pass_hours(world), self._done(job)

    # read

    def snapshot(self, world: World, job: Job) -> Next:
        return world, job._replace(base=world.songs, step="read")

    def read(self, world: World, job: Job) -> Next:
        return world, self._done(job)

    def pinned(self, world: World, job: Job) -> list[frozenset[File]]:
        """The files of a reader's version."""
        assert job.base
        return [table.files for table in (world.tables if self.broken == "pinned" else job.base.pins)]

    # invariants

    def violations(self, world: World, jobs: Sequence[Job]) -> Iterator[str]:
        """The guarantees that do not hold."""
        latest = world.songs
        if world.twice:
            yield "an id was given twice"
        if len(latest.digests) < len(latest.indexed):
            yield "two songs have the same digest"
        if not world.committed <= latest.digests:
            yield "a song that was added is lost"
        if world.removed & {song.song_id for song in latest.indexed}:
            yield "a song that was removed is back"
        of_latest = [table.files for table in latest.pins]
        yield from self._missing("the latest version", latest.indexed, of_latest, world.disk)
        newest = [table.files for table in world.tables]
        yield from self._missing("the tables' own latest versions", latest.indexed, newest, world.disk)
        for job in jobs:
            if job.step == "read" and job.base:
                yield from self._missing("a reader's version", job.base.indexed, self.pinned(world, job), world.disk)

    def _missing(
        self, what: str, songs: frozenset[Song], files: Sequence[frozenset[File]], disk: Sequence[frozenset[File]]
    ) -> Iterator[str]:
        """Songs that are not in the files exactly once, and files that are not on the disk."""
        for name, some, there in zip(TABLES, files, disk, strict=True):
            if name not in self.tables:
                continue
            has = [song_id for file in some for song_id in file.song_ids]
            for song in songs:
                if has.count(song.song_id) != 1:
                    yield f"{what} has a song {has.count(song.song_id)} times in {name}"
            if not some <= there:
                yield f"{what} has a file of {name} that was deleted"


def number(table: Table) -> int:
    return table.number


def changed(pair: tuple[object, ...], place: int, new: object) -> tuple:  # type: ignore[type-arg]
    """The pair with one of the two replaced."""
    return (new, pair[1]) if place == 0 else (pair[0], new)


def written(world: World, table: int, file: File) -> World:
    """The world with one more file of a table on the disk."""
    return world._replace(
        disk=changed(world.disk, table, world.disk[table] | {file}),
        recent=changed(world.recent, table, world.recent[table] | {file}),
    )


def pass_hours(world: World) -> World:
    """The world when the hours of grace have passed, in which nobody did anything."""
    return world._replace(recent=(frozenset(), frozenset()), oldest=world.songs.pins)


def start() -> World:
    """Song 1 is indexed, song 2 was removed, and a job died after it had committed the postings of song 3."""
    file = File("before", 0, frozenset({1, 2}))
    dead = File("dead", 3, frozenset({3}))
    pins = (Table(1, frozenset({file})), Table(1, frozenset({file})))
    songs = Songs(2, 4, 1, pins, frozenset({Song(1, "one", True), Song(2, "two", False)}))
    tables = (Table(2, frozenset({file, dead})), pins[1])
    disk = (frozenset({file, dead}), frozenset({file, dead}))
    nothing = (frozenset(), frozenset())
    return World(
        songs, tables, disk, nothing, nothing, pins, frozenset({1, 2, 3}), False, frozenset({"one"}), frozenset({2})
    )


class Found(NamedTuple):
    """What an exploration found.

    Parameters
    ----------
    states
        Different states that were reached.
    violation, steps
        The first invariant that does not hold, and the steps that lead there: who, and what.
    """

    states: int
    violation: str = ""
    steps: tuple[str, ...] = ()


def explore(model: Model, jobs: Sequence[Job], *, deaths: int = 1) -> Found:
    """Try every order of the steps of some jobs, of which so many may die at any step."""
    first = (start(), tuple(model.first(job) for job in jobs), deaths)
    came_from: dict[tuple[World, tuple[Job, ...], int], tuple[object, str]] = {first: (None, "")}
    queue = deque([first])
    while queue:
        state = queue.popleft()
        world, now, left = state
        for violation in model.violations(world, now):
            return Found(len(came_from), violation, tuple(path(came_from, state)))
        for place, job in enumerate(now):
            if job.step in ("done", "died"):
                continue
            others = now[:place] + now[place + 1 :]
            after, moved = model.next(world, job, others)
            choices = [(after, moved, left, f"{job.name}: {job.step}")]
            if left and job.kind not in ("read", "wait"):
                choices.append((world, job._replace(step="died"), left - 1, f"{job.name}: dies"))
            for new, changed_job, deaths_left, what in choices:
                reached = (new, (*now[:place], changed_job, *now[place + 1 :]), deaths_left)
                if reached not in came_from:
                    came_from[reached] = (state, what)
                    queue.append(reached)
        if all(job.step in ("done", "died") for job in now) and (problem := finish(model, world, now)):
            return Found(len(came_from), problem, tuple(path(came_from, state)))
    return Found(len(came_from))


def path(came_from: dict, state: object) -> list[str]:  # type: ignore[type-arg]
    """The steps that led to a state."""
    steps = []
    while came_from[state][0] is not None:
        state, step = came_from[state]
        steps.append(step)
    return steps[::-1]


def run_alone(model: Model, world: World, job: Job) -> World:
    """Run a job to its end while nobody else works."""
    job = model.first(job)
    while job.step != "done":
        world, job = model.next(world, job, ())
    return world


def finish(model: Model, world: World, jobs: Sequence[Job]) -> str:
    """Run again what died, then compact twice, each time after the hours of grace: what is wrong then, if anything."""
    for job in jobs:
        if job.step == "died":
            world = run_alone(model, world, Job(job.kind, f"{job.name} again", job.digest))
    for name in ("last but one", "last"):
        world = run_alone(model, pass_hours(world), Job("compact", name))
    for violation in model.violations(world, ()):
        return f"in the end: {violation}"
    for job in jobs:
        has = job.digest in world.songs.digests
        if job.kind in ("add", "remove") and has != (job.kind == "add"):
            return f"in the end: {job.name} was not done"
    indexed = frozenset(song.song_id for song in world.songs.indexed)
    disk = [files for name, files in zip(TABLES, world.disk, strict=True) if name in model.tables]
    if any(frozenset(i for file in files for i in file.song_ids) != indexed for files in disk):
        return "in the end: files are left that nobody needs"
    return ""
