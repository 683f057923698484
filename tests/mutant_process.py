"""What happens in one process of a mutant campaign: modules changed on import, then pytest.

Nothing of the package has been imported before. ``record`` runs tests on modules that note which
statements run; ``judge`` runs tests on a module with a mutant. Both expect a process of their own.
"""

from __future__ import annotations

import ast
import copy
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Generator, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, settings
from numba.core import caching as _caching

from tests.code_mutants import mark_statements

caching: Any = _caching  # numba types it in part only

MARK = "_mark_statement"
TEST_SECONDS = 3.0  # a test that takes longer on the real code is no judge
WAIT_SECONDS = 20.0  # by the clock, and not of processor time: for other processes, or forever
IMPORT_SECONDS = 20.0
PATIENCE = 5.0  # times what a test took before, and seconds on top
PROFILE, EXAMPLES = "mutants", 25
UNSTEADY = (
    "time_grows",
    "memory_does_not_grow",
    "memory_of_a",
)  # in the names of tests that depend on other processes
OPTIONS = (
    "-q",
    "--tb=no",
    "-p",
    "no:cacheprovider",
    "-W",
    "ignore::pytest.PytestAssertRewriteWarning",
)
PLAIN_JIT = ast.parse("jit = lambda **_: lambda function: function").body[0]

Statements = dict[str, set[int]]  # by module


class Judge(NamedTuple):
    """A test, and what it ran."""

    test: str
    seconds: float  # of processor time
    statements: Statements


def record(trees: Mapping[str, ast.Module], files: Sequence[str], folder: Path) -> list[Judge]:
    """Run the tests of ``files`` on the modules ``trees``, and return those that pass in time."""
    reached: Statements = {module: set() for module in trees}
    for tree in trees.values():
        mark_statements(tree, MARK)
    marks = {module: {MARK: numbers.add} for module, numbers in reached.items()}
    sys.meta_path.insert(0, _Importer(trees, marks))
    recorder = _Recorder(reached)
    _run_tests(files, folder, recorder)
    return recorder.judges


def judge(module: str, tree: ast.Module, judges: Sequence[Judge], folder: Path) -> str:
    """Run ``judges``, in their order, on ``tree`` in the place of ``module``.

    Return the name of the test that failed first, "import" if a test file could not be imported,
    and nothing if all passed.
    """
    caching.FunctionCache.save_overload = lambda *_: None  # kernels of a mutant are for nobody else
    sys.meta_path.insert(0, _Importer({module: tree}, {module: {}}))
    _set_timers(IMPORT_SECONDS)
    bench = _Bench(judges)
    files = list(dict.fromkeys(judge.test.partition("::")[0] for judge in judges))
    outcome = _run_tests(files, folder, bench, "-x")
    if outcome in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        return ""
    return bench.failed or "import"


