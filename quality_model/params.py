"""The typed sections of params.yaml: the only place where a hyperparameter is named.

Values are in params.yaml alone. Only scoring outside a project has values here (`WITHOUT_PROJECT`).
The flags of the command line are derived from these fields; their help is the field's description.
`params_file` reads and checks the file.
"""

import ast
import functools
import hashlib
import inspect
import json
import textwrap
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from quality_model.paths import user_path
from quality_model.records import HEADS, Head

Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]

UserPath = Annotated[Path, BeforeValidator(user_path)]
"""A path among the parameters of a flow."""

ArchitectureName = Literal["small", "standard"]
"""A variant of the network (`quality_model.core.network.ARCHITECTURES`)."""

EngineName = Literal["torch-float32", "torch-bfloat16", "ncnn-float32"]
"""The library that runs a network, and the dtype it computes in."""


MeasureSet = Literal["file", "exposure", "borders", "blocking", "hash", "reencoding"]
"""Measures that are computed together (`quality_model.core.measures`)."""

MeasureChoice = Literal["none", "cheap", "all", MeasureSet]


class Section(BaseModel):
    """A frozen part of params.yaml that rejects unknown keys.

    Types are strict: a quoted number, `yes` or `true` is not a number. An integer is a valid float.
    """

    # Schemas are built when a section is validated: worker processes and `--help` need none.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    @classmethod
    @functools.cache
    def descriptions(cls) -> dict[str, str]:
        """What stands below each field, read from the source when it is asked for: it takes a while."""
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        assert isinstance(definition, ast.ClassDef)
        return {
            field.target.id: inspect.cleandoc(str(text.value.value))
            for field, text in pairwise(definition.body)
            if isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        }


class PerHead(Section):
    """One number for each head."""

    color_cast: Finite
    blurriness: Finite
    watermark: Finite
    noise: Finite

    def as_dict(self) -> dict[Head, float]:
        return {head: getattr(self, head) for head in HEADS}


class LimitsParams(Section):
    """The limits beyond which the reader rejects an image."""

    max_pixels: Count
    """maximum pixels (width x height) of an image; guards against decompression bombs"""
    max_bytes: Count
    """maximum bytes of an encoded image"""
    formats: tuple[str, ...] = Field(min_length=1, strict=False)
    """formats that are read, as Pillow names them; HEIF needs the extra `formats`"""
    max_seconds: Positive
    """timeout for reading one image, in seconds; after two timeouts its error code is too_slow"""


class SourceParams(Section):
    """Where clean images come from."""

    dataset: str
    """preset (see list-datasets), Hugging Face dataset (owner/name), or path of a folder; or several
    joined by " + "; append *N to take N images from one"""
    num_images: Count
    """number of clean images to take"""
    split: str | None
    """split of a Hugging Face dataset; empty: the preset's, or train"""
    image_column: str | None
    """column of the images; empty: the preset's, or the first of image, img, photo, image, file"""
    revision: str | None
    """branch, tag or commit of a Hugging Face dataset; empty: main"""
    seed: Seed
    """random seed for sampling and shuffling"""


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
    """What Great Expectations checks in the tables."""

    min_images: Count
    """fewest readable clean images"""
    max_unreadable_share: Share
    """largest share of images that cannot be read"""
    min_side_px: Count
    """shortest side of a clean image in pixels"""
    min_groups: Count
    """fewest groups in the training dataset"""
    clean_share_tolerance: Share
    """how far the share of clean samples may differ from the expected one"""


class TrainParams(Section):
    """The recipe of training."""

    architecture: ArchitectureName
    """small, or standard: the original design, with 15 times the multiplications"""
    samples: Literal["stored", "fresh"]
    """stored: the samples of the training dataset, mirrored and cropped; fresh: its images, degraded anew"""
    samples_per_epoch: Count
    """samples per epoch, if fresh"""
    uses_per_sample: Count
    """how often a fresh sample is used, if fresh: making one takes longer than a training step on it"""
    crops_px: tuple[Annotated[int, Field(ge=32)], ...] = Field(strict=False)
    """crop sizes in pixels, at most the image size, each for an equal share of the epochs; empty: no crops"""
    start_from: str
    """weights to begin with: champion (bundled while there is none), bundled, scratch (random ones), or
    a model's folder or file. DVC sees the name change, not the weights: `dvc repro -f -s train`"""
    epochs: Count
    """maximum number of epochs"""
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
    loss: Literal["mse", "bce"]
    """what is minimised: the squared error, or the cross-entropy, which minds faint degradations more"""
    loss_weights: PerHead
    """weight of each head's loss"""
    seed: Seed
    """seed of weights, order and dropout"""
    device: Literal["auto", "cpu", "cuda", "mps"]
    """device to train on"""
    precision: Literal["auto", "float32", "bfloat16"]
    """dtype; auto: bfloat16 on CUDA, and on a CPU with AMX or AVX-512 BF16"""
    compile: bool
    """compile the network with torch.compile; without a compiler it runs uncompiled"""
    clean_flag_share: Share
    """largest share of clean validation images that a head's threshold may flag"""
    keep_scale: bool
    """map scores to the scale of the champion, so that thresholds keep their meaning; false: raise the scale
    version instead (docs/gate.md)"""


