"""Worker processes for many runs of one function, such as the parts that an actor of a cluster makes."""

import pickle
from collections.abc import Callable, Generator, Iterable

from quality_model.core.processes import (
    Failure,
    Result,
    Task,
    WorkerProcesses,
    Workers,
    end_if_imported_again,
)


class KeptProcesses:
    """Worker processes that stay from one run to the next of the same function: they start once.

    Close it in the end. A run that is stopped early ends them.
    """

    def __init__(self) -> None:
        self._serving: tuple[WorkerProcesses, bytes] | None = None
        self._workers: Workers | None = None

    def run(
        self, how: WorkerProcesses, function: Callable[[Task], Result], tasks: Iterable[Task]
    ) -> Generator[Result | Failure, None, None]:
        """See `WorkerProcesses.run`; ``how`` says how many processes, as there."""
        end_if_imported_again()
        wanted = how, pickle.dumps(function)
        if self._workers is None or wanted != self._serving:
            self.close()
            self._workers, self._serving = Workers(function, how.count, how.timeout_s), wanted
        is_whole = False
        try:
            yield from self._workers.results(tasks, max(how.window, how.count))
            is_whole = True
        finally:
            if not is_whole:
                self.close()

    def close(self) -> None:
        """End the processes."""
        if self._workers is not None:
            self._workers.close()
        self._workers = None
