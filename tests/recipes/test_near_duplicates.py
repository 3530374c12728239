"""`recipes/near_duplicates.py`: images that a model has seen are found among those that judge it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from quality_model.core.decoding import Pixels

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("QUALITY_MODEL_SHARED", ROOT.parent / "shared"))


def run(*folders: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "recipes/near_duplicates.py", *map(str, folders)]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )


@pytest.fixture
def folders(tmp_path: Path, photo: Pixels) -> tuple[Path, Path]:
    """Quarters of a photograph to learn from, and other scenes to be judged on."""
    seen, judged = tmp_path / "seen", tmp_path / "judged"
    (judged / "deep").mkdir(parents=True)
    seen.mkdir()
    for number, (top, left) in enumerate([(0, 0), (0, 256), (256, 0), (256, 256)]):
        Image.fromarray(photo[top : top + 256, left : left + 256]).save(seen / f"{number}.png")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((256, 256)).save(judged / "other.png")
    return seen, judged


def test_other_scenes_are_no_duplicates(folders: tuple[Path, Path]) -> None:
    done = run(*folders)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("change", ["smaller", "recompressed", "brighter", "framed thinly"])
def test_a_changed_copy_is_named_with_its_original(folders: tuple[Path, Path], change: str) -> None:
    seen, judged = folders
    copy = Image.open(seen / "2.png")
    if change == "smaller":
        copy = copy.resize((150, 150))
    elif change == "brighter":
        copy = ImageEnhance.Brightness(copy).enhance(1.15)
    elif change == "framed thinly":
        copy.paste((0, 0, 0), (0, 0, 256, 2))
    copy.save(judged / "deep" / "copy.jpg", quality=60)
    done = run(seen, judged)
    assert done.returncode == 1
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        [str(seen / "2.png"), str(judged / "deep" / "copy.jpg")]
    ]


def test_what_cannot_be_read_is_named_and_left_out(folders: tuple[Path, Path]) -> None:
    seen, judged = folders
    (judged / "broken.jpg").write_bytes(b"no image")
    done = run(seen, judged)
    assert done.returncode == 0
    assert "broken.jpg is left out" in done.stderr


@pytest.mark.skipif(not (SHARED / "scenes").is_dir(), reason=f"needs the folder of scenes, {SHARED}/scenes")
def test_nothing_that_judges_the_bundled_model_was_seen_in_training() -> None:
    """Training scenes against test scenes and real defects."""
    done = run(SHARED / "scenes" / "train", SHARED / "scenes" / "test", SHARED / "real")
    assert (done.returncode, done.stdout) == (0, "")
