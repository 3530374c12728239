"""Adapters, run by the packages that they are for.

Those are installed beside the environment: their requirements would change it.
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from quality_model.core.decoding import Pixels
from quality_model.errors import UsageError
from quality_model.integrations import Limits
from quality_model.integrations.dataset_map import ScoreColumns
from quality_model.integrations.torch_dataset import GoodOnly

DATATROVE = ["datatrove==0.10.1", "loguru==0.7.3", "humanize==4.17.0"]
DATA_JUICER = [
    *("py-data-juicer==1.6.1", "aiohttp==3.14.5", "beautifulsoup4==4.15.0", "emoji==2.16.0"),
    *("jsonargparse==4.53.0", "loguru==0.7.3", "tomli==2.5.0", "wget==3.2", "zstandard==0.25.0"),
]
NEMO_CURATOR = [
    *("nemo-curator==1.4.0", "cosmos-xenna==0.3.0", "loguru==0.7.3", "msgpack==1.2.4", "ray==2.60.0")
]


ROOT = Path(__file__).parents[2]
Run = Callable[[list[str], str], str]


@pytest.fixture
def run_with(tmp_path: Path) -> Run:
    """Runs Python code where some packages can be imported, too; returns what it printed."""

    def run(packages: list[str], code: str) -> str:
        beside = tmp_path / "packages"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        installed = subprocess.run(
            [*pip, "--target", str(beside), *packages], capture_output=True, text=True, check=False
        )
        if installed.returncode:
            pytest.skip(f"no package index has {packages[0]}: {installed.stderr.strip().splitlines()[-1]}")
        env = {**os.environ, "PYTHONPATH": f"{beside}{os.pathsep}{ROOT}"}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


@pytest.fixture
def photos(tmp_path: Path, photo: Pixels) -> Path:
    """A clean photograph, one with noise, and a file that is no image."""
    folder = tmp_path / "photos"
    folder.mkdir()
    noise = np.random.default_rng(0).normal(0.0, 40.0, photo.shape)
    Image.fromarray(photo).save(folder / "clean.png")
    Image.fromarray(np.clip(photo + noise, 0, 255).astype(np.uint8)).save(folder / "noisy.png")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


@pytest.mark.parametrize("decode", [True, False])
def test_a_hugging_face_dataset_gets_columns_of_scores(photos: Path, decode: bool) -> None:
    paths = [str(photos / name) for name in ("clean.png", "noisy.png")]
    column = datasets.Image(decode=decode)
    table = datasets.Dataset.from_dict({"image": paths}).cast_column("image", column)
    scored = table.map(ScoreColumns("bundled"), batched=True)
    assert scored["error_code"][:] == [None, None]
    assert scored["noise"][0] < 0.2 < 0.5 < scored["noise"][1] <= scored["worst_score"][1]
    assert 0.0 <= scored["overall"][1] < scored["overall"][0] <= 1.0


def test_what_cannot_be_read_is_a_row_of_a_dataset_all_the_same(photos: Path) -> None:
    columns = ScoreColumns("bundled")({"image": [str(photos / "broken.png"), {"bytes": None, "path": None}]})
    assert columns["error_code"][0] == "not_an_image"
    assert columns["error_code"][1] is not None
    assert all(value != value for value in columns["overall"])


def test_a_torch_dataset_without_its_bad_images(photos: Path) -> None:
    class Photos:
        def __len__(self) -> int:
            return 2

        def __getitem__(self, at: int) -> tuple[Image.Image, int]:
            return Image.open(photos / ("noisy.png", "clean.png")[at]), at

    good = GoodOnly(Photos(), Limits("bundled", {"noise": 0.4}))
    assert (len(good), good.indices, good[0][1]) == (1, [1], 1)
    assert len(GoodOnly(Photos(), Limits("bundled", {"worst_score": 1.0}))) == 2


def test_limits_travel_to_other_processes_and_name_what_they_mean() -> None:
    limits = Limits("bundled", {"noise": 0.4})
    assert limits.scorer is limits.scorer
    assert pickle.loads(pickle.dumps(limits)) == limits
    with pytest.raises(UsageError, match=r"nois=0\.4"):
        Limits(limits={"nois": 0.4})
    with pytest.raises(UsageError, match="noise=40"):
        Limits(limits={"noise": 40})


def test_datatrove_drops_documents_with_bad_images(run_with: Run, photos: Path) -> None:
    code = f"""
