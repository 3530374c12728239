"""The model card: what a model is, what it learned from and what is known of it, as Markdown.

A pure function of the files that training, evaluation and gate leave. What they do not say is
said to be missing: nothing is filled in. The headings follow Mitchell et al., "Model Cards for
Model Reporting" (arXiv 1810.03993), as far as there is evidence for them.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, Final, TypeGuard

from quality_model.core import storage
from quality_model.core.tables import markdown_table
from quality_model.paths import DESCRIPTION_NAME, EVIDENCE_NAME
from quality_model.records import HEADS, MEANINGS
from quality_model.release.decisions import Decision, read_record

MISSING: Final = "missing"
"""Stands where the evidence is not there; ``not defined`` where it is there and has no number."""

_RECIPE_ASIDE: Final = ("train.device", "train.precision")
"""Where it was trained, not how."""


def model_card(
    description: Mapping[str, Any],
    metrics: Mapping[str, Any] | None,
    verdict: Mapping[str, Any] | None,
    *,
    name: str = "quality-model",
    version: str | None = None,
    origin: Mapping[str, str | None] | None = None,
    image_licence: str | None = None,
) -> str:
    """Write the card of one model.

    Args:
        description: What model.json holds.
        metrics: The evaluation of this model (see `evaluation.Evaluation.metrics`); None if
            there is none.
        verdict: What verdict.json holds; None if the gate did not decide about this model.
        name: Of the model.
        version: In the registry; None where it has none.
        origin: The version's ``run_id`` and its tags ``data_name``, ``package_version``, ``code_sha256``,
            ``git_commit``, ``git_dirty``, ``model_sha256``, ``params_sha256``.
        image_licence: That of the images it learned from, as their source gives it.

    Returns:
        Markdown that ends with a newline.
    """
    facts = _mapping(description.get("facts"))
    size_px = description.get("image_size_px", MISSING)
    title = f"{name} version {version}" if version else name
    sections = [
        [f"# Model card: {title}", _what(description)],
        ["## Intended use and limits", _USE],
        ["## How the scores read", *_meanings(facts)],
        ["## Training data and recipe", *_training(facts, size_px, origin or {})],
        ["## Evaluation", *_evaluation(facts, metrics)],
        ["## Gate", *_gate(verdict)],
        ["## Origin", *_origin(origin or {})],
        ["## Licence", *_licence(image_licence or facts.get("image_licence"))],
    ]
    return "\n\n".join("\n\n".join(section) for section in sections) + "\n"


def card_of(
    model: Path,
    record: Path | None,
    registration: Decision | None = None,
    *,
    image_licence: str | None = None,
) -> str:
    """Write the card of a model folder.

    Args:
        model: Folder of the model.
        record: In which the gate decided about it; None if it did not.
        registration: Names the version; None where it has none.
        image_licence: That of the training images.
    """
    description = storage.read_json(model / DESCRIPTION_NAME)
    facts = _mapping(description.get("facts"))
    decision = registration or (read_record(record) if record else None)
    origin: dict[str, Any] = {key: facts.get(key) for key in _ORIGIN}
    verdict, evidence = None, None
    if decision is not None:
        origin |= {"run_id": decision.model.run_id, "model_sha256": decision.model_sha256}
        origin |= {"git_commit": decision.git_commit, "params_sha256": decision.params_sha256}
        verdict = {
            "passed": decision.passed,
            "compared_with": decision.champion.version if decision.champion else None,
            "summary": decision.verdict.summary(),
        }
    if record is not None and (record / EVIDENCE_NAME).exists():
        evidence = storage.read_json(record / EVIDENCE_NAME)
    return model_card(
        description,
        evidence,
        verdict,
        name=registration.model.name if registration else "quality-model",
        version=registration.model.version if registration else facts.get("version"),
        origin=origin,
        image_licence=image_licence,
    )


_ORIGIN: Final = (
    *("run_id", "data_name", "package_version", "code_sha256", "git_commit", "git_dirty"),
    *("model_sha256", "params_sha256"),
)


def _what(description: Mapping[str, Any]) -> str:
    size_px = description.get("image_size_px", MISSING)
    return (
        f"A convolutional network, architecture {_code(description.get('architecture'))}, that scores four"
        " technical faults of an image: colour cast, blur, watermark and noise. It sees the whole image,"
        f" resized to {size_px} x {size_px} px."
    )


_USE: Final = (
    "- For sorting and filtering collections of photographs, and for flags that a person looks at.\n"
    "- It learned from faults that were added to clean images by a program; a fault of another make may"
    " score otherwise.\n"
    "- Drawings, screenshots, scans, and moods that are meant (sunset, fog, shallow focus) were not singled"
    " out in training: expect errors there.\n"
    "- It says nothing about content or beauty, and is no ground for decisions about people."
)


def _meanings(facts: Mapping[str, Any]) -> Iterator[str]:
    thresholds = facts.get("thresholds")
    thresholds = thresholds if isinstance(thresholds, Mapping) else {}
    rows = [
        (f"`{score}`", meaning, _number(thresholds, score, 3) if score in HEADS else "-")
        for score, meaning in MEANINGS.items()
    ]
    yield markdown_table(("score, 0 to 1", "meaning", "flagged above"), rows)
    if not thresholds:
        yield "Thresholds are missing: this model flags nothing."


def _training(facts: Mapping[str, Any], size_px: Any, origin: Mapping[str, str | None]) -> Iterator[str]:
    settings = _mapping(facts.get("settings"))
    data = settings.get("source.dataset") or origin.get("data_name") or MISSING
    yield "\n".join(
        (
            f"- Clean images: {data}, at most {settings.get('source.num_images', MISSING)} of them.",
            f"- Samples: {facts.get('num_train', MISSING)} for training,"
            f" {facts.get('num_validation', MISSING)} for the choice of the epoch;"
            f" {size_px} px wide and high; label profile `{settings.get('generate.profile', MISSING)}`.",
            f"- SHA-256 of the training dataset: {_code(facts.get('data_sha256'))}.",
            f"- Epochs: best {facts.get('best_epoch', MISSING)} of {facts.get('epochs_run', MISSING)}.",
            f"- Recipe: {_recipe(settings)}.",
        )
    )


def _recipe(settings: Mapping[str, Any]) -> str:
    chosen = [
        f"{key.removeprefix('train.')} {value}"
        for key, value in settings.items()
        if key.startswith("train.") and key not in _RECIPE_ASIDE
    ]
    return ", ".join(chosen) or MISSING


def _evaluation(facts: Mapping[str, Any], metrics: Mapping[str, Any] | None) -> Iterator[str]:
    if not metrics:
        yield "The evaluation is missing: nothing is known about how well this model scores."
        return
    same = metrics.get("data_sha256") == facts.get("data_sha256") is not None
    where = "of the set it was trained on, in groups it never saw" if same else "of another set than its own"
    yield (
        f"Split `{metrics.get('split', MISSING)}` {where}: {metrics.get('num_samples', MISSING)} samples"
        f" of {metrics.get('num_groups', MISSING)} groups. In brackets the"
        f" {_percent(_mapping(metrics.get('measuring')).get('confidence'))} interval."
    )
    rows = [(f"`{head}`", *_head_cells(metrics, head)) for head in HEADS]
    yield markdown_table(
        ("head", "R2", "MSE", "best baseline, R2", "R2 on its samples", "worst ladder, Spearman"), rows
    )
    rows = [(f"`{head}`", _cross_talk(metrics, head), *_clean_flags(metrics, head)) for head in HEADS]
    yield markdown_table(
        ("head", "moves when another fault gets severe, at most", "clean images flagged", "threshold"), rows
    )


def _head_cells(metrics: Mapping[str, Any], head: str) -> tuple[str, ...]:
    measured = _mapping(_mapping(metrics.get("heads")).get(head))
    ends = _mapping(measured.get("intervals")).get("r2")
    interval = f" [{ends[0]:.3f}, {ends[1]:.3f}]" if isinstance(ends, Sequence) and len(ends) == 2 else ""
    return (
        _number(measured, "r2", 3) + interval,
        _number(measured, "mse", 4),
        _best_baseline(metrics, head),
        _number(measured, "r2_beside_baselines", 3),
        _worst_ladder(metrics, head),
    )


def _best_baseline(metrics: Mapping[str, Any], head: str) -> str:
    baselines = _mapping(_mapping(metrics.get("baselines")).get(head))
    return _decisive({name: _mapping(measured).get("r2") for name, measured in baselines.items()}, max)


def _worst_ladder(metrics: Mapping[str, Any], head: str) -> str:
    ladders = {name: _mapping(ladder) for name, ladder in _mapping(metrics.get("ladders")).items()}
    found = {name: ladder.get("spearman") for name, ladder in ladders.items() if ladder.get("head") == head}
    return _decisive(found, min)


def _cross_talk(metrics: Mapping[str, Any], head: str) -> str:
    matrix = {degraded: _mapping(moves) for degraded, moves in _mapping(metrics.get("cross_talk")).items()}
    found = {degraded: moves.get(head) for degraded, moves in matrix.items() if degraded != head}
    return _decisive(found, max)


def _decisive(found: Mapping[str, Any], choose: Callable[..., str]) -> str:
    """The number that the gate decides by, with its name; what has no number comes first."""
    if not found:
        return MISSING
    for name, value in found.items():
        if not _is_number(value):
            return f"not defined ({name})"
    name = choose(found, key=lambda one: found[one])
    return f"{found[name]:.3f} ({name})"


def _clean_flags(metrics: Mapping[str, Any], head: str) -> tuple[str, str]:
    flags = _mapping(_mapping(metrics.get("clean_flags")).get(head))
    share = flags.get("flagged_share")
    shown = f"{share:.1%} of {flags.get('num_images', MISSING)}" if _is_number(share) else _why(flags)
    return shown, _number(flags, "threshold", 3)


def _gate(verdict: Mapping[str, Any] | None) -> Iterator[str]:
    if not verdict:
        yield "The verdict is missing: the gate has not decided about this model."
        return
    word = "Passed" if verdict.get("passed") is True else "Refused"
    champion = verdict.get("compared_with")
    against = f"compared with version {champion}" if champion else "there was no champion to compare with"
    yield f"{word}; {against}. {verdict.get('summary', 'The summary is missing.')}"


def _origin(origin: Mapping[str, str | None]) -> Iterator[str]:
    dirty = " with uncommitted changes" if origin.get("git_dirty") == "true" else ""
    yield "\n".join(
        (
            f"- MLflow run: {_code(origin.get('run_id'))}.",
            f"- Code: quality-model {_code(origin.get('package_version'))}, Git commit "
            f"{_code(origin.get('git_commit'))}{dirty}, SHA-256 {_code(origin.get('code_sha256'))}.",
            f"- SHA-256 of the model's files: {_code(origin.get('model_sha256'))};"
            f" of its parameters: {_code(origin.get('params_sha256'))}.",
        )
    )


def _licence(images: object) -> Iterator[str]:
    yield f"Weights: Apache-2.0. Training images: {images or 'their licence is missing'}."


def _number(values: Mapping[str, Any], key: str, digits: int) -> str:
    value = values.get(key)
    return f"{value:.{digits}f}" if _is_number(value) else _why(values, key)


def _why(values: Mapping[str, Any], key: str | None = None) -> str:
    return "not defined" if (values if key is None else key in values) else MISSING


def _percent(share: Any) -> str:
    return f"{share:.0%}" if _is_number(share) else MISSING


def _code(value: Any) -> str:
    return f"`{value}`" if value else MISSING


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
