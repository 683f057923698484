"""Timings, each a command: ``python -m benchmarks.<name>``. None of them is a test.

``electra_ref.process`` sets environment variables that suit this project's kernels. Rivals must not
inherit them, so the names of those that came from outside are kept here, before it is called.
"""

from __future__ import annotations

import os

FROM_OUTSIDE = frozenset(os.environ)
