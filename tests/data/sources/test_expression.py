"""What may be said of a source outside of the machine that it is on."""

import pytest

from quality_model.data.sources.expression import without_folders


@pytest.mark.parametrize(
    ("dataset", "shown"),
    [
        ("sample-photos", "sample-photos"),
        ("owner/name", "owner/name"),
        ("/home/someone/images/", "images"),
        ("~/images", "images"),
        ("../someone/images", "images"),
        ("someone/of/images", "images"),
        (r"C:\Users\someone\images", "images"),
        ("sample-photos*250 + /home/someone/images", "sample-photos*250 + images"),
        ("/home/someone/images*7 + owner/name*3", "images*7 + owner/name*3"),
    ],
)
def test_of_a_folder_the_last_name_is_left_and_all_else_stays(dataset: str, shown: str) -> None:
    assert without_folders(dataset) == shown
