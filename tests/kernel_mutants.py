"""Thousands of wrong kernels: what ``mutants`` does to formulas, for loops over numbers.

The terms are numbers and indices. Each number is left out, negated, doubled, halved and increased
by a thousandth. Each index, border and size is off by one. Each condition is negated. Each sum
loses its old value. Whole arrays, names of arguments and sizes of allocated memory are not terms,
but what is computed from them is.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.mutants import OVERWRITE_NAME, WRAP, Operator, Term, Wrapper

ALLOCATIONS = (
    "np.empty",
    "np.empty_like",
    "empty_panels",
    "aligned_empty",
    "chunk_sums",
    "room_for_logits",
)
ZEROS = ("np.zeros", "np.zeros_like")
MODULES = ("np", "numba", "math", "rng")


def _by(factor: float) -> Operator:
    return lambda value: value * factor


OF_NUMBERS: dict[str, Operator] = {
    "drop": _by(0.0),
    "sign": _by(-1.0),
    "x 2": _by(2.0),
    "x 0.5": _by(0.5),
    "x 1.001": _by(1.001),
}
OF_INTEGERS: dict[str, Operator] = {
    "+ 1": lambda value: int(value) + 1,
    "- 1": lambda value: int(value) - 1,
}
KERNEL_OPERATORS: dict[str, Operator] = {
    **OF_NUMBERS,
    **OF_INTEGERS,
    "not": lambda value: not value,
    "1 for 0": lambda value: value + 1,
    "overwrite": lambda value: value,
}


def kernel_operators_for(term: Term, value: Any) -> Iterator[str]:
    """Yield the operators that can be applied to ``value``."""
    if isinstance(value, (bool, np.bool_)):
        yield "not"
    elif isinstance(value, (int, np.integer)):
        yield from OF_INTEGERS
    elif term.is_compared or term.is_view:
        return
    elif isinstance(value, float) or (
        isinstance(value, (np.generic, np.ndarray)) and value.dtype.kind == "f"
    ):
        if term.is_zero or (np.ndim(value) and not np.any(value)):
            yield "1 for 0"
        elif np.isinf(value).all():
            yield "sign"
        else:
            yield from OF_NUMBERS


class KernelWrapper(Wrapper):
    """Wraps what is computed in loops over numbers: see above."""

    def _statement(self, node: ast.stmt) -> list[ast.stmt]:
        if _refuses(node):
            return [node]  # what is refused is tested by itself
        if isinstance(node, (ast.If, ast.While)):
            node.test = self._expression(node.test)
        elif isinstance(node, ast.For):
            node.iter = self._inside(node.iter)
        elif isinstance(node, ast.With):
            node.body = self._statements(node.body)
        return super()._statement(node)

    def _overwrite(self, node: ast.AugAssign, is_product: bool) -> ast.stmt:
        if not isinstance(node.target, ast.Name):
            return super()._overwrite(node, is_product)
        number = self._number(node.target, is_factor=is_product, suffix=" before")
        arguments: list[ast.expr] = [ast.Constant(number), ast.Name(node.target.id, ast.Load())]
        call = ast.Call(ast.Name(OVERWRITE_NAME, ast.Load()), arguments, [])
        return ast.Assign([ast.Name(node.target.id, ast.Store())], call, lineno=node.lineno)

    def _expression(
        self, node: ast.expr, *, is_factor: bool = False, is_axis: bool = False
    ) -> ast.expr:
        del is_factor, is_axis  # of arrays
        text = ast.unparse(node)
        if isinstance(node, (ast.JoinedStr, ast.Tuple, ast.List, ast.Slice, ast.Starred)):
            return self._inside(node)  # type: ignore[no-any-return]
        if _is_no_term(node):
            return node
        is_zero = text in ("0.0", "np.float32(0.0)") or _calls(node, ZEROS)
        number = self._number(node, is_zero=is_zero, is_view=isinstance(node, ast.Subscript))
        inner = node if is_zero else self._inside(node)
        return ast.Call(ast.Name(WRAP, ast.Load()), [ast.Constant(number), inner], [])

    def _inside(self, node: ast.expr) -> Any:
        match node:
            case ast.Compare():
                node.left = self._integer(node.left)
                node.comparators = [self._integer(operand) for operand in node.comparators]
            case ast.BoolOp():
                node.values = [self._expression(value) for value in node.values]
            case ast.IfExp():
                node.test, node.body = self._expression(node.test), self._expression(node.body)
                node.orelse = self._expression(node.orelse)
            case ast.Subscript():
                node.value = self._owner(node.value)
                node.slice = self._index(node.slice)
            case ast.Slice():
                node.lower, node.upper = self._index(node.lower), self._index(node.upper)
            case ast.Tuple() | ast.List():
                node.elts = [self._expression(element) for element in node.elts]
            case ast.ListComp() | ast.GeneratorExp():
                node.elt = self._expression(node.elt)
            case ast.Starred() | ast.Attribute():
                node.value = self._owner(node.value)
            case ast.Call():
                self._call(node)
            case ast.JoinedStr() | ast.Name():
                pass
            case _:
                return super()._inside(node)
        return node

    def _owner(self, node: ast.expr) -> Any:
        """Look into the expression of an array; the array itself is no term."""
        return node if isinstance(node, (ast.Name, ast.Attribute)) else self._inside(node)

    def _integer(self, node: ast.expr) -> ast.expr:
        """Wrap an operand of a comparison; only integers are changed there."""
        if isinstance(node, ast.Constant):
            return node
        number = self._number(node, is_compared=True)
        return ast.Call(ast.Name(WRAP, ast.Load()), [ast.Constant(number), self._inside(node)], [])

    def _index(self, node: Any) -> Any:
        if node is None or isinstance(node, ast.Constant):
            return node
        return self._expression(node)

    def _call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Attribute):
            node.func.value = self._owner(node.func.value)
            if node.func.attr == "reshape":
                return  # sizes only
        node.args = [self._argument(argument) for argument in node.args]
        for keyword in node.keywords:
            keyword.value = self._argument(keyword.value)

    def _argument(self, node: ast.expr) -> ast.expr:
        """Wrap an argument, unless it is a name: what it stands for is wrapped where it is used."""
        return node if isinstance(node, (ast.Name, ast.Attribute)) else self._expression(node)


def _refuses(node: ast.stmt) -> bool:
    if isinstance(node, ast.If):
        return all(isinstance(inner, ast.Raise) for inner in node.body)
    return isinstance(node, ast.Expr) and _calls(node.value, ("expect",))


def _calls(node: ast.expr, functions: tuple[str, ...]) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) in functions


def _is_no_term(node: ast.expr) -> bool:
    """Return whether ``node`` stands for no number: a type, a text, None, new memory."""
    if isinstance(node, ast.Constant):
        return node.value is None or isinstance(node.value, (str, bool))
    if isinstance(node, ast.Attribute):
        return ast.unparse(node.value) in MODULES and node.attr != "inf"
    return _calls(node, ALLOCATIONS)
