"""Write the lock files from one resolution of all dependencies: ``python .ci/locks.py RESOLUTION...``.

RESOLUTION is what ``uv pip compile --generate-hashes`` writes for the extras all and dev; see ``make lock``.

requirements.lock      what runs: dependencies, those of the extra `all`, and what they need
requirements-dev.lock  the rest: tools of development
packages.yaml          the versions of what is declared for runtime, for the stages of dvc.yaml
"""

import re
import sys
import tomllib
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# name==version ; marker \  then hashes, then the comment "# via" with who needs it
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)(?: ; (.+?))? \\$", re.MULTILINE)


def main(resolution: str, pyproject: str) -> dict[str, str]:
    """Contents of the three files by name."""
    starts = [pin.start() for pin in _PIN.finditer(resolution)]
    blocks = [resolution[a:b] for a, b in zip(starts, [*starts[1:], len(resolution)], strict=True)]
    project = tomllib.loads(pyproject)["project"]
    extras = project.get("optional-dependencies", {})
    of_all = re.findall(r"[\w-]+", "".join(extras.get("all", [])).partition("[")[2])
    declared = [*project["dependencies"], *chain(*(extras[name] for name in of_all))]
    direct = {_normal(entry) for entry in declared}
    names = [_normal(block) for block in blocks]
    if missing := direct - set(names):
        raise SystemExit(f"Not in the resolution: {', '.join(sorted(missing))}. Run `make lock`.")
    runtime, found = set[str](), direct
    while found:
        runtime |= found
        found = {
            name for name, block in zip(names, blocks, strict=True) if runtime & {*_needed_by(block)}
        } - runtime
    parts: dict[bool, list[str]] = {True: [], False: []}
    for name, block in zip(names, blocks, strict=True):
        parts[name in runtime].append(_without_tools(block, runtime) if name in runtime else block)
    versions: dict[str, list[str]] = {}
    for pin in _PIN.finditer(resolution):
        if (name := _normal(pin[1])) in direct:
            versions.setdefault(name, []).append(f"{pin[2]} ; {pin[3]}" if pin[3] else pin[2])
    lines = [f'{name}: "{", ".join(found)}"' for name, found in sorted(versions.items())]
    return {
        "requirements.lock": "".join(parts[True]),
        "requirements-dev.lock": "".join(parts[False]),
        "packages.yaml": "\n".join(
            [
                "# Made by `make lock` from requirements.lock: stages depend on those they compute with.",
                *lines,
                "",
            ]
        ),
    }


def _normal(requirement: str) -> str:
    """The name that a requirement begins with, as package indexes compare names."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]).lower()


def _needed_by(block: str) -> list[str]:
    """Who needs a package, by its comment "# via"."""
    lines = [line.strip("# ").removeprefix("via").strip() for line in _comment(block).splitlines()]
    return [_normal(line) for line in lines if line]


def _comment(block: str) -> str:
    return "".join(re.findall(r"^    #.*\n", block, re.MULTILINE))


def _without_tools(block: str, runtime: set[str]) -> str:
    """The block; tools that need the package as well are left out of its comment."""
    needed_by = re.findall(r"^    #(?:   | via )(\S.*)$", block, re.MULTILINE)
    kept = [name for name in needed_by if name.startswith("quality-model ") or _normal(name) in runtime]
    comment = [f"    # via {kept[0]}"] if len(kept) == 1 else ["    # via", *(f"    #   {k}" for k in kept)]
    return block.replace(_comment(block), "\n".join(comment) + "\n")


if __name__ == "__main__":
    resolved = "".join(Path(name).read_text(encoding="utf-8") for name in sys.argv[1:])
    for name, text in main(resolved, (ROOT / "pyproject.toml").read_text(encoding="utf-8")).items():
        (ROOT / name).write_text(text, encoding="utf-8")
