"""A new model's scores stay on the champion's scale, unless the scale version rises."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quality_model import Scorer
from quality_model.core import storage
from quality_model.core.decoding import Pixels
from quality_model.core.model_files import Description, read_description
from quality_model.data.dataset import TrainingSet
from quality_model.data.images_table import ImagesTable
from quality_model.params import Params
from quality_model.records import HEADS
from quality_model.release.publish import publish
from quality_model.release.registry import Registry

from .conftest import images_of, train_in, write_photographs

Train = Callable[..., Description]


@pytest.fixture(scope="module")
def many(photo: Pixels, tmp_path_factory: pytest.TempPathFactory) -> TrainingSet:
    """Photographs of which thirty are for validation."""
    return write_photographs(tmp_path_factory.mktemp("many") / "data", photo, num_validation=30)


@pytest.fixture
def train(params: Params, project: Path, many: TrainingSet) -> Train:
    """The function in a project folder; returns what the files of the model say."""

    def train(name: str, samples: TrainingSet = many, **changes: object) -> Description:
        train_in(project, params, samples, {"crops_px": (), **changes}, output=project / name)
        return read_description(project / name)

    return train


@pytest.fixture
def champion(train: Train, project: Path, params: Params) -> Path:
    train("champion", epochs=2, learning_rate=0.003)
    registry = Registry(project, params.registry)
    registry.move_alias(
        "champion", registry.register(publish(project / "champion", root=project, registry=params.registry))
    )
    return project / "champion"


def test_a_model_is_mapped_to_the_scale_of_the_champion_and_starts_another_only_when_told(
    train: Train, champion: Path, project: Path, many: TrainingSet, photographs: TrainingSet, caplog: Any
) -> None:
    first = read_description(champion)
    assert (first.views.scale, first.facts.scale_version) == (
        None,
        "1.1",
    )  # the bundled one is of another size
    described = train("next", seed=3)
    scale, facts = described.views.scale, described.facts
    assert scale is not None and facts.scale_version == "1.1"
    assert scale.champion_sha256 == storage.file_sha256(champion / "model.safetensors")
    assert scale.num_images > 200
    assert facts.scale_r2 is not None and {*facts.scale_r2} == {*HEADS}
    with ImagesTable(images_of(many.folder)) as table:
        images = [image.data for image in table.images()]

    def means(name: str, **options: Any) -> np.ndarray:
        found = Scorer(project / name, "cpu", **options).predict_batch(images)
        return np.mean([[getattr(one, head) for head in HEADS] for one in found], axis=0)

    before, after, raw = means("champion"), means("next"), means("next", raw=True)
    assert np.abs(after - before).sum() < 0.5 * np.abs(raw - before).sum()

    from_it = train("third", start_from=str(project / "next"), seed=4)
    assert from_it.views.scale != scale  # that of its start weights is not its own
    other = train("other", keep_scale=False)
    assert (other.views.scale, other.facts.scale_version, other.facts.scale_r2) == (None, "1.2", None)
    few = train("few", samples=photographs)
    assert (few.views.scale, few.facts.scale_version) == (None, "1.2")
    assert "too few for a map to the champion's scale" in caplog.text
