"""The second stage: values that a sink must not see are masked before it can."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from copy import copy
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from sidefx.events import Event

if TYPE_CHECKING:
    from collections.abc import Iterable

MASK = "[redacted]"
_ANY = "*"
_KEPT = frozenset({"id", "at"})
"""Of an event: the lane and the receivers tell events apart by these."""


class Redactor:
    """Masks the values at some paths: `metadata.password`, `properties.*.token`, `changes.salary.1`.

    A part of a path names a field, a key or an index; `*` stands for any one. What is not there is
    left alone. A declared field that cannot hold the mask becomes None or its default.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = [path.split(".") for path in paths]

    def __call__(self, event: Event) -> Event:
        """A copy with the values masked; the event itself where there is nothing to mask."""
        for path in self._paths:
            event = _masked(event, path)
        return event

    def text(self, text: bytes) -> bytes | None:
        """The same of an event's JSON that this process cannot read as an event; None where it is no JSON either."""
        try:
            value = from_json(text)
        except ValueError:
            return None
        for path in self._paths:
            value = _masked(value, path)
        return to_json(value)


def _masked(value: Any, path: list[str]) -> Any:
    """The value with everything at the path masked; the same object where nothing is there."""
    head, *rest = path
    if isinstance(value, BaseModel):
        return _masked_model(value, head, rest)
    if isinstance(value, Mapping):
        keys = list(value) if head == _ANY else [key for key in value if str(key) == head]
        changed = {key: _masked(value[key], rest) if rest else MASK for key in keys}
        return {**value, **changed} if changed else value
    if isinstance(value, (list, tuple)):
        return _masked_sequence(value, head, rest)
    if isinstance(value, AbstractSet) and head == _ANY:
        return type(value)(_masked(item, rest) if rest else MASK for item in value)  # type: ignore[call-arg]  # set or frozenset
    if dataclasses.is_dataclass(value):
        masked = copy(value)
        for field in dataclasses.fields(value):
            if head in {_ANY, field.name}:
                new = _masked(getattr(value, field.name), rest) if rest else MASK
                object.__setattr__(masked, field.name, new)  # it may be frozen
        return masked
    return value


def _masked_model(model: BaseModel, head: str, rest: list[str]) -> BaseModel:
    fields, extra = type(model).model_fields, model.__pydantic_extra__ or {}
    changed: dict[str, Any] = {}
    for name, value in (vars(model) | extra).items():
        if head not in {_ANY, name} or (isinstance(model, Event) and name in _KEPT):
            continue
        if name in fields:
            new = _masked(value, rest) if rest else copy(_field_mask(type(model), name))
        else:  # extra, or a cached property, which goes with what it was made of
            new = _masked(value, rest) if rest else MASK
        if new is not value:
            changed[name] = new
    if not changed:
        return model
    masked = BaseModel.__copy__(model)  # a request's own gives the request itself, which everybody sees
    for name in vars(masked).keys() - fields.keys():
        del vars(masked)[name]
    for name in changed.keys() & fields.keys():
        vars(masked)[name] = changed[name]
    if masked.__pydantic_extra__ is not None:
        masked.__pydantic_extra__.update({name: changed[name] for name in changed.keys() & extra.keys()})
    return masked


def _masked_sequence(value: list[Any] | tuple[Any, ...], head: str, rest: list[str]) -> Any:
    names = getattr(value, "_fields", ())  # of a named tuple
    items = [
        (_masked(item, rest) if rest else MASK) if head in {_ANY, str(index), *names[index : index + 1]} else item
        for index, item in enumerate(value)
    ]
    if names:
        return type(value)(*items)
    return type(value)(items) if type(value) in {list, tuple} else items


def why_not_maskable(model: type[BaseModel], name: str) -> str | None:
    """What keeps a declared field from holding a mask; None where nothing does."""
    try:
        _field_mask(model, name)
    except ValueError as error:
        return str(error)
    return None


@lru_cache(maxsize=1_024)
def _field_mask(model: type[BaseModel], name: str) -> Any:
    """What stands in a declared field for a masked value, such that the model stays valid."""
    field = model.model_fields[name]
    defaults: list[Any] = [] if field.is_required() else [field.get_default(call_default_factory=True)]
    annotation: Any = field.annotation
    adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    for candidate in [MASK, None, *defaults, (MASK,), {}]:
        try:
            return adapter.validate_python(candidate)
        except ValidationError:
            continue
    msg = f"{model.__qualname__}.{name} cannot be masked: it takes neither a string nor None"
    raise ValueError(msg)
