"""Pages that we write: whole HTML files that open without a network.

Styles and images are in the file, there is no script, and a content security policy forbids the browser to
fetch anything. `write_index` shows what the pipeline's reports say, `beside_champion` how two models score
the same samples.
"""

import base64
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from quality_model.core import storage
from quality_model.core.pixels import Pixels
from quality_model.data.checks.expectations import REPORT_NAME
from quality_model.errors import StorageError
from quality_model.paths import BESIDE_CHAMPION_NAME, EVIDENCE_NAME, VERDICT_NAME, ProjectPaths
from quality_model.records import HEADS, Head
from quality_model.score.sketches import jpeg_of

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

    from quality_model.evaluate.evidence import Evidence
    from quality_model.release.gate import Verdict

INDEX_NAME: Final = "index.html"
"""In the folder of the pipeline's reports: all of them on one page."""

_SHOWN: Final = 5
"""Samples of a kind, for each head."""


_STYLE: Final = """
body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:78em;padding:0 1.5em;color:#222}
h1,h2,h3{line-height:1.2;margin:1.6em 0 .5em}h1{margin-top:0}small{color:#666}
table{border-collapse:collapse;font-size:13px;display:block;overflow-x:auto}
th,td{padding:.25em .7em;text-align:left;border-bottom:1px solid #ddd;vertical-align:top}
.n{text-align:right;font-variant-numeric:tabular-nums}.bad{background:#fdecea}
.strip{display:flex;flex-wrap:wrap;gap:14px}figure{margin:0;font-size:13px}.strip figure{width:210px}
img{max-width:100%;display:block}.strip img{width:210px;height:210px;object-fit:contain;background:#eee}
summary{cursor:pointer;margin:.5em 0}.scale{position:relative;height:9px;background:#eee;margin:5px 0}
.scale i{position:absolute;top:0;bottom:0;width:3px;margin-left:-1px}
.true{background:#222}.candidate{background:#c0562f}.champion{background:#2c6fb0}
.key i{display:inline-block;width:9px;height:9px;margin:0 .4em 0 1.2em}
"""


