"""The model card, as Markdown, and the bundled model, which is a trained one with its card.

A template is filled from what training, evaluation and gate leave; a value that they do not state is
called missing. The headings follow Mitchell et al., "Model Cards for Model Reporting" (arXiv 1810.03993).
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from jinja2 import ChainableUndefined, Environment, PackageLoader

from quality_model.core import storage
from quality_model.evaluate.evidence import Estimate, Evaluated, Evidence, FlaggedShare
from quality_model.params import values_sha256
from quality_model.paths import CARD_NAME, DESCRIPTION_NAME, EVIDENCE_NAME
from quality_model.records import HEADS, MEANINGS, last_name, without_folders
from quality_model.release.decisions import OF_THE_GATE, Decision, find_record, read_record

_TEMPLATE: Final = "model_card.md.j2"
_RECIPE_ASIDE: Final = ("train.device", "train.precision")
"""Where it was trained, not how."""

_FROM_RUN: Final = ("run_id", "package_version", "code_sha256", "git_commit", "git_dirty")
"""Facts about the training that a bundled model states, None where they are not known."""

_VERSION_LENGTH: Final = 12
_OF_A_MACHINE: Final = frozenset({"device", "workers", "host", "hostname", "user", "root"})
"""Last words of the keys of facts that say where, not how, a model was trained."""

_DATASET: Final = "source.dataset"
_PATH: Final = re.compile(r"(?:[/~\\]|\.{1,2}[/\\]|[A-Za-z]:[/\\]|file:)")


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
            flag_shares=_flag_shares(evaluated) if evaluated else [],
            decision=decision,
            image_licence=image_licence or facts.get("image_licence"),
            heads=HEADS,
            meanings=MEANINGS,
        )
    )


def _flag_shares(evaluated: Evaluated) -> list[tuple[str, int, list[Estimate]]]:
    """Of all clean images, and of each slice: its name, the number of its images and each head's share."""
    found = [evaluated.heads[head].clean_flags for head in HEADS]
    rows: dict[str, Sequence[FlaggedShare]] = {"all": found}
    rows |= {name: [one.slices[name] for one in found] for name in found[0].slices}
    return [(name, of[0].num_images, [one.flagged_share for one in of]) for name, of in rows.items()]


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


# -- the bundled model


def bundle_model(
    model: Path, output: Path, *, root: Path, image_licence: str | None
) -> list[tuple[str, int]]:
    """Write a trained model as one that can be bundled: model files and card.

    The facts gain ``version`` (the short hash of the trained weights), ``trained_sha256`` (the whole one),
    ``model_sha256`` (of the trained model's folder, which decisions name) and ``params_sha256`` (of the
    settings). Other files of ``output``, such as a licence, stay as they are.

    Args:
        model: Folder or file of a trained model (see `checkpoints.load_model`).
        output: Folder for the files; a model that it holds is replaced.
        root: The project folder; the card shows the gate's last decision there on this model.
        image_licence: That of the training images, for the card.

    Returns:
        Name and length in bytes of the files.

    Raises:
        CheckpointError: The model does not load, or a weight is too large for 16 bits.
    """
    import torch

    from quality_model.networks.model import load_model, save_model

    loaded = load_model(model, torch.device("cpu"))
    settings = loaded.facts.settings
    facts = {
        **_portable(loaded.facts.to_json()),
        "version": loaded.sha256[:_VERSION_LENGTH],
        "trained_sha256": loaded.sha256,
        "model_sha256": loaded.folder_sha256,
        "params_sha256": None if settings is None else values_sha256(settings),
        **{key: getattr(loaded.facts, key) for key in _FROM_RUN},
    }
    marker = save_model(
        output,
        loaded.model,
        image_size_px=loaded.image_size_px,
        views=loaded.views,
        facts=facts,
        half_precision=True,
    )
    record = find_record(root, *OF_THE_GATE, model_sha256=loaded.folder_sha256)
    storage.write_text(output / CARD_NAME, card_of(output, record, image_licence=image_licence))
    return [(entry["name"], entry["bytes"]) for entry in marker["files"]]


def _portable(value: Any) -> Any:
    """The value without what depends on the machine: its keys are left out, paths keep their last name."""
    if isinstance(value, Mapping):
        return {
            key: without_folders(inner) if key == _DATASET and isinstance(inner, str) else _portable(inner)
            for key, inner in value.items()
            if str(key).rpartition(".")[2] not in _OF_A_MACHINE
        }
    if isinstance(value, list | tuple):
        return [_portable(inner) for inner in value]
    if isinstance(value, str) and _PATH.match(value):
        return last_name(value)
    return value
