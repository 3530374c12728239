"""An image that ends or hangs what decodes it costs its own row of the table of clean images."""

from collections.abc import Callable
from pathlib import Path

import pytest

from quality_model.data.sources.download import download
from quality_model.params import LimitsParams, SourceParams
from tests.hostile import decoders_obey_images, hostile


def test_an_image_that_crashes_or_hangs_its_decoder_is_a_row_and_costs_no_download(
    tmp_path: Path,
    images: list[bytes],
    source: Callable[..., SourceParams],
    limits: LimitsParams,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoders_obey_images(tmp_path / "site", monkeypatch)
    (tmp_path / "images").mkdir()
    for number in range(6):
        (tmp_path / "images" / f"{number}.png").write_bytes(images[number])
    (tmp_path / "images" / "1.png").write_bytes(hostile(images[1], "crash"))
    (tmp_path / "images" / "4.png").write_bytes(hostile(images[4], "hang"))
    hasty = limits.model_copy(update={"max_seconds": 2.0})
    marker = download(source(dataset=str(tmp_path / "images"), num_images=9), hasty, tmp_path / "out")
    assert (marker["rows"], marker["readable"]) == (6, 4)
    assert marker["unreadable"] == {"too_slow": 1, "worker_died": 1}
