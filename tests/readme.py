"""The README and the pages for tests: their text, their code blocks, and the commands in them."""

import re
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).resolve().parents[1]
README: Final = (_ROOT / "README.md").read_text()
PAGES: Final = "\n".join(
    [
        README,
        *(
            (_ROOT / "docs" / f"{name}.md").read_text()
            for name in ("index", "filter", "train-your-own", "daily", "how-good", "blind-spots")
        ),
    ]
)
"""The README and the pages that a reader follows step by step, in the order of use."""

BLOCKS: Final = re.findall(r"```(sh|python)\n(.*?)```", PAGES, re.DOTALL)
"""(language, text) of each block."""

SHELL: Final = list(
    dict.fromkeys(
        command
        for language, block in BLOCKS
        if language == "sh"
        for line in block.replace("\\\n", " ").splitlines()
        for part in line.split("&&")
        if (command := part.split("#")[0].strip())
    )
)
"""The commands of the shell blocks in their order, each once, without comments."""


def table(heading: str) -> dict[str, list[str]]:
    """The table whose first line is that: the cells of each row, by the first one without backquotes."""
    lines = PAGES.split(heading)[1].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines[: lines.index("")]]
    return {row[0].strip("`"): row[1:] for row in rows}
