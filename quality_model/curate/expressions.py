"""Conditions over the columns of a result, such as ``noise < .3 and width >= 512``, in PyArrow's expressions.

The text is parsed as Python and never run: nodes of a few kinds are translated, any other is refused.

A number that is compared with a float32 column is rounded as the column's values were: a value that is shown
as 0.3 is equal to .3, in every comparison.
"""

import ast
import operator
from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from quality_model.errors import UsageError

_MAX_LENGTH: Final = 10_000


def _product(left: Any, right: Any) -> Any:
    """In float64, so that the area of a large image fits."""
    return pc.multiply(left.cast(pa.float64()), right)


def _quotient(left: Any, right: Any) -> Any:
    """In float64: Arrow divides whole numbers without a remainder."""
    return pc.divide(left.cast(pa.float64()), right)


_OPERATORS: Final[dict[type, Callable[..., Any]]] = {
    **{ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: _product, ast.Div: _quotient},
    **{ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge},
    **{ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.And: operator.and_, ast.Or: operator.or_},
    ast.Not: operator.invert,
    ast.USub: pc.negate,
}
_TEXT_TESTS: Final[dict[str, Callable[..., Any]]] = {
    "contains": pc.match_substring,
    "ends_with": pc.ends_with,
    "starts_with": pc.starts_with,
}
_LANGUAGE: Final = (
    "Compare columns with numbers and 'texts': noise < .3 and (format in ('JPEG', 'PNG') or width >= 512)."
    " There are and, or, not, < <= > >= == !=, in, is None, + - * /, and starts_with, ends_with,"
    " contains(column, 'text')."
)


def parse_condition(text: str, columns: Mapping[str, pa.DataType]) -> tuple[pc.Expression, tuple[str, ...]]:
    """The expression that a text means, and the columns that it names, of those with their types.

    A comparison with a value that is null is null, as in SQL.

    Raises:
        UsageError: It is no expression of this language, or names a column that there is not.
    """
    try:
        if len(text) > _MAX_LENGTH:
            raise ValueError(f"it has {len(text)} characters, at most {_MAX_LENGTH}")
        tree = ast.parse(text.strip(), mode="eval").body
        names = sorted(
            {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - {"null", *_TEXT_TESTS}
        )
        for name in names:
            require_column(name, columns)
        found = _translated(_Rounded(columns).visit(tree))
        if not isinstance(found, pc.Expression) or not names:
            raise ValueError("it names no column")
    except (
        SyntaxError,
        ValueError,
        TypeError,
        OverflowError,
        RecursionError,
        MemoryError,
        pa.ArrowException,
    ) as error:
        detail = error.msg if isinstance(error, SyntaxError) else str(error) or type(error).__name__
        raise UsageError(f"{text[:200]!r} is no condition: {detail}.", _LANGUAGE) from None
    return found, tuple(names)


def require_column(name: str, columns: Collection[str]) -> None:
    """Refuse a column that there is not, with what it may have meant.

    Raises:
        UsageError: There is no such column.
    """
    if name not in columns:
        close = get_close_matches(name, columns, n=3)
        names = f"Did you mean {' or '.join(close)}?" if close else f"There are {', '.join(columns)}."
        raise UsageError(f"The result has no column {name!r}.", names)


def keeps(expression: pc.Expression, batch: pa.RecordBatch, text: str) -> Any:
    """Where a condition is true, bool (N,); not where it is null.

    Raises:
        UsageError: It compares what cannot be compared, or is no condition.
    """
    import pyarrow.dataset as ds  # 40 ms

    rows = ds.dataset(pa.Table.from_batches([batch]))
    try:
        (values,) = rows.to_table(columns={"keep": expression}, use_threads=False).columns
        if values.type != pa.bool_():
            raise pa.ArrowInvalid(f"it is {values.type}, neither true nor false")
    except pa.ArrowException as error:
        raise UsageError(
            f"{text[:200]!r} is no condition: {str(error).splitlines()[0]}.", _LANGUAGE
        ) from None
    return values.fill_null(False).to_numpy()


class _Rounded(ast.NodeTransformer):
    """Rounds the numbers that are compared with float32 columns to float32."""

    def __init__(self, columns: Mapping[str, pa.DataType]) -> None:
        self._names = {name for name, kind in columns.items() if kind == pa.float32()}

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        sides = [node.left, *node.comparators]
        of_column = [isinstance(side, ast.Name) and side.id in self._names for side in sides]
        for place, side in enumerate(sides):
            if any(of_column[max(0, place - 1) : place + 2]) and not isinstance(side, ast.Call | ast.BinOp):
                for literal in ast.walk(side):
                    if isinstance(literal, ast.Constant) and isinstance(literal.value, float):
                        literal.value = float(np.float32(literal.value))
        return self.generic_visit(node)


def _translated(node: ast.AST) -> Any:
    """The expression of a column or of a literal, or one of both; ValueError for anything else."""
    match node:
        case ast.Constant(value=bool() | int() | float() | str() as value):
            return pc.scalar(value)
        case ast.Name(id=name) if name != "null":
            return pc.field(name)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return pc.scalar(-value)
        case ast.UnaryOp(op=sign, operand=operand) if type(sign) in _OPERATORS:
            return _OPERATORS[type(sign)](_translated(operand))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_translated(left), _translated(right))
        case ast.BoolOp(op=op, values=[first, *others]):
            found = _translated(first)
            for other in others:
                found = _OPERATORS[type(op)](found, _translated(other))
            return found
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            sides = [left, *comparators]
            found = _compared(sides[0], ops[0], sides[1])
            for before, comparison, after in zip(sides[1:], ops[1:], sides[2:], strict=False):
                found &= _compared(before, comparison, after)
            return found
        case ast.Call(func=ast.Name(id=name), args=[column, ast.Constant(value=str(text))], keywords=[]):
            if name in _TEXT_TESTS:
                return _TEXT_TESTS[name](_translated(column), text)
    raise ValueError(f"{ast.unparse(node)[:80]} is not allowed")


def _compared(left: ast.AST, op: ast.cmpop, right: ast.AST) -> Any:
    match op, right:
        case ((ast.In() | ast.NotIn()), (ast.Tuple(elts=items) | ast.List(elts=items) | ast.Set(elts=items))):
            if not all(isinstance(item, ast.Constant) for item in items):
                raise ValueError("a list holds numbers or texts")
            column = _translated(left)
            found = column.isin([item.value for item in items if isinstance(item, ast.Constant)])
            return column.is_valid() & ~found if isinstance(op, ast.NotIn) else found
        case ((ast.Is() | ast.IsNot()), (ast.Constant(value=None) | ast.Name(id="null"))):
            found = _translated(left).is_null()
            return ~found if isinstance(op, ast.IsNot) else found
        case _ if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_translated(left), _translated(right))
    raise ValueError(f"{ast.unparse(right)[:80]} cannot be compared like that")
