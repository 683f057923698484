"""ELECTRA pre-training, written by hand: see README.md for the map of the code."""

import time

__version__ = "0.1.0"

IMPORTED_AT = time.time_ns()  # before any other file of the package was read
