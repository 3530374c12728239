"""Rebuild the bundled model where the folder of scenes is present (docs/results.md has the whole recipe).

    python recipes/bundled_model.py prepare ../shared/scenes build/scenes
    (cd build && quality-model download ..., generate ..., train ...: the commands that `prepare` prints)
    python recipes/bundled_model.py finish build/models/candidate build/scenes/held_out build/finished
    quality-model ship --model build/finished --output quality_model/pretrained/small
    python recipes/bundled_model.py sizes build/finished build/scenes/held_out

`prepare` copies the scenes whose licence is permissive, without those that the audit says are not clean:
they are trained on. Scenes of all other licences are held out: on them `finish` chooses how the scores of
the views become the image's, and sets thresholds and intervals. `sizes` shows what shrinking an image before
its tiles are cut costs: the scenes are 320 to 384 px on the short side, so it is no choice for larger images.
"""

import argparse
import csv
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from quality_model.core import decoding, views
from quality_model.core.decoding import Pixels
from quality_model.core.engines import choose_engine
from quality_model.core.model_files import read_model
from quality_model.core.views import MULTIPLE_PX, SQUEEZED, HeadRule, ViewRecipe
from quality_model.degrade import PROFILES, SampleRandomness
from quality_model.evaluate.metrics import ROUNDING
from quality_model.evaluate.predictions import calibrate_intervals, calibrate_thresholds
from quality_model.evaluate.whole_images import (
    central_square,
    degrade_image,
)
from quality_model.networks.model import load_model, save_model
from quality_model.params import WITHOUT_PROJECT
from quality_model.records import HEADS, Head

LARGE_DEFECTS: Final = ("clear", "strong")
FLAGGED_SHARE: Final = 0.02
SEED: Final = 2026
WORTH_TWICE_THE_TIME: Final = 0.05
"""Gain in the sum of all heads' figures for which twice as many tiles are scored."""

LEAST_LABEL: Final = 0.15
"""Severity from which a degradation should be found, where rules are compared."""

SHORT_SIDES_PX: Final = (256, 320, 768)
"""Tiles at two thirds to four fifths, at five sixths or more, and at all of the scenes' own resolution."""

INTERVAL_SEEDS: Final = (SEED + 1, SEED + 2)
"""Of the degradations that intervals are set by: others than those that rules are chosen by."""

Floats = npt.NDArray[np.float32]
Score = Callable[[Pixels], Floats]


def prepare(scenes: Path, output: Path, *, share_alike: bool = False) -> None:
    """Copy scenes into ``output``/train and ``output``/held_out, and count their sources.

    With ``share_alike``, half of the share-alike ones, by the hash of their name, are trained on too.
    """
    with (scenes / "audit_train.csv").open() as file:
        defects = {
            row["file"]
            for row in csv.DictReader(file)
            if row["defect"] != "none" and row["severity"] in LARGE_DEFECTS
        }
    sources: dict[str, Counter[tuple[str, str]]] = {"train": Counter(), "held_out": Counter()}
    with (scenes / "scenes.csv").open() as file:
        for row in csv.DictReader(file):
            if not row["file"].startswith("train/") or row["file"] in defects:
                continue
            name = Path(row["file"]).name
            trained = row["licence_class"] == "permissive"
            if share_alike and row["licence_class"] == "permissive-sharealike":
                trained = hashlib.sha256(name.encode()).digest()[0] % 2 == 0
            part = "train" if trained else "held_out"
            (output / part).mkdir(parents=True, exist_ok=True)
            shutil.copy(scenes / row["file"], output / part / name)
            sources[part][row["repository"], row["licence"]] += 1
    table = {
        part: [
            {"repository": name, "licence": licence, "scenes": count}
            for (name, licence), count in sorted(found.items())
        ]
        for part, found in sources.items()
    }
    (output / "sources.json").write_text(json.dumps(table, indent=1) + "\n")
    print({part: sum(found.values()) for part, found in sources.items()})


@dataclass(frozen=True)
class Scored:
    """Scores of the views of images: ``whole`` (4,), ``tiles`` (t, 4) and labels (4,) of each."""

    whole: list[Floats]
    tiles: list[Floats]
    labels: Floats


