"""Retraining: DVC's stages, then the gate, the registry and the promotion."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger

from quality_model.params import UserPath
from quality_model.params_file import load_params
from quality_model.paths import ProjectPaths
from quality_model.release.gate import AFTER_A_REFUSAL
from tasks import approval, pipeline, release
from tasks.ending import run_by_hand
from tasks.naming import run_name

WHERE = "The gate's reasons are in the artifact `gate`; everything is on the page `reports/index.html`."


@dataclass(frozen=True, slots=True)
class Ending:
    """How a retraining ended: one sentence, and what a person can do where the champion stays."""

    outcome: Literal["promoted", "refused", "declined", "unchanged"]
    summary: str
    next_step: str = ""


@flow(name="retrain", flow_run_name=run_name)
def retrain(project: UserPath = Path(), compare_on: UserPath | None = None) -> Ending:
    """Bring the candidate up to date and let it become champion if it may.

    Where there is no champion yet the bundled model becomes it first, so that the candidate starts from
    its weights and is judged against it. That a candidate is refused is a good ending too. With
    `gate.approval: required` the run pauses for a person before a candidate that passed becomes champion.

    Args:
        project: Folder of dvc.yaml and params.yaml.
        compare_on: Folder of images, in the project: if there is a champion, shows which flags would
            change there with a candidate that passes. What goes wrong with that keeps no candidate
            from its promotion.
    """
    paths = ProjectPaths(project)
    params = load_params(paths.params)
    approval.require_place(params.gate)
    release.ensure_baseline(params.registry, params.generate, paths)
    release.check_size(params.registry, params.generate, paths)
    pipeline.look_for_new_images(params.source, params.limits, paths)
    if not pipeline.is_up_to_date(project):
        for stage in pipeline.stage_order(project):
            pipeline.reproduce_stage(project, stage)
    reason = release.find_past_decision(params.evaluate, params.gate, params.registry, paths)
    if reason is not None:
        return _said(Ending("unchanged", f"Nothing to decide: {reason}."))
    promoted = False
    while not promoted:  # a champion that changed meanwhile is compared with, too
        decision = release.judge(
            params.evaluate, params.gate, params.registry, params.train.loss_weights, params.limits, paths
        )
        if not decision.passed:
            release.announce_refusal(params.registry, decision)
            return _said(Ending("refused", decision.verdict.ending(), AFTER_A_REFUSAL))
        registered = release.register(params.registry, paths, decision)
        if compare_on is not None:
            release.compare(params, paths, registered, compare_on, return_state=True)
        answer = approval.ask(params.gate, paths, registered)
        if not answer.approve:
            release.decline(params.registry, paths, registered, answer.reason)
            return _said(Ending("declined", approval.ending(registered, answer)))
        promoted = release.promote(params.registry, paths, registered, answer.reason)
    release.announce(params.registry, registered)
    return _said(Ending("promoted", decision.verdict.ending(registered.model.version)))


def _said(ending: Ending) -> Ending:
    get_run_logger().info("%s %s", ending.summary, ending.next_step)
    words = (f"## Retraining: {ending.outcome}", ending.summary, ending.next_step, WHERE)
    create_markdown_artifact("\n\n".join(filter(None, words)), key="retraining", description=ending.summary)
    return ending


if __name__ == "__main__":
    run_by_hand(retrain)
