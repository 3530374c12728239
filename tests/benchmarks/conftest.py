"""A made folder of sets for the benchmarks that measure on real defects."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from quality_model.core.decoding import Pixels

AUDITED = "grain/b_ref.png"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, photo: Pixels) -> Path:
    """Noise in pairs (two with the second reference), in steps and unpaired; and hard clean images."""
    return make_sets(tmp_path_factory.mktemp("real"), photo)


def make_sets(root: Path, photo: Pixels) -> Path:
    """A made folder of the layout that `benchmarks.real` reads."""
    rng = np.random.default_rng(5)
    rows: dict[str, list[dict[str, Any]]] = {}

    def add(name: str, file: str, at: int, sigma: float, **known: Any) -> None:
        path = root / name / f"{file}.png"
        path.parent.mkdir(exist_ok=True, parents=True)
        noisy = photo[at : at + 160, at : at + 160] + rng.normal(0.0, sigma, (160, 160, 3))
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(path)
        row = {"file": f"{name}/{file}.png", "head": "noise", "value": sigma, "licence": "none"}
        rows.setdefault(name, []).append({**row, **known})

    for at, group in enumerate("abc"):
        add("grain", f"{group}_ref", 90 * at, 0, group=group, role="reference", kind="paired")
        for number in range(1 + (group == "b")):
            add("grain", f"{group}_bad{number}", 90 * at, 25, group=group, role="degraded", kind="paired")
    for level in range(4):
        add("steps", f"s{level}", 60, 12 * level, group="speckle", role="graded", kind="graded")
    for number, role in enumerate(("clean", "clean", "degraded", "degraded")):
        sigma = 30 if role == "degraded" else 0
        add("film", f"f{number}", 50 * number, sigma, group=f"f{number}", role=role, kind="binary")
    for number, group in enumerate(("night", "night", "fog")):
        hard = {"group": group, "role": "clean", "kind": "hard_clean", "head": "all"}
        add("hard_clean", f"{group}/{number}", 80 * number, 0, **hard)
    add("other", "opinion", 0, 9, group="x", role="graded", kind="mos")
    for name, listed in rows.items():
        pd.DataFrame(listed).to_csv(root / name / f"{name}.csv", index=False)
    pd.DataFrame({"file": [AUDITED], "head": ["noise"], "note": "grainy"}).to_csv(
        root / "audit.csv", index=False
    )
    return root
