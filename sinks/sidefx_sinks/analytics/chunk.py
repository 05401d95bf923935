"""`Chunk`: events in their vendor's JSON, as many as fit into one request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from pydantic_core import to_json


class Item(NamedTuple):
    """One event, ready to be sent."""

    id: UUID
    json: bytes


Chunk: TypeAlias = Sequence[Item]


def encode(value: Mapping[str, Any]) -> bytes:
    """The value as JSON; dates, UUIDs, decimals and models are written as pydantic writes them.

    Raises:
        ValueError: it holds something that JSON has no form for.
    """
    return to_json(value, inf_nan_mode="null", bytes_mode="base64")


def body(envelope: Mapping[str, Any], chunk: Chunk) -> bytes:
    """The envelope's fields, and the chunk as its `batch`."""
    head = encode(envelope)[:-1] + (b"," if envelope else b"")
    return head + b'"batch":[' + b",".join(item.json for item in chunk) + b"]}"


def pack(items: Iterable[Item], *, max_bytes: int | None, max_events: int | None) -> Iterator[Chunk]:
    """The items in order, in chunks of at most that many events and bytes of JSON; an item too large stands alone."""
    chunk: list[Item] = []
    size = -1  # the first has no comma before it
    for item in items:
        grown = size + 1 + len(item.json)
        full = (max_bytes is not None and grown > max_bytes) or len(chunk) == max_events
        if chunk and full:
            yield chunk
            chunk, grown = [], len(item.json)
        chunk.append(item)
        size = grown
    if chunk:
        yield chunk


def halves(chunk: Chunk) -> tuple[Chunk, Chunk]:
    """The chunk in two, for a receiver that found it too large."""
    middle = len(chunk) // 2
    return chunk[:middle], chunk[middle:]
