"""Reading params.yaml: recognised, parsed as DVC parses it, and checked, with errors that name each key."""

import io
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from quality_model.errors import ParameterError
from quality_model.params import WITHOUT_PROJECT, Params, ScoringParams, Section
from quality_model.paths import ProjectPaths

S = TypeVar("S", bound=Section)

_OWN_NAMES: Final = frozenset(Params.model_fields).union(
    *(section.annotation.model_fields for section in Params.model_fields.values() if section.annotation)
)
_YAML_KEY: Final = re.compile(r"""\b([A-Za-z_]\w*)["']?\s*:""")
_YAML_PROBLEMS: Final = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What ruamel.yaml raises on values that do not fit their tag (``!!bool maybe``), beside its own errors."""
_MAX_BYTES: Final = 2**20


def parse_params(tree: Any, origin: str = "params.yaml") -> Params:
    """Check a tree of plain values.

    Raises:
        ParameterError: A key is unknown or missing, or a value is out of range; the
            message names each key with its value and the constraint.
    """
    if not isinstance(tree, dict):
        raise ParameterError(
            f"{origin} holds {type(tree).__name__}, not sections of keys and values.",
            "Compare it with the params.yaml of the repository.",
        )
    return _validated(Params, tree, origin)


def parse_yaml(text: str) -> Any:
    """Read YAML 1.2 with the library and the settings that DVC reads params.yaml with.

    So `1e-3` is a number, `yes` and `12:30:00` are strings, and `0o17` is 15, as for DVC.

    Raises:
        ParameterError: It is not YAML; the problem says where.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe").load(text)
    except (*_YAML_PROBLEMS, YAMLError) as error:
        raise ParameterError(f"it is not YAML: {error}.") from None


def to_yaml(values: Mapping[str, Any]) -> str:
    """Plain values as lines that `parse_yaml` reads, in their order."""
    from ruamel.yaml import YAML

    yaml: Any = YAML(typ="safe", pure=True)
    written = io.StringIO()
    yaml.default_flow_style, yaml.sort_base_mapping_type_on_output, yaml.width = False, False, 10_000
    yaml.dump(dict(values), written)
    return written.getvalue()


def is_own_file(path: Path) -> bool:
    """Whether a file is a params.yaml of this tool; every DVC project uses that name.

    A file is ours if at least half of our section and key names occur in it as keys. So a file with a
    typo, or one that is no longer valid YAML, still is. A file that cannot be read counts as ours.
    """
    try:
        text = path.read_bytes()[:_MAX_BYTES].decode("utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return False
    except OSError:
        return True
    return 2 * len(_OWN_NAMES & _keys_in(text)) >= len(_OWN_NAMES)


def is_project(root: Path) -> bool:
    """Whether a folder has a params.yaml of this tool."""
    return is_own_file(ProjectPaths(root).params)


def load_params(path: Path, overrides: dict[str, Any] | None = None) -> Params:
    """Read params.yaml, with overrides by dotted key (``{"train.epochs": 50}``).

    Raises:
        ParameterError: No such file, not YAML, or not allowed (see `parse_params`).
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ParameterError(
            f"{path} cannot be read: {error.strerror}.", "Run the command in the project folder."
        ) from None
    except UnicodeDecodeError as error:
        raise ParameterError(f"{path} is not YAML: {error}.", "Save it as UTF-8.") from None
    if not is_own_file(path):
        present = _keys_in(text)
        missing = [name for name in (*Params.model_fields, *sorted(_OWN_NAMES)) if name not in present]
        raise ParameterError(
            f"{path} is not a parameter file of this tool: it lacks keys such as {', '.join(missing[:3])}.",
            "Run the command in the project folder, or name its file with --params.",
        )
    try:
        tree = parse_yaml(text)
    except ParameterError as error:
        raise ParameterError(f"{path}: {error.problem}", "Correct the line named here.") from None
    for dotted, value in (overrides or {}).items():
        _override(tree, dotted, value)
    return parse_params(tree, str(path))


def _keys_in(text: str) -> set[str]:
    return set(_YAML_KEY.findall(text))


def scoring_params(overrides: dict[str, Any]) -> ScoringParams:
    """Parameters for scoring without a params.yaml, with overrides by dotted key.

    Raises:
        ParameterError: An override is not allowed, or belongs to a project's other sections.
    """
    tree = WITHOUT_PROJECT.model_dump()
    for dotted, value in overrides.items():
        _override(tree, dotted, value)
    return _validated(ScoringParams, tree, "Without a params.yaml")


def _override(tree: Any, dotted: str, value: Any) -> None:
    *sections, key = dotted.split(".")
    for section in sections:
        if not isinstance(tree, dict):
            break
        tree = tree.setdefault(section, {})
    if not isinstance(tree, dict):
        raise ParameterError(f"{dotted!r} names no parameter.", "Give SECTION.KEY as in params.yaml.")
    tree[key] = value


def _validated(kind: type[S], tree: Any, origin: str) -> S:
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        problems = [_explain(detail, kind) for detail in error.errors(include_url=False)]
        raise ParameterError(
            f"{origin}: " + "; ".join(problems) + ".", "Correct the keys named here."
        ) from None


def _explain(detail: Any, kind: type[Section]) -> str:
    key = ".".join(str(part) for part in detail["loc"]) or "(top level)"
    if detail["type"] == "extra_forbidden":
        return f"unknown key {key!r}{_suggestion(detail['loc'], kind)}"
    if detail["type"] == "missing":
        return f"missing key {key!r}"
    message = detail["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list")
    return f"{key} = {_shortly(detail['input'])}: {message.replace('a valid boolean', 'true or false')}"


def _shortly(value: Any) -> str:
    """A value for an error message, shortened: a few lines of YAML can expand to billions of characters."""
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother = 3, 200, 200
    return short.repr(value)


def _suggestion(location: tuple[Any, ...], kind: type[Section]) -> str:
    from difflib import get_close_matches

    section: Any = kind
    for part in location[:-1]:
        field = section.model_fields.get(part)
        section = field.annotation if field else None
        if not (isinstance(section, type) and issubclass(section, BaseModel)):
            return ""
    close = get_close_matches(str(location[-1]), section.model_fields, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
