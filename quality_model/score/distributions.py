"""How scores and measures of a result are distributed: counts in fixed bins, and inputs per error code.

The bins are the same for every result. So distributions are merged by adding them up, in any order and in any
parts, and two results are compared without their rows. Scores have bins of equal width. Sizes and ratios have
bins of equal width in their logarithm: a value is known to a constant relative error, as in DDSketch (Masson,
Rim & Lee, VLDB 2019).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from quality_model.core import storage
from quality_model.errors import CorruptError
from quality_model.records import FLAG_COLUMNS, HEADS

NUM_BINS: Final = 1000

Counts = npt.NDArray[np.int64]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Bins:
    """1000 bins from ``low`` to ``high``; what is outside is counted in the first or the last.

    They have equal width, or with ``is_log`` equal width in the logarithm.
    """

    low: float
    high: float
    is_log: bool = False

    def places(self, values: npt.ArrayLike) -> Places:
        """The bin of each value, int64 (n,), from 0 to 999."""
        scaled, low, high = np.asarray(values, np.float64), self.low, self.high
        if self.is_log:
            scaled, low, high = np.log2(np.maximum(scaled, low)), np.log2(low), np.log2(high)
        return np.clip(np.floor((scaled - low) / (high - low) * NUM_BINS), 0, NUM_BINS - 1).astype(np.int64)

    def value(self, place: int) -> float:
        """The lower end of a bin; of place 1000, the upper end of the last."""
        if self.is_log:
            return float(self.low * (self.high / self.low) ** (place / NUM_BINS))
        return self.low + (self.high - self.low) * place / NUM_BINS

    def to_json(self) -> dict[str, Any]:
        return {"low": self.low, "high": self.high, "scale": "log" if self.is_log else "linear"}


SHORT_SIDE: Final = "short_side_px"
BINS: Final[Mapping[str, Bins]] = {
    **dict.fromkeys((*HEADS, "overall"), Bins(0.0, 1.0)),
    SHORT_SIDE: Bins(1.0, 2.0**17, is_log=True),
    "aspect_ratio": Bins(2.0**-6, 2.0**6, is_log=True),
    "bits_per_pixel": Bins(2.0**-8, 2.0**8, is_log=True),
    "median_luminance": Bins(0.0, 1.0),
    "entropy": Bins(0.0, 8.0),
}
"""By column; the short side is the smaller of ``width`` and ``height``."""

ROW_COLUMNS: Final = (
    *(name for name in BINS if name != SHORT_SIDE),
    *("width", "height", "error_code"),
    *FLAG_COLUMNS.values(),
)
"""What `Distributions.add` reads of the rows of a result."""


@dataclass(slots=True)
class Distributions:
    """Of the rows of a result, or of some of them.

    Attributes:
        inputs: Rows, with scores or with an error code.
        counts: int64 (1000,) per column of `BINS`: images in each bin; nulls are in none.
        errors: Inputs per error code.
        flagged: Per head the images above its threshold.
    """

    inputs: int = 0
    counts: dict[str, Counts] = field(
        default_factory=lambda: {name: np.zeros(NUM_BINS, dtype=np.int64) for name in BINS}
    )
    errors: Counter[str] = field(default_factory=Counter)
    flagged: Counter[str] = field(default_factory=Counter)

    @property
    def scored(self) -> int:
        return self.inputs - self.errors.total()

    def add(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Add rows with some of the columns `ROW_COLUMNS`; one that is not there counts nothing."""
        names = rows.schema.names
        self.inputs += rows.num_rows
        self.errors.update(rows["error_code"].drop_null().to_pylist())
        for head, name in FLAG_COLUMNS.items():
            self.flagged[head] += pc.sum(rows[name]).as_py() or 0 if name in names else 0
        for name, bins in BINS.items():
            if ("width" if name == SHORT_SIDE else name) in names:
                values = values_of(rows, name)
                places = bins.places(values[~np.isnan(values)])
                self.counts[name] += np.bincount(places, minlength=NUM_BINS)

    def to_json(self) -> dict[str, Any]:
        """JSON values: of each column the bins that are not empty."""
        columns = {}
        for name, counts in self.counts.items():
            places = np.flatnonzero(counts)
            filled = dict(zip(map(str, places.tolist()), counts[places].tolist(), strict=True))
            columns[name] = {**BINS[name].to_json(), "counts": filled}
        return {
            "inputs": self.inputs,
            "errors": dict(sorted(self.errors.items())),
            "flagged": {head: self.flagged[head] for head in HEADS},
            "columns": columns,
        }

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Those stored with a complete result; None if it is of another release: no file, or other bins.

        Raises:
            CorruptError: The file is not what the job has written.
        """
        if not path.is_file():
            return None
        stored = storage.read_json(path)
        try:
            found = cls(
                stored["inputs"], errors=Counter(stored["errors"]), flagged=Counter(stored["flagged"])
            )
            for name, column in stored["columns"].items():
                filled = column.pop("counts")
                if name not in BINS or column != BINS[name].to_json():
                    return None
                found.counts[name][[int(place) for place in filled]] = [*filled.values()]
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            raise CorruptError(f"{path} is damaged.", "Score again, with --overwrite.") from None
        return found


def values_of(rows: pa.Table | pa.RecordBatch, name: str) -> npt.NDArray[np.float64]:
    """A column of `BINS` of the rows of a result, float64 (n,); NaN for null."""
    column = pc.min_element_wise(rows["width"], rows["height"]) if name == SHORT_SIDE else rows[name]
    return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)
