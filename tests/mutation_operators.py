"""What can stand in the place of a piece of code: the mistakes that ``code_mutants`` makes."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from typing import Any, TypeVar

Node = TypeVar("Node", bound=ast.AST)

OPERATORS: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,),
    ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,),
    ast.LShift: (ast.RShift,),
    ast.RShift: (ast.LShift,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.BitXor: (ast.BitOr,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}


def replacements(node: ast.AST, imported: set[str]) -> Iterator[ast.AST]:
    """Yield what can stand in the place of ``node``."""
    for new in OPERATORS.get(type(node), ()):
        yield new()
    if isinstance(node, ast.Constant):
        yield from map(ast.Constant, _other_values(node.value))
    elif isinstance(node, ast.stmt):
        yield from _other_statements(node)
    elif isinstance(node, ast.Call):
        yield from _other_calls(node, imported)
    elif isinstance(node, ast.expr):
        yield from _other_expressions(node)
    elif isinstance(node, ast.comprehension):
        for i in range(len(node.ifs)):
            yield _without(node, "ifs", i)
    elif isinstance(node, ast.ExceptHandler):
        yield _changed(node, body=[ast.Raise()])
        if isinstance(node.type, ast.Tuple):
            for i in range(len(node.type.elts)):
                yield _changed(node, type=_without(node.type, "elts", i))


def _other_values(value: object) -> Iterator[Any]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, value - 1)
    elif isinstance(value, float):
        yield value * 1.5 or 1.0
    elif isinstance(value, str) and " " not in value:
        yield value + "_"


def _other_expressions(node: ast.expr) -> Iterator[ast.expr]:
    """Leave out an operand, a branch, or an end of a slice."""
    match node:
        case ast.BinOp():
            yield from (node.left, node.right)
        case ast.BoolOp():
            for i in range(len(node.values)):
                rest = [value for j, value in enumerate(node.values) if j != i]
                yield rest[0] if len(rest) == 1 else _changed(node, values=rest)
        case ast.UnaryOp():
            yield node.operand
        case ast.IfExp():
            yield from (node.body, node.orelse)
        case ast.Slice():
            for bound in ("lower", "upper", "step"):
                yield _changed(node, **{bound: None})


def _other_calls(node: ast.Call, imported: set[str]) -> Iterator[ast.expr]:
    """Drop or swap arguments, or leave the call out."""
    for i in range(len(node.args) - 1):
        arguments = list(node.args)
        arguments[i : i + 2] = arguments[i + 1], arguments[i]
        yield _changed(node, args=arguments)
    if len(node.args) > 1:
        yield _without(node, "args", len(node.args) - 1)
    for i in range(len(node.keywords)):
        yield _without(node, "keywords", i)
    if isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) not in imported:
        yield node.func.value
    elif node.args and not isinstance(node.args[0], ast.Starred):
        yield node.args[0]


def _other_statements(node: ast.stmt) -> Iterator[ast.stmt]:
    """Leave the statement out, or what makes it depend on something."""
    match node:
        case ast.Expr() | ast.AugAssign() | ast.Raise() | ast.Delete() | ast.Break():
            yield ast.Pass()
        case ast.Continue():
            yield ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield ast.Pass()
        case ast.If():
            yield _changed(node, test=ast.Constant(True))
            if not isinstance(node.body[0], ast.Raise):  # else that is left out
                yield _changed(node, test=ast.Constant(False))
        case ast.While():
            yield _changed(node, test=ast.Constant(False))
        case ast.With() if not any(item.optional_vars for item in node.items):
            yield ast.If(ast.Constant(True), node.body, [])
        case ast.Return() if node.value is not None:
            yield ast.Return(ast.Constant(None))
    if isinstance(node, ast.AugAssign):
        yield ast.Assign([node.target], node.value, lineno=node.lineno)


def _changed(node: Node, **fields: Any) -> Node:
    """Return a shallow copy of ``node`` with other ``fields``."""
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _without(node: Node, field: str, index: int) -> Node:
    """Return a shallow copy of ``node`` whose list ``field`` lacks an element."""
    elements = list(getattr(node, field))
    del elements[index]
    return _changed(node, **{field: elements})
