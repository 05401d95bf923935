"""`MemoryCache`: an in-process cache with tags, for small applications and for tests."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any, ClassVar

from sidefx_sinks.cache.store import Kind, Target, Wanted, names


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What a `MemoryCache` holds and has done since it was made."""

    entries: int
    hits: int
    misses: int
    """Reads that found nothing, or something out of date."""
    evictions: int
    """Entries that left because the cache was full."""
    dropped: int
    """Entries that left by `delete` or `invalidate`."""


@dataclass(frozen=True, slots=True)
class _Entry:
    value: Any
    expires: float | None
    tags: frozenset[str]


class MemoryCache:
    """Values by key, in this process, at most `max_entries`: the least recently used makes room.

    Thread-safe. Values are kept and returned as they are, not copied. Each process has its own:
    clearing one clears none in another worker.
    """

    _named: ClassVar[dict[str, MemoryCache]] = {}
    _named_lock: ClassVar[Lock] = Lock()

    def __init__(self, *, max_entries: int = 10_000, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` answers seconds; only its differences matter."""
        if max_entries < 1:
            msg = f"max_entries is {max_entries}; a cache holds at least 1 entry"
            raise ValueError(msg)
        self._max_entries = max_entries
        self._clock = clock
        self._lock = Lock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # least recently used first
        self._tagged: dict[str, set[str]] = {}
        self._hits = self._misses = self._evictions = self._dropped = 0
        self._recent: deque[str] = deque(maxlen=100)

    @classmethod
    def named(cls, name: str = "default") -> MemoryCache:
        """The process's one cache of that name, made at its first use.

        The sink `Cache(store="memory", name=NAME)` clears the same one.
        """
        with cls._named_lock:
            return cls._named.setdefault(name, cls())

    @classmethod
    def register(cls, name: str, cache: MemoryCache) -> MemoryCache:
        """Give a cache with a size of its own a name, before `named` or a sink has made one of that name.

        Raises:
            ValueError: another cache has that name.
        """
        with cls._named_lock:
            if cls._named.setdefault(name, cache) is not cache:
                msg = f"a memory cache named {name!r} exists already; register yours before its first use"
                raise ValueError(msg)
        return cache

    def get(self, key: str, default: Any = None) -> Any:
        """The value, or `default` where there is none or its time is over."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or (entry.expires is not None and entry.expires <= self._clock()):
                if entry is not None:
                    self._remove(key)
                self._misses += 1
                return default
            self._entries.move_to_end(key)
            self._hits += 1
            return entry.value

    def set(self, key: str, value: Any, ttl: float | None = None, tags: Iterable[str] = ()) -> None:
        """Keep the value for `ttl` seconds (None: until it is cleared or makes room), under these tags alone."""
        expires = None if ttl is None else self._clock() + ttl
        entry = _Entry(value, expires, frozenset((tags,) if isinstance(tags, str) else tags))
        with self._lock:
            self._remove(key)
            self._entries[key] = entry
            for tag in entry.tags:
                self._tagged.setdefault(tag, set()).add(key)
            while len(self._entries) > self._max_entries:
                self._remove(next(iter(self._entries)))
                self._evictions += 1

    def delete(self, key: str) -> bool:
        """Forget the key; whether there was one."""
        return bool(self.invalidate(keys=(key,)))

    def invalidate(
        self,
        *,
        keys: Iterable[str] = (),
        tags: Iterable[str] = (),
        prefixes: Iterable[str] = (),
        everything: bool = False,
    ) -> list[str]:
        """Forget what is named, and answer the keys that were there."""
        keys, tags, starts = ((some,) if isinstance(some, str) else tuple(some) for some in (keys, tags, prefixes))
        with self._lock:
            if everything:
                doomed = list(self._entries)
            else:
                doomed = [*keys, *(key for tag in tags for key in sorted(self._tagged.get(tag, ())))]
                if starts:
                    doomed += [key for key in self._entries if key.startswith(starts)]
            gone = [key for key in dict.fromkeys(doomed) if self._remove(key)]
            self._dropped += len(gone)
            self._recent.extend(gone)
        return gone

    def recently_dropped(self) -> list[str]:
        """The last 100 keys that `delete` or `invalidate` removed, newest last."""
        with self._lock:
            return list(self._recent)

    def stats(self) -> CacheStats:
        """Counts of this moment."""
        with self._lock:
            return CacheStats(len(self._entries), self._hits, self._misses, self._evictions, self._dropped)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        """Whether `get` would find it; counts as neither hit nor miss."""
        with self._lock:
            entry = self._entries.get(key)  # type: ignore[call-overload]  # what is no string is no key
            return entry is not None and (entry.expires is None or entry.expires > self._clock())

    def _remove(self, key: str) -> bool:
        entry = self._entries.pop(key, None)
        if entry is None:
            return False
        for tag in entry.tags:
            keys = self._tagged[tag]
            keys.discard(key)
            if not keys:
                del self._tagged[tag]
        return True


class MemoryStore:
    """The named `MemoryCache` of this process, as a store of the sink."""

    clears: tuple[Kind, ...] = ("keys", "tags", "prefixes", "everything")

    def __init__(self, name: str) -> None:
        self._name = name

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close: the application goes on using its cache."""

    async def clear(self, wanted: Wanted) -> Mapping[Target, Exception]:
        """Clear the targets; nothing here can refuse."""
        MemoryCache.named(self._name).invalidate(
            keys=names(wanted, "keys"),
            tags=names(wanted, "tags"),
            prefixes=names(wanted, "prefixes"),
            everything=bool(names(wanted, "everything")),
        )
        return {}

    async def check(self) -> None:
        """Always reachable."""
