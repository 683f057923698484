"""ELECTRA pre-training, written by hand: see README.md for the map of the code."""

import os

__version__ = "0.1.0"

# OpenBLAS reads this when NumPy loads it. Its workers wait for the next product by spinning, for
# 2**26 cycles unless told otherwise: on a machine with other work to do, that took two thirds of
# a step (0.17 s in place of 0.5 s, tiny preset, two cores), and on a quiet one it gains nothing.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
