"""The default corpus: only prose, no sentence twice, no package imported, no warning."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from electra_ref.text import embedded_corpus
from electra_ref.text.embedded_corpus import (
    documentation_files,
    read_documentation,
    sentences_of,
)

MODULE = r'''
"""Module of the module, told in one long
sentence that is wrapped.

This paragraph stands in two places of the corpus.
"""

PATTERN = "\d is an escape that Python warns about"

if True:
    class Outer:
        """The class that is defined inside a branch."""

        async def method(self):
            """Return what the method of the class returns.

            >>> Outer().method()
            an output that looks like prose but is none

            Parameters
            ----------
            name : str
                The name of something, explained in a text
                that takes two lines.
            """
            def inner():
                """Return the value of the innermost function."""

def short():
    """Too short."""
'''

TOPICS = r"""
topics = {'a': 'The first topic is about the first thing.\n'
               '\n'
               'It goes on over two\n'
               'lines of plain text.\n',
          'b': 'This paragraph stands in two places of the corpus.'}
"""


def write_sources(folder: Path) -> list[Path]:
    (folder / "pydoc_data").mkdir()
    paths = [folder / "pydoc_data/topics.py", folder / "module.py", folder / "broken.py"]
    for path, text in zip(paths, [TOPICS, MODULE, "def ("], strict=True):
        path.write_text(text)
    return [*paths, folder / "missing.py"]


def test_documents_are_the_prose_of_each_file_once(tmp_path: Path) -> None:
    assert list(read_documentation(write_sources(tmp_path))) == [
        ["The first topic is about the first thing.", "It goes on over two lines of plain text."],
        ["This paragraph stands in two places of the corpus."],
        [
            "Module of the module, told in one long sentence that is wrapped.",
            "The class that is defined inside a branch.",
            "Return what the method of the class returns.",
            "The name of something, explained in a text that takes two lines.",
            "Return the value of the innermost function.",
        ],
    ]


def test_paragraphs_are_joined_and_everything_else_is_dropped() -> None:
    text = """\
    A Heading Of Five Whole Words
    =============================
    - The first item of a list goes on
      in the next line.
    - The second item is a sentence of its own.

    1.0   2.0   3.0   4.0   5.0   6.0
    f(x) = (a + b) * (c + d) / (e - f) ** 2

    Text that follows the table, and ends here.
        An indented explanation   with wide gaps.
    """
    assert sentences_of(text) == [
        "A Heading Of Five Whole Words",
        "The first item of a list goes on in the next line.",
        "The second item is a sentence of its own.",
        "Text that follows the table, and ends here.",
        "An indented explanation with wide gaps.",
    ]


def test_the_installation_has_documentation() -> None:
    files = documentation_files()
    names = {path.name for path in files}
    assert {"topics.py", "argparse.py", "_methods.py"} <= names
    assert len(set(files)) == len(files)
    assert not any({"test", "tests"} & set(path.parts[-3:-1]) for path in files)
    sample = [path for path in files if path.name in {"topics.py", "argparse.py", "heapq.py"}]
    documents = list(read_documentation(sample))
    assert documents == list(read_documentation(sample))
    assert len(documents) > 50
    assert sum(len(sentence) for document in documents for sentence in document) > 100_000


def test_tests_caches_and_packages_installed_beside_are_left_out(tmp_path: Path) -> None:
    skipped = [
        "__pycache__",
        "dist-packages",
        "idlelib",
        "lib2to3",
        "site-packages",
        "test",
        "tests",
    ]
    for folder in (*skipped, "testing", "."):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "module.py").touch()
    (tmp_path / "link").symlink_to(tmp_path / "testing")
    (tmp_path / ".#module.py").symlink_to("user@host.1234")  # as an editor leaves it
    (tmp_path / "data.txt").touch()
    found = [path.relative_to(tmp_path) for path in embedded_corpus._source_files(tmp_path)]
    assert found == [Path("module.py"), Path("testing/module.py")]


def test_nothing_is_imported_to_be_read() -> None:
    script = (
        "import sys\n"
        "from electra_ref.text.embedded_corpus import documentation_files, read_documentation\n"
        "files = [p for p in documentation_files() if p.name in ('__init__.py', 'topics.py')]\n"
        "documents = list(read_documentation(files))\n"
        "print(len(documents), [m for m in ('numpy', 'scipy', 'numba', 'sklearn', 'pydoc_data')\n"
        "                       if m in sys.modules])\n"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True
    )
    count, imported = result.stdout.split(maxsplit=1)
    assert int(count) > 100
    assert imported.strip() == "[]"


@pytest.mark.slow
def test_the_whole_corpus_is_large_and_says_nothing_twice() -> None:
    documents = list(read_documentation(documentation_files()))
    sentences = [sentence for document in documents for sentence in document]
    assert len(documents) > 500
    assert sum(map(len, sentences)) > 4_000_000
    assert len(set(sentences)) == len(sentences)
    assert not any("\n" in sentence or "  " in sentence for sentence in sentences)
