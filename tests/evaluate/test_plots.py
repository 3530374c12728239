"""Figures of training and evaluation: what they say, and that it can be read."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from quality_model.core.decoding import Pixels
from quality_model.core.figures import save_figure
from quality_model.evaluate.evidence import Evaluated
from quality_model.evaluate.plots import (
    cross_talk_figure,
    learning_curves,
    predicted_against_true,
    sweeps_figure,
    worst_errors,
)
from quality_model.evaluate.sweeps import SWEEPS
from quality_model.records import HEADS
from tests.release.gate.evidence import UNDEFINED, a_sweep, changed, estimate, tree


def history(epochs: int, **changes: Any) -> list[dict[str, Any]]:
    return [
        {
            "epoch": epoch,
            "train_loss": 0.06 / epoch,
            "validation_loss": 0.05 + 0.001 * (epoch - 3) ** 2,
            "train_mse": dict.fromkeys(HEADS, 0.05 / epoch),
            "validation_mse": dict.fromkeys(HEADS, 0.06 / epoch),
            "validation_r2": dict.fromkeys(HEADS, 1 - 4 / epoch),
            **changes,
        }
        for epoch in range(1, epochs + 1)
    ]


def predictions(size: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {"row": np.arange(size)}
    for head in HEADS:
        present = rng.random(size) < 0.5
        labels = np.where(present, rng.uniform(0.1, 1.0, size), 0.0)
        columns[f"{head}_label"] = labels
        columns[f"{head}_score"] = np.clip(0.1 + 0.7 * labels + rng.normal(0, 0.1, size), 0, 1)
        columns[f"{head}_kind"] = np.where(present, "salt_and_pepper", None)
    return pd.DataFrame(columns)


def measured(**changes: Any) -> Evaluated:
    sweeps = {sweep.name: a_sweep(sweep.head, 0.9) for sweep in SWEEPS}
    return Evaluated.from_json(changed(tree()["candidate"], {"sweeps": sweeps, **changes}))


@pytest.fixture
def images(photo: Pixels) -> Pixels:
    """uint8 (60, 48, 48, 3), the value of the first pixel being the row."""
    stack = np.stack([photo[4 * row : 4 * row + 48, :48] for row in range(60)])
    stack[:, 0, 0, :] = np.arange(60)[:, None]
    return stack


DRAWN: dict[str, Callable[[pd.DataFrame, Pixels], Figure]] = {
    "learning curves": lambda table, images: learning_curves(history(8)),
    "predicted against true": lambda table, images: predicted_against_true(table),
    "worst errors": lambda table, images: worst_errors(table, images, "noise"),
    "severity sweeps": lambda table, images: sweeps_figure(measured()),
    "cross-talk": lambda table, images: cross_talk_figure(measured()),
}


@pytest.mark.parametrize("name", DRAWN)
def test_no_title_or_label_covers_another_or_leaves_the_figure(name: str, images: Pixels) -> None:
    figure = DRAWN[name](predictions(), images)
    figure.draw_without_rendering()
    texts = [one for axes in figure.axes for one in (axes.title, axes.xaxis.label, axes.yaxis.label)]
    boxes = {text.get_text(): text.get_window_extent() for text in texts if text.get_text()}
    assert not [name for name, box in boxes.items() if box.x0 < 0 or box.y0 < 0]
    assert not [name for name, box in boxes.items() if box.x1 > figure.bbox.x1 or box.y1 > figure.bbox.y1]
    assert not [one for one, other in itertools.combinations(boxes, 2) if boxes[one].overlaps(boxes[other])]


def test_a_saved_figure_is_a_png_the_same_each_time_and_opens_no_window(tmp_path: Path) -> None:
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    for name in ("one.png", "two.png"):
        save_figure(cross_talk_figure(measured()), tmp_path / "deep" / name)
    with Image.open(tmp_path / "deep" / "one.png") as image:
        assert image.format == "PNG"
        assert np.asarray(image.convert("L")).std() > 5
    assert (tmp_path / "deep" / "one.png").read_bytes() == (tmp_path / "deep" / "two.png").read_bytes()
    assert len(list((tmp_path / "deep").iterdir())) == 2
    assert plt.get_fignums() == before


def test_learning_curves_show_every_epoch_and_mark_the_best() -> None:
    loss, mse, r2 = learning_curves(history(5)).axes
    validation = next(line for line in loss.lines if line.get_label() == "validation")
    assert list(validation.get_xdata()) == [1, 2, 3, 4, 5]
    assert "best: epoch 3" in [line.get_label() for line in loss.lines]
    assert len([line for line in mse.lines if len(line.get_xdata()) == 5]) == 2 * len(HEADS)
    assert len([line for line in r2.lines if len(line.get_xdata()) == 5]) == len(HEADS)


@pytest.mark.parametrize("entries", [[], [{"epoch": 1}], history(3, validation_r2=dict.fromkeys(HEADS))])
def test_learning_curves_of_no_epoch_or_without_measures_can_be_drawn(entries: list[dict[str, Any]]) -> None:
    figure = learning_curves(entries)
    figure.draw_without_rendering()
    assert len(figure.axes) == 3


def test_predicted_against_true_counts_every_sample_and_states_r2_where_it_is_defined() -> None:
    table = predictions()
    table["noise_score"] = table["noise_label"]
    table["watermark_label"] = 0.0
    panels = predicted_against_true(table).axes[:4]
    for axes in panels:
        assert np.ma.sum(axes.collections[0].get_array()) == len(table)
    assert panels[2].get_title().startswith("Watermark: R² not defined")
    assert panels[3].get_title() == "Noise: R² 1.00, MSE 0.0000"


def test_the_worst_errors_come_first_with_their_images_and_few_samples_leave_places_empty(
    images: Pixels,
) -> None:
    table = predictions()
    table.loc[17, ["noise_label", "noise_score"]] = [1.0, 0.0]
    table.loc[17, "noise_kind"] = "motion"
    axes = worst_errors(table, images, "noise").axes
    assert axes[0].get_title() == "score 0.00, label 1.00\nmotion"
    error = np.abs(table["noise_score"] - table["noise_label"]).to_numpy()
    shown = [int(one.images[0].get_array()[0, 0, 0]) for one in axes]
    assert shown == list(np.argsort(-error)[:10])
    few = worst_errors(predictions(size=2), images, "noise")
    assert sum(bool(one.images) for one in few.axes) == 2


def test_every_sweep_has_a_panel_with_its_levels_its_mean_score_and_how_well_it_rises() -> None:
    empty = {"num_images": 0, "mean_scores": [], "low_scores": [], "high_scores": [], "spearman": UNDEFINED}
    found = measured(**{f"sweeps.logo.{key}": value for key, value in empty.items()})
    panels = {axes.get_title().split("\n")[0]: axes for axes in sweeps_figure(found).axes}
    assert set(panels) == {name.replace("_", " ") for name in found.sweeps}
    logo = panels.pop("logo")
    assert not logo.lines and "Spearman not defined" in logo.get_title()
    for panel in panels.values():
        assert list(panel.lines[0].get_xdata()) == [0.0, 1.0]
        assert list(panel.lines[0].get_ydata()) == [0.1, 0.9]
        assert "Spearman 0.90" in panel.get_title()


def test_cross_talk_is_written_into_its_cells_and_what_is_not_known_is_a_dash() -> None:
    changes = {"heads.noise.rise": UNDEFINED, "heads.blurriness.cross_talk.noise": estimate(0.3)}
    texts = [text.get_text() for text in cross_talk_figure(measured(**changes)).axes[0].texts]
    assert texts[:4] == ["0.70", "0.01", "0.01", "0.01"]
    assert texts[12:] == ["0.01", "0.30", "0.01", "-"]  # noise becomes severe
