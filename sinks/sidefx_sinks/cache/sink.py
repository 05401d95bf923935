"""The `cache` sink: caches forget what events name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import Field, PositiveInt

from sidefx import InvalidateEvent, MissingExtraError, PartialError, PermanentError, TransientError
from sidefx_sinks._secret import Secret, as_secret
from sidefx_sinks.cache.memory import MemoryStore
from sidefx_sinks.cache.store import EVERYTHING, Store, Target

_STORE_OF = {
    "name": "memory",
    "url": "redis",
    "namespace": "redis",
    "tag_prefix": "redis",
    "scan_count": "redis",
    "nodes": "http",
    "dialect": "http",
    "tag_header": "http",
    "headers": "http",
}
"""The one store that has a use for each setting."""


class Cache:
    """Clears keys, tags, prefixes or URLs in one store; a batch clears what its events share only once.

    Clearing twice does no harm, so that every delivery can be repeated.
    """

    backend: Literal["asyncio"] | None

    def __init__(
        self,
        *,
        store: Annotated[
            Literal["memory", "redis", "http"],
            Field(description="What is cleared: a MemoryCache of this process, a Redis, or HTTP caches by PURGE."),
        ],
        allow_everything: Annotated[
            bool, Field(description="Whether everything=True, or an empty prefix, may clear the whole cache.")
        ] = False,
        name: Annotated[str, Field(description="memory: the cache's name, as in MemoryCache.named(NAME).")] = "default",
        url: Annotated[
            Secret | None,
            Field(description="redis: redis://, rediss:// (TLS) or unix://, with the password if any."),
        ] = None,
        namespace: Annotated[
            str, Field(description="redis: put before every key, prefix and tag set; nothing else is looked for.")
        ] = "",
        tag_prefix: Annotated[
            str, Field(description="redis: the set NAMESPACE + TAG_PREFIX + TAG holds the whole keys under that tag.")
        ] = "tag:",
        scan_count: Annotated[
            PositiveInt, Field(description="redis: keys that one step of a walk for a prefix looks at.")
        ] = 1_000,
        nodes: Annotated[
            Sequence[str], Field(description="http: the base URL of every cache node, such as http://10.0.0.5:6081.")
        ] = (),
        dialect: Annotated[
            Literal["varnish", "nginx"],
            Field(description="http: varnish clears URLs and, by vmod_xkey, tags; nginx clears URLs."),
        ] = "varnish",
        tag_header: Annotated[str, Field(description="http: the header that carries tags to purge.")] = "xkey",
        headers: Annotated[
            dict[str, Secret] | None,
            Field(description="http: headers of every PURGE, such as Authorization; the values are kept secret."),
        ] = None,
    ) -> None:
        self._store_name = store
        self._allow_everything = allow_everything
        settings = {
            "name": name,
            "url": url,
            "namespace": namespace,
            "tag_prefix": tag_prefix,
            "scan_count": scan_count,
            "nodes": nodes,
            "dialect": dialect,
            "tag_header": tag_header,
            "headers": headers,
        }
        _refuse_strangers(store, settings)
        self._store: Store
        if store == "memory":
            self._store = MemoryStore(name)
        elif store == "redis":
            if url is None:
                msg = "store = 'redis' needs url, such as redis://127.0.0.1:6379/0"
                raise ValueError(msg)
            try:
                from sidefx_sinks.cache.redis import RedisStore  # noqa: PLC0415 - only this store needs redis
            except ImportError as error:
                raise _missing(error) from error
            self._store = RedisStore(as_secret(url), namespace=namespace, tag_prefix=tag_prefix, scan_count=scan_count)
        else:
            if not nodes:
                msg = "store = 'http' needs nodes, such as ['http://127.0.0.1:6081']"
                raise ValueError(msg)
            try:
                from sidefx_sinks.cache.purge import PurgeStore  # noqa: PLC0415 - only this store needs httpx
            except ImportError as error:
                raise _missing(error) from error
            self._store = PurgeStore(nodes, dialect=dialect, tag_header=tag_header, headers=headers)
        # redis.asyncio knows no trio; the other two run on either.
        self.backend = "asyncio" if store == "redis" else None

    async def __aenter__(self) -> Self:
        await self._store.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._store.close()

    async def check(self) -> None:
        """Whether the store can be reached, and lets us in."""
        await self._store.check()

    async def send_batch(self, events: Sequence[InvalidateEvent]) -> None:
        """Clear what the events name, each thing once.

        Raises:
            PermanentError, TransientError: what became of the one event, or of all.
            PartialError: of some.
        """
        wanted: dict[UUID, list[Target]] = {}
        failures: dict[UUID, Exception] = {}
        for event in events:
            try:
                wanted[event.id] = self._targets(event)
            except PermanentError as error:
                failures[event.id] = error
        failures |= _by_event(wanted, await self._clear([target for targets in wanted.values() for target in targets]))
        if not failures:
            return
        errors = list(failures.values())
        away = len(failures) == len({event.id for event in events}) and _all_transient(errors)
        if away or len(events) == 1:  # an error of the whole, which the lane's breaker counts
            raise errors[0]
        raise PartialError(failures)

    async def _clear(self, targets: list[Target]) -> Mapping[Target, Exception]:
        distinct = list(dict.fromkeys(targets))
        if not distinct:
            return {}
        try:
            return await self._store.clear(distinct)
        except (PermanentError, TransientError) as error:
            return dict.fromkeys(distinct, error)

    def _targets(self, event: InvalidateEvent) -> list[Target]:
        """What the store can clear of what the event names; the rest is for other caches.

        Raises:
            PermanentError: the store can clear none of it, or it is everything and that is not allowed.
        """
        asked = [
            *(Target("keys", key) for key in event.keys),
            *(Target("tags", tag) for tag in event.tags),
            *(Target("prefixes", prefix) if prefix else EVERYTHING for prefix in event.prefixes),
            *(Target("urls", url) for url in event.urls),
            *([EVERYTHING] if event.everything else []),
        ]
        possible = [target for target in asked if target.kind in self._store.clears]
        if not possible:
            kinds = ", ".join(dict.fromkeys(target.kind for target in asked))
            able = ", ".join(self._store.clears)
            msg = f"cache: a {self._store_name} store clears {able}; the event names only {kinds}: route it elsewhere"
            raise PermanentError(msg)
        if EVERYTHING in possible and not self._allow_everything:
            msg = (
                "cache: nothing was cleared: the event asks for everything (or for an empty prefix), "
                "which needs allow_everything = true; or name tags or prefixes"
            )
            raise PermanentError(msg)
        return possible


def _refuse_strangers(store: str, settings: Mapping[str, object]) -> None:
    """A setting that the store would ignore is a mistake worth hearing of."""
    defaults = Cache.__init__.__kwdefaults__ or {}
    for setting, value in settings.items():
        if _STORE_OF[setting] != store and value != defaults[setting]:
            msg = f"{setting} is a setting of store = {_STORE_OF[setting]!r}; this one is store = {store!r}"
            raise ValueError(msg)


def _missing(error: ImportError) -> MissingExtraError:
    msg = f"this store of the cache sink needs {error.name}, which is not installed: pip install 'sidefx[cache]'"
    return MissingExtraError(msg)


def _by_event(wanted: Mapping[UUID, Sequence[Target]], refused: Mapping[Target, Exception]) -> dict[UUID, Exception]:
    """The error of each event that has one; one that may pass with time goes before one that will not."""
    failures: dict[UUID, Exception] = {}
    for event_id, targets in wanted.items():
        if errors := [refused[target] for target in targets if target in refused]:
            failures[event_id] = next((error for error in errors if _all_transient([error])), errors[0])
    return failures


def _all_transient(errors: Sequence[Exception]) -> bool:
    return all(isinstance(error, TransientError) for error in errors)
