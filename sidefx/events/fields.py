"""What fields of several built-in events take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

from pydantic import BeforeValidator

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def _identifier(value: object) -> Any:
    if value is None or type(value) is str:
        return value
    return str(value) if isinstance(value, (int, UUID)) and not isinstance(value, bool) else value


def _several(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Identifier = Annotated[str, BeforeValidator(_identifier)]
"""A string; whole numbers and UUIDs, which ids often are, become one."""
Several = Annotated[tuple[str, ...], BeforeValidator(_several)]
"""Strings; a single one may stand for itself."""


def as_dict(value: Mapping[str, Any] | None) -> dict[str, Any]:
    """The value where it is one; a field makes a copy of it."""
    return value if type(value) is dict else dict(value or {})


def strings(value: str | Iterable[str]) -> tuple[str, ...]:
    """As a tuple; a single one stands for itself."""
    return (value,) if isinstance(value, str) else tuple(value)
