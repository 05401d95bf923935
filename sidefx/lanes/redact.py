"""The second stage: values that a sink must not see are masked before it can."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, TypeAdapter, ValidationError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidefx.events import Event

MASK = "[redacted]"
_ANY = "*"


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


def _masked(value: Any, path: list[str]) -> Any:
    """The value with everything at the path masked; the same object where nothing is there."""
    head, *rest = path
    if isinstance(value, BaseModel):
        names = type(value).model_fields if head == _ANY else (head,) if head in type(value).model_fields else ()
        changed = {
            name: new
            for name in names
            if (new := _masked(value.__dict__[name], rest) if rest else _field_mask(type(value), name))
            is not value.__dict__[name]
        }
        return value.model_copy(update=changed) if changed else value
    if isinstance(value, Mapping):
        keys = list(value) if head == _ANY else [key for key in value if str(key) == head]
        changed = {key: _masked(value[key], rest) if rest else MASK for key in keys}
        return {**value, **changed} if changed else value
    if isinstance(value, (list, tuple)):
        chosen = range(len(value)) if head == _ANY else [int(head)] if head.isdecimal() else []
        items = list(value)
        for index in chosen:
            if index < len(items):
                items[index] = _masked(items[index], rest) if rest else MASK
        return type(value)(items) if type(value) in {list, tuple} else items
    return value


@lru_cache(maxsize=1_024)
def _field_mask(model: type[BaseModel], name: str) -> Any:
    """What stands in a declared field for a masked value, such that the model stays valid."""
    field = model.model_fields[name]
    candidates = [MASK, None] if field.is_required() else [MASK, None, field.get_default(call_default_factory=True)]
    adapter: TypeAdapter[Any] = TypeAdapter(field.annotation)
    for candidate in [*candidates, (MASK,), {}]:
        try:
            return adapter.validate_python(candidate)
        except ValidationError:
            continue
    msg = f"{model.__qualname__}.{name} cannot be masked: it takes neither a string nor None"
    raise ValueError(msg)
