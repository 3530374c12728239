"""The comparison with other tools, with a small one in place of those that have to be installed."""

import sys
from pathlib import Path

import pytest

from benchmarks import side_by_side
from benchmarks.side_by_side import Installed, Tool
from quality_model.core.decoding import Pixels
from quality_model.records import HEADS

ROUGHNESS = (
    side_by_side._COMMON
    + """
import numpy, PIL.Image
for file in files:
    try:
        grey = numpy.asarray(PIL.Image.open(f"{folder}/{file}").convert("L"), dtype=float)
    except Exception as error:
        notes[file] = type(error).__name__
        continue
    keep(file, "roughness", numpy.abs(numpy.diff(grey)).mean())
json.dump({"scores": scores, "notes": notes}, open(output, "w"))
"""
)


@pytest.fixture(scope="module")
def tools() -> list[Installed]:
    """Ours and a measure of roughness, both in the environment of the tests."""
    environment = Path(sys.prefix)
    return [
        Installed(Tool(name, (), program), environment, 1.0, 1.0, 1)
        for name, program in (("quality-model", ""), ("roughness 1", ROUGHNESS))
    ]


@pytest.fixture(scope="module")
def formats(tmp_path_factory: pytest.TempPathFactory, photo: Pixels) -> tuple[Path, dict[str, str]]:
    from PIL import Image

    root = tmp_path_factory.mktemp("formats")
    Image.fromarray(photo[:120, :160]).save(root / "photo.jpg")
    return root / "images", side_by_side.write_formats(root / "images", root / "photo.jpg")


def test_the_formats_that_a_tool_reads_are_counted_and_a_broken_file_costs_no_other(
    tools: list[Installed], formats: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    folder, titles = formats
    assert {"AVIF", "CMYK", "broken: cut", "broken: empty", "broken: text"} <= {*titles.values()}
    for tool in tools:
        read, broken, others = side_by_side.format_cells(tool, folder, titles, tmp_path / "run")
        whole = len(titles) - 3
        assert (read, broken, others) == (f"{whole} of {whole}", "none scored", "kept")
    assert sorted(path.name for path in folder.iterdir()) == sorted(titles)


def test_each_measure_has_an_auc_for_every_head_and_what_is_not_read_a_reason(
    tools: list[Installed], folder: Path, tmp_path: Path
) -> None:
    lines, notes = side_by_side.auc_lines(folder, tools, tmp_path / "run")
    assert [line[0] for line in lines] == ["quality-model", "roughness 1, `roughness`"]
    noise = 1 + HEADS.index("noise")
    assert all(float(line[noise].split(" ")[0]) > 0.9 for line in lines)
    assert notes == {}


def test_speeds_are_of_the_same_images_and_relative_to_ours(
    tools: list[Installed], formats: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    folder, _ = formats
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.png").write_bytes((folder / "PNG.png").read_bytes())
    ours, other = side_by_side.speeds(tools, images, 1, tmp_path / "run").values()
    assert ours[1] == "1.00"
    assert float(other[1]) == pytest.approx(float(other[0]) / float(ours[0]), rel=0.2)
    assert all(float(cell) > 0 for cell in (*ours, *other))
