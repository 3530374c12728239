"""Agreement with human ratings, on made folders of the datasets' layouts."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from quality_model.cli import run
from quality_model.core.decoding import Pixels
from quality_model.errors import UsageError
from quality_model.evaluate.ratings import (
    DISTORTIONS,
    READERS,
    agreement_table,
    agreements,
    read_kadid,
    read_koniq,
    read_spaq,
)
from quality_model.records import SCORE_COLUMNS

KONIQ_TABLE = "koniq10k_scores_and_distributions.csv"
SPAQ_TABLE = "Annotations/MOS and Image attribute scores.csv"
Maker = Callable[[Path, Pixels], Path]


def save(folder: Path, names: Sequence[str], photo: Pixels) -> None:
    """Crops of the photograph with more noise each."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(3)
    for number, name in enumerate(names):
        noisy = photo[100:228, 150:278] + rng.normal(0.0, 12.0 * number, (128, 128, 3))
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(folder / name)


def make_koniq(folder: Path, photo: Pixels) -> Path:
    names = [f"{number}.jpg" for number in range(5)]
    save(folder / "512x384", [*names, "unrated.jpg"], photo)
    table = pd.DataFrame({"image_name": names, "c1": 0, "MOS": np.linspace(4.5, 1.5, 5), "SD": 0.5})
    table.to_csv(folder / KONIQ_TABLE, index=False)
    return folder


def make_spaq(folder: Path, photo: Pixels) -> Path:
    names = [f"{number:05}.jpg" for number in range(1, 6)]
    save(folder / "TestImage", names, photo)
    falling = np.linspace(90.0, 10.0, 5)
    attributes = dict.fromkeys(("MOS", "Brightness", "Noisiness", "Sharpness"), falling)
    (folder / "Annotations").mkdir()
    pd.DataFrame({"Image name": names, **attributes}).to_csv(folder / SPAQ_TABLE, index=False)
    return folder


def make_kadid(folder: Path, photo: Pixels) -> Path:
    names = [
        f"I{scene:02}_{kind}_{level:02}.png"
        for scene in (1, 2)
        for kind in ("11", "25")
        for level in (1, 2, 3)
    ]
    save(folder / "images", ["I01.png", *names], photo)
    table = pd.DataFrame({"dist_img": names, "ref_img": [f"{name[:3]}.png" for name in names]})
    table.assign(dmos=[4.5, 3.5, 2.5] * 4, var=0.6).to_csv(folder / "dmos.csv", index=False)
    return folder


MAKERS: dict[str, Maker] = {"koniq": make_koniq, "spaq": make_spaq, "kadid": make_kadid}


@pytest.fixture(params=MAKERS)
def dataset(request: pytest.FixtureRequest, tmp_path: Path, photo: Pixels) -> tuple[str, Path]:
    return request.param, MAKERS[request.param](tmp_path / "dataset", photo)


