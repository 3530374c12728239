"""Flags derived from the typed sections of params.yaml: no option is declared twice.

They are made when a command is asked for them: the list of commands appears without pydantic's import.
"""

import functools
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, get_args, get_origin

import click
from click.core import ParameterSource

from quality_model.core.stores import is_in_store, typed_path
from quality_model.errors import ParameterError, UsageError
from quality_model.paths import ProjectPaths
from quality_model.records import HEADS

if TYPE_CHECKING:
    from quality_model.params import Params, RegistryParams, ScoringParams, Section

F = TypeVar("F", bound=Callable[..., Any])


class _UserPath(click.Path):
    """A path in which `~` is the home folder, also in quotes; or an address in an object store."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        place = typed_path(value)
        return place if is_in_store(place) else super().convert(place, param, ctx)


PATH: Final = _UserPath(path_type=Path)
"""The type of every path on the command line."""


def share_of(text: str) -> Fraction | None:
    """The share that a text means, such as 0.05, 5% or 1/20; None if it means no number."""
    number, sign = text.strip().removesuffix("%"), text.strip().endswith("%")
    if not re.fullmatch(r"[-+0-9./]{1,30}", number):  # an exponent may ask for a number of a billion digits
        return None
    try:
        return Fraction(number) / (100 if sign else 1)
    except (ValueError, ZeroDivisionError):
        return None


class _Command(click.Command):
    """A command whose callback may have ``late_options``: options to make when they are asked for."""

    _params: list[click.Parameter]
    _is_made: bool

    @property
    def params(self) -> list[click.Parameter]:
        if (make := getattr(self.callback, "late_options", None)) is not None and not self._is_made:
            self._params, self._is_made = [*self._params, *make()], True
        return self._params

    @params.setter
    def params(self, params: list[click.Parameter]) -> None:
        self._params, self._is_made = params, False


def command(
    name: str | None = None, *, hidden: bool = False
) -> Callable[[Callable[..., Any]], click.Command]:
    """`click.command` for a function with `with_params`, which is its innermost decorator."""
    return click.command(name, cls=_Command, hidden=hidden)


def folder_option(name: str, default: Path, text: str) -> Callable[[F], F]:
    """An option for a folder or file with the project's default place."""
    return click.option(name, type=PATH, default=default, show_default=True, help=text)


def with_input_choice(command: Callable[..., Any]) -> Callable[..., Any]:
    """Pass ``choice``, a `score.inputs.InputChoice`, to a command."""

    @functools.wraps(command)
    def wrapper(kind: Any, image_column: str | None, key_column: str | None, **values: Any) -> Any:
        from quality_model.score.inputs import InputChoice

        return command(choice=InputChoice(kind, image_column, key_column), **values)

    for option in (
        click.option("--key-column", help="Key column of Parquet files."),
        click.option("--image-column", help="Image column of tables; dots select fields of structs."),
        click.option(
            "--kind",
            type=click.Choice(["images", "tar", "zip", "parquet", "arrow"]),
            help="What to score, if the inputs are of several kinds.",
        ),
    ):
        wrapper = option(wrapper)
    return wrapper


def with_download(command: Callable[..., Any]) -> Callable[..., Any]:
    """Pass ``download``, a `score.reading.DownloadRules`, or None where a user does not allow it."""

    @functools.wraps(command)
    def wrapper(allow_download: bool, allow_private: bool, per_host: int, **values: Any) -> Any:
        if not allow_download:
            if allow_private:
                raise UsageError("--allow-private means nothing without --allow-download.", "Give both.")
            return command(download=None, **values)
        from quality_model.score.reading import DownloadRules

        return command(download=DownloadRules(allow_private, per_host), **values)

    for option in (
        click.option(
            "--per-host",
            type=click.IntRange(1, 16),
            default=4,
            show_default=True,
            help="Most downloads from one host at a time.",
        ),
        click.option("--allow-private", is_flag=True, help="Fetch from private addresses too."),
        click.option("--allow-download", is_flag=True, help="Fetch images that are named by URLs."),
    ):
        wrapper = option(wrapper)
    return wrapper


