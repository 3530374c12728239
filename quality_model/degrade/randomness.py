"""Random numbers that depend on the seed alone: not on workers, order, machine or NumPy version.

NumPy promises a stable stream for the raw bits of its bit generators, and none for its
distributions. So only raw bits are drawn, and mapped to numbers here. Every operation on
every sample has its own stream: an operation that draws more or fewer numbers changes no
other operation.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")

_UNIT: Final = 2.0**-53
QUANTILES: Final = 1 << 16
"""Entries of an inverse-CDF table that is indexed by 16 random bits."""


@dataclass(frozen=True, slots=True)
class SampleRandomness:
    """The randomness of one sample: a stream for each operation on it.

    ``seed`` is that of the dataset, ``sample_id`` names the sample within it.
    """

    seed: int
    sample_id: str

    def stream(self, operation: str) -> "Stream":
        """The stream of one operation, the same on every call."""
        return Stream(f"{self.seed}\0{self.sample_id}\0{operation}")


class Stream:
    """Independent random bits, and numbers computed from them.

    Args:
        name: Seeds the stream; different names give independent streams.
    """

    __slots__ = ("_bits",)

    def __init__(self, name: str) -> None:
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
        self._bits = np.random.SFC64(np.random.SeedSequence(int.from_bytes(digest, "little")))

    def uniform(self, low: float, high: float) -> float:
        """A number in [low, high), of 53 random bits."""
        return low + (high - low) * ((int(self._bits.random_raw()) >> 11) * _UNIT)

    def integer(self, low: int, high: int) -> int:
        """An integer from low to high, both included (bias below 2**-50 for ranges of this project)."""
        return low + ((int(self._bits.random_raw()) * (high - low + 1)) >> 64)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.uniform(0.0, 1.0) < probability

    def log_uniform(self, low: float, high: float) -> float:
        """A number in [low, high) whose logarithm is uniform; both above 0."""
        return float(np.exp(self.uniform(np.log(low), np.log(high))))

    def normal(self, *shape: int) -> npt.NDArray[np.float32]:
        """Standard normal variates, float32 of this shape (see `normal_quantiles`)."""
        bits = self.bits16(int(np.prod(shape)))
        return normal_quantiles().take(bits, mode="wrap").reshape(shape)

    def choice(self, items: Sequence[T]) -> T:
        """One of the items, all equally likely."""
        return items[self.integer(0, len(items) - 1)]

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """``count`` distinct items in random order (Fisher and Yates)."""
        pool = list(items)
        for position in range(count):
            other = self.integer(position, len(pool) - 1)
            pool[position], pool[other] = pool[other], pool[position]
        return pool[:count]

    def bits16(self, count: int) -> npt.NDArray[np.uint16]:
        """``count`` words of 16 random bits, uint16 (count,)."""
        raw = np.asarray(self._bits.random_raw((count + 3) // 4), dtype="<u8")
        return raw.view("<u2")[:count]


@lru_cache(maxsize=1)
def normal_quantiles() -> npt.NDArray[np.float32]:
    """Inverse CDF of the standard normal at the midpoints of 65,536 equal shares.

    Indexed by 16 random bits it gives a normal variate; the tails end at 4.3 standard deviations.

    Returns:
        float32 (65536,), ascending, antisymmetric.
    """
    inverse = NormalDist().inv_cdf
    upper = np.array([inverse((i + 0.5) / QUANTILES) for i in range(QUANTILES // 2, QUANTILES)])
    table = np.concatenate([-upper[::-1], upper]).astype(np.float32)
    table.setflags(write=False)
    return table


@lru_cache(maxsize=64)
def poisson_quantiles(peak: int) -> npt.NDArray[np.uint8]:
    """Inverse CDF of Poisson noise, for each grey level, at 4,096 quantiles.

    A grey level v stands for a mean count of ``v / 255 * peak``; a count k is shown as the
    grey level ``k * 255 / peak``, rounded and cut at 255.

    Args:
        peak: Mean count of white, 1 to 4096.

    Returns:
        uint8 (256 * 4096,): entry ``v * 4096 + q`` is what level v becomes at quantile q.
    """
    quantiles = 4096
    most = int(peak + 8 * np.sqrt(peak) + 16)
    counts = np.arange(most + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(counts[1:]))])
    mean = np.arange(256)[:, None] / 255.0 * peak
    with np.errstate(divide="ignore", invalid="ignore"):
        log_pmf = counts * np.log(mean) - mean - log_factorial
    log_pmf[0] = np.where(counts == 0, 0.0, -np.inf)
    cdf = np.cumsum(np.exp(log_pmf), axis=1)
    # Count k owns the quantiles whose midpoint lies between cdf(k - 1) and cdf(k).
    edges = np.clip(np.ceil(cdf * quantiles - 0.5), 0, quantiles).astype(np.int64)
    edges[:, -1] = quantiles
    owned = np.diff(edges, axis=1, prepend=0)
    levels = np.minimum(np.rint(counts * (255.0 / peak)), 255).astype(np.uint8)
    table = np.repeat(np.tile(levels, 256), owned.ravel())
    table.setflags(write=False)
    return table
