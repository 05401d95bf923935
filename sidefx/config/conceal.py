"""Keeping settings out of messages: those that a sink's own code wrote may quote what it was given."""

from __future__ import annotations

import re
from enum import Enum
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from sidefx.paths import members

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_SHORT = 3
_QUOTED = re.compile(r"""(['"`])(.+?)\1""")


def conceal(message: str, secrets: Iterable[str]) -> str:
    """The message with every one of the secrets, and every quoted piece of one, replaced by `***`."""
    long_enough = sorted({secret for secret in secrets if len(secret) >= _SHORT}, key=len, reverse=True)
    for secret in long_enough:
        message = message.replace(secret, "***")

    def piece(match: re.Match[str]) -> str:
        quoted = match[2]
        hidden = len(quoted) >= _SHORT and any(quoted in secret for secret in long_enough)
        return f"{match[1]}***{match[1]}" if hidden else match[0]

    return _QUOTED.sub(piece, message)


def texts(table: Mapping[str, Any], annotations: Mapping[str, Any]) -> Iterator[str]:
    """Every text in the table that may be a secret: all but the choices of a `Literal` or an enumeration."""
    for name, value in table.items():
        if not _is_choice(annotations.get(name)):
            yield from _texts(value)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield str(value)
    elif isinstance(value, (list, dict)):
        for child in value.values() if isinstance(value, dict) else value:
            yield from _texts(child)


def _is_choice(annotation: Any) -> bool:
    return annotation is not None and all(
        get_origin(member) is Literal
        or member is NoneType
        or (isinstance(member, type) and not get_args(member) and issubclass(member, (Enum, bool, int, float)))
        for member in members(annotation)
    )
