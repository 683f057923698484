"""Thousands of wrong gradients: mutants of every term of every backward function.

A backward function is parsed. Each of its expressions, from the right-hand side of a statement down
to a single name, is wrapped in a call that returns the value. The kind of a value is known when the
function runs: arrays of floats, of integers and of booleans, float factors, axes and tuples of
gradients each have their own operators (``OPERATORS``). A mutant is one term and one operator.

The shipped code has nothing of this. The test compiles the wrapped function, and its code object
replaces the real one while ``instrumented`` is open, so that every caller calls the wrapped one.
Only plain Python functions can be wrapped; ``kernel_mutants`` does the same for kernels.

Method: Hook and Kelly 2009, "Mutation sensitivity testing", Computing in Science and Engineering
11(6). The operators resemble the mistakes of a person who derives by hand: a term left out, a wrong
sign, a factor of two, a neighbour's index, a wrong axis, two gradients swapped, = instead of +=.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import itertools
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np

WRAP, OVERWRITE = "_mutants_term", "_mutants_overwrite"
OVERWRITE_NAME = "_mutants_overwrite_name"
METADATA = ("shape", "dtype", "ndim", "size", "any")  # of an array whose numbers do not matter


class Term(NamedTuple):
    """One expression of a backward function."""

    function: str  # module and qualified name, without the package
    expression: str
    occurrence: int  # among equal expressions of the function, counted from 1
    line: int  # in the function, counted from 1
    is_factor: bool = False  # one side of a product, or what ``*=`` multiplies by
    is_axis: bool = False  # an argument that names an axis
    is_zero: bool = False  # a constant
    is_compared: bool = False  # one side of a comparison
    is_view: bool = False  # a part of an array, if it is one

    @property
    def name(self) -> str:
        """Return what the term is called in reports and in the list of equivalent mutants."""
        count = f" #{self.occurrence}" if self.occurrence > 1 else ""
        return f"{self.function}: {self.expression}{count}"


class Mutant(NamedTuple):
    """One wrong value: ``operator`` is applied to the term whenever it is evaluated."""

    number: int  # of the term
    operator: str


Operator = Callable[[Any], Any]


def _scale(factor: float) -> Operator:
    return lambda value: value * factor


def _zero_largest(value: Any) -> Any:
    changed = value.copy()
    changed[np.unravel_index(np.abs(value).argmax(), value.shape)] = 0
    return changed


def _swap(value: tuple[Any, ...]) -> tuple[Any, ...]:
    swapped = list(value)
    i, j = next(_equal_shapes(value))
    swapped[i], swapped[j] = swapped[j], swapped[i]
    return tuple(swapped)


def _equal_shapes(values: tuple[Any, ...]) -> Iterator[tuple[int, int]]:
    for i, j in itertools.combinations(range(len(values)), 2):
        if np.shape(values[i]) == np.shape(values[j]) and values[i] is not values[j]:
            yield i, j


OF_FLOATS: dict[str, Operator] = {
    "drop": _scale(0.0),
    "sign": _scale(-1.0),
    "x 2": _scale(2.0),
    "x 0.5": _scale(0.5),
    "x 1.01": _scale(1.01),
    "x (1 + 1e-5)": _scale(1 + 1e-5),
}
OF_ARRAYS: dict[str, Operator] = {
    "roll": lambda value: np.roll(value, 1, axis=-1),
    "zero the largest": _zero_largest,
}
OPERATORS: dict[str, Operator] = {
    **OF_FLOATS,
    **OF_ARRAYS,
    "factor left out": lambda value: np.ones_like(value) if np.ndim(value) else 1.0,
    "transpose": lambda value: np.swapaxes(value, -1, -2),
    "roll the integers": lambda value: np.roll(value, 1),
    "invert": lambda value: ~value,
    "wrong axis": lambda axis: -2 if axis == -1 else axis - 1,
    "swap": _swap,
    "overwrite": lambda value: value,  # += becomes =; see ``Instrument.overwrite``
}


def operators_for(term: Term, value: Any) -> Iterator[str]:
    """Yield the operators that can be applied to ``value``; none if it is not part of the sum."""
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        if all(isinstance(v, np.ndarray) for v in value) and any(_equal_shapes(value)):
            yield "swap"
    elif isinstance(value, (float, np.floating)):
        yield from OF_FLOATS
    elif isinstance(value, np.ndarray) and value.dtype.kind == "f":
        yield from OF_FLOATS
        if value.ndim:
            yield from OF_ARRAYS
        if value.ndim >= 2 and value.shape[-1] == value.shape[-2] > 1:
            yield "transpose"
    elif isinstance(value, np.ndarray) and value.ndim:
        yield "invert" if value.dtype.kind == "b" else "roll the integers"
    if term.is_axis and type(value) is int:
        yield "wrong axis"
    is_number = isinstance(value, (float, np.ndarray)) and np.asarray(value).dtype.kind in "fb"
    if term.is_factor and is_number and np.any(value != 1.0):
        yield "factor left out"


class Instrument:
    """What the wrapped expressions call: it passes values on, watches them, or mutates one."""

    def __init__(
        self,
        operators: Mapping[str, Operator] = OPERATORS,
        choose: Callable[[Term, Any], Iterable[str]] = operators_for,
    ) -> None:
        self._operators, self._choose = operators, choose
        self.terms: list[Term] = []
        self.kinds: dict[int, str] = {}  # of every term that was evaluated while watching
        self.mutants: dict[Mutant, None] = {}  # in order
        self._watching = False
        self._active: Mutant | None = None
        self._operator: Operator = _scale(1.0)

    def add(self, term: Term) -> int:
        """Take ``term`` in and return its number."""
        self.terms.append(term)
        return len(self.terms) - 1

    def term(self, number: int, value: Any) -> Any:
        """Stand around an expression."""
        if self._active is not None:
            # What is None in one problem and an array in another changes in the other alone.
            is_mutated = number == self._active.number and value is not None
            return self._operator(value) if is_mutated else value
        if self._watching:
            self.kinds.setdefault(number, _kind(value))
            for operator in self._choose(self.terms[number], value):
                self.mutants.setdefault(Mutant(number, operator))
        return value

    def overwrite(self, number: int, target: Any, index: Any = ...) -> None:
        """Stand before ``target[index] += ...`` or ``*= ...``."""
        if self._watching:
            self.mutants.setdefault(Mutant(number, "overwrite"))
        if self._active is not None and self._active == (number, "overwrite"):
            target[index] = 1 if self.terms[number].is_factor else 0

    def overwrite_name(self, number: int, value: Any) -> Any:
        """Stand before ``name += ...`` or ``*= ...``: return what the name holds."""
        if isinstance(value, np.ndarray):
            self.overwrite(number, value)
            return value
        if self._watching:
            self.mutants.setdefault(Mutant(number, "overwrite"))
        if self._active is not None and self._active == (number, "overwrite"):
            return type(value)(1 if self.terms[number].is_factor else 0)
        return value

    def calls(self) -> dict[str, Callable[..., Any]]:
        """Return what the wrapped code calls, by the names it uses."""
        return {
            WRAP: self.term,
            OVERWRITE: self.overwrite,
            OVERWRITE_NAME: self.overwrite_name,
        }

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Note the mutants of every term that is evaluated meanwhile."""
        self._watching = True
        try:
            yield
        finally:
            self._watching = False

    @contextlib.contextmanager
    def mutating(self, mutant: Mutant) -> Iterator[None]:
        """Apply ``mutant`` meanwhile."""
        self._active, self._operator = mutant, self._operators[mutant.operator]
        try:
            yield
        finally:
            self._active = None

    def name(self, mutant: Mutant) -> str:
        """Return what ``mutant`` is called: the term's name and the operator's in brackets."""
        return f"{self.terms[mutant.number].name} [{mutant.operator}]"


