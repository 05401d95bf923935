"""Event ids: UUID version 7, ordered by the time of their making."""

from __future__ import annotations

import os
import struct
from time import time_ns
from typing import TYPE_CHECKING
from uuid import UUID, SafeUUID

if TYPE_CHECKING:
    from collections.abc import Iterator

_VERSION = 0x7000
_VARIANT = 1 << 63
_DRAWN_AT_ONCE = 512

_numbers: Iterator[int] = iter(())


def uuid7() -> UUID:
    """A UUIDv7 (RFC 9562, section 5.7).

    48 bits of Unix milliseconds, 12 bits of sub-millisecond fraction (section 6.2, method 3), and 62 random bits.
    """
    try:
        random = next(_numbers)  # one step: no two threads get the same
    except StopIteration:
        random = _drawn()
    time = (time_ns() << 12) // 1_000_000
    upper = time >> 12 << 16 | _VERSION | time & 0xFFF
    uuid = _new(UUID)  # as `UUID(int=...)`, without what that checks: half of the time
    _set_int(uuid, upper << 64 | _VARIANT | random >> 2)
    _set_is_safe(uuid, _UNKNOWN)
    return uuid


_new = object.__new__
_set_int, _set_is_safe = UUID.__dict__["int"].__set__, UUID.__dict__["is_safe"].__set__
_UNKNOWN = SafeUUID.unknown


def _drawn() -> int:
    """64 random bits; the system is asked for many at once, for each call gives the interpreter's lock away."""
    global _numbers  # noqa: PLW0603 - one stock for the process
    numbers: Iterator[int] = iter(struct.unpack(f"={_DRAWN_AT_ONCE}Q", os.urandom(8 * _DRAWN_AT_ONCE)))
    first = next(numbers)
    _numbers = numbers
    return first


def _forget() -> None:
    """A forked child draws numbers of its own."""
    global _numbers  # noqa: PLW0603 - as above
    _numbers = iter(())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
