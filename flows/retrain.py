"""Retraining: DVC's stages, then the gate, the registry and the promotion."""

from pathlib import Path

from prefect import flow

from quality_model.params import load_params
from quality_model.paths import ProjectPaths
from tasks import pipeline, release
from tasks.ending import leave_in_order_on_sigterm

PROMOTED, REFUSED, UNCHANGED = "promoted", "refused", "unchanged"


@flow(name="retrain")
def retrain(project: Path = Path(), compare_on: Path | None = None) -> str:
    """Bring the candidate up to date and let it become champion if it may.

    Args:
        project: Folder of dvc.yaml and params.yaml.
        compare_on: Folder of pictures, in the project; where a champion reigns, a candidate that
            passes is told apart from it by the flags that would change there. What goes wrong
            with that keeps no candidate from its promotion.

    Returns:
        ``promoted``, ``refused``, or ``unchanged`` where there was nothing to decide.
    """
    paths = ProjectPaths(project)
    params = load_params(paths.params)
    release.check_size(params.registry, params.generate, paths)
    pipeline.look_for_new_pictures(params.source, params.limits, paths)
    if not pipeline.is_up_to_date(project):
        for stage in pipeline.stage_order(project):
            pipeline.reproduce_stage(project, stage)
    settled = release.find_settled(params.evaluate, params.gate, params.registry, paths)
    if settled is not None:
        release.record_no_op(params.registry, paths, settled)
        return UNCHANGED
    promoted = False
    while not promoted:  # who became champion meanwhile is compared with, too
        verdict = release.judge(
            params.evaluate, params.gate, params.registry, params.train.loss_weights, paths
        )
        if not verdict.passed:
            return REFUSED
        version = release.register(params.registry, paths)
        if compare_on is not None:
            release.compare(params, paths, version, compare_on, return_state=True)
        promoted = release.promote(params.registry, paths, version)
    release.announce(params.registry, version)
    return PROMOTED


if __name__ == "__main__":
    leave_in_order_on_sigterm()
    retrain()
