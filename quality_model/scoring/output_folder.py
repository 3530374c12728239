"""The folder of a result: what else it may hold, and how an earlier result is removed from it."""

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

from quality_model import storage
from quality_model.folders import is_system
from quality_model.scoring import parts, plan
from quality_model.scoring.summary import REPORT_NAME

_EARLIER_LAYOUT: Final = ("shard-*.parquet", "shard-*.json", "summary.json", "summary.png")


def foreign(folder: Path, *, known: tuple[str, ...]) -> list[str]:
    """What a folder holds beside files of these names and what systems leave anywhere, hidden files too."""
    if not folder.is_dir():
        return []
    return sorted(
        path.name
        for path in folder.iterdir()
        if not (is_system(path.name) or any(path.match(pattern) for pattern in known))
    )


def clear(output: Path) -> None:
    """Remove another job's result, of any layout: first what completes it, last what says that it is ours."""
    if not plan.is_result(output):
        return
    storage.unseal(output)
    if not plan.has_earlier_layout(output):
        storage.unseal(output, plan.JOB_NAME)
    for folder, pattern in ((parts.DATA_FOLDER, "part-*.parquet"), (parts.MARKERS_FOLDER, "part-*.json")):
        for path in (output / folder).glob(pattern):
            path.unlink()
        with suppress(OSError):
            (output / folder).rmdir()
    for pattern in _EARLIER_LAYOUT:
        for path in output.glob(pattern):
            path.unlink()
    shutil.rmtree(output / REPORT_NAME, ignore_errors=True)
    for name in (plan.PLAN_NAME, plan.JOB_NAME):
        storage.remove(output / name)
