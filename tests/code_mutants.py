"""Small mistakes in any code: what the mutants of a campaign are.

A mutant is one change of a module's syntax tree: another operator, a constant that is off by one, a
comparison turned round, an argument dropped or swapped with its neighbour, a call, a branch or a
statement left out. Its name is the module, the function, the code before and after, and a number
where that occurs more than once: no line numbers, so that an edit elsewhere changes no name.

Left alone are annotations, docstrings, assertions, what is raised (but not whether), and texts with
a space in them, which are written for people. ``mutants`` has the operators for gradients.

Method: Jia and Harman 2011, "An Analysis and Survey of the Development of Mutation Testing", IEEE
Transactions on Software Engineering 37(5).
"""

from __future__ import annotations

import ast
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from tests.mutation_operators import replacements

UNTOUCHED = ("annotation", "returns", "decorator_list", "type_params", "ctx", "format_spec")
SKIPPED = (ast.Import, ast.ImportFrom, ast.Assert, ast.Global, ast.Nonlocal)
TYPE_NAME = re.compile(r"__\w+__|_?[A-Z](\w*[a-z]\w*)?")  # of an alias, in CamelCase
CONTEXT = 30  # characters shown around a change
PARTS = (ast.Constant, ast.operator, ast.cmpop, ast.boolop)  # shown with what they are part of


class Place(NamedTuple):
    """Where a node hangs in the tree: a field of another, or an element of that field."""

    parent: ast.AST
    field: str
    element: int | None  # if the field is a list

    def put(self, node: ast.AST) -> None:
        """Hang ``node`` there."""
        if self.element is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.element] = node


class Mutant(NamedTuple):
    """One change of one module."""

    module: str
    function: str  # qualified name; empty for what runs when the module is imported
    change: str  # "before -> after", with a number from the second such change on
    statement: int | None  # among those of ``mark_statements``; None outside of functions
    place: Place
    new: ast.AST
    tree: ast.Module

    @property
    def name(self) -> str:
        """Return what reports and the list of equivalent mutants call it."""
        module = self.module.removeprefix("electra_ref.")
        return f"{'.'.join(filter(None, (module, self.function)))}: {self.change}"


def find_mutants(module: str, tree: ast.Module) -> list[Mutant]:
    """Return all mutants of ``tree``, in source order; the tree stays as it is."""
    finder = _Finder(module, tree)
    finder.visit_all()
    return finder.found


def apply(mutant: Mutant) -> ast.Module:
    """Change the tree that ``mutant`` was found in, for good, and return it."""
    mutant.place.put(mutant.new)
    return ast.fix_missing_locations(mutant.tree)


def statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield the statements inside functions, docstrings apart."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            for node in _own_nodes(function):
                if isinstance(node, ast.stmt) and not is_docstring(node):
                    yield node


def _own_nodes(function: ast.FunctionDef) -> Iterator[ast.AST]:
    """Yield the nodes of a function's body, but not those of functions defined in it."""
    waiting: list[ast.AST] = list(function.body)
    for node in waiting:
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            waiting += ast.iter_child_nodes(node)


def mark_statements(tree: ast.Module, call: str) -> None:
    """Call ``call(number)`` before every one of ``statements``."""
    marks = {id(node): i for i, node in enumerate(list(statements(tree)))}
    for node in list(ast.walk(tree)):
        for field in ("body", "orelse", "finalbody"):
            block = getattr(node, field, None)
            if isinstance(block, list):
                setattr(node, field, [new for old in block for new in _marked(old, marks, call)])


def _marked(node: ast.stmt, marks: dict[int, int], call: str) -> list[ast.stmt]:
    if id(node) not in marks:
        return [node]
    mark = ast.Expr(ast.Call(ast.Name(call, ast.Load()), [ast.Constant(marks[id(node)])], []))
    return [ast.fix_missing_locations(ast.copy_location(mark, node)), node]


