from __future__ import annotations

import importlib
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba.extending import is_jitted

import electra_ref
from electra_ref.compilation import ACCURATE_FAST_MATH, jit

KERNEL = "from electra_ref.compilation import jit\n@jit()\ndef triple(x):\n    return 3 * x\n"
SUM_OF_PRODUCTS = """
@jit(fastmath=flags)
def sum_of_products(x, y):
    total = x[0] * y[0]
    for i in range(1, x.size):
        total += x[i] * y[i]
    return total
"""
ROOT = Path(__file__).parents[1]


def run_python(code: str, **environment: str) -> str:
    """Run ``code`` in a new interpreter, with no variable for numba or threads but those given."""
    ours = "NUMBA_", "OMP_", "GOMP_", "OPENBLAS_"
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    result = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", code],
        env={**inherited, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_importing_the_package_does_not_import_numba() -> None:
    assert run_python("import sys, electra_ref; print('numba' in sys.modules)") == "False"


def test_two_threads_may_run_parallel_kernels_at_once() -> None:
    pytest.importorskip("numba.np.ufunc.omppool")
    code = """
import concurrent.futures
from electra_ref.process import prepare_process
prepare_process()  # OpenMP's threads: numba's own layer cannot be shared
from electra_ref.rng import RandomStream, random_words
def draw(seed):
    return [random_words(RandomStream(seed, 1, step), 5, 5000) for step in range(50)]
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    together = list(pool.map(draw, range(4)))
assert all((a == b).all() for drawn, again in zip(together, map(draw, range(4)))
           for a, b in zip(drawn, again))
"""
    run_python(code)


def test_kernels_are_cached_on_disk(tmp_path: Path) -> None:
    (tmp_path / "kernel.py").write_text(KERNEL)
    code = f"import sys; sys.path.append({str(tmp_path)!r})\nimport kernel\nprint(kernel.triple(2))"
    assert run_python(code) == "6"
    assert list((tmp_path / "__pycache__").glob("*/kernel.triple-*.kernel"))


def test_a_compilation_is_announced_once_and_none_where_the_cache_has_it(tmp_path: Path) -> None:
    (tmp_path / "kernel.py").write_text(KERNEL)
    code = (
        f"import sys; sys.path.append({str(tmp_path)!r})\nimport kernel\n"
        "from electra_ref.compilation import before_first_compilation\n"
        "with before_first_compilation(lambda: print('compiling')):\n"
        "    kernel.triple(2), kernel.triple(2.0)\n"
        "kernel.triple(2j)"
    )
    assert run_python(code) == "compiling"
    assert run_python(code) == ""


def test_kernels_compile_where_no_cache_folder_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "kernel.py").write_text(KERNEL)
    (tmp_path / "__pycache__").write_text("a file where the cache folder would be")
    code = f"import sys; sys.path.append({str(tmp_path)!r})\nimport kernel\nprint(kernel.triple(2))"
    assert run_python(code, HOME="/dev/null", XDG_CACHE_HOME="/dev/null/cache") == "6"


@pytest.mark.slow
def test_kernels_compile_where_the_path_of_their_source_is_no_utf_8(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "kernel.py").write_text(KERNEL)
    code = "import kernel; print(kernel.triple(2))"
    path = f"{ROOT}{os.pathsep}{folder}"
    assert run_python(code, PYTHONPATH=path, NUMBA_CACHE_DIR=str(tmp_path / "cache")) == "6"


def test_kernels_without_a_source_file_compile() -> None:
    names: dict[str, Any] = {}
    exec(compile(KERNEL, "<string>", "exec"), names)
    assert names["triple"](2) == 6


@pytest.mark.parametrize("flag", ["nnan", "ninf", "fast"])
def test_fast_math_that_loses_nan_and_infinity_is_refused(flag: str) -> None:
    with pytest.raises(ValueError, match=flag):
        jit(fastmath={"contract", flag})


def kernels() -> Iterator[tuple[str, Any]]:
    """Yield every function of the package that numba compiles, and its name."""
    for info in pkgutil.walk_packages(electra_ref.__path__, "electra_ref."):
        for name, value in vars(importlib.import_module(info.name)).items():
            if is_jitted(value) and value.__module__ == info.name:
                yield f"{info.name}.{name}", value


def test_no_kernel_assumes_that_there_is_no_nan_or_infinity() -> None:
    """Neither in the flags it asks for, nor in what LLVM makes of any that has been compiled."""
    found = dict(kernels())
    assert len(found) > 40
    for name, kernel in found.items():
        flags = kernel.targetoptions.get("fastmath", set())
        assert flags is not True, name
        assert set(flags or ()) <= ACCURATE_FAST_MATH, name


def test_fast_math_reaches_the_compiled_code_without_nnan_and_ninf() -> None:
    """Of a kernel without a source file: numba does not show code that comes from its cache."""
    names: dict[str, Any] = {"jit": jit, "flags": ACCURATE_FAST_MATH}
    exec(compile(SUM_OF_PRODUCTS, "<string>", "exec"), names)
    names["sum_of_products"](np.ones(3, np.float32), np.ones(3, np.float32))
    (code,) = names["sum_of_products"].inspect_llvm().values()
    products = re.findall("= fmul (.*)<", code)
    assert products
    for flags in products:
        assert set(flags.split()) == ACCURATE_FAST_MATH


def test_kernels_give_the_same_integers_without_compilation() -> None:
    code = """
import numpy as np
from electra_ref.batch import Batch, SpecialTokens
from electra_ref.gumbel import _logarithm, gumbel_noise
from electra_ref.masking import mask_tokens, mask_tokens_reference
from electra_ref.rng import *
from electra_ref.sampling import sample_tokens, sample_tokens_reference
stream = RandomStream(2**64 - 1, EVALUATION, 2**32 - 1, 2**32 - 3)
assert (random_words(stream, 3, 9) == random_words_reference(stream, 3, 9)).all()
assert (shuffled([0, 5, 299], 300, 2, 3) == shuffled_reference([0, 5, 299], 300, 2, 3)).all()
ids = np.arange(5, 65, dtype=np.int32).reshape(3, 20)
batch = Batch(ids, ids * 0, ids < 60)
pair = [f(batch, SpecialTokens(0, 1, 2, 3, 4), 0.15, stream)[1:] for f in
        (mask_tokens, mask_tokens_reference)]
assert all((a == b).all() for a, b in zip(*pair))
logits = np.random.default_rng(0).standard_normal((6, 300)) * 9
a, b = (f(logits, 0.7, stream, 2) for f in (sample_tokens, sample_tokens_reference))
assert (a == b).all()
words = random_words_reference(stream.of(Purpose.GUMBEL), 2, 12).reshape(2, 12)[:, :9]
noise = -_logarithm(-_logarithm((words + 0.5) / 2**32))
assert (gumbel_noise(stream, 2, 1, 9, np.float64) == noise).all()
print("equal")
"""
    assert run_python(code, NUMBA_DISABLE_JIT="1") == "equal"
