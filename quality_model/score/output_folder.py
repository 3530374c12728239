"""The folder of a result: what else it may hold, and how an earlier result is removed from it."""

import shutil
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Final

from quality_model.core import storage
from quality_model.core.folders import JOB_NAME, PLAN_NAME, is_result, is_system
from quality_model.score import parts, plan
from quality_model.score.summary import FIGURE_NAME, REPORT_NAME, SUMMARY_NAME

_REPORT_FILES: Final = (SUMMARY_NAME, FIGURE_NAME, f"{REPORT_NAME}/validation.json")
_EARLIER_LAYOUT: Final = ("shard-*.parquet", "shard-*.json", "summary.json", "summary.png")


def foreign(output: Path, known: Collection[str] = (plan.TABLE_NAME,)) -> list[str]:
    """What an output folder without a result holds, beside some names and what systems leave anywhere."""
    if not output.is_dir():
        return []
    return sorted(
        path.name
        for path in output.iterdir()
        if not (is_system(path.name) or path.name in known or _is_empty_data(path))
    )


def foreign_parts(output: Path, num_parts: int | None) -> list[str]:
    """What is in the folder of score rows beside so many parts (None: any number) and hidden files.

    Whoever reads that folder as a dataset skips hidden files alone.
    """
    folder = output / parts.DATA_FOLDER
    if not folder.is_dir():
        return []
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    if num_parts is None:
        return sorted(name for name in names if not Path(name).match("part-*.parquet"))
    return sorted(names - {Path(parts.part_name(number)).name for number in range(num_parts)})


def _is_empty_data(path: Path) -> bool:
    """Whether this is the folder of score rows, and nothing but hidden files is in it."""
    return path.name == parts.DATA_FOLDER and path.is_dir() and not foreign_parts(path.parent, 0)


def clear(output: Path) -> None:
    """Remove another job's result, of any layout: first what completes it, last what says that it is ours."""
    if not is_result(output):
        return
    is_earlier = plan.has_earlier_layout(output)
    storage.unseal(output)
    if not is_earlier:
        storage.unseal(output, JOB_NAME)
    for folder, pattern in ((parts.DATA_FOLDER, "part-*.parquet"), (parts.MARKERS_FOLDER, "part-*.json")):
        for path in (output / folder).glob(pattern):
            path.unlink()
        with suppress(OSError):
            (output / folder).rmdir()
    for pattern in (*_REPORT_FILES, *(_EARLIER_LAYOUT if is_earlier else ())):
        for path in output.glob(pattern):
            path.unlink()
    shutil.rmtree(output / REPORT_NAME / "docs", ignore_errors=True)
    with suppress(OSError):
        (output / REPORT_NAME).rmdir()
    for name in (PLAN_NAME, JOB_NAME):
        storage.remove(output / name)
