"""`CashewsCache`: a sink that clears what `cashews` caches, in whatever backend the application has set up.

https://github.com/Krukov/cashews. Where that is a Redis, the sink `cache` with `tag_prefix = "_tag:"` clears the same
keys and tags from any process, and says when it could not.
"""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Protocol, cast

from pydantic import Field, ImportString

from sidefx import InvalidateEvent, PermanentError
from sidefx_sinks.cache.batch import Batch
from sidefx_sinks.cache.store import Kind, Target, names

_CLEARS: tuple[Kind, ...] = ("keys", "tags", "prefixes", "everything")
_PATTERN = re.compile(r"[*?\[\]\\]")


class _Cashews(Protocol):
    async def delete_many(self, *keys: str) -> Any: ...

    async def delete_tags(self, *tags: str) -> Any: ...

    async def delete_match(self, pattern: str) -> Any: ...

    async def clear(self) -> Any: ...

    async def ping(self) -> Any: ...


class CashewsCache:
    """Clears keys, tags and prefixes through a `cashews.Cache` of this process; on asyncio, as cashews is.

    cashews hides the errors of a Redis unless its `setup` has `suppress=False`: without it, what a Redis that is away
    does not clear counts as delivered.
    """

    backend: Literal["asyncio"] = "asyncio"

    def __init__(
        self,
        *,
        cache: Annotated[
            ImportString[Any], Field(description="Where the application's Cache is, as in MODULE:NAME.")
        ] = "cashews:cache",
        allow_everything: Annotated[
            bool, Field(description="Whether everything=True, or an empty prefix, may clear the whole cache.")
        ] = False,
    ) -> None:
        self._path = cache
        self._allow_everything = allow_everything

    @property
    def _cache(self) -> _Cashews:
        if not isinstance(self._path, str):
            return cast("_Cashews", self._path)
        return cast("_Cashews", pkgutil.resolve_name(self._path))

    async def check(self) -> None:
        """Whether its backend answers."""
        await self._cache.ping()

    async def send_batch(self, events: Sequence[InvalidateEvent]) -> None:
        """Clear what the events name, each thing once.

        Raises:
            PermanentError: the event names nothing that can be cleared here.
            PartialError: some do.
        """
        batch = Batch(events, store="cashews", clears=_CLEARS, allow_everything=self._allow_everything)
        wanted = batch.wanted
        if names(wanted, "everything"):
            await self._cache.clear()
        if keys := names(wanted, "keys"):
            await self._cache.delete_many(*keys)
        if tags := names(wanted, "tags"):
            await self._cache.delete_tags(*tags)
        refused: dict[Target, Exception] = {}
        for prefix in names(wanted, "prefixes"):
            if _PATTERN.search(prefix):
                msg = "cache: cashews takes a prefix as a pattern: one with * ? [ ] or a backslash is not cleared"
                refused[Target("prefixes", prefix)] = PermanentError(msg)
            else:
                await self._cache.delete_match(f"{prefix}*")
        batch.settle(refused)
