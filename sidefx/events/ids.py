"""Event ids: UUID version 7, ordered by the time of their making."""

from __future__ import annotations

import os
import struct
import time
from typing import TYPE_CHECKING
from uuid import UUID, SafeUUID

if TYPE_CHECKING:
    from collections.abc import Iterator

_VERSION_AND_VARIANT = (7 << 76) | (0b10 << 62)
_DRAWN_AT_ONCE = 512

_numbers: Iterator[tuple[int]] = iter(())


def uuid7() -> UUID:
    """A UUIDv7 (RFC 9562, section 5.7).

    48 bits of Unix milliseconds, 12 bits of sub-millisecond fraction (section 6.2, method 3), and 62 random bits.
    """
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    fraction = (nanoseconds << 12) // 1_000_000
    return _uuid((milliseconds << 80) | _VERSION_AND_VARIANT | (fraction << 64) | (_random() >> 2))


def _uuid(number: int) -> UUID:
    """As `UUID(int=number)`, without what that checks: half of the time."""
    uuid = object.__new__(UUID)
    object.__setattr__(uuid, "int", number)
    object.__setattr__(uuid, "is_safe", SafeUUID.unknown)
    return uuid


def _random() -> int:
    """64 random bits; the system is asked for many at once, for each call gives the interpreter's lock away."""
    global _numbers  # noqa: PLW0603 - one stock for the process
    while True:
        try:
            return next(_numbers)[0]  # one step: no two threads get the same
        except StopIteration:
            _numbers = struct.iter_unpack("=Q", os.urandom(8 * _DRAWN_AT_ONCE))


def _forget() -> None:
    """A forked child draws numbers of its own."""
    global _numbers  # noqa: PLW0603 - as above
    _numbers = iter(())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
