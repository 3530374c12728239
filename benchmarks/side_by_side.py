"""This project beside CleanVision and pyiqa's measures, in one run, as Markdown tables.

    python -m benchmarks.side_by_side REAL [--work build/side-by-side] [--images 200] [--repetitions 3]

REAL is a folder of sets as `benchmarks.real` reads them. Each tool is installed into an empty environment
below ``--work`` by pip, scores the same images there, and is a process of its own each time. ``--keep``
takes the environments of the others from an earlier run, with the time that their installation took then.

`brisque` is there because pyiqa loads the weights of its own BRISQUE from a model hub, which cannot be
reached everywhere. A measure of pyiqa that does not load is named below the tables.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from PIL import Image

from benchmarks import real
from benchmarks.images import find_photographs, write_images
from benchmarks.machine import describe
from quality_model.core import system
from quality_model.core.figures import markdown_table
from quality_model.evaluate.real_defects import read_sets
from quality_model.records import HEADS
from quality_model.score.result import read_rows

ROOT: Final = Path(__file__).resolve().parent.parent

_COMMON: Final = """
import json, sys, warnings
warnings.simplefilter("ignore")
folder, output = sys.argv[1:3]
files = json.loads(open(sys.argv[3]).read())  # below the folder
each = sys.argv[4] == "1"  # every measure; where a call with several files fails, one for each
scores, notes = {}, {}
def keep(file, measure, value):
    scores.setdefault(measure, {})[file] = float(value)
"""

_CLEANVISION: Final = (
    _COMMON
    + """
from cleanvision import Imagelab
def find(batch):
    lab = Imagelab(filepaths=[f"{folder}/{file}" for file in batch], verbose=False)
    lab.find_issues(verbose=False)
    return lab
if __name__ == "__main__":
    batches = [files]
    while batches:
        batch = batches.pop()
        try:
            lab = find(batch)
        except Exception as error:
            if each and len(batch) > 1:
                batches += [[file] for file in batch]  # one of them ended the call
            else:
                notes[batch[0]] = f"{type(error).__name__}: {error}"
            continue
        for path, row in lab.issues.iterrows():
            for name in ("blurry", "low_information", "dark", "light"):
                keep(path[len(folder) + 1:], name, 1 - row[f"{name}_score"])
    json.dump({"scores": scores, "notes": notes}, open(output, "w"))
"""
)

_PYIQA: Final = (
    _COMMON
    + """
import pyiqa
measures = {}
for name in ("piqe",) if not each else ("brisque", "niqe", "ilniqe", "nrqm", "pi", "piqe", "entropy"):
    try:
        measures[name] = pyiqa.create_metric(name, device="cpu")
    except Exception as error:
        notes[name] = type(error).__name__
for file in files:
    for name, measure in measures.items():
        try:
            value = measure(f"{folder}/{file}").item()
        except Exception as error:
            notes[file] = f"{type(error).__name__}: {error}"
            continue
        keep(file, name, value if measure.lower_better else -value)
json.dump({"scores": scores, "notes": notes}, open(output, "w"))
"""
)

_BRISQUE: Final = (
    _COMMON
    + """
import numpy, PIL.Image
from brisque import BRISQUE
measure = BRISQUE(url=False)
for file in files:
    try:
        keep(file, "brisque", measure.score(numpy.asarray(PIL.Image.open(f"{folder}/{file}").convert("RGB"))))
    except Exception as error:
        notes[file] = f"{type(error).__name__}: {error}"