def _run_tests(
    files: Sequence[str], folder: Path, plugin: object, *options: str
) -> int | pytest.ExitCode:
    """Run pytest, with all that it writes in ``folder``, also what a mutant puts anywhere."""
    settings.register_profile(
        PROFILE,
        max_examples=EXAMPLES,
        phases=[Phase.explicit, Phase.generate],
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    os.environ.update(
        HYPOTHESIS_PROFILE=PROFILE,
        PYTEST_DISABLE_PLUGIN_AUTOLOAD="1",
        XDG_CACHE_HOME=str(folder / "cache"),
    )
    paths = [os.path.abspath(file) for file in files]
    os.chdir(folder)
    temporary = f"--basetemp={folder / 'tests'}"
    return pytest.main([*OPTIONS, *options, temporary, *paths], plugins=[plugin])


class _Importer:
    """Imports some modules from syntax trees, with some names already set."""

    def __init__(
        self, trees: Mapping[str, ast.Module], names: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self._trees, self._names = trees, names

    def find_spec(self, name: str, path: Any, _target: Any = None) -> ModuleSpec | None:
        """Find one of the modules; others are left to Python."""
        if name not in self._trees:
            return None
        spec = PathFinder.find_spec(name, path)
        assert spec is not None
        assert spec.origin is not None
        spec.loader = _Loader(name, spec.origin, self._trees[name], self._names[name])
        return spec


class _Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, tree: ast.Module, names: Mapping[str, Any]) -> None:
        super().__init__(name, path)
        self._tree, self._names = tree, names

    def get_code(self, _fullname: str) -> CodeType:
        """Compile the tree; what ``jit`` decorates stays plain Python."""
        tree = copy.copy(self._tree)
        tree.body = []
        for node in self._tree.body:
            tree.body.append(node)
            if isinstance(node, ast.ImportFrom) and any(name.name == "jit" for name in node.names):
                tree.body.append(PLAIN_JIT)
        return compile(tree, self.path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code."""
        vars(module).update(self._names)
        super().exec_module(module)


class _Recorder:
    """Notes what each test runs, also through fixtures that it shares with others."""

    def __init__(self, reached: Statements) -> None:
        self.judges: list[Judge] = []
        self._reached = reached
        self._of_imports: Statements = {}
        self._of_fixtures: defaultdict[str, list[Statements]] = defaultdict(list)
        self._passed = False

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out tests that may fail by themselves."""
        items[:] = [item for item in items if not any(name in item.name for name in UNSTEADY)]
        self._of_imports = self._take()

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, Any, Any]:
        """Note what a fixture runs for all tests that ask for it."""
        before = self._take()
        result = yield
        own = self._take()
        self._of_fixtures[fixturedef.argname].append(own)
        self._put(before)
        self._put(own)
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Note what a test runs, and how long that takes."""
        self._take()
        self._passed = True
        for number in (signal.SIGPROF, signal.SIGALRM):
            signal.signal(number, _stop)
        _set_timers(TEST_SECONDS)
        start = time.process_time()
        result = yield
        _set_timers(0.0)
        seconds = time.process_time() - start
        self._put(self._of_imports)
        for fixture in getattr(item, "fixturenames", ()):
            for statements in self._of_fixtures[fixture]:
                self._put(statements)
        if self._passed and seconds < TEST_SECONDS:
            self.judges.append(Judge(item.nodeid, seconds, self._take()))
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note whether all parts of a test passed."""
        self._passed &= report.passed

    def _take(self) -> Statements:
        taken = {module: set(numbers) for module, numbers in self._reached.items() if numbers}
        for numbers in self._reached.values():
            numbers.clear()
        return taken

    def _put(self, statements: Statements) -> None:
        for module, numbers in statements.items():
            self._reached[module] |= numbers


class _TooSlowError(BaseException):
    """Ends a test; Hypothesis does not take it for a failure to look into."""


def _stop(*_: Any) -> None:
    raise _TooSlowError


def _set_timers(seconds: float) -> None:
    """Have a signal sent after ``seconds`` of processor time, or some time by the clock."""
    wait = WAIT_SECONDS if seconds else 0.0
    signal.setitimer(signal.ITIMER_PROF, seconds, seconds)
    signal.setitimer(signal.ITIMER_REAL, wait + seconds, wait + seconds)


class _Bench:
    """Runs chosen tests in a given order, none of them for too long."""

    def __init__(self, judges: Sequence[Judge]) -> None:
        self._seconds = {judge.test: judge.seconds for judge in judges}
        self.failed = ""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Choose and sort the tests."""
        place = {test: i for i, test in enumerate(self._seconds)}
        chosen = [item for item in items if item.nodeid in place]
        items[:] = sorted(chosen, key=lambda item: place[item.nodeid])

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Have the process end if the test takes too long."""
        _set_timers(PATIENCE + PATIENCE * self._seconds[nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what failed."""
        if report.failed:
            self.failed = report.nodeid
