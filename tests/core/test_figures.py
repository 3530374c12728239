"""One table for terminals, logs, reports and cards."""

from quality_model.core.figures import markdown_table, text_table

TITLES = ("head", "value")
ROWS = [("noise", "0.1"), ("color_cast", "12.25")]


def test_text_columns_are_aligned_and_lines_end_without_spaces() -> None:
    assert text_table(TITLES, ROWS, right={"value"}) == (
        "head        value\nnoise         0.1\ncolor_cast  12.25"
    )
    assert text_table(TITLES, ROWS) == "head        value\nnoise       0.1\ncolor_cast  12.25"


def test_a_markdown_table_keeps_its_columns_when_a_cell_has_a_bar() -> None:
    assert markdown_table(TITLES, [("a|b", "1")], right={"value"}) == (
        "| head | value |\n| --- | ---: |\n| a/b | 1 |"
    )


def test_a_table_without_rows_is_its_titles() -> None:
    assert text_table(TITLES, []) == "head  value"
