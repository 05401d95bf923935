"""`changes`: what differs between two states of a thing, for an audit record."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from pydantic import BaseModel, SecretBytes, SecretStr

from sidefx.events.fields import strings

_MASK = "[redacted]"
_DEEPEST = 32


def changes(
    before: object, after: object, *, mask: str | Iterable[str] = (), ignore: str | Iterable[str] = ()
) -> dict[str, list[Any]]:
    """The fields that differ, each as `[before, after]`: what `audit(changes=...)` takes.

    Takes mappings, pydantic models, dataclasses and plain objects, SQLAlchemy's among them (their loaded columns); the
    two need not be of one type. None stands for what did not exist, or does not any more. Fields that hold such things
    themselves are looked into, and called by dotted names: `address.city`. A field that only one of the two has is
    None on the other side. Attributes that begin with an underscore are left out.

    Args:
        before: as it was; call it, or copy what it is of, before you change an object in place.
        after: as it is now.
        mask: names whose values become `"[redacted]"` (None stays None), so that only the fact of a change is told:
            `password` is meant at any depth, `card.number` at that place; `*` stands for any characters. Pydantic's
            secrets always are.
        ignore: names that are left out, written likewise: `updated_at`.

    Raises:
        TypeError: one of the two has no fields.
    """
    masked, ignored = strings(mask), strings(ignore)
    return {
        name: [_shown(was, name, masked), _shown(now, name, masked)]
        for name, was, now in _differences(_fields_of(before), _fields_of(after), "")
        if not any(_means(pattern, name) for pattern in ignored)
    }


def _differences(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str, depth: int = 0
) -> Iterator[tuple[str, Any, Any]]:
    for key in dict.fromkeys((*old, *new)):
        was, now = old.get(key), new.get(key)
        if was is now or _equal(was, now):
            continue
        inner = [{} if value is None else _inner(value) for value in (was, now)]
        if depth < _DEEPEST and inner[0] is not None and inner[1] is not None and any(inner):
            yield from _differences(inner[0], inner[1], f"{prefix}{key}.", depth + 1)
        else:
            yield f"{prefix}{key}", was, now


def _equal(was: Any, now: Any) -> bool:
    """Where a comparison is no truth (an array's) or fails, they count as different."""
    try:
        return bool(was == now) and isinstance(was, bool) == isinstance(now, bool)
    except Exception:  # noqa: BLE001 - anybody's __eq__
        return False


def _inner(value: Any) -> Mapping[str, Any] | None:
    """The fields of a value that is looked into."""
    if isinstance(value, Mapping):
        return value if all(isinstance(key, str) for key in value) else None
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        named: Any = value
        return dict(named._asdict())
    if isinstance(value, BaseModel) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        return _fields_of(value)
    return None


def _fields_of(thing: Any) -> Mapping[str, Any]:
    if thing is None:
        return {}
    if isinstance(thing, Mapping):
        return {str(key): value for key, value in thing.items()}
    if isinstance(thing, BaseModel):
        return {**vars(thing), **(thing.__pydantic_extra__ or {})}
    if isinstance(thing, type):
        msg = f"changes() compares two states of a thing; {thing.__qualname__} is a class"
        raise TypeError(msg)
    if dataclasses.is_dataclass(thing):
        return {field.name: getattr(thing, field.name) for field in dataclasses.fields(thing)}
    slots = [name for cls in type(thing).__mro__ for name in strings(getattr(cls, "__slots__", ()))]
    if not slots and not hasattr(thing, "__dict__"):
        msg = f"changes() takes objects with fields, mappings, or None; {type(thing).__qualname__} has no fields"
        raise TypeError(msg)
    found = {name: getattr(thing, name) for name in slots if hasattr(thing, name)} | getattr(thing, "__dict__", {})
    return {name: value for name, value in found.items() if not name.startswith("_")}


def _means(pattern: str, name: str) -> bool:
    """Whether the pattern names that field, or something that it is in."""
    parts = name.split(".")
    if "." in pattern:
        return any(fnmatchcase(".".join(parts[: end + 1]), pattern) for end in range(len(parts)))
    return any(fnmatchcase(part, pattern) for part in parts)


def _shown(value: Any, name: str, masked: Iterable[str], depth: int = 0) -> Any:
    """The value as the record has it; what is masked is so wherever it stands, in lists as well."""
    if value is None:
        return None
    if isinstance(value, (SecretStr, SecretBytes)) or depth > _DEEPEST or any(_means(each, name) for each in masked):
        return _MASK
    if (inner := value if isinstance(value, Mapping) else _inner(value)) is not None:
        return {key: _shown(item, f"{name}.{key}", masked, depth + 1) for key, item in inner.items()}
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return [_shown(item, f"{name}.{index}", masked, depth + 1) for index, item in enumerate(value)]
    return value
