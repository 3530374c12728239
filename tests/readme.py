"""The README for tests: its text, its code blocks, and the commands in them."""

import re
from pathlib import Path
from typing import Final

README: Final = (Path(__file__).resolve().parents[1] / "README.md").read_text()
BLOCKS: Final = re.findall(r"```(sh|python)\n(.*?)```", README, re.DOTALL)
"""(language, text) of each block."""

SHELL: Final = [
    command
    for language, block in BLOCKS
    if language == "sh"
    for line in block.replace("\\\n", " ").splitlines()
    for part in line.split("&&")
    if (command := part.split("#")[0].strip())
]
"""The commands of the shell blocks in their order, without comments."""


def table(heading: str) -> dict[str, list[str]]:
    """The table whose first line is that: the cells of each row, by the first one without backquotes."""
    lines = README.split(heading)[1].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines[: lines.index("")]]
    return {row[0].strip("`"): row[1:] for row in rows}
