"""What the images of deploy/Dockerfile install, and how large that is.

    python deploy/images.py lock [EXTRA ...]   # what of requirements.lock the package with these extras needs
    python deploy/images.py sizes              # a table; in the environment that `make install` made

Sizes are computed, no image is built for them: those of the installed files, without bytecode, as wheels of
this platform have them. The base image and what apt adds come on top.
"""

import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
IMAGES: Final = {"scoring": (), "ray": ("ray", "stores"), "workflow": ("all",)}
"""The targets of the Dockerfile, with the extras that each installs."""

_PIN: Final = re.compile(r"^([A-Za-z0-9._-]+)==", re.MULTILINE)
_VIA: Final = re.compile(r"^    #(?:   | via )(\S+)", re.MULTILINE)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MB: Final = 1e6


def locked(extras: tuple[str, ...]) -> dict[str, str]:
    """The blocks of requirements.lock, with hashes, that the package with these extras needs, by name.

    Raises:
        KeyError: There is no such extra.
    """
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    starts = [pin.start() for pin in _PIN.finditer(text)]
    blocks = [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]
    found = _declared(extras)
    while True:
        more = {_name(block) for block in blocks if found & set(map(_name, _VIA.findall(block)))}
        if more <= found:
            return {_name(block): block for block in blocks if _name(block) in found}
        found |= more


def size_bytes(name: str) -> int:
    """Bytes of the files of an installed package, without bytecode; 0 if this platform does not have it."""
    try:
        files = distribution(name).files or []
    except PackageNotFoundError:
        return 0
    places = [Path(str(file.locate())) for file in files if file.suffix != ".pyc"]
    return sum(place.stat().st_size for place in places if place.is_file())


def package_bytes() -> int:
    """Bytes of this package, bundled models included."""
    files = (path for path in (ROOT / "quality_model").rglob("*") if path.suffix != ".pyc")
    return sum(path.stat().st_size for path in files if path.is_file())


def table() -> str:
    """The images with their packages, sizes and largest packages, as Markdown."""
    lines = ["| image | packages | installed, computed | the largest |", "|---|---|---|---|"]
    for image, extras in IMAGES.items():
        sizes = {name: size_bytes(name) for name in locked(extras)}
        total = sum(sizes.values()) + package_bytes()
        largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
        shown = ", ".join(f"{name} {sizes[name] / _MB:,.0f}" for name in largest)
        num_packages = sum(size > 0 for size in sizes.values())
        lines.append(f"| `{image}` | {num_packages} | {total / _MB:,.0f} MB | {shown} |")
    return "\n".join(lines)


def _declared(extras: tuple[str, ...]) -> set[str]:
    """The names that pyproject.toml asks for; an extra may name others, as `all` does."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    names = set(map(_name, project["dependencies"]))
    for extra in extras:
        for entry in optional[extra]:
            inner = re.fullmatch(r"quality-model\[(.*)\]", entry)
            names |= _declared(tuple(inner[1].split(","))) if inner else {_name(entry)}
    return names


def _name(requirement: str) -> str:
    found = _NAME.match(requirement)
    return re.sub(r"[-_.]+", "-", found[0]).lower() if found else ""


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["lock", *extras]:
            sys.stdout.write("".join(locked(tuple(extras)).values()))
        case ["sizes"]:
            sys.stdout.write(f"{table()}\n")
        case _:
            sys.exit(__doc__)
