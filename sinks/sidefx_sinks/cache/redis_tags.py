"""A tag's set in Redis, emptied by SPOP in portions, so that no key is ever cached and under no tag.

Commands: https://redis.io/docs/latest/commands/spop/, https://redis.io/docs/latest/commands/eval/.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.crc import key_slot

# A key that is popped stands in the hash beside the set until it is unlinked, with the token of whoever is to do
# that: the last who took it. What an attempt that was cut off left there is taken over by the next.
_TAKE = """
local keys = redis.call('SPOP', KEYS[1], ARGV[2])
for _, key in ipairs(keys) do
    local noted = redis.pcall('HSET', KEYS[2], key, ARGV[1])
    if type(noted) == 'table' then -- refused, and what a script has done is not undone
        redis.call('SADD', KEYS[1], unpack(keys))
        return noted
    end
end
return keys
"""
_TAKE_OVER = """
local keys = redis.call('HKEYS', KEYS[2])
for _, key in ipairs(keys) do
    redis.call('HDEL', KEYS[2], key) -- a server without memory lets a script add only after a write that it permits
    redis.call('HSET', KEYS[2], key, ARGV[1])
end
return keys
"""
_DONE = """
for i = 2, #ARGV do
    if redis.call('HGET', KEYS[2], ARGV[i]) == ARGV[1] then redis.call('HDEL', KEYS[2], ARGV[i]) end
end
"""
_GIVE_BACK = """
for i = 2, #ARGV do
    redis.call('SADD', KEYS[1], ARGV[i])
    redis.call('HDEL', KEYS[2], ARGV[i])
end
"""


class TagSet:
    """The keys under a tag, taken out of its set a portion at a time.

    Reading the set and deleting it afterwards would lose the keys that were added in between: cached, yet under no
    tag, so that nothing would ever clear them. SPOP alone would lose a portion to a crash before its UNLINK. So one
    script pops a portion *and* notes it in a hash beside the set, in the same slot of a cluster; the keys are
    unlinked, wherever they are; another script strikes them out. Cut off at any point, each key is gone, or in the
    set, or in the hash. One that is cached again meanwhile is in the set again: it is popped again, which costs a
    miss, or stays.
    """

    def __init__(self, client: Redis | RedisCluster, name: str) -> None:
        self._client: Any = client  # each half of its annotation has its own overloads of `eval`
        self.name = name
        self.hash = f"{name}:sidefx" if _has_hash_tag(name) else f"{{{name}}}:sidefx"
        self._token = uuid4().hex

    @property
    def fits_a_cluster(self) -> bool:
        """Whether set and hash share a slot; a name with a single or empty pair of braces cannot have it so."""
        return key_slot(self.name.encode()) == key_slot(self.hash.encode())

    async def take_over(self) -> list[bytes]:
        """What was popped by those who did not live to unlink it, or are still at it."""
        return list(await self._run(_TAKE_OVER))

    async def take(self, count: int) -> list[bytes]:
        """Pop so many keys, or what is left; none once the set is empty."""
        return list(await self._run(_TAKE, count))

    async def done(self, keys: Sequence[bytes]) -> None:
        """They are unlinked. A key that somebody else has taken since stays his to unlink."""
        await self._run(_DONE, *keys)

    async def give_back(self, keys: Sequence[bytes]) -> None:
        """They could not be unlinked: put them under their tag again."""
        await self._run(_GIVE_BACK, *keys)

    async def _run(self, script: str, *arguments: Any) -> Any:
        return await self._client.eval(script, 2, self.name, self.hash, self._token, *arguments)


def _has_hash_tag(key: str) -> bool:
    """Whether a part of it alone decides its slot: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags."""
    start = key.find("{")
    end = key.find("}", start + 1)
    return start >= 0 and end > start + 1