from pathlib import Path
from datatrove.data import Document, Media, MediaType
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.writers import JsonlWriter
from quality_model.integrations import Limits
from quality_model.integrations.datatrove_filter import ImageQualityFilter

photos = Path({str(photos)!r})
def media(name): return Media(name, MediaType.IMAGE, "", media_bytes=(photos / name).read_bytes())
documents = [
    Document("", "none"),
    Document("", "clean", [media("clean.png")]),
    Document("", "both", [media("clean.png"), media("noisy.png")]),
    Document("", "broken", [media("broken.png")]),
    Document("", "path", [Media("x", MediaType.IMAGE, "", path=str(photos / "clean.png"))]),
]
quality = ImageQualityFilter(Limits("bundled", {{"noise": 0.4}}), JsonlWriter("dropped", compression=None))
LocalPipelineExecutor([documents, quality, JsonlWriter("kept", compression=None)], skip_completed=False).run()
import json
for folder in ("kept", "dropped"):
    for line in Path(folder, "00000.jsonl").read_text().splitlines():
        row = json.loads(line)
        print(folder, row["id"], row.get("metadata", {{}}).get("filter_reason", ""))
"""
    assert [line.rstrip() for line in run_with(DATATROVE, code).splitlines()] == [
        "kept none",
        "kept clean",
        "kept path",
        "dropped both noise",
        "dropped broken not_an_image",
    ]


def test_data_juicer_filters_samples_by_their_images(run_with: Run, photos: Path) -> None:
    code = f"""
from pathlib import Path
import quality_model.integrations.data_juicer_operator
from data_juicer.core.data import NestedDataset
from data_juicer.ops import load_ops

photos = Path({str(photos)!r})
samples = [[], ["clean.png"], ["clean.png", "noisy.png"], ["broken.png"]]
images = [[str(photos / name) for name in names] for names in samples]
dataset = NestedDataset.from_dict({{"images": images, "at": [0, 1, 2, 3]}})
for how in ("all", "any"):
    options = {{"limits": {{"noise": 0.4}}, "model": "bundled", "any_or_all": how}}
    (operator,) = load_ops([{{"image_technical_quality_filter": options}}])
    kept = dataset.process([operator])
    print(how, kept["at"][:], kept["__dj__stats__"][1]["quality_noise"][0] < 0.2)
"""
    assert run_with(DATA_JUICER, code).splitlines()[-2:] == ["all [0, 1] True", "any [0, 1, 2] True"]


@pytest.mark.torture  # Ray alone is 200 MB
def test_nemo_curator_leaves_out_bad_images(run_with: Run, photos: Path) -> None:
    code = f"""
from pathlib import Path
from nemo_curator.tasks import ImageBatch, ImageObject
from quality_model.integrations import Limits
from quality_model.integrations.nemo_curator_stage import ImageQualityFilterStage

photos = Path({str(photos)!r})
names = "clean.png", "noisy.png", "broken.png"
images = [ImageObject(image_path=str(photos / name), image_id=name) for name in names]
stage = ImageQualityFilterStage(limits=Limits("bundled", {{"noise": 0.4}}))
stage.setup()
batch = stage.process(ImageBatch(dataset_name="photos", data=images))
print([(one.image_id, one.metadata["quality"]["noise"] < 0.2) for one in batch.data])
"""
    assert run_with(NEMO_CURATOR, code).splitlines()[-1] == "[('clean.png', True)]"
