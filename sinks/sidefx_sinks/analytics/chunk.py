"""`Chunk`: events in their vendor's JSON, as many as fit into one request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple
from uuid import UUID

from pydantic_core import from_json, to_json


class Item(NamedTuple):
    """One event, ready to be sent."""

    id: UUID
    json: bytes


class Frame(NamedTuple):
    """What stands around the events of a request."""

    head: bytes
    tail: bytes

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.head) + len(self.tail)


class Chunk(NamedTuple):
    """The events of one request, in order, and what the vendor wants to be told once for all of them."""

    shared: bytes
    items: tuple[Item, ...]

    def halves(self) -> tuple[Chunk, Chunk]:
        """The chunk in two, for a receiver that refuses it as it is."""
        middle = len(self.items) // 2
        return Chunk(self.shared, self.items[:middle]), Chunk(self.shared, self.items[middle:])


def encode(value: Mapping[str, Any]) -> bytes:
    """The value as JSON; dates, UUIDs, decimals and models are written as pydantic writes them.

    Raises:
        ValueError: it holds something that JSON has no form for.
    """
    return to_json(value, inf_nan_mode="null", bytes_mode="base64")


def plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """The value in the types of JSON alone, each as `encode` writes it.

    Raises:
        ValueError: it holds something that JSON has no form for.
    """
    decoded: dict[str, Any] = from_json(encode(value))
    return decoded


def around(fields: Mapping[str, Any], name: str) -> Frame:
    """A frame of those fields, with the events as the list `name`."""
    head = encode(fields)[:-1] + (b"," if fields else b"")
    return Frame(head + b'"%s":[' % name.encode(), b"]}")


def body(frame: Frame, items: Iterable[Item]) -> bytes:
    """The whole of it."""
    return frame.head + b",".join(item.json for item in items) + frame.tail


def pack(items: Iterable[Item], *, max_bytes: int | None, max_events: int | None) -> Iterator[tuple[Item, ...]]:
    """The items in order, together as far as that many events and bytes of JSON; one too large stands alone."""
    packed: list[Item] = []
    size = -1  # the first has no comma before it
    for item in items:
        grown = size + 1 + len(item.json)
        full = (max_bytes is not None and grown > max_bytes) or len(packed) == max_events
        if packed and full:
            yield tuple(packed)
            packed, grown = [], len(item.json)
        packed.append(item)
        size = grown
    if packed:
        yield tuple(packed)