def _kind(value: Any) -> str:
    return str(value.dtype) if isinstance(value, np.ndarray) else type(value).__name__


@contextlib.contextmanager
def instrumented(
    functions: Iterable[FunctionType],
    instrument: Instrument | None = None,
    wrapper: type[Wrapper] | None = None,
) -> Iterator[Instrument]:
    """Wrap the expressions of ``functions`` until the context is left."""
    instrument = instrument or Instrument()
    with contextlib.ExitStack() as undo:
        for function in functions:
            wrapped = _wrapped(function, instrument, wrapper or Wrapper)
            names = function.__globals__
            for name, call in instrument.calls().items():
                names[name] = call
                undo.callback(names.pop, name, None)
            undo.callback(setattr, function, "__code__", function.__code__)
            function.__code__ = wrapped
        yield instrument


def _wrapped(function: FunctionType, instrument: Instrument, wrapper: type[Wrapper]) -> Any:
    """Return the code of ``function`` with its terms wrapped."""
    tree = parse(function)
    definition = tree.body[0]
    assert isinstance(definition, ast.FunctionDef)
    wrapper(name_of(function), instrument).wrap(definition)
    namespace: dict[str, Any] = {}
    code = compile(ast.fix_missing_locations(tree), function.__code__.co_filename, "exec")
    exec(code, dict(function.__globals__), namespace)
    return namespace[definition.name].__code__


