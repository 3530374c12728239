"""The model card: what a model is, what it was trained on and what is known of it, as Markdown.

A template is filled from what training, evaluation and gate leave; a value that they do not state is
called missing. The headings follow Mitchell et al., "Model Cards for Model Reporting" (arXiv 1810.03993).
"""

from pathlib import Path
from typing import Any, Final

from jinja2 import ChainableUndefined, Environment, PackageLoader

from quality_model.core import storage
from quality_model.evaluate.evidence import Evaluated, Evidence
from quality_model.paths import DESCRIPTION_NAME, EVIDENCE_NAME
from quality_model.records import HEADS, MEANINGS
from quality_model.release.decisions import Decision, read_record

_TEMPLATE: Final = "model_card.md.j2"
_RECIPE_ASIDE: Final = ("train.device", "train.precision")
"""Where it was trained, not how."""


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
        image_licence: That of the training images; by default what the model's files say.

    Returns:
        Markdown that ends with a newline.

    Raises:
        CorruptError: A file is not what it should be.
    """
    has_evidence = record is not None and (record / EVIDENCE_NAME).exists()
    return model_card(
        storage.read_json(model / DESCRIPTION_NAME),
        Evidence.read(record / EVIDENCE_NAME).candidate if record and has_evidence else None,
        registration or (read_record(record) if record else None),
        image_licence=image_licence,
    )


def model_card(
    description: dict[str, Any],
    evaluated: Evaluated | None,
    decision: Decision | None,
    *,
    image_licence: str | None = None,
) -> str:
    """Write the card of one model; what is not known of it is called missing.

    Args:
        description: What model.json holds.
        evaluated: How the model did on the test split.
        decision: Of the gate, or the registration that rests on it.
        image_licence: That of the training images; by default what ``description`` says.

    Returns:
        Markdown that ends with a newline.
    """
    facts = description.get("facts") or {}
    settings = facts.get("settings") or {}
    origin = dict(facts)
    if decision is not None:
        known = {
            "run_id": decision.model.run_id,
            "model_sha256": decision.model_sha256,
            "git_commit": decision.git_commit,
            "params_sha256": decision.params_sha256,
        }
        origin |= {key: value for key, value in known.items() if value is not None}
    recipe = [
        f"{key.removeprefix('train.')} {value}"
        for key, value in settings.items()
        if key.startswith("train.") and key not in _RECIPE_ASIDE
    ]
    version = decision.model.version if decision else None
    return (
        _environment()
        .get_template(_TEMPLATE)
        .render(
            name=decision.model.name if decision else "quality-model",
            version=version or facts.get("version"),
            description=description,
            facts=facts,
            settings=settings,
            recipe=", ".join(recipe),
            origin=origin,
            evaluated=evaluated,
            decision=decision,
            image_licence=image_licence or facts.get("image_licence"),
            heads=HEADS,
            meanings=MEANINGS,
        )
    )


class _Missing(ChainableUndefined):
    """A value that nothing states."""

    def __str__(self) -> str:
        return "missing"


def _environment() -> Environment:
    environment = Environment(  # Markdown, not HTML: nothing to escape
        loader=PackageLoader("quality_model.release", "."),
        undefined=_Missing,
        finalize=lambda value: "missing" if value is None else value,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["code"] = lambda value: f"`{value}`" if value else "missing"
    environment.filters["number"] = _number
    return environment


def _number(value: Any, digits: int) -> str:
    """A number as text; ``not defined`` where it was measured and has no value."""
    if isinstance(value, _Missing):
        return "missing"
    return "not defined" if value is None else f"{value:.{digits}f}"