def finish(model: Path, held_out: Path, output: Path) -> None:
    """Choose views and aggregates on held-out scenes, set thresholds and intervals, and save the model."""
    stored = read_model(model)
    engine = choose_engine(stored, "cpu")
    size_px = stored.image_size_px
    scenes = sorted(held_out.iterdir())
    clean = [(pixels, np.zeros(4, np.float32)) for pixels in _clean(scenes)]
    degraded = list(_degraded(scenes, size_px, SEED))
    best: tuple[float, ViewRecipe, list[str]] | None = None
    for tile_px, max_tiles in ((224, 2), (224, 4)):
        recipe = ViewRecipe(tile_px=tile_px, max_tiles=max_tiles)
        good = _score(engine.scores, size_px, recipe, clean)
        bad = _score(engine.scores, size_px, recipe, degraded)
        rules, lines, total = {}, [], 0.0
        for head in HEADS:
            found, rule = max(
                ((_found_share(good, bad, head, rule), rule) for rule in _rules()), key=lambda pair: pair[0]
            )
            rules[head], total = rule, total + found[0] + found[1]
            lines.append(
                f"{tile_px} px, {max_tiles}: {head} AUC {found[0]:.3f}, found {found[1]:.3f}: {rule}"
            )
        print("\n".join(lines), flush=True)
        if best is None or total > best[0] + WORTH_TWICE_THE_TIME:
            best = total, recipe.model_copy(update={"heads": rules}), lines
    assert best is not None
    recipe = best[1]
    loaded = load_model(model, torch.device("cpu"))
    facts = loaded.facts.to_json()
    facts.pop("scale_r2", None)  # of a map that these views are without
    for key, one in (("thresholds", recipe), ("thresholds_whole", SQUEEZED)):
        scores, _ = _image_scores(engine.scores, size_px, one, clean)
        facts[key] = calibrate_thresholds(scores, FLAGGED_SHARE)
        print(key, facts[key])
    facts |= {"thresholds_clean_samples": len(clean), "thresholds_of_images": True}
    drawn = [pair for seed in INTERVAL_SEEDS for pair in _degraded(scenes, size_px, seed)]
    scores, labels = _image_scores(engine.scores, size_px, recipe, drawn)
    intervals = calibrate_intervals(scores, labels)
    assert intervals is not None
    facts["intervals"] = intervals.model_dump(mode="json")
    _print_coverage(scores, labels, np.arange(len(drawn)) % len(scenes))
    save_model(output, loaded.model, image_size_px=size_px, views=recipe, facts=facts)
    print("Views:", recipe)


def compare_sizes(model: Path, held_out: Path) -> None:
    """Print, for several `max_short_side_px`, how well a model with its rules finds degraded scenes."""
    stored = read_model(model)
    engine, scenes = choose_engine(stored, "cpu"), sorted(held_out.iterdir())
    clean = [(pixels, np.zeros(4, np.float32)) for pixels in _clean(scenes)]
    degraded = list(_degraded(scenes, stored.image_size_px, SEED))
    for short_px in SHORT_SIDES_PX:
        recipe = stored.views.model_copy(update={"max_short_side_px": short_px})
        good, bad = (_score(engine.scores, stored.image_size_px, recipe, part) for part in (clean, degraded))
        for head in HEADS:
            area, share = _found_share(good, bad, head, recipe.heads[head])
            print(f"max_short_side_px {short_px}: {head} AUC {area:.3f}, found {share:.3f}", flush=True)


def _rules() -> Iterator[HeadRule]:
    for tiles, whole in product((0.0, 0.25, 0.5, 0.75, 1.0), (0.0, 0.3, 0.5, 0.7, 1.0)):
        yield HeadRule(tiles=tiles, whole=whole)
    for tiles in (0.5, 0.75, 1.0):
        yield HeadRule(tiles=tiles, whole=0.0, highest=True)