class EvaluateParams(Section):
    """How the test split is measured."""

    batch_size: Count
    """samples per forward pass"""
    bootstrap_samples: Count
    """resamples of the groups for the intervals"""
    sweep_images: Count
    """maximum number of clean test images for the severity sweeps"""
    baseline_samples: Count
    """maximum number of samples, of train and of test, for the baselines without training"""
    confidence: Annotated[float, Field(gt=0.0, lt=1.0)]
    """confidence of the intervals"""
    seed: Seed
    """seed of the bootstrap, of the severity sweeps and of the choice of samples for the baselines"""
    device: Literal["auto", "cpu", "cuda", "mps"]
    """device to evaluate on"""


class RealParams(Section):
    """What a candidate must show on images with real defects."""

    folder: str
    """folder of the sets (docs/gate.md has the layout); a relative one is below the project folder"""
    min_auc: Annotated[dict[Head, Share], Field(min_length=1)]
    """smallest area under the ROC curve, for each head that is asked about"""


class GateParams(Section):
    """What a candidate must reach to become champion (docs/gate.md)."""

    min_test_groups: Count
    """fewest test groups that count: those that neither model was trained on"""
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
    max_luck: Share
    """chance that, of all candidates ever judged on one test split, one that is no better than the champion
    passes as better"""
    approval: Literal["none", "required"]
    """required: a person decides, in Prefect, whether a candidate that passed becomes champion"""
    approval_within_s: Positive
    """longest wait for that person, after which the champion stays, seconds"""
    real: RealParams | None
    """evidence on images with real defects: `folder` and `min_auc` by head; null: none is asked for"""


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
    """model: auto (the champion, else the bundled one), bundled, bundled-standard, a registry reference
    (champion, candidate, a version number) or a checkpoint file"""
    shard_size: Count
    """inputs per output file"""
    batch_size: Count
    """images per forward pass on an accelerator; a CPU takes one at a time"""
    workers: Annotated[int, Field(ge=0)]
    """worker processes that read, decode and, on a CPU, score; 0: one per core, fewer for few inputs"""
    device: Literal["auto", "cpu", "cuda", "mps"]
    """device to score on"""
    views: Literal["auto", "whole"]
    """what the network sees of an image: auto: the views that the model was measured with; whole: the image
    squeezed to a square, as in the original design, which is faster"""
    engine: Literal["auto", EngineName]
    """what runs the network: library and dtype; auto: ncnn on a CPU, PyTorch on an accelerator"""
    measures: tuple[MeasureChoice, ...] = Field(min_length=1, strict=False)
    """columns beside the scores (docs/results-format.md), as a list of sets; cheap: those that cost little"""
    intervals: bool
    """add columns with an interval around each score (docs/results-format.md)"""
    thresholds: dict[Head, Share]
    """scores above which a head flags, in place of the model's own; --flag HEAD=SCORE sets one"""
    thumbnails: bool
    """keep a few hundred thumbnails with the result: of the worst, near thresholds, and a random sample"""
    raw: bool
    """leave scores without the model's map to the scale of the champion before it; --raw sets it"""
    max_error_share: Share
    """share of unreadable inputs above which the job fails, after it has written its result"""


class ScoringParams(Section):
    """The sections that scoring needs: all that there is outside a project."""

    limits: LimitsParams
    score: ScoreParams


WITHOUT_PROJECT: Final = ScoringParams(
    limits=LimitsParams(
        max_pixels=100_000_000,
        max_bytes=100_000_000,
        formats=("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO", "PPM", "AVIF", "JPEG2000", "HEIF"),
        max_seconds=60.0,
    ),
    score=ScoreParams(
        model="auto",
        shard_size=1000,
        batch_size=16,
        workers=0,
        device="auto",
        views="auto",
        engine="auto",
        measures=("cheap",),
        intervals=False,
        thresholds={},
        thumbnails=True,
        raw=False,
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
