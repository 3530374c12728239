"""A folder of real defects: what is known of its images, and how well a model finds them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quality_model.core.decoding import Pixels
from quality_model.core.provenance import ModelFacts
from quality_model.core.views import ViewRecipe
from quality_model.evaluate.evidence import RealEvidence
from quality_model.evaluate.metrics import Bootstrap
from quality_model.evaluate.real_defects import contents_sha256, measure_real_defects, read_sets
from quality_model.networks.model import LoadedModel
from quality_model.params import Params
from quality_model.records import HEADS
from tests.real_sets import AUDITED, write_sets

Measure = Callable[[Path], RealEvidence]


class ReadsRoughness(nn.Module):
    """Every score is the mean difference of neighbours, which noise raises."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        rough = (x[..., 1:] - x[..., :-1]).abs().mean(dim=(1, 2, 3))
        return {"all_scores": rough[:, None].repeat(1, len(HEADS)).clamp(0.0, 1.0)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photo: Pixels) -> Path:
    return write_sets(tmp_path_factory.mktemp("real"), photo)


@pytest.fixture
def broken(folder: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(folder, tmp_path / "broken"))


@pytest.fixture
def measure(params: Params) -> Measure:
    """Noise and blur, found by a model that reads noise as both."""
    network: Any = ReadsRoughness()
    loaded = LoadedModel(network, 64, "f" * 64, ModelFacts(), None, ViewRecipe(tile_px=64))

    def measure(place: Path) -> RealEvidence:
        bootstrap, cpu = Bootstrap(200, 0.95, 1), torch.device("cpu")
        return measure_real_defects(
            place, ["noise", "blurriness"], loaded, bootstrap, limits=params.limits, device=cpu
        )

    return measure


def test_what_is_known_is_a_row_per_image_and_head_without_what_the_audit_names(folder: Path) -> None:
    known = read_sets(folder)
    assert sorted(known["set"].unique()) == ["film", "grain", "hard_clean", "steps"]
    assert known["set"].value_counts()["hard_clean"] == 3 * 4
    audited = known[known["file"] == AUDITED]
    assert not audited["bad"].any() and not audited["clean"].any()
    assert known[known["set"] == "grain"][["bad", "clean"]].sum().tolist() == [4, 2]
    scenes = known.groupby("set")["scene"].nunique()
    assert scenes.to_dict() == {"film": 4, "grain": 3, "hard_clean": 3, "steps": 1}
    (folder / "audit.csv").rename(folder / "kept")
    assert read_sets(folder)["clean"].sum() == known["clean"].sum() + 1
    (folder / "kept").rename(folder / "audit.csv")


def test_a_head_is_measured_on_all_sets_and_one_without_a_bad_image_has_no_figure(
    folder: Path, measure: Measure
) -> None:
    found = measure(folder)
    assert found.problem is None
    noise, blur = found.heads["noise"], found.heads["blurriness"]
    assert (noise.num_bad, noise.num_clean) == (9, 8)
    assert noise.auc.value is not None and noise.auc.value > 0.95
    assert noise.auc.low is not None and noise.auc.num_groups == 11
    assert (blur.num_bad, blur.num_clean, blur.auc.value) == (0, 3, None)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda place: shutil.rmtree(place), "is not there"),
        (lambda place: [shutil.rmtree(one) for one in place.iterdir() if one.is_dir()], "holds no set"),
        (lambda place: (place / "film" / "film.csv").write_bytes(b""), "film.csv cannot be read"),
        (lambda place: (place / "film" / "film.csv").write_bytes(b"file\n\xff\xfe"), "cannot be read"),
        (lambda place: (place / "film" / "film.csv").write_text("file\nx.png\n"), "lacks group"),
        (lambda place: (place / "film" / "f0.png").unlink(), "1 images of the sets are not in"),
        (lambda place: (place / "film" / "f0.png").write_bytes(b"no"), "f0.png cannot be read"),
    ],
    ids=["away", "empty", "empty table", "no text", "no column", "image away", "image broken"],
)
def test_what_cannot_be_measured_is_a_problem_with_a_reason_and_changes_the_hash_of_the_contents(
    damage: Callable[[Path], object], problem: str, broken: Path, folder: Path, measure: Measure
) -> None:
    assert contents_sha256(broken) == contents_sha256(folder)
    damage(broken)
    found = measure(broken)
    assert found.problem is not None and problem in found.problem
    assert found.heads == {} and str(broken.parent) not in found.problem
    assert contents_sha256(broken) != contents_sha256(folder)
