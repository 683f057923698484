"""Timings, each a command: ``python -m benchmarks.<name>``. None of them is a test.

``electra_ref`` sets environment variables for its own kernels. Rivals must not inherit them. So the
names of the variables from outside are kept here, before ``electra_ref`` is imported.
"""

from __future__ import annotations

import os

FROM_OUTSIDE = frozenset(os.environ)
