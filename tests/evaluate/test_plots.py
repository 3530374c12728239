"""Figures of training and evaluation: what they say, and that it can be read."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from quality_model.core.decoding import Pixels
from quality_model.core.figures import save_figure
from quality_model.evaluate.evidence import Evaluated
from quality_model.evaluate.metrics import Bootstrap
from quality_model.evaluate.plots import (
    cross_talk_figure,
    learning_curves,
    predicted_against_true,
    sweeps_figure,
    worst_errors,
)
from quality_model.evaluate.sweeps import SWEEPS, ScoredSweep
from quality_model.records import HEADS, Head
from tests.release.gate.evidence import UNDEFINED, changed, estimate, tree


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


def predictions(size: int = 60, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {"row": np.arange(size)}
    for head in HEADS:
        present = rng.random(size) < 0.5
        labels = np.where(present, rng.uniform(0.1, 1.0, size), 0.0)
        columns[f"{head}_label"] = labels
        columns[f"{head}_score"] = np.clip(0.1 + 0.7 * labels + rng.normal(0, 0.1, size), 0, 1)
        columns[f"{head}_kind"] = np.where(present, "salt_and_pepper", None)
    return pd.DataFrame(columns)


def measured(num_images: int = 9) -> Evaluated:
    """Of a model that rises along half of every severity sweep of the program."""
    rng = np.random.default_rng(5)
    found = {}
    for sweep in SWEEPS:
        rise = np.linspace(0.1, 0.6, len(sweep.levels))[None, :, None]
        scores = np.clip(rise + rng.normal(0, 0.05, (num_images, len(sweep.levels), 4)), 0, 1)
        groups = np.arange(num_images).astype(object)
        found[sweep.name] = ScoredSweep(sweep, scores, groups).measure(Bootstrap(20, 0.9, 1)).model_dump()
    return Evaluated.from_json(changed(tree(), {"candidate.sweeps": found})["candidate"])


@pytest.fixture
def images(photo: Pixels) -> Pixels:
    """uint8 (60, 48, 48, 3), the value of the first pixel being the row."""
    stack = np.stack([photo[4 * row : 4 * row + 48, :48] for row in range(60)])
    stack[:, 0, 0, :] = np.arange(60)[:, None]
    return stack


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of titles and labels that are drawn over each other, and texts beyond the figure's edge."""
    figure.draw_without_rendering()
    texts: list[Text] = [text for text in [figure._suptitle] if text is not None]  # type: ignore[attr-defined]
    for axes in figure.axes:
        texts += [axes.title, axes.xaxis.label, axes.yaxis.label]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text()]
    edge = figure.bbox
    outside = [
        (name, "edge")
        for name, box in boxes
        if box.x0 < edge.x0 or box.x1 > edge.x1 or box.y0 < edge.y0 or box.y1 > edge.y1
    ]
    return outside + [
        (first[0], second[0])
        for first, second in itertools.combinations(boxes, 2)
        if first[1].overlaps(second[1])
    ]


DRAWN: dict[str, Callable[[pd.DataFrame, Pixels], Figure]] = {
    "learning curves": lambda table, images: learning_curves(history(8)),
    "predicted against true": lambda table, images: predicted_against_true(table),
    "worst errors": lambda table, images: worst_errors(table, images, "noise"),
    "severity sweeps": lambda table, images: sweeps_figure(measured()),
    "cross-talk": lambda table, images: cross_talk_figure(measured()),
}


@pytest.mark.parametrize("name", DRAWN)
def test_no_title_or_label_covers_another_or_leaves_the_image(name: str, images: Pixels) -> None:
    assert overlapping(DRAWN[name](predictions(), images)) == []


def test_a_saved_figure_is_a_png_and_saving_it_again_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        save_figure(cross_talk_figure(measured()), tmp_path / "deep" / name)
    with Image.open(tmp_path / "deep" / "one.png") as image:
        assert image.format == "PNG"
        assert np.asarray(image.convert("L")).std() > 5
    assert (tmp_path / "deep" / "one.png").read_bytes() == (tmp_path / "deep" / "two.png").read_bytes()
    assert len(list((tmp_path / "deep").iterdir())) == 2


