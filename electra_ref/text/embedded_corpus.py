"""The default corpus: the English documentation that every installation already has.

Sources: the help topics of Python's language reference (``pydoc_data/topics.py``) and the
docstrings of the standard library and of the numeric packages this project depends on. Both are
parsed with ``ast`` and never imported, so nothing is executed. Files are read in sorted order, so
the same installation gives the same text.

A document is one source file or one help topic. A sentence is one paragraph or one item of a list,
its wrapped lines joined, because a line of 79 columns seldom ends with a sentence. Code examples,
tables and headings are left out. Of equal paragraphs (numeric packages share many) only the first
is kept: otherwise text could be in the training part and in the held-out part.
"""

from __future__ import annotations

import ast
import inspect
import re
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

STDLIB = "python"
PACKAGES = ("numpy", "scipy", "sklearn", "numba")
SKIPPED_FOLDERS = frozenset(
    {"__pycache__", "dist-packages", "idlelib", "lib2to3", "site-packages", "test", "tests"}
)
FEWEST_WORDS = 5
FEWEST_LETTERS = 0.75  # of all characters but spaces; tables and formulas have fewer

_NO_PROSE = re.compile(
    r">>>|\.\.(?:\s|$)"  # doctest; its continuation, or a directive of reStructuredText
    r"|(?P<mark>[-=~^*+#_.`'\"])(?P=mark)+(?:\s|$)"  # the underline of a heading, a table's rule
)
_LIST_ITEM = re.compile(r"[-*+\u2022]\s+|\d+[.)]\s+|:\w[^:]*:\s|@\w+\s")
_LETTER = re.compile(r"[^\W\d_]")


def documentation_files() -> list[Path]:
    """Return the Python source files whose documentation is the default corpus, in reading order.

    Packages that are not installed are left out. No package is imported.
    """
    return [path for files in files_by_package().values() for path in files]


def files_by_package() -> dict[str, list[Path]]:
    """Return those files by the package they belong to; that of the standard library is STDLIB."""
    roots = {STDLIB: Path(sysconfig.get_path("stdlib"))}
    for name in PACKAGES:
        spec = find_spec(name)
        if spec is not None and spec.submodule_search_locations:
            roots[name] = Path(spec.submodule_search_locations[0])
    return {name: list(_source_files(root)) for name, root in roots.items()}


def _source_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if path.name not in SKIPPED_FOLDERS and not path.is_symlink():
                yield from _source_files(path)
        elif path.suffix == ".py" and path.is_file():  # no link to what is gone
            yield path


def read_documentation(files: Iterable[Path]) -> Iterator[list[str]]:
    """Yield one document (a list of sentences) for each file or help topic that has any prose.

    A file that cannot be read or is not valid Python (a template, the syntax of another version) is
    skipped: such files hold no documentation.
    """
    seen: set[str] = set()
    for path in files:
        for text in _documentation(path):
            sentences = [s for s in dict.fromkeys(sentences_of(text)) if s not in seen]
            seen.update(sentences)
            if sentences:
                yield sentences


def _documentation(path: Path) -> Iterator[str]:
    """Yield the texts of one source file: its topics, or all its docstrings as one text."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SyntaxWarning: invalid escapes in their strings
            module = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    if path.parts[-2:] == ("pydoc_data", "topics.py"):
        yield from _topics(module)
    else:
        yield "\n\n".join(docstrings(module))


def docstrings(node: ast.AST) -> Iterator[str]:
    """Yield the cleaned docstrings of a module, its classes and functions, in source order."""
    body = getattr(node, "body", [])
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node)
        if text:
            yield text
    for child in body if isinstance(body, list) else ():
        if hasattr(child, "body"):  # without a body it holds no definition
            yield from docstrings(child)


def _topics(module: ast.Module) -> Iterator[str]:
    """Yield the values of the dictionary ``topics``, each the text of one help topic."""
    for node in ast.walk(module):
        if isinstance(node, ast.Dict):
            for value in node.values:
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield inspect.cleandoc(value.value)


def sentences_of(text: str) -> list[str]:
    """Return the paragraphs and list items of ``text`` that are prose, each as one line."""
    blocks = groupby(text.splitlines(), key=lambda line: not line.strip())
    return [
        sentence
        for blank, lines in blocks
        if not blank
        for sentence in _paragraphs(list(lines))
        if _is_prose(sentence)
    ]


def _paragraphs(lines: list[str]) -> Iterator[str]:
    """Join the wrapped lines of a block; a new indent or a bullet starts a new paragraph.

    The block has no blank lines. What follows a doctest prompt is its output and is dropped.
    """
    paragraph: list[str] = []
    indent = 0
    for line in lines:
        words = " ".join(line.split())
        if words.startswith(">>>"):
            break
        bullet = _LIST_ITEM.match(words)
        depth = len(line) - len(line.lstrip())
        if bullet or depth != indent or _NO_PROSE.match(words):
            yield " ".join(paragraph)
            paragraph = []
            # The second line of a list item is indented like the words after its bullet.
            indent = depth + (bullet.end() if bullet else 0)
        if not _NO_PROSE.match(words):
            paragraph.append(words[bullet.end() :] if bullet else words)
    yield " ".join(paragraph)


def _is_prose(sentence: str) -> bool:
    visible = len(sentence) - sentence.count(" ")
    return (
        sentence.count(" ") + 1 >= FEWEST_WORDS
        and len(_LETTER.findall(sentence)) >= FEWEST_LETTERS * visible
    )
