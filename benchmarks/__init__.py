"""Timings, each a command: ``python -m benchmarks.<name>``. None of them is a test.

``electra_ref`` sets environment variables that suit its own kernels. Rivals must not inherit them,
so the names of those that came from outside are kept here, before it is imported.
"""

from __future__ import annotations

import os

FROM_OUTSIDE = frozenset(os.environ)