def parse(function: FunctionType) -> ast.Module:
    """Return the syntax tree of one function, without decorators and annotations."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.decorator_list, node.returns = [], None
            for argument in (*node.args.args, *node.args.kwonlyargs):
                argument.annotation = None
    return tree


def additive_terms(function: FunctionType) -> Iterator[str]:
    """Yield what each statement of ``function`` assigns, adds or returns, sums taken apart.

    What is added includes the arguments of ``GradientSum.add``. This is a count of its own, to hold
    the wrapped terms against: it shares only the parser.
    """
    for node in ast.walk(parse(function)):
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Return)):
            assert node.value is not None
            yield from _summands(node.value)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            for argument in node.value.args:
                yield from _summands(argument)


def _summands(node: ast.expr) -> Iterator[str]:
    if isinstance(node, (ast.Tuple, ast.List)):
        for element in node.elts:
            yield from _summands(element)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)):
        yield from _summands(node.left)
        yield from _summands(node.right)
    elif ast.unparse(node) != "None" and not isinstance(node, ast.JoinedStr):  # a name
        yield ast.unparse(node)


def name_of(function: FunctionType) -> str:
    """Return module and name: ``reference.linear.linear_backward``, ``encoder.encode_backward``."""
    module = function.__module__.removeprefix("electra_ref.").removeprefix("backends.")
    return f"{module.removeprefix('model.')}.{function.__qualname__}"


class Wrapper(ast.NodeTransformer):
    """Wraps every expression that is read, but for callees, targets, tests and messages."""

    def __init__(self, function: str, instrument: Instrument) -> None:
        self._function = function
        self._instrument = instrument
        self._occurrences: Counter[str] = Counter()
        self._first_line = 1

    def wrap(self, definition: ast.FunctionDef) -> None:
        self._first_line = definition.lineno
        definition.body = self._statements(definition.body)

    def _statements(self, statements: list[ast.stmt]) -> list[ast.stmt]:
        return [new for old in statements for new in self._statement(old)]

    def _statement(self, node: ast.stmt) -> list[ast.stmt]:
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.Return)) and node.value is not None:
            node.value = self._expression(node.value)
        elif isinstance(node, ast.AugAssign):
            is_product = isinstance(node.op, ast.Mult)
            before = self._overwrite(node, is_product)
            node.value = self._expression(node.value, is_factor=is_product)
            return [before, node]
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            node.value = self._inside(node.value)
        elif isinstance(node, (ast.If, ast.For)):
            node.body = self._statements(node.body)
            node.orelse = self._statements(node.orelse)
        return [node]

    def _overwrite(self, node: ast.AugAssign, is_product: bool) -> ast.stmt:
        number = self._number(node.target, is_factor=is_product, suffix=" before")
        target: ast.expr = node.target
        arguments: list[ast.expr] = [ast.Constant(number)]
        if isinstance(target, ast.Subscript):
            arguments += [_read(target.value), _read(target.slice)]
        else:
            arguments.append(_read(target))
        return ast.Expr(ast.Call(ast.Name(OVERWRITE, ast.Load()), arguments, []))

    def _expression(
        self, node: ast.expr, *, is_factor: bool = False, is_axis: bool = False
    ) -> ast.expr:
        if isinstance(node, ast.Constant) and not isinstance(node.value, float) and not is_axis:
            return node
        if isinstance(node, (ast.JoinedStr, ast.Starred, ast.Slice)):
            return node
        number = self._number(node, is_factor=is_factor, is_axis=is_axis)
        inner = node if is_axis else self._inside(node)
        return ast.Call(ast.Name(WRAP, ast.Load()), [ast.Constant(number), inner], [])

    def _number(self, node: ast.expr, suffix: str = "", **role: bool) -> int:
        text = ast.unparse(node) + suffix
        self._occurrences[text] += 1
        line = node.lineno - self._first_line + 1
        return self._instrument.add(
            Term(self._function, text, self._occurrences[text], line, **role)
        )

    def _inside(self, node: ast.expr) -> Any:
        """Wrap what ``node`` is made of."""
        if isinstance(node, ast.BinOp):
            is_product = isinstance(node.op, (ast.Mult, ast.Div))
            node.left = self._expression(node.left, is_factor=is_product)
            node.right = self._expression(node.right, is_factor=is_product)
        elif isinstance(node, ast.UnaryOp):
            node.operand = self._expression(node.operand)
        elif isinstance(node, (ast.Tuple, ast.List)):
            node.elts = [self._expression(element) for element in node.elts]
        elif isinstance(node, ast.Attribute) and node.attr not in METADATA:
            node.value = self._expression(node.value)
        elif isinstance(node, ast.Subscript):
            node.value = self._expression(node.value)
            if isinstance(node.slice, ast.Name):
                node.slice = self._expression(node.slice)
        elif isinstance(node, ast.ListComp):
            for generator in node.generators:
                generator.iter = self._expression(generator.iter)
            node.elt = self._expression(node.elt)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) != "get_xp":
            self._call(node)
        return node

    def _call(self, node: ast.Call) -> None:
        swaps = False
        if isinstance(node.func, ast.Attribute):
            if node.func.attr not in METADATA:
                node.func.value = self._expression(node.func.value)
            swaps = node.func.attr in ("swapaxes", "transpose")
        node.args = [self._expression(argument, is_axis=swaps) for argument in node.args]
        for keyword in node.keywords:
            keyword.value = self._expression(keyword.value, is_axis=keyword.arg == "axis")


def _read(target: ast.expr) -> ast.expr:
    """Return a copy of an assignment's target that is read in place of written."""
    copy = ast.parse(ast.unparse(target), mode="eval").body
    return ast.copy_location(copy, target)
