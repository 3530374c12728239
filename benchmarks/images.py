"""The inputs of the benchmarks: 500 x 375 JPEG files, cut from photographs."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from quality_model.core.decoding import SUFFIXES
from quality_model.data.sample_photos import PHOTOGRAPHS

SIZE_PX: Final = (500, 375)
LARGE_PX: Final = (4000, 3000)
_QUALITY: Final = 90
_SHORTEST_SHARE: Final = 0.6
"""Of the largest window that fits: how much of it a crop takes at the least."""


def write_images(
    folder: Path, count: int, photographs: Sequence[Path], seed: int = 1, size_px: tuple[int, int] = SIZE_PX
) -> None:
    """Write ``count`` different JPEG files, NNNNNN.jpg: random windows of the photographs in turn."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    opened: dict[Path, Image.Image] = {}
    for number in range(count):
        path = photographs[number % len(photographs)]
        if path not in opened:
            opened[path] = Image.open(path).convert("RGB")
        photograph = opened[path]
        largest = min(photograph.width / size_px[0], photograph.height / size_px[1])
        scale = largest * random.uniform(_SHORTEST_SHARE, 1.0)
        width, height = size_px[0] * scale, size_px[1] * scale
        left = random.uniform(0.0, photograph.width - width)
        top = random.uniform(0.0, photograph.height - height)
        window = photograph.resize(size_px, Image.Resampling.LANCZOS, (left, top, left + width, top + height))
        window.save(folder / f"{number:06d}.jpg", quality=_QUALITY)


def link_images(folder: Path, count: int, files: Sequence[Path]) -> None:
    """Make a folder of ``count`` links to the same few files, in turn."""
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number:06d}.jpg").symlink_to(files[number % len(files)].resolve())


def find_photographs(folder: Path | None) -> list[Path]:
    """The photographs in a folder and its sub-folders; without one those that the packages carry."""
    if folder is not None:
        return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    found = []
    for photograph in PHOTOGRAPHS:
        spec = find_spec(photograph.package)
        assert spec is not None
        assert spec.submodule_search_locations
        package = Path(next(iter(spec.submodule_search_locations)))
        found += [package / file for file in photograph.files]
    return found
