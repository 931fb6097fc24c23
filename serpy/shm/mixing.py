"""Numbers mixed into numbers: what our tables are looked up by. Cheap, and nobody without the secret can aim at a place.

All have 62 bits: such a number is no object in compiled code, and neither is the mask. Equal in every process and after a restart.

Runs in: every process. Locks: none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mypy_extensions import i64  # a name for the compiler: 64 bits without an object

BITS: Final = (1 << 62) - 1
_FACTOR: Final = 0x1E3779B97F4A7C15  # odd, below 2**62


def mixed(seed: i64, number: i64) -> i64:
    """62 bits, each of which depends on every bit of *number* and of *seed*, which nobody else knows."""
    value = (seed ^ number) * _FACTOR & BITS
    value = (value ^ value >> 32) * _FACTOR & BITS
    return (value ^ value >> 29) & BITS
