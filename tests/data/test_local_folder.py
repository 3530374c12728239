"""A folder of the user's own: which files are images, and how they are grouped.

The walk over a folder is the same as for scoring: tests/score/test_inputs.py.
"""

import os
from pathlib import Path

import pytest

from quality_model.data.sources import open_source
from quality_model.errors import SourceError

pytestmark = pytest.mark.usefixtures("decoded_here")


@pytest.fixture
def rows(source, limits, tmp_path):
    """The rows of the folder ``tmp_path/in``, by image id."""
    (tmp_path / "in").mkdir()

    def read(**changes):
        section = source(**{"dataset": str(tmp_path / "in"), "num_images": 100, **changes})
        return {row.image_id: row for row in open_source(section, limits).images()}

    return read


@pytest.fixture
def folder(rows, tmp_path):
    return tmp_path / "in"


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_images_are_found_in_sub_folders_and_keep_their_bytes(rows, folder, encoded):
    put(folder / "b.png", encoded[0])
    put(folder / "x/y/a.PNG", encoded[1])
    put(folder / "x/c.jpeg", encoded[2])
    found = rows()
    assert list(found) == ["b.png", "x/c.jpeg", "x/y/a.PNG"]
    assert [row.data for row in found.values()] == [encoded[0], encoded[2], encoded[1]]
    assert all(row.origin == name and (row.width, row.height) == (32, 32) for name, row in found.items())


def test_a_sub_folder_is_a_group_unless_all_images_are_in_it(rows, folder, encoded):
    put(folder / "x/c.png", encoded[2])
    put(folder / "x/d.png", encoded[3])
    assert [row.group for row in rows().values()] == ["x/c.png", "x/d.png"]
    for number, name in enumerate(["a.png", "b.png", "x/c.png", "x/d.png", "y/e.png"]):
        put(folder / name, encoded[number])
    assert [row.group for row in rows().values()] == ["a.png", "b.png", "x", "x", "y"]


def test_unreadable_images_are_rows_with_an_error_code(rows, folder, encoded):
    put(folder / "empty.jpg", b"")
    put(folder / "html.jpg", b"<html></html>")
    put(folder / "cut.png", encoded[0][:300])
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / "loop.png").symlink_to("loop.png")
    os.mkfifo(folder / "pipe.png")
    found = rows()
    assert {name: row.error_code for name, row in found.items()} == {
        "cut.png": "truncated",
        "empty.jpg": "empty",
        "gone.png": "missing",
        "html.jpg": "not_an_image",
        "loop.png": "unreadable",
        "pipe.png": "not_a_file",
    }
    assert found["cut.png"].data == encoded[0][:300]
    assert all(row.width is None and row.height is None for row in found.values())


def test_names_that_are_not_utf8_are_written_with_escapes_and_stay_different(rows, folder, encoded):
    put(Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png")), encoded[0])
    put(folder / "caf\\xe9.png", encoded[1])
    found = rows()
    assert set(found) == {"caf\\xe9.png", "caf\\\\xe9.png"}
    assert all(row.error_code is None for row in found.values())


def test_an_empty_folder_is_refused(rows, folder):
    put(folder / "notes.txt", b"none here")
    with pytest.raises(SourceError, match="holds no images"):
        rows()


def test_a_folder_with_only_formats_that_are_not_read_is_refused_with_their_names(rows, folder, encoded):
    put(folder / "x/a.jxl", encoded[0])
    with pytest.raises(SourceError, match=r"no images that can be read \(1 x \.jxl\)"):
        rows()


def test_the_seed_chooses_among_more_images_than_asked_for(rows, folder, encoded):
    for number, data in enumerate(encoded):
        put(folder / f"{number:02d}.png", data)
    first, again, other = (list(rows(num_images=10, seed=seed))[:10] for seed in (1, 1, 2))
    assert first == again
    assert set(first) != set(other)
    assert first != sorted(first)


def test_a_new_image_displaces_at_most_one_of_the_chosen(rows, folder, encoded):
    for number, data in enumerate(encoded[:40]):
        put(folder / f"{number:02d}.png", data)
    before = set(list(rows(num_images=10))[:10])
    put(folder / "new.png", encoded[40])
    assert len(before - set(list(rows(num_images=10))[:10])) <= 1
