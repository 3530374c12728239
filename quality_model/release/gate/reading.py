"""Reading numbers out of evidence, failing closed: a usable number, or what is wrong with it."""

import math
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any, Final, Literal, NamedTuple

Kind = Literal["mse", "r2", "spearman", "movement", "difference", "flagged_share", "count"]

_POSSIBLE: Final[dict[Kind, tuple[float, float]]] = {
    "mse": (0.0, math.inf),
    "r2": (-math.inf, 1.0),
    "spearman": (-1.0, 1.0),
    "movement": (0.0, 1.0),  # however far a score in [0, 1] moves
    "difference": (-1.0, 1.0),  # of two mean squared errors of scores and labels in [0, 1]
    "flagged_share": (0.0, 1.0),
    "count": (1.0, math.inf),
}


class Number(NamedTuple):
    """A finite number, or none and what is wrong with it."""

    value: float | None
    problem: str = ""


def finite(value: Any, name: str) -> Number:
    """Any finite real number but a truth value."""
    if value is None:
        return Number(None, f"{name} is missing")
    if isinstance(value, bool) or not isinstance(value, Real):
        return Number(None, f"{name} is not a number but {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    return Number(number) if math.isfinite(number) else Number(None, f"{name} is {number}, not finite")


def bounded(value: Any, name: str, kind: Kind) -> Number:
    """A finite number within what is possible for its kind."""
    number = finite(value, name)
    low, high = _POSSIBLE[kind]
    if number.value is not None and not low <= number.value <= high:
        return Number(None, f"{name} {number.value:.6g} is impossible")
    return number


def decisive(
    numbers: Mapping[str, Number], what: str, choose: Callable[[Iterable[float]], float]
) -> tuple[str, Number]:
    """Name and value of the one number of several that counts.

    There is no value where one of them is unusable, for it might be the one, or there are none.
    """
    problems = [number.problem for number in numbers.values() if number.value is None]
    if problems or not numbers:
        return "", Number(None, "; ".join(problems) or f"{what} are missing")
    usable = {name: number.value for name, number in numbers.items() if number.value is not None}
    value = choose(usable.values())
    return next(name for name, number in usable.items() if number == value), Number(value)


def minus(first: Number, second: Number) -> Number:
    """Their difference, with the problems of both where there is none."""
    if first.value is None or second.value is None:
        return Number(None, "; ".join(filter(None, (first.problem, second.problem))))
    return finite(first.value - second.value, "their difference")


def entry(tree: Any, *keys: str) -> Any:
    """What lies under the keys, one below the other; None where the tree ends before."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def entries(tree: Any) -> list[tuple[str, Any]]:
    """The names and values below; none where there is no tree."""
    return [(str(name), value) for name, value in tree.items()] if isinstance(tree, Mapping) else []
