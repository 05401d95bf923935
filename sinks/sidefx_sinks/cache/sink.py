"""The `cache` sink: caches forget what events name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt

from sidefx import InvalidateEvent, MissingExtraError, PermanentError, TransientError
from sidefx_sinks._secret import Secret, as_secret
from sidefx_sinks.cache import again
from sidefx_sinks.cache import window as windows
from sidefx_sinks.cache.batch import Batch
from sidefx_sinks.cache.memory import MemoryStore
from sidefx_sinks.cache.store import Store, Target, Wanted

_STORES_OF = {
    "name": ("memory",),
    "url": ("redis",),
    "namespace": ("redis",),
    "tag_prefix": ("redis",),
    "scan_count": ("redis",),
    "cluster": ("redis",),
    "channel": ("redis",),
    "nodes": ("http",),
    "dialect": ("http",),
    "tag_header": ("http",),
    "headers": ("http",),
    "bans": ("http",),
    "soft": ("http", "fastly"),
    "service": ("fastly",),
    "zone": ("cloudflare",),
    "token": ("fastly", "cloudflare"),
    "api": ("fastly", "cloudflare"),
}
"""The stores that have a use for each setting."""


class Cache:
    """Clears keys, tags, prefixes, URLs or hosts in one store; a batch clears what its events share only once.

    Clearing twice does no harm, so that every delivery can be repeated.
    """

    backend: Literal["asyncio"] | None

    def __init__(
        self,
        *,
        store: Annotated[
            Literal["memory", "redis", "http", "fastly", "cloudflare"],
            Field(description="What is cleared: a MemoryCache of this process, a Redis, HTTP caches, or a vendor's."),
        ],
        allow_everything: Annotated[
            bool, Field(description="Whether everything=True, or an empty prefix, may clear the whole cache.")
        ] = False,
        window: Annotated[
            float | None,
            Field(gt=0, le=windows.LONGEST, description="Seconds within which equal purges go once, at its end."),
        ] = None,
        second_delete: Annotated[
            float | None,
            Field(gt=0, le=again.LONGEST, description="Seconds after which all that was cleared is cleared again."),
        ] = None,
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
        cluster: Annotated[
            bool, Field(description="redis: whether it is a Redis Cluster; url is that of one of its nodes.")
        ] = False,
        channel: Annotated[
            str, Field(description="redis: publish what was cleared there, for caches in other processes' memory.")
        ] = "",
        nodes: Annotated[
            Sequence[str], Field(description="http: the base URL of every cache node, such as http://10.0.0.5:6081.")
        ] = (),
        dialect: Annotated[
            Literal["varnish", "nginx"],
            Field(description="http: varnish clears URLs and, by vmod_xkey, tags; nginx clears URLs."),
        ] = "varnish",
        tag_header: Annotated[
            str, Field(description="http: the header that carries tags to purge; by default xkey, or xkey-softpurge.")
        ] = "",
        headers: Annotated[
            dict[str, Secret] | None,
            Field(description="http: headers of every PURGE, such as Authorization; the values are kept secret."),
        ] = None,
        bans: Annotated[
            Sequence[Literal["tags", "prefixes", "hosts", "everything"]],
            Field(description="http, varnish: what is cleared by BAN; the VCL has to know it."),
        ] = (),
        soft: Annotated[
            bool, Field(description="http (varnish), fastly: what is purged may be served stale while it is fetched.")
        ] = False,
        service: Annotated[str, Field(description="fastly: the id of the service.")] = "",
        zone: Annotated[str, Field(description="cloudflare: the id of the zone.")] = "",
        token: Annotated[
            Secret | None, Field(description="fastly, cloudflare: an API token that may purge and nothing else.")
        ] = None,
        api: Annotated[
            str, Field(description="fastly, cloudflare: the API's base URL, where it is not the usual.")
        ] = "",
    ) -> None:
        _check_seconds("window", window, windows.LONGEST)
        _check_seconds("second_delete", second_delete, again.LONGEST)
        self._store_name = store
        self._allow_everything = allow_everything
        settings = {
            "name": name,
            "url": url,
            "namespace": namespace,
            "tag_prefix": tag_prefix,
            "scan_count": scan_count,
            "cluster": cluster,
            "channel": channel,
            "nodes": nodes,
            "dialect": dialect,
            "tag_header": tag_header,
            "headers": headers,
            "bans": bans,
            "soft": soft,
            "service": service,
            "zone": zone,
            "token": token,
            "api": api,
        }
        _refuse_strangers(store, settings)
        self._store: Store
        if store == "memory":
            self._store = MemoryStore(name)
        elif store == "redis":
            if url is None:
                msg = "store = 'redis' needs url, such as redis://127.0.0.1:6379/0"
                raise ValueError(msg)
            with _needed_libraries():
                from sidefx_sinks.cache.redis import RedisStore  # noqa: PLC0415 - only this store needs redis
            self._store = RedisStore(
                as_secret(url),
                namespace=namespace,
                tag_prefix=tag_prefix,
                scan_count=scan_count,
                cluster=cluster,
                channel=channel,
            )
        elif store == "http":
            if not nodes:
                msg = "store = 'http' needs nodes, such as ['http://127.0.0.1:6081']"
                raise ValueError(msg)
            with _needed_libraries():
                from sidefx_sinks.cache.purge import PurgeStore  # noqa: PLC0415 - it needs httpx, as the next two do
            self._store = PurgeStore(
                nodes, dialect=dialect, tag_header=tag_header, headers=headers, banned=bans, soft=soft
            )
        elif store == "fastly":
            if not service or token is None:
                msg = "store = 'fastly' needs service and token"
                raise ValueError(msg)
            with _needed_libraries():
                from sidefx_sinks.cache.fastly import FastlyStore  # noqa: PLC0415
            self._store = FastlyStore(service, as_secret(token), api=api, soft=soft)
        else:
            if not zone or token is None:
                msg = "store = 'cloudflare' needs zone and token"
                raise ValueError(msg)
            with _needed_libraries():
                from sidefx_sinks.cache.cloudflare import CloudflareStore  # noqa: PLC0415
            self._store = CloudflareStore(zone, as_secret(token), api=api)
        self._seconds = window
        self._window: windows.Window | None = None
        self._again = None if second_delete is None else again.SecondDelete(second_delete, self._clear_at_once)
        # redis.asyncio knows no trio, and no task of trio's can outlive the call that starts it.
        self.backend = "asyncio" if store == "redis" or second_delete is not None else None

    async def __aenter__(self) -> Self:
        await self._store.open()
        if self._seconds is not None:
            self._window = windows.Window(self._seconds, self._clear_at_once)
        if self._again is not None:
            self._again.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._again is not None:
                await self._again.stop()
        finally:
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
        batch = Batch(
            events, store=self._store_name, clears=self._store.clears, allow_everything=self._allow_everything
        )
        refused = await self._clear(batch.wanted)
        if self._again is not None:
            self._again.later(target for target in batch.wanted if target not in refused)
        batch.settle(refused)

    async def _clear(self, wanted: Wanted) -> Mapping[Target, Exception]:
        if not wanted:
            return {}
        return await (self._clear_at_once(wanted) if self._window is None else self._window.clear(wanted))

    async def _clear_at_once(self, wanted: Wanted) -> Mapping[Target, Exception]:
        try:
            return await self._store.clear(wanted)
        except (PermanentError, TransientError) as error:
            return dict.fromkeys(wanted, error)


def _check_seconds(setting: str, value: float | None, longest: float) -> None:
    if value is not None and not 0 < value <= longest:
        msg = f"{setting} is {value}; give seconds above 0 and up to {longest:g}, or leave it out"
        raise ValueError(msg)


def _refuse_strangers(store: str, settings: Mapping[str, object]) -> None:
    """A setting that the store would ignore is a mistake worth hearing of."""
    defaults = Cache.__init__.__kwdefaults__ or {}
    for setting, value in settings.items():
        if store not in _STORES_OF[setting] and value != defaults[setting]:
            theirs = " or ".join(repr(name) for name in _STORES_OF[setting])
            msg = f"{setting} is a setting of store = {theirs}; this one is store = {store!r}"
            raise ValueError(msg)


@contextmanager
def _needed_libraries() -> Iterator[None]:
    """Each store is imported where it is configured, for it needs a library that others do not."""
    try:
        yield
    except ImportError as error:
        msg = f"this store of the cache sink needs {error.name}, which is not installed: pip install 'sidefx[cache]'"
        raise MissingExtraError(msg) from error
