"""Invalidations on a Redis channel: what the sink publishes, and `follow`, by which local caches hear of it."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any, NoReturn, Protocol

import anyio
from pydantic import BaseModel, SecretStr, ValidationError
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from sidefx_sinks._secret import as_secret
from sidefx_sinks.cache.redis_errors import REDIS_ERRORS, place
from sidefx_sinks.cache.store import Target, chunks, names

_log = logging.getLogger("sidefx")

_NAMES = 500
"""Names in one message."""
_PING_SECONDS = 15.0
_PATIENCE = 10.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0


class Forgetful(Protocol):
    """A cache that can forget, as `MemoryCache` does."""

    def invalidate(
        self, *, keys: Iterable[str], tags: Iterable[str], prefixes: Iterable[str], everything: bool
    ) -> object:
        """Forget what is named."""


class _Message(BaseModel):
    keys: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    everything: bool = False


def messages(cleared: Sequence[Target]) -> Iterator[str]:
    """JSON objects with `keys`, `tags`, `prefixes` and `everything`, named as the events name them."""
    for some in chunks(cleared, _NAMES):
        named: dict[str, Any] = {kind: found for kind in ("keys", "tags", "prefixes") if (found := names(some, kind))}
        yield json.dumps(named | ({"everything": True} if names(some, "everything") else {}))


async def follow(url: SecretStr | str, channel: str, *caches: Forgetful) -> NoReturn:
    """Tell local caches what the `cache` sinks of all processes clear, until it is cancelled.

    Run it as a task beside the application, on asyncio. `url` is one server's, in a cluster any node's; `channel`
    is that of the sink. Pub/sub keeps nothing for those who are away: after every connection made anew the caches
    forget everything, and while there is none their own time limits are all that holds.
    """
    url = as_secret(url)
    where = place(url)
    pause = _FIRST_PAUSE
    while True:
        try:
            async for message in _messages_of(url, channel):
                for cache in caches:
                    _tell(cache, message)
                pause = _FIRST_PAUSE
        except REDIS_ERRORS as error:
            _log.warning("cache: following %s of Redis at %s: %s; trying again", channel, where, type(error).__name__)
        await anyio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)


def _tell(cache: Forgetful, message: _Message) -> None:
    try:
        cache.invalidate(**message.model_dump())
    except Exception as error:  # noqa: BLE001 - whatever ails it, the other caches are to forget
        _log.error("cache: a local %s has not forgotten: %s", type(cache).__name__, type(error).__name__)


async def _messages_of(url: SecretStr, channel: str) -> AsyncIterator[_Message]:
    client = Redis.from_url(
        url.get_secret_value(),
        retry=Retry(NoBackoff(), 0),  # a connection that was made anew in silence would hide what was missed
        socket_timeout=_PATIENCE,
        socket_connect_timeout=_PATIENCE,
    )
    async with client, client.pubsub() as subscription:
        await subscription.subscribe(channel)
        asked = False
        while True:
            found = await subscription.get_message(timeout=_PING_SECONDS)
            if found is None:
                if asked:
                    msg = "no PONG"
                    raise TimeoutError(msg)
                await subscription.ping()
            elif found["type"] == "subscribe":
                yield _Message(everything=True)
            elif found["type"] == "message":
                yield _read(found["data"])
            asked = found is None


def _read(data: bytes) -> _Message:
    """What a message says; one that cannot be read may have said anything."""
    try:
        return _Message.model_validate_json(data)
    except ValidationError:
        _log.warning("cache: a message on the channel is not the sink's; local caches forget everything")
        return _Message(everything=True)
