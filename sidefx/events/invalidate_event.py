"""`InvalidateEvent`: what caches have to forget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import model_validator

from sidefx.events.event import Event
from sidefx.events.fields import Several, strings

if TYPE_CHECKING:
    from collections.abc import Iterable


class InvalidateEvent(Event, kind="invalidate"):
    """What caches have to forget."""

    keys: Several = ()
    tags: Several = ()
    prefixes: Several = ()
    urls: Several = ()
    hosts: Several = ()
    everything: bool = False

    @model_validator(mode="after")
    def _names_something(self) -> Self:
        if not (self.keys or self.tags or self.prefixes or self.urls or self.hosts or self.everything):
            msg = "give keys, tags, prefixes, urls, hosts or everything=True: there is nothing to invalidate"
            raise ValueError(msg)
        return self


def invalidate(
    *,
    keys: str | Iterable[str] = (),
    tags: str | Iterable[str] = (),
    prefixes: str | Iterable[str] = (),
    urls: str | Iterable[str] = (),
    hosts: str | Iterable[str] = (),
    everything: bool = False,
) -> InvalidateEvent:
    """What caches have to forget: keys, everything under a tag, a prefix or a host, URLs, or all.

    Raises:
        pydantic.ValidationError: a value has the wrong form, or nothing was named.
    """
    return InvalidateEvent(
        keys=strings(keys),
        tags=strings(tags),
        prefixes=strings(prefixes),
        urls=strings(urls),
        hosts=strings(hosts),
        everything=everything,
    )