def is_docstring(node: ast.AST) -> bool:
    """Return whether ``node`` is a statement that is nothing but a text."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


class _Finder:
    """Goes through a tree and notes what can be changed."""

    def __init__(self, module: str, tree: ast.Module) -> None:
        self.found: list[Mutant] = []
        self._module, self._tree = module, tree
        self._numbers = {id(node): i for i, node in enumerate(statements(tree))}
        self._seen: Counter[tuple[str, str]] = Counter()
        self._function = ""
        self._statement: int | None = None
        self._imported: set[str] = set()  # names of modules, such as np

    def visit_all(self) -> None:
        """Go through the module."""
        for node, place in _parts(self._tree):
            self._visit(node, place)

    def _visit(self, node: ast.AST, place: Place) -> None:
        if isinstance(node, ast.Import):
            self._imported |= {name.asname or name.name for name in node.names}
        if isinstance(node, SKIPPED) or is_docstring(node) or _is_for_tools(node):
            return
        around = self._function, self._statement
        if isinstance(node, ast.stmt):
            self._statement = self._numbers.get(id(node))
        for new in replacements(node, self._imported):
            self._add(place, node, new)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            self._function = ".".join(filter(None, (self._function, node.name)))
        for inner, inner_place in _parts(node):
            self._visit(inner, inner_place)
        self._function, self._statement = around

    def _add(self, place: Place, old: ast.AST, new: ast.AST) -> None:
        """Note that ``new`` can take the place of ``old``, unless it reads the same."""
        shown = place.parent if isinstance(old, PARTS) else old
        before = _text(shown)
        place.put(new)
        after = _text(place.parent if isinstance(old, PARTS) else new)
        place.put(old)
        if before == after:
            return
        change = _without_ends(before, after)
        self._seen[self._function, change] += 1
        if (count := self._seen[self._function, change]) > 1:
            change += f" #{count}"
        where = self._module, self._function, change, self._statement
        self.found.append(Mutant(*where, place, new, self._tree))


def _parts(node: ast.AST) -> Iterator[tuple[ast.AST, Place]]:
    """Yield what ``node`` is made of, where that may be changed."""
    if isinstance(node, ast.Raise) or _calls(node, "cast", "TypeVar"):
        return
    for field, value in ast.iter_fields(node):
        if field in UNTOUCHED:
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            is_text = isinstance(node, ast.JoinedStr) and isinstance(child, ast.Constant)
            if isinstance(child, ast.AST) and not is_text:
                yield child, Place(node, field, index)


def _text(node: ast.AST) -> str:
    """Return the source of ``node``; of a statement with a body its first line only."""
    match node:
        case ast.Pass():
            return "nothing"
        case ast.Raise(exc=ast.Call(func=function)):
            return f"raise {ast.unparse(function)}"
        case ast.arguments():
            return "defaults " + ", ".join(
                map(ast.unparse, [*node.defaults, *filter(None, node.kw_defaults)])
            )
    return ast.unparse(node).strip().splitlines()[0]


def _calls(node: ast.AST, *names: str) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) in names


def _is_for_tools(node: ast.AST) -> bool:
    """Return whether ``node`` assigns ``__all__`` and the like, names a type, or compiles."""
    if not isinstance(node, ast.Assign):
        return False
    if ast.unparse(node.value).startswith("jit("):
        return True
    return TYPE_NAME.fullmatch(ast.unparse(node.targets[0])) is not None


def _without_ends(before: str, after: str) -> str:
    """Return "before -> after"; long beginnings and ends that are equal are cut."""
    start = _common(before, after)
    end = _common(before[start:][::-1], after[start:][::-1])
    first, last = max(start - CONTEXT, 0), max(end - CONTEXT, 0)
    shown = [
        f"{'...' * (first > 0)}{text[first : len(text) - last]}{'...' * (last > 0)}"
        for text in (before, after)
    ]
    return " -> ".join(shown)


def _common(one: str, other: str) -> int:
    """Return how many characters the two begin with in common."""
    return sum(
        1
        for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    )