def page(title: str, sections: Iterable[str]) -> str:
    """A whole HTML file; ``sections`` are HTML, ``title`` is text."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<style>{_STYLE}</style></head>\n'
        f"<body><h1>{escape(title)}</h1>\n" + "\n".join(sections) + "\n</body></html>\n"
    )


def table(
    titles: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Collection[str] = (),
    bad: Collection[int] = (),
) -> str:
    """A table of text; numbers have 4 digits, None is a dash.

    Args:
        titles: One per column.
        rows: As many cells each.
        right: Titles of the columns that are aligned to the right.
        bad: Numbers of the rows to point out.
    """
    kinds = [' class="n"' if title in right else "" for title in titles]

    def line(tag: str, cells: Sequence[object], row_class: str = "") -> str:
        shown = (
            f"<{tag}{kind}>{escape(_text(cell))}</{tag}>" for kind, cell in zip(kinds, cells, strict=True)
        )
        return f"<tr{row_class}>{''.join(shown)}</tr>"

    body = (line("td", cells, ' class="bad"' if number in bad else "") for number, cells in enumerate(rows))
    return f"<table>{line('th', titles)}\n" + "\n".join(body) + "</table>"


def data_url(image: bytes, kind: str) -> str:
    """An encoded image as an address that holds it; ``kind`` is ``png`` or ``jpeg``."""
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def jpeg_url(pixels: Pixels) -> str:
    """Pixels, uint8 (height, width, 3), as the address of a JPEG image."""
    return data_url(jpeg_of(pixels), "jpeg")


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else str(value)


# -- candidate beside champion


def beside_champion(
    predictions: "pd.DataFrame", images: "npt.NDArray[np.uint8]", evidence: "Evidence", verdict: "Verdict"
) -> str:
    """The page on which a person sees how candidate and champion score the same test samples.

    For each head the samples on which the candidate errs most, those on which it errs least (one of each
    fifth of the severities), and those on which the two models differ most.

    Args:
        predictions: Of both, see `evaluate.step.gather_evidence`.
        images: uint8 (N, S, S, 3) RGB of the training dataset; only what is shown is read.
        evidence: About both.
        verdict: The gate's.
    """
    assert evidence.champion is not None
    rows = [
        (
            head,
            evidence.candidate.heads[head].all.measures.mse.value,
            other.mse,
            other.difference.value,
            "-"
            if other.difference.low is None
            else f"{other.difference.low:.2g} to {other.difference.high:.2g}",
        )
        for head, other in evidence.champion.heads.items()
    ]
    titles = ("head", "candidate's MSE", "champion's MSE", "difference", "interval")
    version = verdict.compared_with or ""
    return page(
        f"Candidate beside champion {version}".strip(),
        [
            f"<p>{escape(verdict.ending() if not verdict.passed else verdict.summary())}</p>",
            table(titles, rows, right=titles[1:]),
            f"<p>{len(predictions)} samples of the test split; a score is 0 where the degradation is absent,"
            ' and 1 where it is severe. <span class="key"><i class="true"></i>true'
            '<i class="candidate"></i>candidate<i class="champion"></i>champion</span></p>',
            *(section for head in HEADS for section in _samples(predictions, images, head)),
        ],
    )


def _samples(predictions: "pd.DataFrame", images: "npt.NDArray[np.uint8]", head: Head) -> Iterator[str]:
    names = (f"{head}_label", f"{head}_score", f"{head}_champion")
    true, ours, theirs = (predictions[name].to_numpy(dtype=np.float64) for name in names)
    error = np.abs(ours - true)
    degraded = np.flatnonzero(true > 0)
    fifths = np.array_split(degraded[np.argsort(true[degraded], kind="stable")], _SHOWN)
    chosen: dict[str, Sequence[int]] = {
        "the candidate errs most": np.argsort(-error, kind="stable")[:_SHOWN].tolist(),
        "the candidate errs least, over the severities": [
            int(part[np.argmin(error[part])]) for part in fifths if len(part)
        ],
        "the two differ most": np.argsort(-np.abs(ours - theirs), kind="stable")[:_SHOWN].tolist(),
    }
    yield f"<h2>{head}</h2>"
    for title, numbers in chosen.items():
        figures = []
        for number in numbers:
            sample = predictions.iloc[number]
            scores = {"true": true[number], "candidate": ours[number], "champion": theirs[number]}
            marks = "".join(
                f'<i class="{name}" style="left:{100 * score:.1f}%"></i>' for name, score in scores.items()
            )
            caption = ", ".join(f"{name} {score:.2f}" for name, score in scores.items())
            kind = sample[f"{head}_kind"]
            figures.append(
                f'<figure><img alt="" src="{jpeg_url(np.asarray(images[int(sample["row"])]))}">'
                f'<div class="scale">{marks}</div>{caption}'
                f"<br><small>{escape(kind if isinstance(kind, str) else 'absent')}</small></figure>"
            )
        yield f'<h3>Where {title}</h3><div class="strip">{"".join(figures)}</div>'


# -- the pipeline's reports


def write_index(root: Path) -> Path:
    """Write the page that shows the pipeline's reports, as far as there are any; give its path.

    Decision, checks, evaluation and training, with their figures; the plots that dvc.yaml names among them.

    Args:
        root: The project folder.

    Raises:
        StorageError: It could not be written.
    """
    paths = ProjectPaths(root)
    index = paths.reports / INDEX_NAME
    reports = (paths.images_report, paths.training_set_report)
    sections = [
        *_decision(paths.gate_report),
        *(section for report in reports for section in _checks(report / REPORT_NAME)),
        *_evaluation(paths.evaluation_report),
    ]
    storage.write_text(index, page("What the pipeline found", sections))
    return index


def _decision(report: Path) -> Iterator[str]:
    found = _read(report / VERDICT_NAME)
    rows = found.get("rows", [])
    if not rows:
        return
    names = ("head", "rule", "value", "threshold", "passed", "reason")
    cells = [[row[name] if name != "passed" else _passed(row[name]) for name in names] for row in rows]
    yield f"<h2>The gate {'refused' if found['refusals'] else 'passed'} the candidate</h2>"
    files = [name for name in (BESIDE_CHAMPION_NAME, EVIDENCE_NAME) if (report / name).exists()]
    links = ", ".join(f'<a href="{report.name}/{name}">{name}</a>' for name in files)
    yield f"<p>Decided {escape(found['time'])} about the model {_short(found['model_sha256'])}. {links}</p>"
    bad = [number for number, row in enumerate(rows) if not row["passed"]]
    yield table(names, cells, right=("value", "threshold"), bad=bad)


def _checks(path: Path) -> Iterator[str]:
    found = _read(path)
    if not found:
        return
    failed = found["failed"]
    yield f"<h2>Checks of the {escape(found['subject'])}: {_passed(found['passed'])}</h2>"
    yield f"<p>{found['evaluated']} expectations, {failed} not met.</p>"
    titles = ("expected", "of", "how", "checked", "failing", "found", "examples")
    rows = [
        (
            one["meaning"],
            ".".join(filter(None, (one["table"], one["column"]))),
            " ".join(filter(None, (one["expectation"].removeprefix("expect_"), _listed(one["arguments"])))),
            one["checked"],
            one["failing"],
            one["error"] or one["observed"],
            "; ".join(map(_listed, one["examples"])),
        )
        for one in found["expectations"]
    ]
    bad = [number for number, one in enumerate(found["expectations"]) if not one["passed"]]
    if bad:
        yield table(titles, [rows[number] for number in bad], right=titles[3:5], bad=range(len(bad)))
    yield f"<details><summary>All {len(rows)} expectations</summary>"
    yield f"{table(titles, rows, right=titles[3:5], bad=bad)}</details>"


def _evaluation(report: Path) -> Iterator[str]:
    from quality_model.evaluate.evidence import Evaluated

    with suppress(StorageError):
        measured = Evaluated.read(report / "evaluation.json")
        summary = measured.summary()
        names = list(summary[HEADS[0]])
        yield "<h2>Evaluation on the test split</h2>"
        yield (
            f"<p>{measured.num_samples} samples of {measured.num_groups} groups; model"
            f" {_short(measured.model_sha256)}, dataset {_short(measured.data_sha256)}.</p>"
        )
        rows = [(head, *(summary[head][name] for name in names)) for head in HEADS]
        yield table(("head", *names), rows, right=names)
    for path in sorted((report / "figures").glob("*.png")):
        title = path.stem.replace("_", " ")
        yield f'<h3>{title}</h3><img alt="{title}" src="{data_url(path.read_bytes(), "png")}">'


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = storage.read_json(path) if path.exists() else {}
    return found


def _passed(passed: bool) -> str:
    return "passed" if passed else "FAILED"


def _short(sha256: str | None) -> str:
    return (sha256 or "unknown")[:12]


def _listed(values: object) -> str:
    if isinstance(values, Mapping):
        return ", ".join(f"{name} {_text(value)}" for name, value in values.items())
    return _text(values)
