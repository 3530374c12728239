"""A finished scoring result, as what looks at it and acts on it reads it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from quality_model.core import folders
from quality_model.core.jobs import DATA_FOLDER, JobFolder
from quality_model.errors import CorruptError, IncompleteError, UsageError
from quality_model.records import Head, ModelRef


@dataclass(frozen=True, slots=True)
class FinishedResult:
    """The folder of a result, with what its completion marker says.

    Attributes:
        model: Which made the scores.
        scale_version: What the scores mean (`records.SCALE_VERSION`).
        thresholds: Stored with the result; empty for a model without.
        files: Of the rows, in the order of the plan.
    """

    folder: Path
    model: ModelRef
    scale_version: str
    thresholds: Mapping[Head, float]
    files: tuple[Path, ...]

    def rows(self, columns: Collection[str]) -> pa.Table:
        """Some columns of all rows, in the order of the plan."""
        return pa.concat_tables([pq.read_table(file, columns=list(columns)) for file in self.files])


def open_finished(path: Path) -> FinishedResult:
    """The finished result that a folder is, or is inside of.

    Raises:
        UsageError: It is no result, or one of an earlier layout.
        IncompleteError: It is not finished.
        CorruptError: Its completion marker does not say which model made it.
    """
    folder = folders.result_of(path)
    if folder is None:
        raise UsageError(f"{path} is no scoring result.", "Name the folder that `score` wrote.")
    marker = JobFolder(folder).completion()
    if marker is None:
        raise IncompleteError(f"{folder} is not complete.", "Run its `score` command again to resume it.")
    if "schema_version" not in marker:
        raise UsageError(f"{folder} is a result of an earlier layout.", "Score the collection again.")
    try:
        facts: dict[str, Any] = marker["model"]
        model = ModelRef(facts["name"], facts["version"], facts["run_id"], facts["sha256"])
        names = [entry["name"] for entry in marker["files"]]
        files = tuple(folder / name for name in names if name.startswith(f"{DATA_FOLDER}/"))
        return FinishedResult(folder, model, facts["scale_version"], marker["thresholds"] or {}, files)
    except (KeyError, TypeError, AttributeError):
        raise CorruptError(
            f"The completion marker of {folder} does not name its model.", "Score the collection again."
        ) from None
