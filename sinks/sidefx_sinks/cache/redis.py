"""`RedisStore`: keys, tags (a tag is a set of keys) and prefixes in a Redis server.

Commands: https://redis.io/docs/latest/commands/. Redis Cluster is not supported: one command names keys of many slots.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr
from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from sidefx import PermanentError, TransientError
from sidefx_sinks.cache.store import Kind, Target, chunks, names

_CHUNK = 500
"""Keys in one command: a server answers nobody else meanwhile."""
_PATIENCE = 60.0
"""Seconds that the client waits for one answer; the lane's timeout is shorter, and cancels."""

_REFUSED = (exceptions.AuthenticationError, exceptions.AuthorizationError)
_LATER = (
    exceptions.ReadOnlyError,  # a replica, until the failover is over
    exceptions.OutOfMemoryError,
    exceptions.ClusterDownError,  # MASTERDOWN too
    exceptions.TryAgainError,
)
_LATER_CODES = frozenset({"BUSY", "MISCONF"})  # a script is running; a snapshot failed
_GLOB = re.compile(r"([*?\[\]\\])")
_CODE = re.compile(r"(?:.*caused error: \(['\"])?([A-Z]{3,})\b", re.DOTALL)  # redis-py puts the command before it


class RedisStore:
    """Clears what is named, below `namespace`, by UNLINK: the memory is freed beside the server's one thread."""

    clears: tuple[Kind, ...] = ("keys", "tags", "prefixes", "everything")

    def __init__(self, url: SecretStr, *, namespace: str, tag_prefix: str, scan_count: int) -> None:
        self._url = url
        self._where = _place(url)
        self._namespace = namespace
        self._tag_prefix = tag_prefix
        self._scan_count = scan_count
        self._opened: Redis | None = None

    async def open(self) -> None:
        """Make the client; it connects at its first command, so that a server that is down stops nobody."""
        self._opened = Redis.from_url(
            self._url.get_secret_value(),
            retry=Retry(NoBackoff(), 0),  # the lane retries
            socket_timeout=_PATIENCE,
            socket_connect_timeout=_PATIENCE,
        )

    async def close(self) -> None:
        """Close every connection."""
        client, self._opened = self._opened, None
        if client is not None:
            await client.aclose()

    @property
    def _client(self) -> Redis:
        if self._opened is None:
            msg = "the cache sink is not open: use it inside `async with`"
            raise RuntimeError(msg)
        return self._opened

    async def check(self) -> None:
        """Ask for a PONG."""
        try:
            await self._client.ping()
        except (exceptions.RedisError, OSError) as error:
            raise self._error(error) from None

    async def clear(self, targets: Sequence[Target]) -> Mapping[Target, Exception]:
        """Clear kind by kind; a target that Redis refuses leaves the others alone."""
        try:
            refused = await self._unlink([self._namespace + key for key in names(targets, "keys")])
            failures: dict[Target, Exception] = {
                Target("keys", key.removeprefix(self._namespace)): self._error(error) for key, error in refused.items()
            }
            failures |= await self._each("tags", names(targets, "tags"), self._clear_tag)
            failures |= await self._each("prefixes", names(targets, "prefixes"), self._clear_prefix)
            failures |= await self._each("everything", names(targets, "everything"), self._clear_all)
        # Without the cause: in a pipeline redis-py writes the command, and so the event's keys, into its errors.
        except (exceptions.RedisError, OSError) as error:
            raise self._error(error) from None
        return failures

    async def _each(
        self, kind: Kind, wanted: Iterable[str], clear: Callable[[str], Awaitable[None]]
    ) -> dict[Target, Exception]:
        failures: dict[Target, Exception] = {}
        for name in wanted:
            try:
                await clear(name)
            except exceptions.ResponseError as error:
                failures[Target(kind, name)] = self._error(error)
        return failures

    async def _unlink(self, keys: Sequence[Any], size: int = _CHUNK) -> dict[Any, Exception]:
        """Unlink in one pipeline; where a chunk is refused, for one key that the user may not touch, each by itself."""
        pipe = self._client.pipeline(transaction=False)
        portions = list(chunks(keys, size))
        for portion in portions:
            pipe.unlink(*portion)
        replies = await pipe.execute(raise_on_error=False)
        refused = [(portion, reply) for portion, reply in zip(portions, replies, strict=True) if _is_error(reply)]
        if size > 1 and refused:
            return await self._unlink([key for portion, _ in refused for key in portion], size=1)
        return {portion[0]: reply for portion, reply in refused}

    async def _clear_tag(self, tag: str) -> None:
        """Unlink the keys in the tag's set and take them out of it, a portion at a time.

        Reading the set and deleting it afterwards would lose the keys that were added in between: cached, yet under
        no tag, so that nothing would ever clear them. SPOP and then UNLINK would lose a portion to a crash between the
        two. So a portion is read, and one transaction unlinks its keys *and* removes exactly them from the set. A
        key that was cached again since the read goes with it, which is only a miss; one that was added stays,
        with its tag. Cancelled or cut off at any point, the transaction has happened wholly or not at all,
        and the next attempt finds the rest still in the set.

        SSCAN meets every member that is there from its start to its end, and ends even while others are added.
        """
        members_of = self._namespace + self._tag_prefix + tag
        cursor = 0
        while True:
            cursor, members = await self._client.sscan(members_of, cursor, count=_CHUNK)
            for portion in chunks(members, _CHUNK):
                pipe = self._client.pipeline(transaction=True)
                pipe.unlink(*portion)
                pipe.srem(members_of, *portion)
                await pipe.execute()
            if cursor == 0:
                return

    async def _clear_prefix(self, prefix: str) -> None:
        """Walk the key space by SCAN, which lets others through between its steps; KEYS would hold up the server."""
        pattern = _GLOB.sub(r"\\\1", self._namespace + prefix) + "*"
        cursor = 0
        while True:
            cursor, keys = await self._client.scan(cursor, match=pattern, count=self._scan_count)
            if refused := await self._unlink(keys):
                raise next(iter(refused.values()))
            if cursor == 0:
                return

    async def _clear_all(self, _: str) -> None:
        if self._namespace:
            await self._clear_prefix("")
        else:
            await self._client.flushdb(asynchronous=True)

    def _error(self, error: Exception) -> Exception:
        """What the lane is to do about it, in words that hold neither the password nor a key."""
        if isinstance(error, _REFUSED):
            return PermanentError(f"cache: Redis at {self._where} refuses the login; check user and password in `url`")
        if isinstance(error, exceptions.NoPermissionError):
            return PermanentError(
                f"cache: Redis at {self._where} denies the command or the key (NOPERM); "
                "grant the user UNLINK, SREM, SSCAN and SCAN on the cache's keys"
            )
        if isinstance(error, exceptions.ResponseError):
            found = _CODE.match(str(error))
            code = found[1] if found else type(error).__name__
            if isinstance(error, _LATER) or code in _LATER_CODES:
                return TransientError(f"cache: Redis at {self._where} cannot write at present ({code})")
            hint = "; something other than a set has the name of the tag's set" if code == "WRONGTYPE" else ""
            return PermanentError(f"cache: Redis at {self._where} refuses the command ({code}){hint}")
        reason = " ".join(str(error).split()) or type(error).__name__
        return TransientError(f"cache: no answer from Redis at {self._where}: {reason}")


def _is_error(reply: object) -> bool:
    return isinstance(reply, Exception)


def _place(url: SecretStr) -> str:
    """Where the server is, for messages: the URL without user, password and options."""
    place = None
    with suppress(ValueError):  # of urlsplit: it quotes what stands where the port should, perhaps half a password
        parts = urlsplit(url.get_secret_value())
        if parts.scheme in {"redis", "rediss"}:
            place = f"{parts.hostname or 'localhost'}:{parts.port or 6379}"
        elif parts.scheme == "unix":
            place = parts.path
    if place is None:
        msg = (
            "url must be redis://HOST:PORT/DB, rediss://... (TLS) or unix:///SOCKET; "
            "in a password write special characters as %XX"
        )
        raise ValueError(msg)
    return place
