"""Hypothesis profiles, the reason printed for every skipped GPU test, and a fixture for speed."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("everyday", max_examples=10, deadline=None)
settings.register_profile(
    "ci", max_examples=50, deadline=None, derandomize=True, print_blob=True, database=None
)
settings.register_profile("campaign", max_examples=5000, deadline=None, print_blob=True)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "everyday")
)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked ``gpu`` where there is none, and say why."""
    if item.get_closest_marker("gpu"):
        from electra_ref.backends import why_no_gpu  # noqa: PLC0415  (imports CuPy)

        missing = why_no_gpu()
        if missing is not None:
            pytest.skip(f"no GPU: {missing}")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compute on one thread and do not wait for the disk: many small runs take a moment each."""
    import numba  # noqa: PLC0415  (slow to import)

    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    yield
    numba.set_num_threads(threads)
