"""The tests of electra_ref, in a process that is prepared as a command prepares its own.

Kernels of bfloat16 are tested on every processor: where numba's target lacks the instructions they
are built from, ``plain_instructions`` is imported in place of the module that emits them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

from electra_ref.process import prepare_process

INSTRUCTIONS = "electra_ref.backends.cpu.bfloat16.instructions"
PLAIN = Path(__file__).with_name("plain_instructions.py")


class PlainInstructions(MetaPathFinder):
    """Finds plain instructions where the processor has none of its own.

    They are imported under the name of the real ones, so that the stamp of a cached kernel, which
    is made from the files of the modules that it is compiled from, takes in the right file.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return where ``INSTRUCTIONS`` is found; None leaves the search to others."""
        del path, target
        if fullname != INSTRUCTIONS:
            return None
        from electra_ref.backends.cpu.processor import has_feature  # noqa: PLC0415  (loads numba)

        return None if has_feature("avx512bf16") else spec_from_file_location(fullname, PLAIN)


prepare_process()
sys.meta_path.insert(0, PlainInstructions())
