"""A small result for galleries, with keys that attack the page and inputs that are no images."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from quality_model.params import WITHOUT_PROJECT
from quality_model.score.job import score
from tests.score.conftest import IDENTITY, MeanScorer

NUM_PLAIN = 200

HOSTILE = (
    "a</script><img src=x onerror=alert(1)>.png",
    "<script>alert(1)<!--.png",
    "quote\" and ' and `.png",
    "\u202eright-to-left.png",
    "two\nlines.png",
    "שלום.png",
    "/".join(["long" * 25] * 3) + ".png",
    "=1+1.png",
)
"""Names of files, as they are on the disk and in the result."""


def make_images(folder: Path) -> Path:
    """Images whose mean colours are spread over all scores, and three that cannot be read."""
    random = np.random.default_rng(0)
    names = [f"{number:03d}.png" for number in range(NUM_PLAIN)]
    for name in (*names, *HOSTILE, os.fsdecode(b"not-utf8-\xff.png")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (48, 32), tuple(random.integers(0, 256, 3).tolist())).save(path)
    for number in range(2):
        (folder / f"cut-{number}.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    (folder / "no-image-<b>.jpg").write_text("text")
    return folder


def make_result(folder: Path) -> Path:
    """The scores of these images; a score is the mean of a channel."""
    section = WITHOUT_PROJECT.score.model_copy(update={"workers": 1, "shard_size": 64})
    score(
        section,
        WITHOUT_PROJECT.limits,
        inputs=make_images(folder / "images"),
        output=folder / "scores of 'mine'",
        scorer=MeanScorer(),
        model=IDENTITY,
    )
    return folder / "scores of 'mine'"