def test_agree_scores_the_images_once_and_reports_every_score_against_every_rating(
    dataset: tuple[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    name, folder = dataset
    command = ["agree", f"--{name}", str(folder), "--output", "out", "--model", "bundled", "--workers", "1"]
    assert run(command) == 0
    table = capsys.readouterr().out
    report = json.loads(Path("out/agreement.json").read_text())
    assert (report["dataset"], report["model"]["name"]) == (name, "bundled")
    found = {(one["score"], one["rating"]): one for one in report["agreements"]}
    rated = READERS[name](folder)  # type: ignore[index]
    assert tuple(found) == rated.pairs
    assert {score for score, _ in found} == set(SCORE_COLUMNS)
    noise = found["noise", rated.pairs[0][1]]
    assert (noise["num_images"], noise["num_unscored"]) == (len(rated.table), 0)
    if name != "kadid":  # where noise is all that differs
        assert noise["spearman"]["value"] == pytest.approx(-1.0)
        assert found["overall", "MOS"]["spearman"]["value"] > 0.5
    assert table.count("\n") == len(found) + 2

    part = next(Path("out/scores/data").iterdir())
    written = part.stat().st_mtime_ns
    assert run(command) == 0
    assert part.stat().st_mtime_ns == written
    assert json.loads(Path("out/agreement.json").read_text()) == report


def test_koniq_is_read_at_its_larger_size_if_both_are_there(tmp_path: Path, photo: Pixels) -> None:
    folder = make_koniq(tmp_path / "koniq", photo)
    assert read_koniq(folder).images.name == "512x384"
    save(folder / "1024x768", [f"{number}.jpg" for number in range(5)], photo)
    assert read_koniq(folder).images.name == "1024x768"


def test_spaq_compares_noise_and_blur_with_their_attributes(tmp_path: Path, photo: Pixels) -> None:
    pairs = read_spaq(make_spaq(tmp_path / "spaq", photo)).pairs
    assert pairs[-2:] == (("noise", "Noisiness"), ("blurriness", "Sharpness"))


def test_kadid_compares_a_level_with_the_head_of_its_distortion_alone(tmp_path: Path, photo: Pixels) -> None:
    rated = read_kadid(make_kadid(tmp_path / "kadid", photo))
    assert rated.pairs[len(SCORE_COLUMNS) :] == tuple(
        (head, f"level of {name}") for name, head in DISTORTIONS.values()
    )
    levels = rated.table["level of white noise"].dropna()
    assert levels.to_dict() == {
        f"I{scene:02}_11_{level:02}.png": level for scene in (1, 2) for level in (1, 2, 3)
    }
    assert set(rated.table["scene"]) == {"I01.png", "I02.png"}


def test_the_correlation_is_of_ranks_over_images_with_a_score_and_its_interval_is_over_scenes() -> None:
    names = [f"{number}" for number in range(20)]
    table = pd.DataFrame({"scene": ["a", "b"] * 10, "MOS": np.arange(20.0) ** 3}, index=names)
    scores = pd.DataFrame({"noise": np.linspace(1.0, 0.1, 19)}, index=names[:19])  # the last has none
    (found,) = agreements(table, [("noise", "MOS")], scores)
    assert (found.num_images, found.num_unscored) == (19, 1)
    assert found.spearman.value == found.spearman.low == found.spearman.high == pytest.approx(-1.0)
    assert found.spearman.num_groups == 2
    (constant,) = agreements(table, [("noise", "MOS")], scores * 0.0)
    assert constant.spearman.value is None
    assert agreement_table([constant]).splitlines()[1].split() == ["noise", "MOS", "19", "1", "-", "-"]


def edit(path: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        change(pd.read_csv(folder / path)).to_csv(folder / path, index=False)

    return apply


def as_excel(folder: Path) -> None:
    (folder / SPAQ_TABLE).rename((folder / SPAQ_TABLE).with_suffix(".xlsx"))


@pytest.mark.parametrize(
    ("name", "harm", "shown"),
    [
        ("koniq", lambda folder: (folder / KONIQ_TABLE).unlink(), "is not there"),
        (
            "koniq",
            edit(KONIQ_TABLE, lambda t: t.drop(columns="MOS")),
            "no column MOS; it has image_name, c1, SD",
        ),
        ("koniq", lambda folder: (folder / "512x384" / "2.jpg").unlink(), "1 of 5 rated images are not in"),
        (
            "koniq",
            edit(KONIQ_TABLE, lambda t: t.assign(MOS=["4", "?", "3", "2", "1"])),
            "such as that of 1.jpg",
        ),
        ("koniq", lambda folder: (folder / "512x384").rename(folder / "x"), "1024x768 is not there"),
        ("spaq", as_excel, "Save the sheet as MOS and Image attribute scores.csv beside it"),
        (
            "kadid",
            edit("dmos.csv", lambda t: t.assign(dist_img="I01.png")),
            "'I01.png', which is not of the form",
        ),
        (
            "kadid",
            lambda folder: (folder / "dmos.csv").write_bytes(b"\xff\xfe\x00x"),
            "cannot be read as a table",
        ),
    ],
)
def test_what_a_folder_lacks_is_said_in_one_error(
    tmp_path: Path,
    photo: Pixels,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    harm: Callable[[Path], object],
    shown: str,
) -> None:
    monkeypatch.setattr("quality_model.evaluate.ratings.find_spec", lambda name: None)  # no openpyxl
    folder = MAKERS[name](tmp_path / "dataset", photo)
    harm(folder)
    with pytest.raises(UsageError) as error:
        READERS[name](folder)  # type: ignore[index]
    assert shown in str(error.value)


def test_agree_takes_one_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags in ([], ["--koniq", str(tmp_path), "--spaq", str(tmp_path)]):
        assert run(["agree", *flags]) == 2
        assert "Name one: --koniq, --spaq, --kadid" in capsys.readouterr().err
