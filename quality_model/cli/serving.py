"""The command that serves scores over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from quality_model.cli.flags import command, registry_of, with_params
from quality_model.errors import UsageError

if TYPE_CHECKING:
    from quality_model.params import Params, ScoringParams

_POSITIVE = click.FloatRange(0, 86400, min_open=True)


@command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: a free one.")
@click.option(
    "--queue",
    type=click.IntRange(1, 100_000),
    default=64,
    show_default=True,
    help="Most images that wait or are scored; others get 503.",
)
@click.option(
    "--timeout",
    type=_POSITIVE,
    default=30,
    show_default=True,
    help="Seconds for a request to arrive, and as many for its scores.",
)
@click.option(
    "--follow", type=_POSITIVE, metavar="SECONDS", help="Ask the registry for a new model this often."
)
@click.option(
    "--drain",
    type=click.FloatRange(0, 3600),
    default=0,
    show_default=True,
    help="Seconds to take requests after SIGTERM, while /healthz says 503.",
)
@click.option(
    "--finish",
    type=_POSITIVE,
    default=30,
    show_default=True,
    help="Most seconds for running requests after that.",
)
@with_params(
    "score",
    needs_project=False,
    unused=("shard_size", "batch_size", "max_error_share", "intervals", "thumbnails"),
)
def serve(
    params: Params | ScoringParams,
    host: str,
    port: int,
    queue: int,
    timeout: float,
    follow: float | None,
    drain: float,
    finish: float,
) -> None:
    """Score images over HTTP, until SIGTERM or Ctrl-C.

    POST an image to /score, several to /batch; GET /model, /healthz, /metrics. See docs/serving.md.
    """
    from quality_model.core.models import can_move
    from quality_model.serve.http_server import ServerSettings
    from quality_model.serve.http_server import serve as serve_model

    if follow and not can_move(params.score.model):
        raise UsageError(
            f"--follow has nothing to ask: {params.score.model!r} always means the same model.",
            "Leave it out, or name a model by an alias: --model champion.",
        )
    settings = ServerSettings(host, port, queue, timeout, follow, drain, finish)
    serve_model(params.score, params.limits, settings, registry=registry_of(params))


COMMANDS = [serve]
