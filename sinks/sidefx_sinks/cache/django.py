"""`DjangoCache`: a sink that clears keys of a cache in Django's `CACHES`, whatever its backend.

https://docs.djangoproject.com/en/stable/topics/cache/. Its key function, prefix and version are the cache's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

from pydantic import Field

from sidefx import InvalidateEvent, MissingExtraError, PermanentError
from sidefx_sinks.cache.batch import Batch
from sidefx_sinks.cache.store import Kind, Target, names

_CLEARS: tuple[Kind, ...] = ("keys", "everything")
_CHECKED = "sidefx-check"


class DjangoCache:
    """Clears through Django's API, in a worker thread; give the backend a time limit of its own (`OPTIONS`).

    Django's caches know neither tags nor prefixes. `everything` is `clear()`, which on a Redis is its whole database.
    """

    def __init__(
        self,
        *,
        alias: Annotated[str, Field(description="The cache's name in CACHES.")] = "default",
        version: Annotated[int | None, Field(description="The version of the keys, where not the cache's own.")] = None,
        allow_everything: Annotated[
            bool, Field(description="Whether everything=True, or an empty prefix, may clear the whole cache.")
        ] = False,
    ) -> None:
        self._alias = alias
        self._version = version
        self._allow_everything = allow_everything
        try:
            self._caches: Any = import_module("django.core.cache").caches
        except ImportError as error:
            msg = "DjangoCache needs Django, which is not installed: pip install django"
            raise MissingExtraError(msg) from error

    def check(self) -> None:
        """Whether the backend answers."""
        cache = self._caches[self._alias]
        try:
            cache.get(_CHECKED)
        finally:
            _let_go(cache)

    def send_batch(self, events: Sequence[InvalidateEvent]) -> None:
        """Delete what the events name, each key once.

        Raises:
            PermanentError: the event names nothing that can be cleared here, or a key that the backend cannot have.
            PartialError: some do.
        """
        batch = Batch(events, store="django", clears=_CLEARS, allow_everything=self._allow_everything)
        wanted = batch.wanted
        cache = self._caches[self._alias]
        try:
            if names(wanted, "everything"):
                cache.clear()
            refused = self._delete(cache, names(wanted, "keys"))
        finally:
            _let_go(cache)
        batch.settle(refused)

    def _delete(self, cache: Any, keys: Sequence[str]) -> dict[Target, Exception]:
        """All at once; where the backend cannot have one of them, each by itself."""
        if not keys:
            return {}
        try:
            cache.delete_many(keys, version=self._version)
        except ValueError:  # InvalidCacheKey, of memcached
            if len(keys) > 1:
                return {target: error for key in keys for target, error in self._delete(cache, [key]).items()}
            msg = f"cache: the backend of CACHES[{self._alias!r}] cannot have one of the event's keys"
            return {Target("keys", keys[0]): PermanentError(msg)}
        return {}


def _let_go(cache: Any) -> None:
    """As at the end of a request: what this thread has connected is nobody else's to close."""
    cache.close()
    import_module("django.db").connections.close_all()