def _found_share(good: Scored, bad: Scored, head: Head, rule: HeadRule) -> tuple[float, float]:
    """AUC, and the share of degraded images that are found where 2 % of the clean ones are flagged."""
    at = HEADS.index(head)
    recipe = ViewRecipe(heads=dict.fromkeys(HEADS, rule))

    def aggregated(scored: Scored) -> Floats:
        pairs = zip(scored.whole, scored.tiles, strict=True)
        return np.array([views.aggregate(np.concatenate([w[None], t]), recipe)[at] for w, t in pairs])

    clean = np.concatenate([aggregated(good), aggregated(bad)[bad.labels[:, at] == 0]])
    found = aggregated(bad)[bad.labels[:, at] >= LEAST_LABEL]
    ranks = np.searchsorted(np.sort(clean), found, side="left") / len(clean)
    threshold = np.quantile(aggregated(good), 1.0 - FLAGGED_SHARE)
    return float(ranks.mean()), float((found > threshold).mean())


def _score(score: Score, size_px: int, recipe: ViewRecipe, images: list[tuple[Pixels, Floats]]) -> Scored:
    whole, tiles = [], []
    for pixels, _ in images:
        seen = views.cut(pixels, size_px, recipe)
        whole.append(score(seen.whole[None])[0])
        tiles.append(score(np.stack(seen.tiles)) if seen.tiles else np.empty((0, 4), np.float32))
    return Scored(whole, tiles, np.array([labels for _, labels in images]))


def _read(path: Path) -> Pixels:
    return decoding.decode(path.read_bytes(), WITHOUT_PROJECT.limits)


def _clean(scenes: list[Path]) -> Iterator[Pixels]:
    """Every scene as it is, and a variation of it that is no degradation."""
    for path in scenes:
        pixels = _read(path)
        yield pixels
        varied = PROFILES["calibrated"].look_alike(
            central_square(pixels, multiple_px=MULTIPLE_PX), SampleRandomness(SEED, path.name)
        )
        if varied is not None:
            yield varied.pixels


def _degraded(scenes: list[Path], size_px: int, seed: int) -> Iterator[tuple[Pixels, Floats]]:
    for path in scenes:
        randomness = SampleRandomness(seed, f"degraded {path.name}")
        sample = degrade_image(_read(path), PROFILES["calibrated"], randomness, size_px, ViewRecipe())
        yield sample.image, np.array(sample.labels, np.float32)


def _image_scores(
    score: Score, size_px: int, recipe: ViewRecipe, images: list[tuple[Pixels, Floats]]
) -> tuple[Floats, Floats]:
    """Scores and labels, (n, 4) each."""
    seen = (views.cut(pixels, size_px, recipe).all for pixels, _ in images)
    scores = np.stack([views.score_images(score, [one], recipe)[0] for one in seen])
    return scores, np.stack([labels for _, labels in images])


def _print_coverage(scores: Floats, labels: Floats, scenes: npt.NDArray[np.int64]) -> None:
    """Print what intervals from one half of the scenes cover of the other, by quarter of the score too."""
    covered = np.empty(scores.shape, bool)
    for half in (scenes % 2 == 0, scenes % 2 == 1):
        intervals = calibrate_intervals(scores[~half], labels[~half])
        assert intervals is not None
        low, high = intervals.of(scores[half])
        covered[half] = (low - ROUNDING <= labels[half]) & (labels[half] <= high + ROUNDING)
    for at, head in enumerate(HEADS):
        quarters = np.array_split(np.argsort(scores[:, at]), 4)
        parts = ", ".join(f"{covered[quarter, at].mean():.3f}" for quarter in quarters)
        print(f"intervals: {head} cover {covered[:, at].mean():.3f}; by quarter of the score {parts}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    first = commands.add_parser("prepare")
    first.add_argument("scenes", type=Path)
    first.add_argument("output", type=Path)
    first.add_argument("--share-alike", action="store_true", help="train on a half of those scenes too")
    last = commands.add_parser("finish")
    for name in ("model", "held_out", "output"):
        last.add_argument(name, type=Path)
    sizes = commands.add_parser("sizes")
    for name in ("model", "held_out"):
        sizes.add_argument(name, type=Path)
    arguments = parser.parse_args()
    if arguments.command == "prepare":
        prepare(arguments.scenes, arguments.output, share_alike=arguments.share_alike)
    elif arguments.command == "finish":
        finish(arguments.model, arguments.held_out, arguments.output)
    else:
        compare_sizes(arguments.model, arguments.held_out)


if __name__ == "__main__":
    main()
