"""The model of the commits holds its invariants, finds each rule that is left out, and takes the steps of the code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.store import Store, delta_log
from tests.commit_model import BROKEN, TABLES, Job, Model, explore, start
from tests.store_jobs import index, remove
from tests.store_jobs import start as start_store

ADD_A, ADD_B, ADD_A_TOO = Job("add", "A", "a"), Job("add", "B", "b"), Job("add", "B", "a")
COMPACT, COMPACT_TOO = Job("compact", "C"), Job("compact", "D")
REMOVE, READ, WAIT = Job("remove", "E", "one"), Job("read", "R"), Job("wait", "hours")
# Jobs that run at once, and the tables that are modelled.
CASES = {
    "two writers of one song": ((ADD_A, ADD_A_TOO, READ), TABLES),
    "two writers": ((ADD_A, ADD_B, READ), TABLES),
    "a writer, a compaction and a reader": ((ADD_A, COMPACT, READ), TABLES),
    "a removal, a compaction and a reader": ((REMOVE, COMPACT, READ), TABLES),
    "two compactions": ((COMPACT, COMPACT_TOO), TABLES[:1]),
    "two compactions, some hours and a reader": ((COMPACT, COMPACT_TOO, WAIT, READ), TABLES),
    "a writer and two compactions": ((ADD_A, COMPACT, COMPACT_TOO), TABLES[:1]),
    "two writers and a compaction": ((ADD_A, ADD_B, COMPACT), TABLES[:1]),
}
LARGE_CASES = {
    "two writers, a compaction and a reader": ((ADD_A, ADD_B, COMPACT, READ), TABLES[:1]),
    "two writers of one song, a compaction and a reader": ((ADD_A, ADD_A_TOO, COMPACT, READ), TABLES[:1]),
    "a writer, a removal, a compaction and a reader": ((ADD_A, REMOVE, COMPACT, READ), TABLES),
    "a removal, two compactions and a reader": ((REMOVE, COMPACT, COMPACT_TOO, READ), TABLES),
    "a writer, a removal and two compactions": ((ADD_A, REMOVE, COMPACT, COMPACT_TOO), TABLES[:1]),
    "a writer, two compactions and a reader": ((ADD_A, COMPACT, COMPACT_TOO, READ), TABLES[:1]),
    "a writer, two compactions, some hours and a reader": ((ADD_A, COMPACT, COMPACT_TOO, WAIT, READ), TABLES[:1]),
    "a writer and two compactions, both tables": ((ADD_A, COMPACT, COMPACT_TOO), TABLES),
}
EVERY = os.environ.get("FAULTS") == "all"


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", {**CASES, **LARGE_CASES} if EVERY else CASES)
def test_no_order_of_steps_and_no_death_breaks_a_guarantee(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    jobs, tables = {**CASES, **LARGE_CASES}[name]
    found = explore(Model(tables=tables), jobs)
    assert (found.violation, found.steps) == ("", ())
    assert found.states > 100
    if EVERY:
        with capsys.disabled():
            print(f"\n{name}: {found.states} states, no guarantee broken")  # noqa: T201


@pytest.mark.parametrize("rule", BROKEN)
def test_the_model_finds_a_rule_that_is_left_out(rule: str) -> None:
    found = (explore(Model(rule, tables), jobs) for jobs, tables in CASES.values())
    assert any(case.violation for case in found), f"{BROKEN[rule]}, and nothing is found"


def commits_of(job: Callable[[], Any]) -> list[str]:
    """The functions of the code that commit, in their order, each with its table."""
    made = []
    commit = delta_log.commit

    def recorded(location: Any, base: Any, *args: Any, **options: Any) -> Any:
        made.append((sys._getframe(1).f_code.co_name, base.table))
        return commit(location, base, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delta_log, "commit", recorded)
        job()
    return [name if table == "songs" else f"{name} {table}" for name, table in made]


def commits_of_model(job: Job) -> list[str]:
    """The steps of the model that change a table, in their order."""
    model, world, job = Model(), start(), Model().first(job)
    made = []
    while job.step != "done":
        after, moved = model.next(world, job, ())
        if (after.songs, after.tables) != (world.songs, world.tables):
            made.append(job.step)
        world, job = after, moved
    return made


def test_the_code_commits_as_the_model_does(tmp_path: Path) -> None:
    start_store(str(tmp_path / "s"))
    store = Store.open(str(tmp_path / "s"))
    assert commits_of(lambda: index(store, [20])) == commits_of_model(ADD_A)
    assert commits_of(lambda: remove(store, {20})) == commits_of_model(REMOVE)
    assert commits_of(store.compact) == commits_of_model(COMPACT)
