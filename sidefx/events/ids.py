"""Event ids: UUID version 7, ordered by the time of their making."""

from __future__ import annotations

import os
import time
from uuid import UUID

_VERSION_AND_VARIANT = (7 << 76) | (0b10 << 62)


def uuid7() -> UUID:
    """A UUIDv7 (RFC 9562, section 5.7).

    48 bits of Unix milliseconds, 12 bits of sub-millisecond fraction (section 6.2, method 3), and 62 random bits.
    """
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    fraction = (nanoseconds << 12) // 1_000_000
    random = int.from_bytes(os.urandom(8)) >> 2
    return UUID(int=(milliseconds << 80) | _VERSION_AND_VARIANT | (fraction << 64) | random)
