"""What can be cleared (`Target`), and what the sink asks of a store that clears it (`Store`)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, TypeAlias, TypeVar
from uuid import UUID

Kind: TypeAlias = Literal["keys", "tags", "prefixes", "urls", "hosts", "everything"]
"""The fields of an `InvalidateEvent`."""

_T = TypeVar("_T")


class Target(NamedTuple):
    """One thing to clear; equal targets of several events are cleared once."""

    kind: Kind
    name: str


EVERYTHING = Target("everything", "")

Wanted: TypeAlias = Mapping[Target, Collection[UUID]]
"""What is to be cleared, in order, and the ids of the events that ask for it."""


class Store(Protocol):
    """A cache seen from the sink."""

    @property
    def clears(self) -> tuple[Kind, ...]:
        """The kinds of target that it can clear."""
        ...

    async def open(self) -> None:
        """Make the clients; connecting waits until the first use."""

    async def close(self) -> None:
        """Close what `open` made."""

    async def clear(self, wanted: Wanted) -> Mapping[Target, Exception]:
        """Clear each target; answers those that were refused, with the `PermanentError` or `TransientError` of each.

        Clearing again what is already clear is no error, so that a batch can be sent twice.

        Raises:
            TransientError: the store could not be reached.
            PermanentError: it refuses the client as such.
        """
        ...

    async def check(self) -> None:
        """Raise a one-line error where the store cannot be reached."""


def names(targets: Iterable[Target], kind: Kind) -> list[str]:
    """The names among the targets that are of that kind, in order."""
    return [target.name for target in targets if target.kind == kind]


def chunks(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    """The items in slices of at most `size`."""
    return (items[start : start + size] for start in range(0, len(items), size))
