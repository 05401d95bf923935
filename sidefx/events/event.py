"""`Event`: what happened, as a validated, frozen record with a wire name."""

from __future__ import annotations

import inspect
import re
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pydantic_core import from_json, to_json

from sidefx.errors import SidefxError
from sidefx.events.ids import uuid7
from sidefx.request import RequestInfo

if TYPE_CHECKING:
    from collections.abc import Iterable

_RESERVED = ("id", "at", "request")
_KIND = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)*")
_WORD_BOUNDARY = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class UnknownKindError(SidefxError, LookupError):
    """No event class of this process has that kind."""


class Event(BaseModel):
    """The base of every event: subclass it, and declare fields as in any pydantic model.

    `class OrderPlaced(Event, kind="order.placed")` sets the wire name; without `kind` it is the
    class's name in snake case. Two classes of one kind are a `TypeError` at the second's definition.

    Instances are frozen and go to JSON and back (`model_dump_json`, `event_from_json`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null", populate_by_name=True)

    kind: ClassVar[str] = "event"

    id: UUID = Field(default_factory=uuid7)
    """UUIDv7; the same through every retry and replay, so that receivers can drop duplicates."""
    at: AwareDatetime = Field(default_factory=partial(datetime.now, UTC))
    """When it happened, in UTC."""
    request: RequestInfo | None = None
    """The request under which `after()` was called; filled in by `after()`."""

    def __init_subclass__(cls, *, kind: str | None = None, **config: Any) -> None:
        # pydantic hands the class keywords to both hooks; this one only has to let `kind` pass.
        super().__init_subclass__(**config)

    @classmethod
    def __pydantic_init_subclass__(cls, *, kind: str | None = None, **config: Any) -> None:
        super().__pydantic_init_subclass__(**config)
        if cls.__pydantic_generic_metadata__["origin"] is not None:  # Paid[int] keeps the kind of Paid
            return
        if retyped := [name for name in _RESERVED if name in inspect.get_annotations(cls)]:
            msg = f"{cls.__qualname__}: {', '.join(retyped)} is reserved by Event; name the field otherwise"
            raise TypeError(msg)
        if "kind" in cls.__dict__ or "kind" in inspect.get_annotations(cls):
            msg = f"{cls.__qualname__}: write the kind as `class {cls.__name__}(Event, kind=...)`, and name no field so"
            raise TypeError(msg)
        cls.kind = kind or _WORD_BOUNDARY.sub("_", cls.__name__).lower()
        _register(cls)

    def effects(self) -> Iterable[Event]:
        """Further events that this one stands for; each is scheduled after it. None by default."""
        return ()

    def _with(self, **values: Any) -> Self:
        """A copy with other values, unvalidated: `model_copy` without its generality."""
        copy = _new(type(self))
        _set(copy, "__dict__", {**self.__dict__, **values})
        _set(copy, "__pydantic_fields_set__", self.__pydantic_fields_set__)
        _set(copy, "__pydantic_extra__", self.__pydantic_extra__)
        _set(copy, "__pydantic_private__", self.__pydantic_private__ and {**self.__pydantic_private__})
        return copy


_new, _set = object.__new__, object.__setattr__


_by_kind: dict[str, type[Event]] = {}


def _register(cls: type[Event]) -> None:
    if _KIND.fullmatch(cls.kind) is None:
        msg = (
            f"{cls.__qualname__}: kind {cls.kind!r} is not a wire name; "
            "use lower-case words with dots, such as 'order.placed'"
        )
        raise TypeError(msg)
    other = _by_kind.get(cls.kind)
    same_class_again = other is not None and (other.__module__, other.__qualname__) == (
        cls.__module__,
        cls.__qualname__,
    )
    if other is not None and not same_class_again:  # a module that is reloaded defines its classes again
        msg = (
            f"{cls.__module__}.{cls.__qualname__}: the kind {cls.kind!r} is already "
            f"{other.__module__}.{other.__qualname__}; give one of them another kind"
        )
        raise TypeError(msg)
    _by_kind[cls.kind] = cls


def kinds() -> dict[str, type[Event]]:
    """Every kind known to this process, with its class."""
    return dict(_by_kind)


def event_from_json(kind: str, text: str | bytes) -> Event:
    """The event that `model_dump_json()` of an event of that kind was made from.

    Raises:
        UnknownKindError: no class of that kind has been imported.
        pydantic.ValidationError: the text is not an event of that kind.
    """
    try:
        cls = _by_kind[kind]
    except KeyError:
        msg = f"no event class of kind {kind!r} has been imported"
        raise UnknownKindError(msg) from None
    if computed := cls.model_computed_fields:  # they are written, and made anew
        text = to_json({name: value for name, value in from_json(text).items() if name not in computed})
    return cls.model_validate_json(text)
