"""One job by several processes that share a file system alone: each makes its share of the parts, one merges.

The plan is made once, by the process that comes first; the others find it. Which parts are whose follows from
the numbers alone, so nothing else has to be agreed on.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice

from quality_model.core.folders import PLAN_NAME
from quality_model.core.jobs import UPDATE_FOLDER, JobFolder
from quality_model.errors import IncompleteError, UsageError
from quality_model.score.inputs import Survey
from quality_model.score.plan import UPDATE_NAME, Plan, Settings, open_plan
from quality_model.score.result import ScoringModel

_ALONE = "Run `score` without --part and --merge: it does what is missing or has changed."


@dataclass(frozen=True, slots=True)
class Share:
    """The share of one of ``count`` processes in the parts of a job; ``number`` is from 1 to ``count``."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Share":
        """The share that a text such as 2/16 names.

        Raises:
            UsageError: It names none.
        """
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise UsageError(f"--part {text!r} is no share of a job.", "Give I/N, such as 1/16 to 16/16.")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def of(self, parts: Iterable[int]) -> Iterator[int]:
        """Every ``count``-th part: shares differ by one part at most, wherever large images are."""
        return islice(parts, self.number - 1, None, self.count)


def join(job: JobFolder, found: Survey, model: ScoringModel | None, settings: Settings) -> Plan:
    """The plan of a job that several processes carry out; without ``model`` any model is accepted.

    Raises:
        IncompleteError: There is no plan.
        UsageError: It is of another job, inputs have changed since, or an update is not complete.
        CorruptError: It is damaged.
    """
    plan = open_plan(job.folder)
    if plan is None:
        raise IncompleteError(
            f"{job.folder} has no {PLAN_NAME}: nothing was scored there.", "Run the parts first, with --part."
        )
    plan.require_same(found, model or plan.model, settings)
    if any((job.folder / name).exists() for name in (UPDATE_NAME, UPDATE_FOLDER)):
        raise UsageError(f"The update of {job.folder} is not complete; it has no shares.", _ALONE)
    if not plan.has_same_inputs(found):
        raise UsageError(
            f"The inputs in {found.inputs.title} are not those that were planned in {job.folder}"
            f" ({plan.num_files} files then, {found.num_files} now): names, lengths or times differ.",
            f"Let every node see the same files. If they were changed: {_ALONE[0].lower()}{_ALONE[1:]}",
        )
    return plan


def require_all(job: JobFolder, plan: Plan, missing: Iterable[int]) -> None:
    """Refuse to merge while parts are missing.

    Raises:
        IncompleteError: Names the shares that miss some.
    """
    numbers = {number: place for place, number in enumerate(plan.rows_of_parts)}
    places = [numbers[number] for number in missing]
    if not places:
        return
    count = job.num_shares()
    if count is None:
        raise IncompleteError(f"{len(places)} of {len(numbers)} parts of {job.folder} are missing.", _ALONE)
    shares = _ranges(sorted({place % count + 1 for place in places}))
    raise IncompleteError(
        f"Not every part is done: missing are --part {shares} of {count}.",
        "Run these again, or all: what is done is not done again. Then repeat --merge.",
    )


def _ranges(numbers: Iterable[int]) -> str:
    """Ascending numbers as text, such as 1,3-5."""
    runs = []
    for _, run in groupby(enumerate(numbers), lambda item: item[1] - item[0]):
        members = [number for _, number in run]
        runs.append(f"{members[0]}" if len(members) == 1 else f"{members[0]}-{members[-1]}")
    return ",".join(runs)
