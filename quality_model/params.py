"""The typed sections of params.yaml: the only place where a hyperparameter is named.

Values live in params.yaml alone; nothing here has a second default, save where a key may
be left empty (null). The flags of the command line are derived from these fields, and
their help is the field's description.
"""

import hashlib
import json
import re
import reprlib
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from quality_model.errors import ParameterError
from quality_model.paths import ProjectPaths
from quality_model.records import HEADS

Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]

ArchitectureName = Literal["standard", "compact"]
"""A variant of the network (`quality_model.core.network.ARCHITECTURES`)."""

EngineName = Literal["torch-float32", "torch-bfloat16", "ncnn-float32"]
"""Library that runs a network, and its dtype."""


class Section(BaseModel):
    """A frozen part of params.yaml that refuses keys it does not know.

    Types are strict: a quoted number, `yes` or `true` is no number. Whole numbers are floats, too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


S = TypeVar("S", bound=Section)


class PerHead(Section):
    """One number for each head."""

    color_cast: Finite
    blurriness: Finite
    watermark: Finite
    noise: Finite

    def as_dict(self) -> dict[str, float]:
        return {head: getattr(self, head) for head in HEADS}


class LimitsParams(Section):
    """What an image may be before the reader refuses it."""

    max_pixels: Count
    """most pixels (width x height) of an image; guards against decompression bombs"""
    max_bytes: Count
    """most bytes of an encoded image"""
    formats: tuple[str, ...] = Field(min_length=1, strict=False)
    """formats that are read, as Pillow names them"""
    max_seconds: Positive
    """longest time to read one image, in seconds; an image that takes longer twice is given up: too_slow"""


class SourceParams(Section):
    """Where clean images come from."""

    dataset: str
    """preset (see list-datasets), Hugging Face dataset (owner/name), or path of a folder; or several,
    joined by " + ", each with *NUMBER behind it if it is to give so many of num_images"""
    num_images: Count
    """number of clean images to take"""
    split: str | None
    """split of a Hugging Face dataset; empty: the preset's, or train"""
    image_column: str | None
    """column of the images; empty: the preset's, or the first of image, img, photo, image, file"""
    revision: str | None
    """branch, tag or commit of a Hugging Face dataset; empty: main"""
    seed: Seed
    """seed of the choice and the shuffle of images"""


class GenerateParams(Section):
    """How clean images become labelled samples."""

    profile: Literal["calibrated", "seed"]
    """label profile: which degradations in which ranges, and what a label means"""
    samples_per_image: Count
    """degraded samples per clean image, besides the clean image itself"""
    image_size: Annotated[int, Field(ge=32, le=1024)]
    """side of a sample in pixels"""
    seed: Seed
    """seed of degradations and splits"""
    validation_share: Share
    """share of groups for validation"""
    test_share: Share
    """share of groups for the test"""
    workers: Annotated[int, Field(ge=0)]
    """processes; 0: one per core. Does not change the result"""

    @model_validator(mode="after")
    def _leave_training_groups(self) -> Self:
        if self.validation_share + self.test_share >= 1:
            raise ValueError("validation_share + test_share must leave a share for training")
        return self


class ValidationParams(Section):
    """What Great Expectations demands of the tables."""

    min_images: Count
    """fewest readable clean images"""
    max_unreadable_share: Share
    """largest share of images that cannot be read"""
    min_side_px: Count
    """shortest side of a clean image in pixels"""
    min_groups: Count
    """fewest groups in the training dataset"""
    clean_share_tolerance: Share
    """how far the share of clean samples may be from its expectation"""


class TrainParams(Section):
    """The recipe of training."""

    architecture: ArchitectureName
    """standard, or compact: a quarter of the arithmetic, for scoring by the billion"""
    samples: Literal["stored", "fresh"]
    """stored: those of the training dataset; fresh: its clean images, varied and degraded anew each time"""
    samples_per_epoch: Count
    """samples of an epoch, if fresh"""
    crops_px: tuple[Annotated[int, Field(ge=32)], ...] = Field(strict=False)
    """sides of crops, if fresh, one after the other for equal parts of the run; none: whole images"""
    start_from: str
    """weights to begin with: champion (bundled while there is none), bundled, scratch (random ones), or
    a model's folder or file. DVC sees the name change, not the weights: `dvc repro -f -s train`"""
    epochs: Count
    """most epochs"""
    batch_size: Annotated[int, Field(ge=2)]
    """samples per step"""
    learning_rate: Positive
    """peak learning rate of AdamW"""
    weight_decay: NonNegative
    """weight decay of AdamW"""
    final_learning_rate_share: Share
    """cosine annealing ends at this share of the learning rate"""
    warmup_epochs: NonNegative
    """epochs over which the learning rate rises to its peak"""
    weight_average: Annotated[float, Field(ge=0.0, lt=1.0)]
    """decay per step of the moving average of the weights, which is then the model; 0: none"""
    gradient_clip_norm: Positive
    """largest norm of the gradient"""
    max_validation_samples: Count
    """most samples of the validation split that are scored after each epoch, spread evenly"""
    patience: Count
    """epochs without a better validation loss before training stops"""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)]
    """dropout in the heads"""
    loss_weights: PerHead
    """weight of each head's MSE"""
    seed: Seed
    """seed of weights, order and dropout"""
    device: Literal["auto", "cpu", "cuda", "mps"]
    """device to train on"""
    precision: Literal["auto", "float32", "bfloat16"]
    """dtype; auto: bfloat16 on CUDA, and on a CPU with AMX or AVX-512 BF16"""
    compile: bool
    """compile the network for the device with torch.compile; without a compiler it runs as it is"""
    clean_flag_share: Share
    """largest share of clean validation images that a head's threshold may flag"""


