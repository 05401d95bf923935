"""`RedisStore`: keys, tags (a tag is a set of keys) and prefixes in a Redis server or a Redis Cluster.

Commands: https://redis.io/docs/latest/commands/.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr
from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot

from sidefx import PermanentError
from sidefx_sinks.cache.channel import messages
from sidefx_sinks.cache.redis_errors import REDIS_ERRORS, place, told
from sidefx_sinks.cache.redis_tags import TagSet
from sidefx_sinks.cache.store import Kind, Target, Wanted, chunks, names

_CHUNK = 500
"""Keys in one command: a server answers nobody else meanwhile."""
_PIPELINE = 5_000
"""Keys whose commands are sent together."""
_PATIENCE = 60.0
"""Seconds that the client waits for one answer; the lane's timeout is shorter, and cancels."""

_OF_A_CLUSTER = (exceptions.AskError, exceptions.ClusterCrossSlotError)  # MOVED is a kind of the first
_GLOB = re.compile(r"([*?\[\]\\])")


class RedisStore:
    """Clears what is named, below `namespace`, by UNLINK: the memory is freed beside the server's one thread.

    In a cluster a command names keys of one slot only, and a walk goes through every primary.
    With a `channel`, what was cleared is then published there, for caches in the memory of other processes.
    """

    clears: tuple[Kind, ...] = ("keys", "tags", "prefixes", "everything")

    def __init__(
        self,
        url: SecretStr,
        *,
        namespace: str,
        tag_prefix: str,
        scan_count: int,
        cluster: bool = False,
        channel: str = "",
    ) -> None:
        self._url = url
        self._where = place(url)
        if cluster:
            _check_cluster_url(url)
        self._namespace = namespace
        self._tag_prefix = tag_prefix
        self._scan_count = scan_count
        self._cluster = cluster
        self._channel = channel
        self._opened: Redis | RedisCluster | None = None

    async def open(self) -> None:
        """Make the client; it connects at its first command, so that a server that is down stops nobody."""
        kind = RedisCluster if self._cluster else Redis
        self._opened = kind.from_url(
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
    def _client(self) -> Any:  # Redis or RedisCluster: they share methods, not types
        if self._opened is None:
            msg = "the cache sink is not open: use it inside `async with`"
            raise RuntimeError(msg)
        return self._opened

    async def check(self) -> None:
        """Ask for a PONG; of every node in a cluster."""
        try:
            await self._client.ping()
        except REDIS_ERRORS as error:
            raise self._error(error) from None

    async def clear(self, wanted: Wanted) -> Mapping[Target, Exception]:
        """Clear kind by kind; a target that Redis refuses leaves the others alone."""
        try:
            refused = await self._unlink([self._namespace + key for key in names(wanted, "keys")])
            failures: dict[Target, Exception] = {
                Target("keys", key.removeprefix(self._namespace)): self._error(error) for key, error in refused.items()
            }
            failures |= await self._each("tags", names(wanted, "tags"), self._clear_tag)
            failures |= await self._each("prefixes", names(wanted, "prefixes"), self._clear_prefix)
            failures |= await self._each("everything", names(wanted, "everything"), self._clear_all)
            if self._channel:
                await self._publish([target for target in wanted if target not in failures])
        # Without the cause: in a pipeline redis-py writes the command, and so the event's keys, into its errors.
        except REDIS_ERRORS as error:
            raise self._error(error) from None
        return failures

    async def _each(
        self, kind: Kind, wanted: Iterable[str], clear: Callable[[str], Awaitable[None]]
    ) -> dict[Target, Exception]:
        failures: dict[Target, Exception] = {}
        for name in wanted:
            try:
                await clear(name)
            except PermanentError as error:
                failures[Target(kind, name)] = error
            except exceptions.ResponseError as error:
                failures[Target(kind, name)] = self._error(error)
        return failures

    async def _unlink(self, keys: Sequence[Any], size: int = _CHUNK) -> dict[Any, Exception]:
        """Unlink in pipelines; where a portion is refused, for one key that the user may not touch, each by itself."""
        refused: dict[Any, Exception] = {}
        for some in chunks(keys, _PIPELINE):
            pipe = self._client.pipeline(transaction=False)
            portions = self._portions(some, size)
            for portion in portions:
                pipe.execute_command("UNLINK", *portion)  # `pipe.unlink` of a cluster splits the keys by itself
            replies = await pipe.execute(raise_on_error=False)
            for portion, reply in zip(portions, replies, strict=True):
                if not isinstance(reply, Exception):
                    continue
                refused |= await self._unlink(portion, size=1) if len(portion) > 1 else {portion[0]: reply}
        return refused

    def _portions(self, keys: Sequence[Any], size: int) -> list[Sequence[Any]]:
        """What one command may name: a bounded number and, in a cluster, the keys of one slot."""
        if not self._cluster:
            return list(chunks(keys, size))
        by_slot: dict[int, list[Any]] = {}
        for key in keys:
            by_slot.setdefault(key_slot(key if isinstance(key, bytes) else key.encode()), []).append(key)
        return [portion for of_slot in by_slot.values() for portion in chunks(of_slot, size)]

    async def _clear_tag(self, tag: str) -> None:
        """Take the keys out of the tag's set, a portion at a time, and unlink them; it ends when the set is empty."""
        tagged = TagSet(self._client, self._namespace + self._tag_prefix + tag)
        if self._cluster and not tagged.fits_a_cluster:
            msg = "cache: a tag with a brace but no pair of braces around something cannot be cleared in a cluster"
            raise PermanentError(msg)
        kept: dict[bytes, Exception] = {}  # in the hash until the end: back in the set, they would be popped again
        keys = await tagged.take_over() or await tagged.take(_CHUNK)
        while keys:
            for portion in chunks(keys, _CHUNK):
                refused = await self._unlink(portion)
                await tagged.done([key for key in portion if key not in refused])
                kept |= refused
            keys = await tagged.take(_CHUNK) if len(kept) < _CHUNK else []
        for some in chunks(list(kept), _CHUNK):
            await tagged.give_back(some)
        if kept:
            raise next(iter(kept.values()))

    async def _clear_prefix(self, prefix: str) -> None:
        """Walk the key space by SCAN, which lets others through between its steps; KEYS would hold up the server."""
        pattern = _GLOB.sub(r"\\\1", self._namespace + prefix) + "*"
        if self._cluster:
            await self._client.initialize()
        nodes = self._client.get_primaries() if self._cluster else [None]
        refused = [await self._walk(pattern, node) for node in nodes]
        if error := next(filter(None, refused), None):
            raise error

    async def _walk(self, pattern: str, node: ClusterNode | None) -> Exception | None:
        """The first refusal: one key that the user may not touch leaves the others to be unlinked."""
        at = {} if node is None else {"target_nodes": node}
        cursor = 0
        first: Exception | None = None
        while True:
            found, keys = await self._client.scan(cursor, match=pattern, count=self._scan_count, **at)
            cursor = found if node is None else found[node.name]
            if refused := await self._unlink(keys):
                first = first or next(iter(refused.values()))
            if cursor == 0:
                return first

    async def _clear_all(self, _: str) -> None:
        if self._namespace:
            await self._clear_prefix("")
        else:
            await self._client.flushdb(asynchronous=True)  # on every primary of a cluster

    async def _publish(self, cleared: Sequence[Target]) -> None:
        for message in messages(cleared):
            await self._client.execute_command("PUBLISH", self._channel, message)

    def _error(self, error: Exception) -> Exception:
        if not self._cluster and isinstance(error, _OF_A_CLUSTER):
            return PermanentError(f"cache: Redis at {self._where} is a cluster; set cluster = true")
        return told(error, self._where)


def _check_cluster_url(url: SecretStr) -> None:
    parts = urlsplit(url.get_secret_value())
    if parts.scheme == "unix" or parts.path not in {"", "/", "/0"}:
        msg = (
            "url: a cluster is reached by redis:// or rediss://HOST:PORT of one of its nodes, and has database 0 alone"
        )
        raise ValueError(msg)
