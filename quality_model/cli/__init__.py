"""The command line: a client of the library, with one command per step.

Heavy imports are inside the commands, so that ``--help`` is fast.
"""

import errno
import io
import logging
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import click

from quality_model.cli import calibrating, curating, pipeline, releases, scoring, serving, watching
from quality_model.core import system
from quality_model.errors import MemoryExhaustedError, QualityModelError, StorageError

log = logging.getLogger(__name__)

EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_TERMINATED = 128 + signal.SIGTERM
EXIT_READER_GONE = 128 + 13  # SIGPIPE, which Windows does not have

_OF_THE_SYSTEM: Final = frozenset(
    {errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENAMETOOLONG, errno.ENFILE}
    | {errno.ENODEV, errno.ENOSPC, errno.ENXIO, errno.EPERM, errno.EROFS, errno.ESTALE}
)
"""What the system refuses. Any other OSError that names no file is a bug."""


class _BrokenPipe(Exception):
    """Replaces BrokenPipeError, on which click would exit with 1."""


@contextmanager
def _without_clicks_ending() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise _BrokenPipe from error


GROUPS: Final = {
    "Score": ("predict", "score", "serve"),
    "Look": ("gallery", "trace", "compare", "agree"),
    "Act": ("filter", "duplicates", "thresholds", "calibrate"),
    "Watch": ("drift",),
    "Train": (
        *("list-datasets", "download", "validate-images", "generate", "generate-hf"),
        *("validate-training-set", "export-samples", "train", "evaluate"),
    ),
    "Registry": ("gate", "register", "promote", "rollback", "history", "export"),
    "Maintain": ("publish", "migrate"),
}
"""The commands in the order of their use, as ``--help`` lists them."""

_EXAMPLES: Final = (
    ("quality-model predict photo.jpg", "a table of its scores"),
    ("quality-model score my-images", "scores of a whole folder"),
    ("quality-model trace scores/my-images", "which model they are of"),
)


class _Commands(click.Group):
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        widest = max(len(name) for names in GROUPS.values() for name in names)
        for title, names in GROUPS.items():
            with formatter.section(title):
                lines = [(name, self.commands[name].get_short_help_str(100)) for name in names]
                formatter.write_dl([(name.ljust(widest), line) for name, line in lines])
        with formatter.section("Examples"):
            formatter.write_dl(_EXAMPLES, col_max=40)

    def make_context(self, *arguments: Any, **named: Any) -> click.Context:
        with _without_clicks_ending():  # --help is written here
            return super().make_context(*arguments, **named)

    def invoke(self, ctx: click.Context) -> Any:
        with _without_clicks_ending():
            return super().invoke(ctx)


_SETTINGS: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(cls=_Commands, context_settings=_SETTINGS)
@click.version_option(package_name="quality-model", prog_name="quality-model")
@click.option("-v", "--verbose", is_flag=True, help="Show more, and the traceback of every error.")
def cli(verbose: bool) -> None:
    """Score the technical quality of images: color cast, blur, watermark and noise.

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


for module in (pipeline, scoring, serving, curating, calibrating, watching, releases):
    for command in module.COMMANDS:
        cli.add_command(command)


def main(arguments: list[str] | None = None) -> None:
    """Run one command and leave with its exit code (see `quality_model.errors`)."""
    system.prepare()
    system.limit_threads()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = run(arguments)
    finally:
        system.finish()
    system.leave(code)


def run(arguments: list[str] | None) -> int:
    """Run one command and return its exit code; an exception that it raises is a bug."""
    try:
        system.require_current_folder()
        result = cli.main(args=arguments, prog_name="quality-model", standalone_mode=False)
    except QualityModelError as error:
        return _fail(error, error)
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        system.say(shown.getvalue().rstrip())
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        system.say("Interrupted. Complete results are kept; run the same command again to resume.")
        return EXIT_INTERRUPTED
    except _BrokenPipe as broken:
        if not system.reader_is_gone():
            raise
        log.debug("The reader closed the output.", exc_info=broken)
        return EXIT_READER_GONE
    except (ModuleNotFoundError, OSError, MemoryError, RuntimeError) as error:
        refusal = _refusal_of_the_system(error)
        if refusal is None:
            raise
        return _fail(refusal, error)
    return result if isinstance(result, int) else 0


def _fail(shown: QualityModelError, error: BaseException) -> int:
    log.debug("Cause:", exc_info=error)
    system.say(f"Error: {shown}")
    return shown.exit_code


def _refusal_of_the_system(
    error: ModuleNotFoundError | OSError | MemoryError | RuntimeError,
) -> QualityModelError | None:
    """A refusal of the system as a user-facing error; None if only a bug explains it."""
    if isinstance(error, ModuleNotFoundError):
        from quality_model.errors import missing_extra

        return missing_extra(error)
    if isinstance(error, MemoryError) or _is_of_the_device(error):
        return MemoryExhaustedError(
            "There is not enough memory.", "Use fewer workers, smaller batches, or lower limits.max_pixels."
        )
    if isinstance(error, shutil.Error):
        return StorageError(f"Files could not be copied: {error}.", "Check the disk and its permissions.")
    if not isinstance(error, OSError) or (error.filename is None and error.errno not in _OF_THE_SYSTEM):
        return None
    from quality_model.core.storage import explain

    return explain(error, "standard output, or a file," if error.filename is None else error.filename)


def _is_of_the_device(error: OSError | RuntimeError) -> bool:
    """Whether an accelerator is out of memory."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def _terminate(number: int, frame: Any) -> None:
    system.say("Terminated. Complete results are kept; run the same command again to resume.")
    raise SystemExit(EXIT_TERMINATED)