class EvaluateParams(Section):
    """How the test split is measured."""

    batch_size: Count
    """samples per forward pass"""
    bootstrap_samples: Count
    """resamples of the groups for the intervals"""
    sweep_images: Count
    """most clean test images that severity sweeps are made of"""
    baseline_samples: Count
    """most samples, of the training and of the test, that zero-training baselines are made of"""
    confidence: Annotated[float, Field(gt=0.0, lt=1.0)]
    """confidence of the intervals"""
    seed: Seed
    """seed of the bootstrap, of the severity sweeps and of the choice of samples for the baselines"""
    device: Literal["auto", "cpu", "cuda", "mps"]
    """device to evaluate on"""


class GateParams(Section):
    """What a candidate must reach to become champion."""

    min_test_groups: Count
    """fewest test groups that count: those that neither model has seen in training"""
    with_confidence: bool
    """hold the worse end of each figure's interval against its threshold, not the figure itself"""
    max_mse: PerHead
    """largest MSE per head on the test split; below that of answering the mean label"""
    min_r2: PerHead
    """smallest R2 per head on the test split; answering the mean label has 0"""
    min_r2_over_baseline: PerHead
    """smallest R2 per head, less that of the best baseline without training on the same samples"""
    min_sweep_spearman: PerHead
    """smallest rank correlation of level and score per head, on the worst of its severity sweeps"""
    max_cross_talk: PerHead
    """how far a head's score may move per image, either way, while another degradation becomes severe"""
    max_clean_flags: PerHead
    """largest share of clean test images that a head may flag, at the model's threshold"""
    max_mse_increase: PerHead
    """margin of non-inferiority: how much worse than the champion's MSE a head's may be, with confidence"""


class RegistryParams(Section):
    """Where models are kept."""

    model_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """name of the registered model"""
    experiment: Annotated[str, Field(min_length=1)]
    """MLflow experiment of the runs"""
    lock_timeout_s: Positive
    """longest wait for the promotion lock, seconds"""


class ScoreParams(Section):
    """How a collection is scored."""

    model: str
    """model: auto (the champion, else the bundled one), bundled, bundled-compact, a registry reference
    (champion, candidate, a version number) or a checkpoint file"""
    shard_size: Count
    """inputs per output file"""
    batch_size: Count
    """images per forward pass on an accelerator; a CPU takes one at a time"""
    workers: Annotated[int, Field(ge=0)]
    """worker processes that read, decode and, on a CPU, score; 0: one per core, fewer for few inputs"""
    device: Literal["auto", "cpu", "cuda", "mps"]
    """device to score on"""
    engine: Literal["auto", EngineName]
    """what runs the network: library and dtype; auto: ncnn on a CPU, PyTorch on an accelerator"""
    max_error_share: Share
    """share of unreadable inputs above which the job fails, after writing what it has"""


class ScoringParams(Section):
    """The sections that scoring images needs, which is all there is outside a project."""

    limits: LimitsParams
    score: ScoreParams


WITHOUT_PROJECT: Final = ScoringParams(
    limits=LimitsParams(
        max_pixels=100_000_000,
        max_bytes=100_000_000,
        formats=("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO", "PPM"),
        max_seconds=60.0,
    ),
    score=ScoreParams(
        model="auto",
        shard_size=1000,
        batch_size=16,
        workers=0,
        device="auto",
        engine="auto",
        max_error_share=1.0,
    ),
)
"""For scoring outside any project folder; a test holds it equal to the committed params.yaml."""


class Params(Section):
    """All of params.yaml."""

    limits: LimitsParams
    source: SourceParams
    generate: GenerateParams
    validation: ValidationParams
    train: TrainParams
    evaluate: EvaluateParams
    gate: GateParams
    registry: RegistryParams
    score: ScoreParams


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

    So `1e-3` is a number, `yes` and `12:30:00` are strings, and `0o17` is 15, for DVC and for us.

    Raises:
        ParameterError: It is not YAML; the problem says where.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe").load(text)
    except (*_YAML_PROBLEMS, YAMLError) as error:
        raise ParameterError(f"it is not YAML: {error}.") from None


def is_own_file(path: Path) -> bool:
    """Whether a file is a params.yaml of this tool: it is the name that every DVC project uses.

    Ours has at least half of our names of sections and keys in the place of keys, so that one
    with a typo, even one that no longer is YAML, is still ours. A file that cannot be read counts as ours.
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


def flatten(params: Section) -> dict[str, Any]:
    """Every parameter by its dotted key (``train.loss_weights.watermark``), for records and hashes."""
    flat: dict[str, Any] = {}
    for name, value in params:
        if isinstance(value, Section):
            flat |= {f"{name}.{key}": inner for key, inner in flatten(value).items()}
        else:
            flat[name] = list(value) if isinstance(value, tuple) else value
    return flat


def values_sha256(values: Any) -> str:
    """One hash for plain values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


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
    return f"{key} = {_shortly(detail['input'])}: {_message(detail)}"


def _message(detail: Any) -> str:
    message: str = detail["msg"].removeprefix("Value error, ")
    return message.replace("a valid tuple", "a list").replace("a valid boolean", "true or false")


def _shortly(value: Any) -> str:
    """A value for an error: a few lines of YAML can stand for billions of characters."""
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
