"""Write the files of ``tests/data``: run ``python -m tests.make_fixtures`` (extra: oracle).

``tests.oracle.fixture_files`` describes them. Models and batches are drawn from fixed seeds, so the
same machine with the same versions writes the same files.
"""

from __future__ import annotations

import platform

import numpy as np
import torch
import transformers

from tests.oracle.cases import SMALL_SIZES, STEPS, case_config, draw_corrupted_batch
from tests.oracle.fixture_files import FOLDER, Fixture, write_fixture
from tests.oracle.joint_model import answer
from tests.oracle.reference_model import draw_parameters

SCALE = 0.2  # of the parameters: far from the start of a training, where much is nearly linear


def make_fixture(size: str) -> Fixture:
    """Draw a model of ``size`` and its batches, and let Hugging Face's classes answer."""
    config = case_config(size)
    parameters = draw_parameters(config, SCALE, seed=1)
    batches = [draw_corrupted_batch(config, seed) for seed in range(STEPS)]
    versions = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
    }
    return Fixture(versions, config, parameters, batches, answer(config, parameters, batches))


def main() -> None:
    """Write every file and print its size."""
    FOLDER.mkdir(exist_ok=True)
    for size in SMALL_SIZES:
        write_fixture(FOLDER, size, make_fixture(size))
    for path in sorted(FOLDER.glob("electra_*")):
        print(f"{path.stat().st_size:8,} bytes  {path.name}")


if __name__ == "__main__":
    main()
