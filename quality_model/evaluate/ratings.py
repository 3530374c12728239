"""How well scores agree with people: rank correlation with the ratings of public datasets.

The datasets are not part of this project; whoever has one names its folder. A rating of quality rises with
quality, while a severity falls with it: full agreement is -1 for the heads and ``worst_score``, and 1 for
``overall``. The level of a distortion rises with the severity: full agreement is 1.

- KonIQ-10k: Hosu et al., IEEE TIP 29, 2020. MOS of photographs from the web.
- SPAQ: Fang et al., CVPR 2020. MOS and attributes of photographs by smartphones; an attribute is rated like
  quality, 100 best, so Noisiness falls as noise becomes visible.
- KADID-10k: Lin et al., QoMEX 2019. 81 images in 25 distortions at five levels, ``I01_TYPE_LEVEL.png``. Its
  ``dmos`` is 5 where no difference is seen and 1 where it is very annoying.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal

import pandas as pd

from quality_model.core import storage
from quality_model.core.figures import text_table
from quality_model.errors import UsageError
from quality_model.evaluate.evidence import Estimate
from quality_model.evaluate.metrics import Bootstrap
from quality_model.params import LimitsParams, RegistryParams, ScoreParams
from quality_model.records import SCORE_COLUMNS, Head
from quality_model.score.inputs import InputChoice
from quality_model.score.job import score
from quality_model.score.result import read_rows

RatedDataset = Literal["koniq", "spaq", "kadid"]

LAYOUTS: Final[Mapping[RatedDataset, str]] = {
    "koniq": "koniq10k_scores_and_distributions.csv (image_name, MOS) and 1024x768/ or 512x384/",
    "spaq": "Annotations/MOS and Image attribute scores.csv or .xlsx (Image name, MOS, Noisiness, Sharpness)"
    " and TestImage/",
    "kadid": "dmos.csv (dist_img, ref_img, dmos) and images/",
}
"""What is read in the folder of each dataset."""

DISTORTIONS: Final[Mapping[int, tuple[str, Head]]] = {
    1: ("Gaussian blur", "blurriness"),
    2: ("lens blur", "blurriness"),
    3: ("motion blur", "blurriness"),
    4: ("color diffusion", "color_cast"),
    5: ("color shift", "color_cast"),
    6: ("color quantization", "color_cast"),
    7: ("color saturation 1", "color_cast"),
    8: ("color saturation 2", "color_cast"),
    11: ("white noise", "noise"),
    12: ("white noise in color components", "noise"),
    13: ("impulse noise", "noise"),
    14: ("multiplicative noise", "noise"),
}
"""KADID-10k's blurs, color distortions and noises by number, with the head that comes nearest to each.