def with_params(
    *sections: str, needs_project: bool = True, unused: Sequence[str] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Pass ``params`` to a command, overridden by flags for the fields of ``sections``.

    Without ``needs_project`` the command also runs where there is no params.yaml of this tool,
    unless one was named, and with ``--no-project``: it then gets the `ScoringParams` for that case.
    A field that several of the sections have (``seed``) gets one flag, which sets them all.
    Fields with structure have no flag of their own: ``--set section.key=value`` reaches them. Neither have
    those that the command leaves ``unused``. A command that scores has ``--flag HEAD=SCORE`` and ``--raw``.
    """

    @functools.cache
    def fields() -> dict[str, list[str]]:
        owners: dict[str, list[str]] = {}
        for section in sections:
            for name, info in _section_type(section).model_fields.items():
                if _is_plain(info.annotation) and name not in unused:
                    owners.setdefault(name, []).append(section)
        return owners

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def wrapper(
            params_file: Path,
            assignments: tuple[str, ...],
            no_project: bool = False,
            flags: tuple[str, ...] = (),
            raw: bool = False,
            **values: Any,
        ) -> Any:
            from quality_model.params_file import is_own_file, load_params, scoring_params

            overrides = dict(_parse_assignment(text) for text in assignments)
            if raw:
                overrides["score.raw"] = True
            for name, owners in fields().items():
                given = values.pop(_destination(name))
                if given is not None:
                    value = _field_value(owners[0], name, given)
                    overrides |= {f"{section}.{name}": value for section in owners}
            is_default = _is_left_at_default("params_file")
            if no_project and not is_default:
                raise UsageError("--params and --no-project exclude each other.", "Give one of them.")
            if no_project:
                found: Any = _without_registry(scoring_params(overrides))
            elif not needs_project and is_default and not is_own_file(params_file):
                if params_file.exists():
                    click.echo(f"{params_file} is not a file of this tool: ignored.", err=True)
                found = scoring_params(overrides)
            else:
                found = load_params(params_file, overrides)
            return command(params=_with_thresholds(found, flags), **values)

        options = [
            click.option(
                "--params",
                "params_file",
                type=PATH,
                default=ProjectPaths().params,
                show_default=True,
                help="File of parameters.",
            ),
            click.option(
                "--set",
                "assignments",
                multiple=True,
                metavar="SECTION.KEY=VALUE",
                help="Override any parameter; VALUE is YAML.",
            ),
        ]
        if not needs_project:
            options.append(
                click.option(
                    "--no-project", is_flag=True, help="Ignore params.yaml and the champion of this folder."
                )
            )
        if "score" in sections:
            options.append(
                click.option("--raw", is_flag=True, help="Leave scores off the scale of earlier models.")
            )
            options.append(
                click.option(
                    "--flag",
                    "flags",
                    multiple=True,
                    metavar="HEAD=SCORE",
                    help="Flag above this score, not the model's; once for each head.",
                )
            )
        for option in reversed(options):
            wrapper = option(wrapper)
        wrapper.late_options = lambda: [_field_option(*field) for field in fields().items()]  # type: ignore[attr-defined]
        return wrapper

    return decorate


def registry_of(params: "Params | ScoringParams") -> "RegistryParams | None":
    """The registry of a project; None outside one."""
    from quality_model.params import Params

    return params.registry if isinstance(params, Params) else None


def _field_option(name: str, owners: list[str]) -> click.Option:
    section = _section_type(owners[0])
    info = section.model_fields[name]
    keys = ", ".join(f"{owner}.{name}" for owner in owners)
    choices = _choices(info.annotation)
    between = "," if get_origin(info.annotation) is tuple else "|"
    return click.Option(
        [f"--{name.replace('_', '-')}", _destination(name)],
        metavar=between.join(choices) or _metavar(info.annotation),
        help=f"{section.descriptions().get(name, '')} [params: {keys}]",
    )


def _field_value(section: str, name: str, text: str) -> Any:
    """The value of a flag: parsed as YAML where a number is expected, parted at commas where a list is."""
    annotation = _section_type(section).model_fields[name].annotation
    if get_origin(annotation) is tuple:
        return text.replace(" ", "").split(",")
    parts = _parts(annotation)
    if not any(part in (int, float) for part in parts):
        return text
    from quality_model.params_file import parse_yaml

    with suppress(ParameterError):
        value = parse_yaml(text)
        return value if isinstance(value, int | float) else text
    return text


def _with_thresholds(params: Any, flags: tuple[str, ...]) -> Any:
    """Parameters of which ``--flag`` changed thresholds."""
    if not flags:
        return params
    given = dict(_parse_flag(text) for text in flags)
    thresholds = {**params.score.thresholds, **given}
    return params.model_copy(update={"score": params.score.model_copy(update={"thresholds": thresholds})})


def _parse_flag(text: str) -> tuple[str, float]:
    head, _, value = text.partition("=")
    if head in HEADS:
        with suppress(ValueError):
            if 0.0 <= (score := float(value)) <= 1.0:
                return head, score
    raise UsageError(
        f"--flag {text!r} is not HEAD=SCORE.",
        f"For example --flag noise=0.1; heads are {', '.join(HEADS)}, scores are from 0 to 1.",
    )


def _without_registry(params: "ScoringParams") -> "ScoringParams":
    """``auto`` means the champion within a project, else the bundled model."""
    from quality_model.core.models import AUTO
    from quality_model.pretrained import NAME

    if params.score.model != AUTO:
        return params
    return params.model_copy(update={"score": params.score.model_copy(update={"model": NAME})})


def _is_left_at_default(name: str) -> bool:
    return click.get_current_context().get_parameter_source(name) is ParameterSource.DEFAULT


def _destination(name: str) -> str:
    return f"field_{name}"


def _section_type(name: str) -> "type[Section]":
    from quality_model.params import Params, Section

    section = Params.model_fields[name].annotation
    assert isinstance(section, type)
    assert issubclass(section, Section)
    return section


def _parts(annotation: Any) -> list[Any]:
    """Members of a union other than None."""
    if get_origin(annotation) is Literal:
        return [annotation]
    return [part for part in get_args(annotation) or (annotation,) if part is not NoneType]


def _choices(annotation: Any) -> list[str]:
    """The values of a choice, or of the items of a list of them."""
    if get_origin(annotation) is Literal:
        return [choice for part in get_args(annotation) for choice in (_choices(part) or [part])]
    return [choice for part in get_args(annotation) for choice in _choices(part)]


def _is_plain(annotation: Any) -> bool:
    if get_origin(annotation) is tuple:
        return bool(_choices(annotation))
    return all(part in (int, float, str) or get_origin(part) is Literal for part in _parts(annotation))


def _metavar(annotation: Any) -> str:
    return {int: "INTEGER", float: "NUMBER", str: "TEXT"}[_parts(annotation)[0]]


def _parse_assignment(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or "." not in key:
        raise ParameterError(
            f"--set {text!r} is not SECTION.KEY=VALUE.", "For example --set train.epochs=50."
        )
    from quality_model.params_file import parse_yaml

    try:
        return key, parse_yaml(value)
    except ParameterError as error:
        raise ParameterError(f"--set {text!r}: {error.problem}", "Quote the value as in YAML.") from None
