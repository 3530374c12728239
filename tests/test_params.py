"""params.yaml: what is allowed, and the message for what is not."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quality_model.errors import ParameterError
from quality_model.params import WITHOUT_PROJECT, Params, flatten, values_sha256
from quality_model.params_file import load_params, parse_params, parse_yaml, scoring_params

COMMITTED = Path(__file__).resolve().parents[1] / "params.yaml"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


def test_the_committed_file_parses_and_is_frozen(params: Params) -> None:
    with pytest.raises(Exception, match="frozen"):
        params.train.epochs = 3


def test_a_wrong_value_is_named_with_its_key_and_what_is_allowed_and_every_problem_at_once() -> None:
    problems: dict[str, tuple[Any, str]] = {
        "train.epoch": (3, r"unknown key 'train\.epoch' \(did you mean 'epochs'\?\)"),
        "trian.epochs": (3, r"unknown key 'trian' \(did you mean 'train'\?\)"),
        "train.epochs": (0, r"train\.epochs = 0: .*greater than or equal to 1"),
        "train.learning_rate": (float("nan"), r"train\.learning_rate = nan"),
        "train.device": ("gpu", r"train\.device = 'gpu': .*'cpu'"),
        "gate.max_mse": ({"color_cast": 1}, r"missing key 'gate\.max_mse\.blurriness'"),
        "registry.model_name": ("../x", r"registry\.model_name = '\.\./x'"),
    }
    with pytest.raises(ParameterError) as caught:
        load_params(COMMITTED, {key: value for key, (value, _) in problems.items()})
    for _, message in problems.values():
        assert re.search(message, str(caught.value))
    with pytest.raises(ParameterError, match="leave a share for training"):
        load_params(COMMITTED, {"generate.validation_share": 0.6, "generate.test_share": 0.5})
    for key in ("train.epochs.foo", "source.split.x"):
        with pytest.raises(ParameterError, match="names no parameter"):
            load_params(COMMITTED, {key: 3})


def test_scoring_without_params_yaml_uses_the_committed_values_and_takes_overrides(params: Params) -> None:
    assert scoring_params({}) == WITHOUT_PROJECT
    assert (params.limits, params.score) == (WITHOUT_PROJECT.limits, WITHOUT_PROJECT.score)
    assert scoring_params({"score.model": "bundled"}).score.model == "bundled"
    assert scoring_params({"limits.max_pixels": 9}).limits.max_pixels == 9
    for overrides, message in (
        ({"score.modle": "x"}, r"unknown key 'score\.modle' \(did you mean 'model'\?\)"),
        ({"score.batch_size": 0}, r"score\.batch_size = 0"),
        ({"train.epochs": 3}, r"Without a params\.yaml: unknown key 'train'"),
    ):
        with pytest.raises(ParameterError, match=message):
            scoring_params(overrides)


def test_a_file_that_is_missing_or_is_no_params_yaml_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    with pytest.raises(ParameterError, match="Run the command in the project folder"):
        load_params(path)
    for text in ("", "- a list", "train: [", "a: &a [*a]", "\x00", "!!python/object:os.system x"):
        path.write_text(text)
        with pytest.raises(ParameterError, match=r"params\.yaml"):
            load_params(path)
    path.write_text("limits: {max_pixels: 1}\nscore: {}\n")
    with pytest.raises(ParameterError, match="it lacks keys such as source, generate, validation"):
        load_params(path)
    for value in ("!!bool maybe", "!!int ''", "!!float x", "!!timestamp x", "!!binary ü"):
        with pytest.raises(ParameterError, match="it is not YAML"):
            parse_yaml(value)


def test_an_override_reaches_a_value_inside_a_section_and_leaves_its_neighbours(params: Params) -> None:
    changed = load_params(COMMITTED, {"train.loss_weights.watermark": 3})
    assert changed.train.loss_weights.watermark == 3.0
    assert changed.train.loss_weights.noise == params.train.loss_weights.noise
    assert changed.generate == params.generate


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(JSON)
def test_no_tree_of_plain_values_raises_anything_but_a_parameter_error(tree: Any) -> None:
    with pytest.raises(ParameterError):
        parse_params(tree)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(section=st.sampled_from(sorted(Params.model_fields)), value=JSON)
def test_no_broken_section_raises_anything_but_a_parameter_error(section: str, value: Any) -> None:
    tree = yaml.safe_load(COMMITTED.read_text())
    tree[section] = value
    with pytest.raises(ParameterError, match=section):
        parse_params(tree)


def test_the_hash_follows_the_values_and_not_the_layout(tmp_path: Path, params: Params) -> None:
    shuffled = tmp_path / "params.yaml"
    tree = yaml.safe_load(COMMITTED.read_text())
    shuffled.write_text(yaml.safe_dump({key: tree[key] for key in sorted(tree, reverse=True)}))
    assert values_sha256(flatten(load_params(shuffled))) == values_sha256(flatten(params))
    assert values_sha256(flatten(load_params(COMMITTED, {"train.epochs": 9}))) != values_sha256(
        flatten(params)
    )


def test_flat_names_lead_back_to_the_values(params: Params) -> None:
    flat = flatten(params)
    assert flat["train.loss_weights.watermark"] == 1.5
    assert load_params(COMMITTED, {k: v for k, v in flat.items() if not isinstance(v, list)}) == params


def written(tmp_path: Path, key: str, value: str) -> Path:
    """The committed file with another text behind one key of `train`."""
    lines = COMMITTED.read_text().splitlines()
    start = lines.index("train:")
    at = next(n for n in range(start, len(lines)) if lines[n].startswith(f"  {key}:"))
    lines[at] = f"  {key}: {value}"
    (tmp_path / "params.yaml").write_text("\n".join(lines))
    return tmp_path / "params.yaml"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        *((("epochs", value, "a valid integer")) for value in ("yes", "true", '"8"', "8.0", "12:30:00")),
        *((("learning_rate", value, "a valid number")) for value in ("true", "'0.1'", "on")),
        ("loss_weights", "{color_cast: true, blurriness: 1, watermark: 1, noise: 1}", "color_cast = True"),
        *((("crops_px", value, "a valid integer")) for value in ("[32, true]", "['32']")),
        ("crops_px", "32", "train.crops_px = 32: Input should be a list"),
        *((("compile", value, "Input should be true or false")) for value in ("yes", "1")),
        ("start_from", "7", "train.start_from = 7: Input should be a valid string"),
    ],
)
def test_a_value_of_another_type_is_refused_and_not_converted(
    tmp_path: Path, key: str, value: str, message: str
) -> None:
    with pytest.raises(ParameterError, match=rf"train\.{key}") as caught:
        load_params(written(tmp_path, key, value))
    assert message in str(caught.value)


def test_dvc_and_this_tool_read_a_value_alike(tmp_path: Path) -> None:
    from dvc.utils.serialize import load_yaml

    for key, text, value in (
        ("learning_rate", "1e-3", 0.001),
        ("learning_rate", "1", 1.0),
        ("learning_rate", "1.5E-2", 0.015),
        ("epochs", "0o17", 15),
        ("epochs", "012", 12),
        ("epochs", "1_000", 1000),
        ("start_from", "no", "no"),
        ("start_from", "~/model", "~/model"),
    ):
        path = written(tmp_path, key, text)
        assert getattr(load_params(path).train, key) == value == load_yaml(str(path))["train"][key]
        by_set = load_params(COMMITTED, {f"train.{key}": parse_yaml(text)}).train
        assert getattr(by_set, key) == value
    assert parse_yaml("~") is None
    assert load_params(COMMITTED, {"source.split": parse_yaml("~")}).source.split is None
