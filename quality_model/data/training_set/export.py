"""Samples as image files: to look at, or to score."""

from pathlib import Path

import numpy as np
from PIL import Image

from quality_model.core import storage
from quality_model.data.training_set.store import TrainingSet
from quality_model.errors import UsageError
from quality_model.records import HEADS, Split


def export_samples(training_set: Path, *, split: Split, count: int, output: Path) -> int:
    """Write samples, spread evenly over a split, as PNG files named after what was done to them.

    Args:
        training_set: Folder of the training dataset.
        split: Which samples.
        count: Most files.
        output: Folder; the files of an earlier export are replaced.

    Returns:
        Number of files.

    Raises:
        UsageError: The split has no samples.
    """
    samples = TrainingSet.open(training_set)
    indices = samples.indices(split)
    if len(indices) == 0:
        raise UsageError(f"The split {split} has no samples.", "Choose another split.")
    chosen = indices[np.unique(np.linspace(0, len(indices) - 1, count).round().astype(int))]
    _clear(output)
    names = []
    for index in chosen:
        row = samples.manifest.iloc[index]
        done = [
            f"{head}-{row[f'{head}_kind']}-{row[f'{head}_label']:.2f}"
            for head in HEADS
            if row[f"{head}_label"] > 0
        ]
        name = "_".join([row["sample_id"].replace("/", "-").replace("#", "-"), *(done or ["clean"])])
        names.append(f"{name}.png")
        with storage.staged(output / names[-1]) as temporary:
            Image.fromarray(samples.images[index]).save(temporary, format="PNG")
    storage.seal(output, names, rows=len(names), kind="samples")
    return len(names)


def _clear(output: Path) -> None:
    """Take away the files of an earlier export, and nothing else."""
    marker = output / storage.MARKER_NAME
    if marker.exists():
        facts = storage.read_json(marker)
        if not storage.is_marker(facts) or facts.get("kind") != "samples":
            raise UsageError(
                f"{output} holds something else than exported samples.", "Choose another folder."
            )
        for entry in facts["files"]:
            (output / entry["name"]).unlink(missing_ok=True)
        storage.unseal(output)
