"""What may be said of a source outside of the machine that it is on."""

import pytest

from quality_model.sources.expression import without_folders


@pytest.mark.parametrize(
    ("dataset", "shown"),
    [
        ("sample-photos", "sample-photos"),
        ("owner/name", "owner/name"),
        ("/home/someone/pictures/", "pictures"),
        ("~/pictures", "pictures"),
        ("../someone/pictures", "pictures"),
        ("someone/of/pictures", "pictures"),
        (r"C:\Users\someone\pictures", "pictures"),
        ("sample-photos*250 + /home/someone/pictures", "sample-photos*250 + pictures"),
        ("/home/someone/pictures*7 + owner/name*3", "pictures*7 + owner/name*3"),
    ],
)
def test_of_a_folder_the_last_name_is_left_and_all_else_stays(dataset: str, shown: str) -> None:
    assert without_folders(dataset) == shown
