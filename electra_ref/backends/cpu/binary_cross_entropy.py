"""Binary cross entropy: the formula is fast enough, for it sees one number a token.

See ``backends.reference.binary_cross_entropy``.
"""

from __future__ import annotations

from electra_ref.backends.reference.binary_cross_entropy import (
    binary_cross_entropy,
    binary_cross_entropy_backward,
)

__all__ = ["binary_cross_entropy", "binary_cross_entropy_backward"]
