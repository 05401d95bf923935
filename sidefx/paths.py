"""Paths into a typed record, such as `metadata.password` into an event: which parts stand where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

_TEXT = (str, bytes, bytearray)


def step(annotation: Any, name: str | int, *, aliases: bool = False) -> list[Any]:
    """What the record's parts called `name` are annotated with; empty where it can have none.

    A name is a field's (with `aliases`, its alias), a key or an index; `*` is any one. What is
    annotated with `Any` may hold anything.
    """
    return [part for member in members(annotation) for part in _step(member, name, aliases=aliases)]


def names(annotation: Any, *, aliases: bool = False) -> list[str]:
    """The names that can follow in a path, where they are fixed by a model."""
    return [
        field.alias or name if aliases else name
        for member in members(annotation)
        if isinstance(member, type) and get_origin(member) is None and issubclass(member, BaseModel)
        for name, field in member.model_fields.items()
    ]


def members(annotation: Any) -> list[Any]:
    """The alternatives of a union; otherwise the annotation alone, bare."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return members(arguments[0])
    if origin in {Union, UnionType}:
        return [member for argument in arguments for member in members(argument)]
    return [annotation]


def _step(annotation: Any, name: str | int, *, aliases: bool) -> list[Any]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    container = annotation if origin is None else origin
    if container in {Any, object} or not isinstance(container, type):
        return [] if origin is Literal else [Any]
    if issubclass(container, BaseModel):
        fields = container.model_fields.items()
        return [field.annotation for key, field in fields if name in {"*", (field.alias if aliases else None) or key}]
    if issubclass(container, Mapping):
        return [arguments[1] if arguments else Any]
    if issubclass(container, Sequence) and not issubclass(container, _TEXT) and _is_index(name):
        return [item for item in arguments if item is not Ellipsis] or [Any]
    return []


def _is_index(name: str | int) -> bool:
    return isinstance(name, int) or name == "*" or name.isdecimal()
