"""What a run ran on: versions for the reader, and the fingerprint that decides its exact bits.

A float32 matrix product changes its last bits with the BLAS build, the kernels it picks for the
processor and the number of threads (one thread and two differ in OpenBLAS). A resumed run therefore
equals the uninterrupted one bit for bit only if the fingerprint of both is the same. The products
of the CPU backend are our own, and give the same bits on any number of threads.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from electra_ref.processes import usable_cores

_PACKAGES = ("numpy", "numba", "llvmlite", "scipy", "regex", "safetensors")
_GPU_PACKAGES = ("cupy-cuda13x", "cupy-cuda12x")
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
)  # of BLAS: numba's threads change no bit
_KERNEL_VARIABLES = (
    "OPENBLAS_CORETYPE",
    "MKL_CBWR",
    "NPY_DISABLE_CPU_FEATURES",
    "NUMBA_CPU_NAME",
    "NUMBA_CPU_FEATURES",
    "NUMBA_DISABLE_JIT",
)


def describe_environment(*, device: str, precision: str, backend: str) -> dict[str, Any]:
    """Return plain JSON for ``environment.json``; its ``fingerprint`` is what decides the bits."""
    calls_blas = not backend.startswith("cpu")
    threads = {"cores": len(usable_cores())} if calls_blas else {}
    names = _KERNEL_VARIABLES + (_THREAD_VARIABLES if calls_blas else ())
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "git_commit": _git_commit(Path(__file__).resolve().parents[2]),
        "fingerprint": {
            "device": device,
            "precision": precision,
            "backend": backend,
            "packages": _package_versions(_PACKAGES + (_GPU_PACKAGES if device == "gpu" else ())),
            "blas": _blas(),
            "cpu": _cpu_model(),
            "cpu_features": _simd_extensions(),
            **threads,
            "variables": {name: os.environ[name] for name in names if name in os.environ},
        },
    }


def facts_of(environment: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, str]:
    """Return what must be the same in all processes of a run: versions, processor, settings."""
    versions = {key: environment[key] for key in ("python", "git_commit")}
    facts = {**versions, **environment["fingerprint"], **config}
    return {key: str(value) for key, value in facts.items()}


def fingerprint_changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return one line for each entry that differs, such as "cores: 2 then, 4 now".

    What ``now`` does not name decides nothing, though ``then`` may have named it.
    """
    before, after = then.get("fingerprint") or {}, now.get("fingerprint") or {}
    return [
        f"{key}: {before.get(key)} then, {after[key]} now"
        for key in sorted(after)
        if before.get(key) != after[key]
    ]


def _package_versions(names: Iterable[str]) -> dict[str, str]:
    """Return installed versions by name, from the packages' metadata; import nothing."""
    versions = {}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _blas() -> dict[str, str]:
    configuration: Any = np.show_config(mode="dicts")  # type: ignore[call-overload, unused-ignore]
    blas = configuration.get("Build Dependencies", {}).get("blas", {})
    keys = ("name", "version", "openblas configuration")
    return {key: str(blas[key]) for key in keys if key in blas}


def _simd_extensions() -> list[str]:
    """Return the extensions of this processor that NumPy was built to use."""
    configuration: Any = np.show_config(mode="dicts")  # type: ignore[call-overload, unused-ignore]
    extensions = configuration.get("SIMD Extensions", {})
    return [*extensions.get("baseline", []), *extensions.get("found", [])]


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _git_commit(checkout: Path) -> str | None:
    """Return the commit of ``checkout``, read from its files; None for an installed package."""
    git = checkout / ".git"
    try:
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref: "):
            return head
        reference = head.removeprefix("ref: ")
        if (git / reference).exists():
            return (git / reference).read_text(encoding="utf-8").strip()
        for line in (git / "packed-refs").read_text(encoding="utf-8").splitlines():
            commit, _, name = line.partition(" ")
            if name == reference:
                return commit
    except (OSError, UnicodeDecodeError):
        pass
    return None
