"""What the processor can do that kernels are compiled for."""

from __future__ import annotations

from numba.core.registry import cpu_target


def has_feature(name: str) -> bool:
    """Tell whether numba compiles for a processor with the feature that LLVM calls ``name``.

    This asks numba's target, so NUMBA_CPU_NAME and NUMBA_CPU_FEATURES are respected. The target is
    also part of the key of numba's disk cache: a cache folder that processors share never hands
    code to one that cannot run it.
    """
    _triple, _name, features = cpu_target.target_context.codegen().magic_tuple()
    return f"+{name}" in features.split(",")
