"""Tasks on the nodes of a Ray cluster: the `Executor` beyond one machine.

Each actor loads the function once and does a task at a time; one more waits there, so that it never idles.
The tasks of an actor that is lost with its node or its process are done by another one. Results come in the
order of the tasks; how far the tasks run ahead of the first one that is not done is bounded.
"""

import functools
import logging
import pickle
import socket
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from quality_model.core.processes import Failure, Result, Task
from quality_model.core.provenance import code_sha256
from quality_model.errors import QualityModelError, UsageError

_ATTEMPTS: Final = 3
_IN_FLIGHT: Final = 2
"""Tasks that an actor has at a time: the one at work, and the next."""
_AHEAD: Final = 16
"""Tasks for each actor that may be done before their turn, while one before them is done again."""
_LOOK_AGAIN_S: Final = 5.0
"""After which the size of the cluster is asked for again."""
_SAY_AFTER_S: Final = 30.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RayNodes:
    """Runs tasks in actors on all nodes of the cluster that this process is connected to.

    Actors start when there are tasks for them, and take nodes that join later. ``function`` must be
    importable and picklable; each actor unpickles it once, so it may keep what it loads. A task that costs
    three actors gives a `Failure`.

    Attributes:
        cpus: CPUs of each actor.
        gpus: GPUs of each actor.
    """

    cpus: int = 1
    gpus: int = 0

    @classmethod
    def of_cluster(cls, cpus: int = 1, *, gpu: bool = False) -> "RayNodes":
        """Actors of so many CPUs each; with GPUs one of these, and its share of its node's CPUs.

        Raises:
            UsageError: No node has as many CPUs.
        """
        nodes = _nodes()
        if gpu and (shares := [had // gpus for had, gpus in nodes if gpus]):
            return cls(max(1, min(shares)), 1)
        most = max((had for had, _ in nodes), default=0)
        if 0 < most < cpus:
            raise UsageError(
                f"An actor is to have {cpus} CPUs, and no node of the cluster has more than {most}.",
                "Lower --workers: those of each actor. A node has as many actors as its CPUs allow.",
            )
        return cls(cpus)

    def run(
        self, function: Callable[[Task], Result], tasks: Iterable[Task]
    ) -> Generator[Result | Failure, None, None]:
        """See `Executor.run`.

        Raises:
            UsageError: A node has another version of this package.
        """
        run = _Run(self, function)
        try:
            yield from run.results(iter(tasks))
        finally:
            run.close()


@dataclass(slots=True, eq=False)
class _Actor:
    """An actor, and the numbers of its tasks in the order in which it does them.

    It gets tasks when it has started: until then it may wait for a node as long as there is none.
    """

    handle: Any
    numbers: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Attempt:
    task: Any
    lost: int = 0


class _Run:
    """One run: actors, the tasks they have, and results that wait for their turn."""

    def __init__(self, nodes: RayNodes, function: Callable[[Any], Any]) -> None:
        import ray

        self._nodes = nodes
        self._ray = ray
        self._class: Any = ray.remote(num_cpus=nodes.cpus, num_gpus=nodes.gpus, max_restarts=0)(
            _actor_class()
        )
        self._function = ray.put(pickle.dumps(function))
        self._actors: set[_Actor] = set()
        self._starting: dict[Any, _Actor] = {}  # by reference of the answer, as the next
        self._asked: dict[Any, tuple[_Actor, int]] = {}
        self._waiting: deque[int] = deque()
        self._attempts: dict[int, _Attempt] = {}
        self._done: dict[int, Any] = {}
        self._most_actors, self._looked_at = 1, -_LOOK_AGAIN_S
        self._failed_starts = 0
        self._began, self._has_answered = time.monotonic(), False

    def results(self, tasks: Iterator[Any]) -> Iterator[Any]:
        """See `Executor.run`."""
        next_number = head = 0
        has_more = True
        while True:
            while head in self._done:
                yield self._done.pop(head)
                head += 1
            room = self._room()
            while has_more and len(self._waiting) < room and next_number < head + _AHEAD * room:
                try:
                    self._attempts[next_number] = _Attempt(next(tasks))
                except StopIteration:
                    has_more = False
                    break
                self._waiting.append(next_number)
                next_number += 1
            if not self._attempts:
                return
            self._start(room)
            self._send()
            self._collect()

    def close(self) -> None:
        """End all actors; what they were doing is lost."""
        for actor in (*self._actors, *self._starting.values()):
            self._kill(actor)

    def _room(self) -> int:
        """Actors that the cluster has room for, at least 1: a cluster may grow when one is asked for."""
        if time.monotonic() - self._looked_at >= _LOOK_AGAIN_S:
            cpus, gpus = self._nodes.cpus, self._nodes.gpus
            rooms = [min(had // cpus, had_gpus if gpus else had) for had, had_gpus in _nodes()]
            self._most_actors, self._looked_at = max(1, sum(rooms)), time.monotonic()
        return self._most_actors

    def _start(self, room: int) -> None:
        """Start actors for tasks that wait, where there is room."""
        idle = sum(not actor.numbers for actor in self._actors)
        wanted = min(len(self._waiting) - idle, room - len(self._actors))
        while len(self._starting) < wanted:
            actor = _Actor(self._class.remote(self._function, _own_version()))
            self._starting[actor.handle.begin.remote()] = actor

    def _send(self) -> None:
        """Give tasks that wait to idle actors, and what is more than starting ones will take to busy ones."""
        for has, reserved in ((0, 0), (_IN_FLIGHT - 1, len(self._starting))):
            for actor in self._actors:
                if len(actor.numbers) <= has and len(self._waiting) > reserved:
                    number = self._waiting.popleft()
                    actor.numbers.append(number)
                    answer = actor.handle.do.remote(pickle.dumps(self._attempts[number].task))
                    self._asked[answer] = (actor, number)

    def _collect(self) -> None:
        """Wait a while for an answer of an actor: it has started, it has done a task, or it is lost."""
        asked = [*self._asked, *self._starting]
        ready, _ = self._ray.wait(asked, num_returns=1, timeout=_LOOK_AGAIN_S)
        if not (ready or self._has_answered) and time.monotonic() - self._began > _SAY_AFTER_S:
            logger.warning("Ray has started nothing yet: its nodes start, or other jobs have them.")
            self._has_answered = True
        for answer in ready:
            actor, number = self._asked.pop(answer, (None, None))
            actor = actor or self._starting.pop(answer)
            try:
                succeeded, outcome = self._ray.get(answer)
            except self._ray.exceptions.RayTaskError as error:
                raise _problem_of(error) from None
            except self._ray.exceptions.RayError as error:
                self._lose(actor, error)
                continue
            if not succeeded:
                raise outcome
            self._has_answered = True
            if number is None:
                self._actors.add(actor)
                self._failed_starts = 0
                continue
            actor.numbers.remove(number)
            del self._attempts[number]
            self._done[number] = outcome

    def _lose(self, actor: _Actor, error: Exception) -> None:
        """Let others do the tasks of a lost actor. The first may have cost it, and counts as tried."""
        self._looked_at = -_LOOK_AGAIN_S
        self._kill(actor)
        if actor not in self._actors:
            self._failed_starts += 1
            if "No module named" in str(error) or self._failed_starts > max(_ATTEMPTS, self._most_actors):
                raise _problem_of(error) from None
            return
        self._actors.discard(actor)
        self._asked = {answer: asked for answer, asked in self._asked.items() if asked[0] is not actor}
        first, *others = actor.numbers
        attempt = self._attempts[first]
        attempt.lost += 1
        logger.warning(
            "Ray lost a node, or a process on one (%s); attempt %d of %d of what it was doing.",
            *(type(error).__name__, attempt.lost, _ATTEMPTS),
        )
        self._waiting.extendleft(reversed(others))
        if attempt.lost < _ATTEMPTS:
            self._waiting.appendleft(first)
        else:
            del self._attempts[first]
            self._done[first] = Failure("node_lost")

    def _kill(self, actor: _Actor) -> None:
        with suppress(Exception):  # the cluster may be gone, too
            self._ray.kill(actor.handle)


def lost_error() -> QualityModelError:
    """The error of a job that cannot do without what a `Failure` stands for."""
    return QualityModelError(
        f"{_ATTEMPTS} nodes of the cluster, or processes on them, were lost with the same images.",
        "Have the nodes enough memory? What is finished stays: run the same command again.",
    )


def _actor_class() -> type:
    """The class of the actors. As it is local to a function it travels by value, so that a node without this
    package, or with another version of it, can say so."""

    class Worker:
        def __init__(self, function: bytes, expected: tuple[str, str]) -> None:
            from quality_model.core import ray_nodes

            self._problem = ray_nodes.difference(expected)
            self._pickle = function

        def begin(self) -> tuple[bool, Any]:
            if self._problem is not None:
                return False, self._problem
            try:
                self._function = pickle.loads(self._pickle)
            except Exception as error:  # noqa: BLE001 - raised again where results are awaited
                return False, error
            return True, None

        def do(self, task: bytes) -> tuple[bool, Any]:
            try:
                return True, self._function(pickle.loads(task))
            except Exception as error:  # noqa: BLE001 - raised again where results are awaited
                return False, error

    return Worker


def difference(expected: tuple[str, str]) -> UsageError | None:
    """The error if this node has another version of the package than the driver."""
    if (found := _own_version()) == expected:
        return None
    ours, theirs = (f"{number} ({code[:8]})" for number, code in (found, expected))
    return UsageError(
        f"Node {socket.gethostname()} has quality-model {ours}, and this job is of {theirs}.",
        "Install the same version on all nodes of the cluster, and where the job is started.",
    )


@functools.cache
def _own_version() -> tuple[str, str]:
    """The version of this package, and a hash of its code."""
    try:
        number = version("quality-model")
    except PackageNotFoundError:
        number = "not installed"
    return number, code_sha256(["."], [])


def _problem_of(error: Exception) -> QualityModelError:
    """The error to show for what Ray says of a node or of a task that it could not run."""
    text = str(error)
    line = next((line for line in reversed(text.splitlines()) if line.strip()), text).strip()
    if "No module named" in text:
        line = next(line.strip() for line in text.splitlines() if "No module named" in line)
        return UsageError(
            f"A node of the Ray cluster lacks what the job needs: {line}",
            "Install this package, in the same version and with the same extras, on all nodes.",
        )
    return QualityModelError(f"Ray could not run a task: {line}", "Look at the logs of its nodes.")


def _nodes() -> list[tuple[int, int]]:
    """CPUs and GPUs of each node of the cluster."""
    import ray

    ask: Any = ray.nodes  # without types
    there = [node["Resources"] for node in ask() if node["Alive"]]
    return [(int(had.get("CPU", 0)), int(had.get("GPU", 0))) for had in there]
