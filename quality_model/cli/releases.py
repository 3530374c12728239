"""Commands of the registry: gate, register, promote, rollback, history, trace, migrate and others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quality_model.cli.flags import PATH, command, folder_option, registry_of, with_input_choice, with_params
from quality_model.errors import GateRefusedError
from quality_model.paths import CARD_NAME, ProjectPaths

if TYPE_CHECKING:
    from quality_model.params import Params, ScoringParams
    from quality_model.score.inputs import InputChoice

_PATHS = ProjectPaths()
_ROOT = Path()
_BUNDLED = Path("quality_model", "pretrained", "standard")
_MODEL_IN = folder_option("--model", _PATHS.model, "Folder of the candidate.")
_MODEL_OR_VERSION = folder_option("--model", _PATHS.model, "Folder of the candidate, or a version.")
_REASON = click.option(
    "--reason", default="by hand", show_default=True, help="Reason; recorded in the history."
)
_VERDICT = folder_option("--report", _PATHS.gate_report, "Folder of the verdict.")


@command()
@folder_option("--data-dir", _PATHS.training_set, "Folder of the training dataset, for its test split.")
@folder_option("--images", _PATHS.images, "Folder of the images table that the dataset was generated from.")
@_MODEL_OR_VERSION
@_VERDICT
@with_params("evaluate")
def gate(params: Params, data_dir: Path, images: Path, model: Path, report: Path) -> None:
    """Decide whether a candidate may become champion.

    Exit code 3 if not.
    """
    from quality_model.release.candidate import judge_candidate

    verdict = judge_candidate(
        params.evaluate,
        params.gate,
        params.registry,
        root=_ROOT,
        training_set=data_dir,
        model=model,
        report=report,
        loss_weights=params.train.loss_weights,
        images=images,
        limits=params.limits,
    ).verdict
    click.echo(verdict.table())
    if not verdict.passed:
        from quality_model.release.gate import AFTER_A_REFUSAL

        raise GateRefusedError(
            f"The gate refused the candidate. {verdict.ending()}",
            f"The reasons are above and in {report}. {AFTER_A_REFUSAL}",
        )


@command()
@_MODEL_IN
@_VERDICT
@with_params()
def register(params: Params, model: Path, report: Path) -> None:
    """Register a candidate that passed the gate.

    It gets the alias `candidate`.
    """
    from quality_model.release.candidate import register_candidate

    registered = register_candidate(params.registry, root=_ROOT, model=model, report=report).model
    click.echo(f"Registered {registered.name} version {registered.version}, alias candidate.")


@command()
@click.argument("folder", type=PATH)
@click.option("--model", default="candidate", show_default=True, help="The new model: a version or a path.")
@click.option(
    "--against",
    default="champion",
    show_default=True,
    help="The model it would replace: champion, bundled (the one in this package), a version or a path.",
)
@folder_option("--output", _PATHS.comparison_report, "Folder for comparison.json, .md, .csv and a figure.")
@click.option(
    "--thumbnails",
    type=click.IntRange(min=0),
    default=12,
    show_default=True,
    help="Images with the largest changes to show.",
)
@with_input_choice
@with_params()
def compare(
    params: Params,
    folder: Path,
    model: str,
    against: str,
    output: Path,
    thumbnails: int,
    choice: InputChoice,
) -> None:
    """Show where two models score images differently.

    FOLDER is a folder of images, or another collection that `score` takes.
    """
    from quality_model.release.candidate import attach_comparison
    from quality_model.score.compare import compare_models

    comparison = compare_models(
        params.score,
        params.limits,
        params.registry,
        root=_ROOT,
        folder=folder,
        model=model,
        against=against,
        output=output,
        num_thumbnails=thumbnails,
        choice=choice,
    )
    attach_comparison(params.registry, _ROOT, comparison, output)
    click.echo(comparison.headline())
    click.echo(comparison.table())
    click.echo(f"Comparison: {output}")


@command()
@click.argument("version", default="candidate")
@_REASON
@with_params()
def promote(params: Params, version: str, reason: str) -> None:
    """Make a version the champion.

    VERSION is a number, `candidate` or `bundled`.
    """
    from quality_model.release.champion import promote_by_hand

    promoted = promote_by_hand(
        params.evaluate, params.gate, params.registry, root=_ROOT, reference=version, reason=reason
    )
    click.echo(f"Champion: {params.registry.model_name} version {promoted}.")


@command()
@_REASON
@with_params()
def rollback(params: Params, reason: str) -> None:
    """Make the previous champion the champion again.

    If there is none, the bundled model.
    """
    from quality_model.release.champion import roll_back

    version = roll_back(params.registry, root=_ROOT, reason=reason)
    click.echo(f"Champion: {params.registry.model_name} version {version} again.")


@command()
@with_params()
def history(params: Params) -> None:
    """List every decision about a model, oldest first."""
    from quality_model.release.decisions import read_decisions

    for decision in read_decisions(_ROOT, params.registry):
        click.echo(f"{decision.time}  {decision.line()}")


@command()
@click.argument("scores", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@with_params(needs_project=False)
def trace(params: Params | ScoringParams, scores: Path, as_json: bool) -> None:
    """Show the model, data and decision behind scores.

    SCORES is a result, or a Parquet file of one.
    """
    from quality_model.release.trace import trace as trace_scores

    found = trace_scores(registry_of(params), root=_ROOT, path=scores)
    if as_json:
        click.echo(json.dumps(found.to_dict(), ensure_ascii=False))
        return
    click.echo(found.table())


@command()
@click.option("--to", required=True, metavar="URI", help="Address of an MLflow server: http://host:port.")
@folder_option("--report", _PATHS.migration_report, "Folder for migration.json: counts of both sides, ids.")
@with_params()
def migrate(params: Params, to: str, report: Path) -> None:
    """Move this project's registry to an MLflow server.

    With history: runs, metrics, versions with their numbers, aliases, decisions and files. Both sides are
    compared at the end. Run the same command again to resume it.
    """
    from quality_model.release.migrate import migrate as move

    moved = move(root=_ROOT, to=to, report=report)
    click.echo(moved.table())
    for words, count in moved.left.items():
        click.echo(f"Not moved: {words} ({count}).")
    click.echo(moved.headline())
    click.echo(f"Use it from now on: MLFLOW_TRACKING_URI={moved.target}. Report: {report}")


@command()
@click.option("--onnx", type=PATH, required=True, metavar="FILE", help="The ONNX file to write.")
@click.option(
    "--model",
    default="auto",
    show_default=True,
    help="bundled, champion, a version, or a path; auto: the champion if there is one, else bundled.",
)
def export(onnx: Path, model: str) -> None:
    """Write a model as one ONNX file.

    The file scores the whole image, as --views whole does; docs/onnx.md shows how to use it.
    """
    from quality_model.core.onnx_file import write_onnx
    from quality_model.core.predict import open_model

    ref, path, stored = open_model(model, _ROOT)
    card = path / CARD_NAME
    write_onnx(stored, ref, onnx, card=card.read_text(encoding="utf-8") if card.is_file() else None)
    click.echo(f"{ref.name} version {ref.version}: {onnx} ({onnx.stat().st_size} bytes).")


@command(hidden=True)
@folder_option("--model", _PATHS.model, "Folder of the trained model.")
@folder_option("--output", _BUNDLED, "Folder for the bundled model.")
@click.option("--image-licence", help="Licence of the training images, for the card.")
def ship(model: Path, output: Path, image_licence: str | None) -> None:
    """Make a trained model the bundled one.

    For those who release this package: in half precision, free of machine details, with a card.
    """
    from quality_model.release.card import bundle_model

    written = bundle_model(model, output, root=_ROOT, image_licence=image_licence)
    files = ", ".join(f"{name} ({num_bytes} bytes)" for name, num_bytes in written)
    click.echo(f"The bundled model: {output}: {files}.")


COMMANDS = [gate, register, compare, promote, rollback, history, trace, migrate, export, ship]
