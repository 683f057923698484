"""Kernels suit the processor that numba compiles for, which may be told to do with less."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from electra_ref.backends.cpu.processor import has_feature
from tests.test_compilation import run_python

TILE = """
import llvmlite.binding
features = llvmlite.binding.get_host_cpu_features()
features["avx512f"] = {has_avx512}
llvmlite.binding.get_host_cpu_features = lambda: features
from electra_ref.backends.cpu.register_tile import COLUMNS, LANES, ROWS
print(LANES, ROWS, COLUMNS)
"""


@pytest.mark.parametrize(
    ("has_avx512", "told", "tile"),
    [
        (True, {}, "16 6 64"),
        pytest.param(True, {"NUMBA_CPU_NAME": "generic"}, "8 6 16", marks=pytest.mark.slow),
        (True, {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma"}, "8 6 16"),
        pytest.param(
            False, {"NUMBA_CPU_FEATURES": "+avx2,+avx512f"}, "16 6 64", marks=pytest.mark.slow
        ),
        (False, {}, "8 6 16"),
    ],
    ids=str,
)
def test_the_tile_of_float32_fits_the_registers_of_the_target(
    has_avx512: bool, told: dict[str, str], tile: str
) -> None:
    """Whatever the processor has that runs this."""
    assert run_python(TILE.format(has_avx512=has_avx512), **told) == tile


@pytest.mark.parametrize(
    ("feature", "flag"), [("avx2", "avx2"), ("avx512f", "avx512f"), ("avx512bf16", "avx512_bf16")]
)
def test_features_are_those_of_the_processor_unless_numba_is_told_otherwise(
    feature: str, flag: str
) -> None:
    """Linux names what the processor has."""
    information = Path("/proc/cpuinfo")
    if not information.exists() or {"NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"} & set(os.environ):
        pytest.skip("no /proc/cpuinfo, or numba compiles for another processor")
    assert has_feature(feature) == (flag in information.read_text().split())
