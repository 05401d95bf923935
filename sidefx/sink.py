"""The sink contract: what an object must have for a lane to deliver events to it.

A sink is an object with `send(event)` or `send_batch(events)`, or a function of one event. The
annotation of that parameter is the event type it takes. Either may be `async def`, or a plain
`def`, which then runs in a worker thread. Optional: `__aenter__`/`__aexit__` (or the synchronous
pair) to open and close clients, and `check()`, which raises where the receiver cannot be reached.
A class attribute `backend = "asyncio"` says that its library runs on asyncio alone.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

from sidefx.errors import SinkContractError
from sidefx.events import Event

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class SinkSpec:
    """What the contract finds in one sink, looked up once."""

    deliver: Callable[[Any], Any]
    """`send`, `send_batch` or the function itself."""
    batch: bool
    """Whether `deliver` takes a sequence of events."""
    synchronous: bool
    """Whether `deliver` must run in a worker thread."""
    event_types: tuple[type[Event], ...]
    asyncio_only: bool

    def accepts(self, event_type: type[Event]) -> bool:
        """Whether events of that class may be delivered to the sink."""
        return issubclass(event_type, self.event_types)


def inspect_sink(sink: object) -> SinkSpec:
    """What `sink` takes and how.

    Raises:
        SinkContractError: it has neither `send` nor `send_batch`, or no usable annotation.
    """
    deliver, batch = _deliver_method(sink)
    event_types = _event_types(sink, deliver, batch=batch)
    return SinkSpec(
        deliver=deliver,
        batch=batch,
        synchronous=not is_async_callable(deliver),
        event_types=event_types,
        asyncio_only=getattr(sink, "backend", None) == "asyncio",
    )


def is_async_callable(call: Any) -> bool:
    """Whether calling it gives an awaitable, seen through partials and objects with `__call__`."""
    while isinstance(call, functools.partial):
        call = call.func
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(getattr(call, "__call__", None))  # noqa: B004


def _deliver_method(sink: object) -> tuple[Callable[[Any], Any], bool]:
    if inspect.isclass(sink):
        msg = f"{_name(sink)} is a class; give an instance of it as a sink"
        raise SinkContractError(msg)
    if callable(method := getattr(sink, "send_batch", None)):
        return method, True
    if callable(method := getattr(sink, "send", None)):
        return method, False
    if callable(sink):
        return sink, False
    msg = f"{_name(sink)} is no sink: give it `async def send(self, event: SomeEvent)` or `send_batch`"
    raise SinkContractError(msg)


def _event_types(sink: object, deliver: Callable[[Any], Any], *, batch: bool) -> tuple[type[Event], ...]:
    function = deliver if inspect.isroutine(deliver) else type(deliver).__call__
    where = f"{_name(sink)}.{getattr(function, '__name__', 'send')}" if function is not sink else _name(sink)
    try:
        hints = get_type_hints(function)
    except NameError as error:
        msg = (
            f"{where}: the annotation names {error.name!r}, which its module does not define at run time "
            "(an import under TYPE_CHECKING?)"
        )
        raise SinkContractError(msg) from error
    parameters = [name for name in inspect.signature(deliver).parameters if name != "return"]
    wanted = "Sequence[SomeEvent]" if batch else "SomeEvent"
    if not parameters or parameters[0] not in hints:
        msg = f"{where}: annotate its parameter with the event type that it takes, as `{wanted}`"
        raise SinkContractError(msg)
    annotation = hints[parameters[0]]
    if batch:
        if not (get_origin(annotation) in {Sequence, list, tuple} and get_args(annotation)):
            msg = f"{where}: a batch is annotated as `Sequence[SomeEvent]`, not {annotation!r}"
            raise SinkContractError(msg)
        annotation = get_args(annotation)[0]
    members = get_args(annotation) if get_origin(annotation) in {Union, UnionType} else (annotation,)
    if not all(isinstance(member, type) and issubclass(member, Event) for member in members):
        msg = f"{where}: {annotation!r} is not an event type; annotate with a subclass of sidefx.Event"
        raise SinkContractError(msg)
    return tuple(members)


def _name(sink: object) -> str:
    return getattr(sink, "__qualname__", None) or type(sink).__qualname__
