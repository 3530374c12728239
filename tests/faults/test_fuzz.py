"""Random damage to images and parameters: the readers return a result or raise their own errors."""

import io
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from quality_model.core import decoding
from quality_model.errors import ImageError, ParameterError
from quality_model.params import LimitsParams, Params
from quality_model.params_file import load_params, parse_params

PROJECT = Path(__file__).resolve().parents[2]

ROUNDS = [500, pytest.param(10_000, marks=pytest.mark.torture)]
Say = Callable[[str, object], None]
CODES = {
    *("empty", "not_an_image", "too_many_pixels", "truncated", "broken", "too_many_bytes"),
    *("unsupported", "unknown_range", "not_finite"),
}
LARGE = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


def mutated(rng: random.Random, seeds: list[bytes]) -> bytes:
    """One of the seeds after one to six changes: bits, bytes, numbers; parts cut, doubled, exchanged."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(data)) if data else 0
        match rng.randrange(7):
            case 0 if data:
                data[at] ^= 1 << rng.randrange(8)
            case 1 if data:
                data[at] = rng.randrange(256)
            case 2:
                data[at : at + 4] = rng.choice(LARGE).to_bytes(4, rng.choice(["big", "little"]))
            case 3:
                del data[at : at + rng.randint(1, 40)]
            case 4:
                data[at:at] = data[at : at + rng.randint(1, 40)]
            case 5:
                other = rng.choice(seeds)
                start = rng.randrange(len(other))
                data[at : at + 16] = other[start : start + 16]
            case _:
                del data[max(at, 1) :]
    return bytes(data)


def images() -> list[bytes]:
    """A small image in every format and mode that has a decoder of its own."""
    rgb = np.random.default_rng(5).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    image = Image.fromarray(rgb)
    wanted = [
        ("JPEG", "RGB", {}), ("JPEG", "CMYK", {}), ("JPEG", "L", {"progressive": True}),
        ("PNG", "RGB", {}), ("PNG", "P", {}), ("PNG", "LA", {}), ("PNG", "RGBA", {}), ("PNG", "1", {}),
        ("WEBP", "RGB", {}), ("WEBP", "RGBA", {"lossless": True}), ("GIF", "P", {}), ("BMP", "RGB", {}),
        ("TIFF", "RGB", {}), ("TIFF", "L", {"compression": "tiff_lzw"}), ("TIFF", "F", {}),
        ("TIFF", "RGB", {"compression": "jpeg"}), ("PPM", "RGB", {}), ("MPO", "RGB", {}),
    ]  # fmt: skip
    encoded = []
    for kind, mode, options in wanted:
        buffer = io.BytesIO()
        converted = image.convert(mode)
        if mode == "F":  # whose range is 0 to 1
            converted = Image.fromarray(np.asarray(converted) / 255)
        converted.save(buffer, kind, **options)
        encoded.append(buffer.getvalue())
    return encoded


@contextmanager
def named(number: int) -> Iterator[None]:
    """Add the number of the input to a failure."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"input {number}: the one of random.Random({number})")
        raise


@pytest.mark.parametrize("rounds", ROUNDS)
def test_the_image_reader_raises_nothing_but_its_own_errors(
    limits: LimitsParams, rounds: int, record_property: Say
) -> None:
    strict = limits.model_copy(update={"max_pixels": 1_000_000})
    seeds = images()
    assert all(decoding.decode(data, strict).shape[2] == 3 for data in seeds)
    outcomes: Counter[str] = Counter()
    for number in range(rounds):
        data = mutated(random.Random(number), seeds)
        with named(number):
            try:
                pixels = decoding.decode(data, strict)
            except ImageError as error:
                assert error.reason in CODES
                outcomes[error.reason] += 1
            else:
                outcomes["read"] += 1
                assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    record_property("said", ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common()))


@pytest.mark.parametrize("rounds", ROUNDS)
def test_the_params_reader_raises_nothing_but_its_own_errors(
    tmp_path: Path, rounds: int, record_property: Say
) -> None:
    seeds = [(PROJECT / "params.yaml").read_bytes(), b"limits: &a [*a]\n", b"train: {epochs: 1e999}\n"]
    path = tmp_path / "params.yaml"
    refused = 0
    for number in range(rounds):
        path.write_bytes(mutated(random.Random(number), seeds))
        with named(number):
            try:
                assert isinstance(load_params(path), Params)
            except ParameterError as error:
                assert error.problem
                refused += 1
    assert refused > rounds // 2
    record_property("said", f"{refused} of {rounds} refused")


def test_parameters_that_expand_to_billions_of_values_are_refused_at_once() -> None:
    levels = "\n".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 12))
    tree = yaml.safe_load(f"l0: &l0 x\n{levels}\n")
    with pytest.raises(ParameterError) as refused:
        parse_params({**yaml.safe_load((PROJECT / "params.yaml").read_text()), "train": tree["l11"]})
    assert len(str(refused.value)) < 10_000