json.dump({"scores": scores, "notes": notes}, open(output, "w"))
"""
)


@dataclass(frozen=True)
class Tool:
    """What is installed, and the program that scores with it; without one it is ours."""

    name: str
    requirements: tuple[str, ...]
    program: str = ""


TOOLS: Final = (
    Tool("quality-model", ()),
    Tool("CleanVision 0.3.7", ("cleanvision==0.3.7",), _CLEANVISION),
    Tool("pyiqa 0.1.16", ("pyiqa==0.1.16",), _PYIQA),
    # brisque 0.2.0 makes scalars of arrays in a way that NumPy 2.4 refuses.
    Tool("brisque 0.2.0", ("brisque[opencv-python-headless]==0.2.0", "numpy<2.4"), _BRISQUE),
)


@dataclass(frozen=True)
class Installed:
    """A tool in its environment: seconds of pip, megabytes of its files, and the number of its packages."""

    tool: Tool
    environment: Path
    elapsed_s: float
    size_mb: float
    num_packages: int

    def score(self, folder: Path, files: Sequence[str], work: Path, *, each: bool) -> "Scored":
        """Scores of the files in a process of its own.

        Args:
            folder: Where the files are.
            files: Their paths below it.
            work: Folder for temporary files.
            each: Every measure, and file by file where a call with several was ended by one that cannot be
                read; else what a run over many takes.
        """
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        listed, output = work / "files.json", work / "scores.json"
        if self.tool.program:
            listed.write_text(json.dumps(list(files)))
            (work / "program.py").write_text(self.tool.program)
            arguments = [str(folder), str(output), str(listed), str(int(each))]
            command = [str(self.environment / "bin" / "python"), str(work / "program.py"), *arguments]
        else:
            (work / "images").symlink_to(folder)  # the folder itself stays as it is
            listed = work / "files.txt"
            listed.write_text("\n".join(f"images/{file}" for file in files))
            options = ["--output", str(output), "--no-project", "--model", "bundled"]
            command = [str(self.environment / "bin" / "quality-model"), "score", f"@{listed}", *options]
        elapsed_s, cpu_s = _timed(command, work / "log.txt")
        if self.tool.program:
            found = json.loads(output.read_text())
            return Scored(elapsed_s, cpu_s, found["scores"], found["notes"])
        rows = read_rows(output, ["key", *HEADS, "error_code"]).to_pandas()
        rows = rows.set_index(rows["key"].str.removeprefix("images/"))
        notes = rows["error_code"].dropna().to_dict()
        return Scored(elapsed_s, cpu_s, {head: rows[head].dropna().to_dict() for head in HEADS}, notes)

    def first_score(self, photo: Path, work: Path) -> float:
        """Seconds from the shell until one image has a score."""
        if self.tool.program:
            return self.score(photo.parent, [photo.name], work, each=False).elapsed_s
        command = [str(self.environment / "bin" / "quality-model"), "predict", str(photo), "--no-project"]
        return _timed(command, work / "log.txt")[0]


@dataclass(frozen=True)
class Scored:
    """The scores by measure and file, higher where worse, and why a file or a measure has none."""

    elapsed_s: float
    cpu_s: float
    scores: Mapping[str, Mapping[str, float]]
    notes: Mapping[str, str]


def install(tool: Tool, work: Path, *, keep: bool) -> Installed:
    """Install a tool into an empty environment, ours from a copy of this checkout.

    Raises:
        subprocess.CalledProcessError: pip failed; its message is on stderr.
    """
    folder = work / "environments" / tool.name.replace(" ", "-")
    record = folder / "installed.json"
    if not (keep and tool.program and record.exists()):
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=False)
        requirements = list(tool.requirements)
        if not tool.program:
            source = work / "source"
            shutil.rmtree(source, ignore_errors=True)
            left_out = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / "quality_model", source / "quality_model", ignore=left_out)
            for name in ("pyproject.toml", "README.md", "LICENSE"):
                shutil.copyfile(ROOT / name, source / name)
            requirements = [str(source)]
        python = str(folder / "bin" / "python")
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", python]
        start = time.perf_counter()
        subprocess.run([*pip, "install", *requirements], check=True)
        elapsed_s = time.perf_counter() - start
        files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
        size_mb = sum(path.stat().st_size for path in files) / 1e6
        packages = len([*folder.glob("lib/python*/site-packages/*.dist-info")])
        record.write_text(json.dumps([elapsed_s, size_mb, packages]))
    elapsed_s, size_mb, packages = json.loads(record.read_text())
    return Installed(tool, folder, elapsed_s, size_mb, packages)


def write_formats(folder: Path, photo: Path) -> dict[str, str]:
    """A small image in each format that Pillow writes here, and three that are broken; titles by file."""
    folder.mkdir(parents=True)
    with Image.open(photo) as opened:
        image = opened.convert("RGB")
    kinds: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        **{f"{name}.{name.lower()}": (image, {}) for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")},
        **{f"{name}.{name.lower()}": (image, {}) for name in ("PPM", "AVIF")},
        "JPEG 2000.jp2": (image, {}),
        "MPO.mpo": (image, {"save_all": True, "append_images": [image]}),
        "CMYK.jpg": (image.convert("CMYK"), {}),
        "with transparency.png": (image.convert("RGBA"), {}),
        "16-bit grey.png": (Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257), {}),
    }
    for name, (one, options) in kinds.items():
        one.save(folder / name, **options)
    encoded = (folder / "JPEG.jpeg").read_bytes()
    (folder / "broken: cut.jpg").write_bytes(encoded[: len(encoded) // 2])
    (folder / "broken: empty.jpg").write_bytes(b"")
    (folder / "broken: text.jpg").write_text("no image")
    return {path.name: path.stem for path in sorted(folder.iterdir())}


def format_cells(installed: Installed, folder: Path, titles: Mapping[str, str], work: Path) -> list[str]:
    """Which formats got a score, and what became of the broken files, one by one and in a run with others."""
    alone = installed.score(folder, [*titles], work, each=True)
    scored = {file for by_file in alone.scores.values() for file in by_file}
    whole = [file for file in titles if not file.startswith("broken")]
    missing = [titles[file] for file in whole if file not in scored]
    read = f"{len(whole) - len(missing)} of {len(whole)}" + (f", not {', '.join(missing)}" if missing else "")
    broken = [file for file in titles if file not in whole]
    wrong = [titles[file].removeprefix("broken: ") for file in broken if file in scored]
    some = installed.score(folder, [*whole[:3], *broken], work, each=False)
    lost = not any(set(whole) & set(by_file) for by_file in some.scores.values())
    return [read, f"scored: {', '.join(wrong)}" if wrong else "none scored", "lost" if lost else "kept"]


def speeds(tools: Sequence[Installed], images: Path, repetitions: int, work: Path) -> dict[str, list[str]]:
    """Cells of speed by tool, over all images of a folder: the tools in turn, each several times."""
    files = sorted(path.name for path in images.iterdir())
    runs: dict[str, list[Scored]] = {one.tool.name: [] for one in tools}
    for _ in range(repetitions):
        for one in tools:
            runs[one.tool.name].append(one.score(images, files, work, each=False))
    elapsed_s = {name: statistics.median(run.elapsed_s for run in ran) for name, ran in runs.items()}
    cpu_s = {name: statistics.median(run.cpu_s for run in ran) for name, ran in runs.items()}
    ours_s, count = elapsed_s[tools[0].tool.name], len(files)
    return {
        name: [f"{count / spent_s:.3g}", f"{ours_s / spent_s:.2f}", f"{1000 * cpu_s[name] / count:.0f}"]
        for name, spent_s in elapsed_s.items()
    }


def auc_lines(folder: Path, tools: Sequence[Installed], work: Path) -> tuple[list[list[str]], dict[str, str]]:
    """Cells of each measure: its AUC for every head over all sets; and what could not be loaded or read."""
    known = read_sets(folder)
    files = [*known["file"].unique()]
    scored: dict[str, pd.DataFrame] = {}
    notes: dict[str, str] = {}
    for one in tools:
        found = one.score(folder, files, work, each=True)
        notes |= {f"{one.tool.name}, {about}": note for about, note in found.notes.items()}
        if not one.tool.program:
            scored[one.tool.name] = pd.DataFrame(found.scores)
            continue
        for measure, by_file in found.scores.items():
            # A measure of quality in general is tried on every head.
            scored[f"{one.tool.name}, `{measure}`"] = pd.DataFrame(dict.fromkeys(HEADS, by_file))
    lines: dict[str, list[str]] = {title: [title] for title in scored}
    for _, title, _, _, area in real.pooled_lines(known, scored):
        lines[title].append(area)
    return [*lines.values()], notes


def _timed(command: Sequence[str], log: Path) -> tuple[float, float]:
    """Wall and core seconds of a command, its children's included; its output goes to the log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    with log.open("w") as written:
        done = subprocess.run(command, stdout=written, stderr=subprocess.STDOUT, check=False)
    elapsed_s = time.perf_counter() - start
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{log.read_text()[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return elapsed_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def report(folder: Path, work: Path, *, count: int, repetitions: int, keep: bool) -> str:
    """Both tables, and what is to be known of them."""
    shutil.rmtree(work / "images", ignore_errors=True)
    shutil.rmtree(work / "formats", ignore_errors=True)
    write_images(work / "images", count, find_photographs(None))
    photo = sorted((work / "images").iterdir())[0]
    titles = write_formats(work / "formats", photo)
    tools = [install(tool, work, keep=keep) for tool in TOOLS]
    fast = speeds(tools, work / "images", repetitions, work / "run")
    columns = []
    for one in tools:
        first = [one.first_score(photo, work / "run") for _ in range(repetitions + 1)][1:]
        cells = [f"{one.size_mb:,.0f} MB", str(one.num_packages), f"{one.elapsed_s:.0f} s"]
        cells += [f"{statistics.median(first):.1f} s", *fast[one.tool.name]]
        columns.append([one.tool.name, *cells, *format_cells(one, work / "formats", titles, work / "run")])
    rows = ["", "installed", "packages", "time of pip", "until the first score", "images/s", "ratio"]
    rows += ["core-ms an image", "formats read", "broken files", "the other files of a run with broken ones"]
    header, *lines = zip(rows, *columns, strict=True)
    areas, notes = auc_lines(folder, tools, work / "run")
    machine = describe()
    parts = [
        f"{count} images of 500 x 375 px, {repetitions} repetitions in turn, medians;"
        f" {machine['cores']} cores of an {machine['processor']}, Python {machine['python']}, load"
        f" {os.getloadavg()[2]:.0f} over 15 minutes: ratios and core-ms depend on it least.",
        markdown_table(header, lines),
        f"AUC [{real.CONFIDENCE:.0%}] of each measure for each head, hard clean images among the clean ones:",
        markdown_table(["", *HEADS], areas),
        "\n".join(f"- {about}: {note}" for about, note in notes.items()),
    ]
    return "\n\n".join(parts).rstrip() + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print and write the tables; give the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="folder of the sets of real defects")
    work, output = Path("build/side-by-side"), Path("reports/side-by-side.md")
    parser.add_argument("--work", type=Path, default=work, help="folder of environments and images")
    parser.add_argument("--images", type=int, default=200, help="images to time")
    parser.add_argument("--repetitions", type=int, default=3, help="of each timing")
    parser.add_argument("--keep", action="store_true", help="take the others' environments as they are")
    parser.add_argument("--output", type=Path, default=output, help="file of the tables")
    given = parser.parse_args(arguments)

    def tables() -> str:
        return report(
            given.folder.resolve(),
            given.work.resolve(),
            count=given.images,
            repetitions=given.repetitions,
            keep=given.keep,
        )

    return real.print_tables(tables, given.output)


if __name__ == "__main__":
    system.silence_telemetry()
    sys.exit(main())
