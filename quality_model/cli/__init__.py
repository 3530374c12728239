"""The command line: a customer of the library, with one command a step.

Everything heavy is imported inside the commands, so that ``--help`` answers at once.
"""

import logging
import os
import signal
import sys
from typing import Any

import click

from quality_model import allocation, telemetry
from quality_model.cli import data, models, pictures, releases, shipping
from quality_model.errors import MemoryExhaustedError, QualityModelError

EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_TERMINATED = 128 + signal.SIGTERM


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="quality-model", prog_name="quality-model")
@click.option("-v", "--verbose", is_flag=True, help="Say more of what is done.")
def cli(verbose: bool) -> None:
    """Judge the technical quality of pictures: colour cast, blur, watermark and noise.

    Each command reads params.yaml; a flag overrides one of its values.
    """
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, format="%(message)s", stream=sys.stderr
    )
    for name in (
        "httpx",
        "httpcore",
        "alembic",
        "mlflow",
        "fsspec",
        "urllib3",
        "PIL",
        "matplotlib",
        "filelock",
        "torch",
    ):
        logging.getLogger(name).setLevel(logging.WARNING)


for module in (data, models, pictures, releases, shipping):
    for command in module.COMMANDS:
        cli.add_command(command)


def main(arguments: list[str] | None = None) -> None:
    """Run one command and leave with its exit code (see `quality_model.errors`)."""
    telemetry.silence()
    allocation.limit_threads()
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(run(arguments))


def run(arguments: list[str] | None) -> int:
    """Run one command and return its exit code; what is left to be raised is a bug."""
    try:
        result = cli.main(args=arguments, prog_name="quality-model", standalone_mode=False)
    except QualityModelError as error:
        click.echo(f"Error: {error}", err=True)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted. What is complete is kept; the same command goes on from there.", err=True)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, MemoryError, RuntimeError) as error:  # what the system refuses is no bug of ours
        if isinstance(error, RuntimeError) and not _is_of_the_device(error):
            raise
        told = _of_the_system(error)
        click.echo(f"Error: {told}", err=True)
        return told.exit_code
    return result if isinstance(result, int) else 0


def _is_of_the_device(error: RuntimeError) -> bool:
    """Whether the memory of an accelerator is exhausted."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def _of_the_system(error: OSError | MemoryError | RuntimeError) -> QualityModelError:
    if not isinstance(error, OSError):
        return MemoryExhaustedError(
            "There is not enough memory.", "Use fewer workers, smaller batches, or lower limits.max_pixels."
        )
    from quality_model.storage import explain

    return explain(error, error.filename or "The disk or the network")


def _terminate(number: int, frame: Any) -> None:
    click.echo("Terminated. What is complete is kept; the same command goes on from there.", err=True)
    raise SystemExit(EXIT_TERMINATED)
