"""The progress of a run as a bar, on a terminal or in a notebook."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from pipeline.errors import ParameterError
from pipeline.execution.executor import Progress

OnProgress: TypeAlias = Callable[[Progress], None]
"""Called with each `Progress`, often."""


@contextlib.contextmanager
def shown(progress: bool | OnProgress, what: str) -> Iterator[OnProgress]:
    """What an argument ``progress=`` stands for: nothing, a bar, or the caller's own function.

    Raises
    ------
    ParameterError
        If it is none of these.
    """
    if callable(progress):
        yield progress
    elif progress is True:
        with bar(what) as draw:
            yield draw
    elif progress is False:
        yield lambda progress: None
    else:
        raise ParameterError(f"progress: {progress!r:.80}; give True for a bar, False for none, or a function")


@contextlib.contextmanager
def bar(what: str) -> Iterator[OnProgress]:
    """Draw a bar in the output of a notebook's cell, or on standard error when that is a terminal; else nothing.

    Yields
    ------
    callable
        To be called with each `Progress`.
    """
    from rich.console import Console  # 0.1 s, which a run without a bar does not pay
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if not (console.is_terminal or console.is_jupyter):
        yield lambda progress: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
    )
    drawn = Bar(*columns, console=console, transient=True, auto_refresh=not console.is_jupyter)
    task = drawn.add_task(what, total=1.0, figures="")
    began = time.monotonic()

    def update(progress: Progress) -> None:
        drawn.update(task, completed=progress.share, figures=_figures(progress, time.monotonic() - began))

    if not console.is_jupyter:
        with drawn:
            yield update
        return

    # Rich's own display in a notebook needs ipywidgets; a display that is updated needs nothing.
    from IPython.display import display

    cell: Any = display(drawn.make_tasks_table(drawn.tasks), display_id=True)

    def update_cell(progress: Progress) -> None:
        update(progress)
        cell.update(drawn.make_tasks_table(drawn.tasks))

    yield update_cell


def _figures(progress: Progress, seconds: float) -> str:
    figures = f"{progress.done:,} of {progress.total:,}"
    if progress.audio_s:
        figures += f" · {progress.audio_s / 3600:,.1f} h · {progress.audio_s / max(seconds, 1e-9):,.0f}x"
    return f"{figures} · {progress.failures:,} failed"
