"""`--sink` and `--kind`: which dead letters are meant."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from sidefx.problems import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidefx.cli.place import Place


@dataclass(frozen=True, slots=True)
class Filters:
    """Those that match both are meant; None stands for any."""

    sink: str | None
    kind: str | None

    def matching(self) -> dict[str, Any]:
        """As the store's methods take it."""
        return {"sink": self.sink, "kind": self.kind}

    def described(self) -> str:
        """As a part of a sentence: ` of kind order.placed for audit`."""
        kind = "" if self.kind is None else f" of kind {printable(self.kind)}"
        return kind + ("" if self.sink is None else f" for {printable(self.sink)}")

    def nothing(self, place: Place) -> str:
        """That there are none, and which there are: a name may have been misspelt."""
        others = ", ".join(f"{printable(sink)} {count:,}" for sink, count in place.store.counts().items())
        there = f"; there are, by sink: {others}" if others else ""
        return f"no dead letters{self.described()} in {printable(str(place.directory.path))}{there}"


def filtered(function: Callable[..., None]) -> Callable[..., None]:
    """The command `function(..., filters=...)`, with the two options."""

    @click.option("--sink", metavar="NAME", help="Only those of this sink.")
    @click.option("--kind", metavar="KIND", help="Only those of this kind of event.")
    @functools.wraps(function)
    def command(*args: Any, sink: str | None, kind: str | None, **options: Any) -> None:
        function(*args, filters=Filters(sink, kind), **options)

    return command
