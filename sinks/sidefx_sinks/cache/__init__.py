"""The `cache` sink, and the in-process cache that it can clear."""

from sidefx_sinks.cache.memory import CacheStats, MemoryCache
from sidefx_sinks.cache.sink import Cache

__all__ = ["Cache", "CacheStats", "MemoryCache"]
