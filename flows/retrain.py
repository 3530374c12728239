"""Retraining: DVC's stages, then the gate, the registry and the promotion."""

from pathlib import Path

from prefect import flow

from quality_model.params import load_params
from quality_model.paths import ProjectPaths, UserPath
from tasks import pipeline, release
from tasks.ending import leave_in_order_on_sigterm

PROMOTED, REFUSED, UNCHANGED = "promoted", "refused", "unchanged"


@flow(name="retrain")
def retrain(project: UserPath = Path(), compare_on: UserPath | None = None) -> str:
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
    pipeline.look_for_new_pictures.with_options(
        retries=2, retry_delay_seconds=30, retry_condition_fn=pipeline.may_pass_later
    )(params.source, params.limits, paths)
    if not pipeline.is_up_to_date.with_options(retries=1, retry_delay_seconds=10)(project):
        for stage in pipeline.stage_order(project):
            pipeline.reproduce_stage.with_options(
                retries=1, retry_delay_seconds=10, retry_condition_fn=pipeline.may_pass_later
            )(project, stage)
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
        version = release.register.with_options(retries=2, retry_delay_seconds=10)(params.registry, paths)
        if compare_on is not None:
            release.compare(params, paths, version, compare_on, return_state=True)
        promoted = release.promote.with_options(retries=2, retry_delay_seconds=10)(
            params.registry, paths, version
        )
    release.announce.with_options(retries=2, retry_delay_seconds=10)(params.registry, version)
    return PROMOTED


if __name__ == "__main__":
    leave_in_order_on_sigterm()
    retrain()