Source: the MATLAB code that its authors published with it. A saturation is no cast, and a color shift moves
the green channel along edges only. Its denoising (15), which smooths, has no head.
"""

BOOTSTRAP: Final = Bootstrap(samples=1000, confidence=0.95, seed=42)
"""Of the intervals: the values of `EvaluateParams` in the committed params.yaml."""

REPORT_NAME: Final = "agreement.json"
SCORES_NAME: Final = "scores"
_KADID_NAME: Final = r"_(\d\d)_(\d\d)\.[a-zA-Z]+$"


@dataclass(frozen=True, slots=True)
class RatedImages:
    """A dataset that people have rated.

    Attributes:
        images: Folder of the images.
        table: A row per image, indexed by its name in ``images``: ``scene`` (images of one scene are not
            independent of each other) and float64 columns of ratings, NaN where one does not apply.
        pairs: Which column of scores is compared with which rating.
    """

    images: Path
    table: pd.DataFrame
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Agreement:
    """The rank correlation of a score with a rating.

    ``num_unscored`` counts rated images without a score, which are left out.
    """

    score: str
    rating: str
    num_images: int
    num_unscored: int
    spearman: Estimate

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "spearman": self.spearman.model_dump()}


def read_koniq(folder: Path) -> RatedImages:
    """KonIQ-10k; the larger images if both sizes are there."""
    table = _read(folder / "koniq10k_scores_and_distributions.csv", "koniq", "image_name", ["MOS"])
    sizes = [folder / name for name in ("1024x768", "512x384")]
    images = next((size for size in sizes if size.is_dir()), sizes[0])
    return _rated("koniq", images, table.assign(scene=table.index), _with_quality("MOS"))


def read_spaq(folder: Path) -> RatedImages:
    """SPAQ. Its sheet is read as a CSV export, or as it comes where openpyxl is installed."""
    sheet = folder / "Annotations" / "MOS and Image attribute scores.xlsx"
    exported = sheet.with_suffix(".csv")
    if not exported.is_file() and sheet.is_file() and find_spec("openpyxl") is None:
        raise UsageError(
            f"{sheet} cannot be read: openpyxl is not installed.",
            f"Save the sheet as {exported.name} beside it, or install openpyxl.",
        )
    path = sheet if sheet.is_file() and not exported.is_file() else exported
    table = _read(path, "spaq", "Image name", ["MOS", "Noisiness", "Sharpness"])
    pairs = (*_with_quality("MOS"), ("noise", "Noisiness"), ("blurriness", "Sharpness"))
    return _rated("spaq", folder / "TestImage", table.assign(scene=table.index), pairs)


def read_kadid(folder: Path) -> RatedImages:
    """KADID-10k. The scene of an image is the reference that it was made from."""
    path = folder / "dmos.csv"
    table = _read(path, "kadid", "dist_img", ["dmos"], texts=["ref_img"])
    numbers = table.index.to_series().str.extract(_KADID_NAME).astype(float)
    if len(bad := table.index[numbers.isna().any(axis=1)]):
        raise UsageError(
            f"{path} names {bad[0]!r}, which is not of the form I01_TYPE_LEVEL.png.", _expected("kadid")
        )
    table = table.rename(columns={"ref_img": "scene"})
    pairs = [*_with_quality("dmos")]
    for number, (name, head) in DISTORTIONS.items():
        table[f"level of {name}"] = numbers[1].where(numbers[0] == number)
        pairs.append((head, f"level of {name}"))
    return _rated("kadid", folder / "images", table, pairs)


READERS: Final[Mapping[RatedDataset, Callable[[Path], RatedImages]]] = {
    "koniq": read_koniq,
    "spaq": read_spaq,
    "kadid": read_kadid,
}
"""Each raises UsageError where a file, a column or an image is missing."""


def agree(
    dataset: RatedDataset,
    folder: Path,
    section: ScoreParams,
    limits: LimitsParams,
    *,
    output: Path,
    overwrite: bool = False,
    root: Path | None = None,
    registry: RegistryParams | None = None,
) -> list[Agreement]:
    """Score the images of a dataset and correlate the scores with its ratings.

    Args:
        dataset: Which of the three it is.
        folder: Where it is, see `LAYOUTS`.
        section, limits, root, registry: As of `score`.
        output: Gets agreement.json, and the scoring result in ``scores``, which resumes.
        overwrite: Replace another job's scores in ``output``.

    Raises:
        UsageError: ``folder`` lacks a file, a column or an image, or ``output`` holds another job.
        QualityModelError: See `score`.
    """
    rated = READERS[dataset](folder)
    summary = score(
        section.model_copy(update={"thumbnails": False}),  # the datasets' licences are for research
        limits,
        inputs=rated.images,
        output=output / SCORES_NAME,
        choice=InputChoice("images"),
        overwrite=overwrite,
        root=root,
        registry=registry,
    )
    rows = read_rows(output / SCORES_NAME, ["key", *SCORE_COLUMNS]).to_pandas().set_index("key")
    found = agreements(rated.table, rated.pairs, rows)
    described = {"dataset": dataset, **summary.model.described()}
    storage.write_json(output / REPORT_NAME, {**described, "agreements": [one.to_json() for one in found]})
    return found


def agreements(
    table: pd.DataFrame, pairs: Iterable[tuple[str, str]], scores: pd.DataFrame
) -> list[Agreement]:
    """Correlate scores with ratings.

    Args:
        table, pairs: As of `RatedImages`.
        scores: Columns of scores in [0, 1], indexed by key; NaN or no row where there is no score.

    Returns:
        One for each pair, with an interval by bootstrap over scenes.
    """
    joined = table.join(scores)
    found = []
    for name, rating in pairs:
        rated = joined[joined[rating].notna()]
        scored = rated[rated[name].notna()]
        measured = BOOTSTRAP.measures(scored[rating], scored[name], scored["scene"], constant=None)
        found.append(Agreement(name, rating, len(scored), len(rated) - len(scored), measured.spearman))
    return found


def agreement_table(found: Sequence[Agreement]) -> str:
    """The correlations as aligned text."""
    titles = ["score", "rating", "images", "without a score", "Spearman", "95 % interval"]
    rows = []
    for one in found:
        value, low, high = one.spearman.value, one.spearman.low, one.spearman.high
        interval = "-" if low is None or high is None else f"[{low:.3f}, {high:.3f}]"
        cells = [str(one.num_images), str(one.num_unscored), "-" if value is None else f"{value:.3f}"]
        rows.append([one.score, one.rating, *cells, interval])
    return text_table(titles, rows, right=titles[2:])


def _with_quality(rating: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, rating) for name in SCORE_COLUMNS)


def _read(
    path: Path, dataset: RatedDataset, key: str, numbers: Sequence[str], *, texts: Sequence[str] = ()
) -> pd.DataFrame:
    """Columns of a table of ratings, indexed by the name of the image."""
    if not path.is_file():
        raise UsageError(f"{path} is not there.", _expected(dataset))
    names = [key, *texts, *numbers]
    as_text = dict.fromkeys([key, *texts], str)
    try:
        read = pd.read_excel if path.suffix == ".xlsx" else pd.read_csv
        table = read(path, dtype=as_text)
    except ValueError as error:  # also of what is no text
        raise UsageError(f"{path} cannot be read as a table: {error}.", _expected(dataset)) from None
    if lacking := [name for name in names if name not in table]:
        raise UsageError(
            f"{path} has no column {', '.join(lacking)}; it has {', '.join(map(str, table))}.",
            _expected(dataset),
        )
    table = table[names].set_index(key)
    table[[*numbers]] = table[[*numbers]].apply(pd.to_numeric, errors="coerce")
    bad = table.index[table.isna().any(axis=1)]
    if len(bad):
        raise UsageError(
            f"{path} has no number or no name in {len(bad)} rows, such as that of {bad[0]}.",
            "Unpack the dataset again, or correct the table.",
        )
    return table


def _rated(
    dataset: RatedDataset, images: Path, table: pd.DataFrame, pairs: Iterable[tuple[str, str]]
) -> RatedImages:
    """The dataset, once it is complete."""
    if not images.is_dir():
        raise UsageError(f"{images} is not there.", _expected(dataset))
    missing = table.index.difference(pd.Index([path.name for path in images.iterdir()]))
    if len(missing):
        raise UsageError(
            f"{len(missing)} of {len(table)} rated images are not in {images}, such as {missing[0]}.",
            "Unpack the dataset whole.",
        )
    return RatedImages(images, table, tuple(pairs))


def _expected(dataset: RatedDataset) -> str:
    return f"A folder of this dataset has {LAYOUTS[dataset]}."
