"""Parts of a planned job that are made on the nodes of a cluster.

A node gets the plan, the model by value and the number of a part; it reads inputs and writes part and
completion marker where all nodes see them. The driver reads what was made, and accounts for all parts.
"""

import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Self

import pyarrow as pa

from quality_model.core import predict
from quality_model.core.folders import is_there
from quality_model.core.jobs import JobFolder
from quality_model.core.kept_processes import KeptProcesses
from quality_model.core.processes import Executor, Failure
from quality_model.errors import CheckpointError, IncompleteError, UsageError
from quality_model.params import EngineName, LimitsParams, ScoreParams
from quality_model.records import ModelRef
from quality_model.score.parts import MadePart, PartMaker, Todo, read_finished
from quality_model.score.plan import Plan
from quality_model.score.reading import DownloadRules, Scorer
from quality_model.score.result import ScoringModel
from quality_model.score.thumbnails import ThumbnailKeeper

_SEEN_WITHIN_S: Final = 60
"""A file server's clients may know for that long that a file is not there."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model by value: a node needs neither the registry nor the place where the driver found it.

    Attributes:
        ref: Which it is.
        files: By name; a bare file of weights is one.
        is_folder: Whether they are those of a folder.
    """

    ref: ModelRef
    files: Mapping[str, bytes]
    is_folder: bool

    @classmethod
    def of(cls, ref: ModelRef, path: Path) -> Self:
        """Read the folder or file of a model."""
        paths = sorted(one for one in path.iterdir() if one.is_file()) if path.is_dir() else [path]
        return cls(ref, {one.name: one.read_bytes() for one in paths}, path.is_dir())

    def load(
        self, section: ScoreParams, limits: LimitsParams, engine: EngineName | None
    ) -> tuple[predict.Scorer, ScoringModel]:
        """Load it on this node; arguments as of `predict.Scorer.from_params`.

        Raises:
            CheckpointError: It does not load, or these are other weights.
            DeviceUnavailableError, UsageError: This node lacks the device or the engine.
        """
        with tempfile.TemporaryDirectory() as folder:
            for name, data in self.files.items():
                (Path(folder) / name).write_bytes(data)
            place = Path(folder) if self.is_folder else Path(folder, *self.files)
            named = section.model_copy(update={"model": str(place)})
            scorer = predict.Scorer.from_params(named, limits, engine=engine)
        if scorer.source.sha256 != self.ref.sha256:
            raise CheckpointError(f"The model {self.ref.name} changed while it was read.", "Run it again.")
        scorer.source = self.ref
        return scorer, ScoringModel.of(scorer, intervals=section.intervals)

    def described_on(
        self,
        executor: Executor,
        section: ScoreParams,
        limits: LimitsParams,
        engine: EngineName | None,
    ) -> tuple[ScoringModel, bool]:
        """What the model is where the job runs, and whether it scores in batches there."""
        with closing(executor.run(self._describe, [(section, limits, engine)])) as results:
            (found,) = results
        if isinstance(found, Failure):
            raise CheckpointError(f"No node could load the model {self.ref.name}.", "Look at Ray's logs.")
        return found

    def _describe(
        self, how: tuple[ScoreParams, LimitsParams, EngineName | None]
    ) -> tuple[ScoringModel, bool]:
        scorer, model = self.load(*how)
        return model, scorer.engine is None


@dataclass(slots=True)
class NodeParts:
    """Makes parts on a node; model, thumbnails and worker processes are made for the first and kept.

    An image that crashes a worker process costs that process alone, as on one machine.

    Attributes:
        output: The job's folder, which all nodes see.
        model: The model, or a scorer by value.
        others: As of `PartMaker`.
    """

    output: Path
    plan: Plan
    section: ScoreParams
    limits: LimitsParams
    download: DownloadRules | None
    inputs: Path
    model: ModelFiles | Scorer
    _maker: PartMaker | None = field(default=None, init=False)

    def __call__(self, todo: Todo) -> MadePart:
        """Make one part. Its rows stay in its file.

        Raises:
            UsageError: This node does not see the inputs or the output.
            CheckpointError, StorageError: As of `PartMaker.make` and `ModelFiles.load`.
        """
        maker = self._maker = self._maker or self._make()
        (made,) = maker.make([todo])
        return replace(made, table=None)

    def _make(self) -> PartMaker:
        plan, scorer = self.plan, self.model
        for place in (self.inputs, plan.table_path(self.output)):
            if not is_there(place):
                raise UsageError(
                    f"Node {socket.gethostname()} does not see {place}.",
                    "Inputs and output have to be where all nodes see them by the same path: a shared file"
                    " system, or an object store.",
                )
        if isinstance(scorer, ModelFiles):
            scorer, model = scorer.load(self.section, self.limits, plan.model.engine)
            if model != plan.model:
                raise CheckpointError(
                    f"A node scores with {model.engine}, the job with {plan.model.engine}.",
                    "Install the same packages on all nodes, or choose with --engine what all have.",
                )
        return PartMaker(
            JobFolder(self.output),
            *(plan, self.section, self.limits, self.download, self.inputs, scorer),
            ThumbnailKeeper(
                self.output, plan.model.thresholds, plan.rows_of_parts, is_on=self.section.thumbnails
            ),
            KeptProcesses(),
        )


def make_on(executor: Executor, parts: NodeParts, todo: Sequence[Todo]) -> Iterator[MadePart]:
    """Make parts on nodes, in order.

    Raises:
        IncompleteError: Some were lost with each node that tried; all others are made.
    """
    lost: list[str] = []
    with closing(executor.run(parts, todo)) as results:
        for one, made in zip(todo, results, strict=True):
            if isinstance(made, Failure):
                lost.append(str(one.number + 1))
            else:
                yield made
    if lost:
        raise IncompleteError(
            f"{len(lost)} of {len(todo)} parts were lost, each with three nodes or processes of Ray:"
            f" {', '.join(lost[:10])}{', ...' if len(lost) > 10 else ''}.",
            "Have the nodes enough memory? All others are done; the same command makes these.",
        )


def read_made(folder: JobFolder, plan: Plan, made: MadePart) -> pa.Table:
    """The rows of a part that a node has made, as soon as this one sees them.

    Raises:
        IncompleteError: It does not see them within a minute.
    """
    for waited_s in range(_SEEN_WITHIN_S + 1):
        finished = read_finished(folder, plan, made.todo.number, made.todo.rows)
        if finished is not None and finished[0] == made.part:
            return finished[1]
        if waited_s < _SEEN_WITHIN_S:
            time.sleep(1)
    raise IncompleteError(
        f"A node has made {made.part.file}, but it is not in {folder.folder} here.",
        "Put the output where nodes and this process see it: a shared file system, an object store.",
    )
