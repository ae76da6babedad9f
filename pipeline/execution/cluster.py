"""What `executor=` takes in Python: nothing, a cluster of local processes, or a Dask client."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, TypeAlias

from pipeline.errors import ParameterError
from pipeline.execution.executor import Executor, SerialExecutor

if TYPE_CHECKING:
    from distributed import Client

    from pipeline.execution.dask_executor import DaskExecutor

ExecutorLike: TypeAlias = "Executor | Client | None"


def local_cluster(workers: int) -> contextlib.AbstractContextManager[DaskExecutor]:
    """Open a cluster of worker processes on this machine, for ``executor=``.

    A script that opens one must do so below ``if __name__ == "__main__":``, since each worker imports the script.

    Parameters
    ----------
    workers
        Processes of one thread each, at least 1.

    Returns
    -------
    context manager
        It gives the executor, whose ``client`` is Dask's; the processes end with the ``with`` block.

    Examples
    --------
    >>> import pipeline
    >>> with pipeline.local_cluster(4) as cluster:  # doctest: +SKIP
    ...     report = pipeline.index("Music", store, executor=cluster)
    """
    if not isinstance(workers, int) or workers < 1:
        raise ParameterError(f"workers: {workers!r}; it must be a whole number, at least 1")
    from pipeline.execution import dask_executor  # Dask takes half a second to import

    return dask_executor.local(workers)


def open_executor(executor: ExecutorLike) -> Executor:
    """The executor that an argument stands for: the plain loop for ``None``, the workers of a Dask client.

    Raises
    ------
    ParameterError
        If it stands for none.
    ClusterError
        If a client has no workers, or its versions differ from those of this process.
    """
    if executor is None:
        return SerialExecutor()
    if hasattr(executor, "as_completed") and hasattr(executor, "require_visible"):
        return executor
    from pipeline.execution import dask_executor

    return dask_executor.from_client(executor)