def test_learning_curves_show_every_epoch_and_mark_the_best() -> None:
    loss, mse, r2 = learning_curves(history(5)).axes
    validation = next(line for line in loss.lines if line.get_label() == "validation")
    assert list(validation.get_xdata()) == [1, 2, 3, 4, 5]
    assert "best: epoch 3" in [line.get_label() for line in loss.lines]
    assert len([line for line in mse.lines if len(line.get_xdata()) == 5]) == 2 * len(HEADS)
    assert len([line for line in r2.lines if len(line.get_xdata()) == 5]) == len(HEADS)


@pytest.mark.parametrize("entries", [[], history(1), history(3, validation_r2=dict.fromkeys(HEADS))])
def test_learning_curves_of_no_epoch_or_one_or_without_r2_can_be_drawn(
    entries: list[dict[str, Any]], tmp_path: Path
) -> None:
    save_figure(learning_curves(entries), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_predicted_against_true_counts_every_sample_and_states_r2() -> None:
    table = predictions()
    table["noise_score"] = table["noise_label"]
    panels = predicted_against_true(table).axes[:4]
    for axes in panels:
        assert np.ma.sum(axes.collections[0].get_array()) == len(table)
    assert panels[3].get_title() == "Noise: R² 1.00, MSE 0.0000"


def test_labels_without_variance_have_no_r2_and_are_drawn_nevertheless(tmp_path: Path) -> None:
    table = predictions()
    table["noise_label"] = 0.0
    figure = predicted_against_true(table)
    assert "R² not defined" in figure.axes[3].get_title()
    save_figure(figure, tmp_path / "true.png")


@pytest.mark.parametrize("head", HEADS)
def test_the_worst_errors_of_a_head_come_first_from_left_to_right_with_their_images(
    images: Pixels, head: Head
) -> None:
    table = predictions()
    table.loc[17, [f"{head}_label", f"{head}_score"]] = [1.0, 0.0]
    table.loc[17, f"{head}_kind"] = "motion"
    axes = worst_errors(table, images, head).axes
    assert axes[0].get_title() == "score 0.00, label 1.00\nmotion"
    error = np.abs(table[f"{head}_score"] - table[f"{head}_label"]).to_numpy()
    shown = [int(one.images[0].get_array()[0, 0, 0]) for one in axes]
    assert shown == list(np.argsort(-error)[:10])


def test_fewer_samples_than_places_leave_places_empty(images: Pixels, tmp_path: Path) -> None:
    figure = worst_errors(predictions(size=2), images, "noise")
    assert sum(bool(axes.images) for axes in figure.axes) == 2
    save_figure(figure, tmp_path / "worst.png")


def test_every_sweep_has_a_panel_with_its_levels_its_mean_score_and_how_well_it_rises() -> None:
    found = measured().sweeps
    panels = [axes for axes in sweeps_figure(measured()).axes if axes.lines]
    assert len(panels) == len(found)
    for name, sweep in found.items():
        (panel,) = (axes for axes in panels if axes.get_title().startswith(name.replace("_", " ")))
        assert tuple(panel.lines[0].get_xdata()) == sweep.levels
        assert tuple(panel.lines[0].get_ydata()) == sweep.mean_scores
        assert f"Spearman {sweep.spearman.value:.2f}" in panel.get_title()


def test_sweeps_without_an_image_are_drawn_and_say_so(tmp_path: Path) -> None:
    figure = sweeps_figure(measured(num_images=0))
    assert "Spearman not defined" in figure.axes[0].get_title()
    save_figure(figure, tmp_path / "sweeps.png")


def test_cross_talk_is_written_into_its_cells_and_what_is_not_known_is_a_dash() -> None:
    changes = {
        "candidate.heads.noise.rise": UNDEFINED,
        "candidate.heads.blurriness.cross_talk.noise": estimate(0.3),
    }
    found = Evaluated.from_json(changed(tree(), changes)["candidate"])
    texts = [text.get_text() for text in cross_talk_figure(found).axes[0].texts]
    assert texts[:4] == ["0.70", "0.01", "0.01", "0.01"]
    assert texts[12:] == ["0.01", "0.30", "0.01", "-"]  # noise becomes severe


def test_drawing_opens_no_figure_in_pyplot() -> None:
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    predicted_against_true(predictions())
    cross_talk_figure(measured())
    assert plt.get_fignums() == before
