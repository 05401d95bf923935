"""`FastlyStore`: tags (surrogate keys) and URLs of a Fastly service.

The API: https://www.fastly.com/documentation/reference/api/purging/ (256 keys a request; purge all is never soft).
Limits: https://www.fastly.com/documentation/reference/api/#rate-limiting (a reset time in epoch seconds; what is
limited by the hour is purge all, not purging by key or URL).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from pydantic import SecretStr

from sidefx import TransientError
from sidefx_sinks._http import MAX_RETRY_AFTER, Answer
from sidefx_sinks.cache.api import ApiStore, as_json, checked_id, checked_token, divisible, portions
from sidefx_sinks.cache.names import check_tag, parse_sent_url
from sidefx_sinks.cache.requests import Purge
from sidefx_sinks.cache.store import EVERYTHING, Kind, Target, Wanted

_API = "https://api.fastly.com"

_MAX_KEYS = 256
_LONGEST_KEY = 1_024


class FastlyStore(ApiStore):
    """Purges surrogate keys in batches, URLs one by one, and everything where it is allowed."""

    clears: tuple[Kind, ...] = ("tags", "urls", "everything")

    def __init__(
        self,
        service: str,
        token: SecretStr,
        *,
        api: str = "",
        soft: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` answers seconds since the epoch."""
        super().__init__(api or _API, {"Fastly-Key": checked_token(token), "Accept": "application/json"}, accept={429})
        self._service = checked_id(service, "service")
        self._soft = {"Fastly-Soft-Purge": "1"} if soft else {}
        self._clock = clock

    def purges(self, wanted: Wanted, unfit: dict[Target, ValueError]) -> list[Purge]:
        """Everything first: where it is asked for, nothing else is left to do."""
        if EVERYTHING in wanted:
            return [Purge("POST", f"/service/{self._service}/purge_all", targets=tuple(wanted))]
        keys = [divisible(some, self._keys) for some in portions(wanted, "tags", _MAX_KEYS, _key, unfit)]
        urls = [
            Purge("POST", f"/purge/{path}", self._soft, targets=(target,))
            for some in portions(wanted, "urls", 1, _address, unfit)
            for target, path in some.items()
        ]
        return keys + urls

    def _keys(self, some: Mapping[Target, str]) -> Purge:
        content = as_json({"surrogate_keys": list(some.values())})
        return Purge("POST", f"/service/{self._service}/purge", self._soft, content)

    def answered(self, answer: Answer) -> None:
        """The pause after a 429 stands in a header of Fastly's own."""
        if answer.status != 429:
            return
        pause = answer.retry_after
        reset = answer.headers.get("fastly-ratelimit-reset", "")
        if pause is None and reset.isascii() and reset.isdigit():
            pause = min(max(float(reset) - self._clock(), 0.0), MAX_RETRY_AFTER)
        msg = "cache: Fastly's limit of requests is used up (429)"
        raise TransientError(msg, retry_after=pause)


def _key(tag: str) -> str:
    check_tag(tag, _LONGEST_KEY)
    return tag


def _address(url: str) -> str:
    """Host and path, as the API names a cached URL."""
    host, path = parse_sent_url(url)
    if not host:
        msg = "Fastly needs its host as well: give http(s)://HOST/PATH"
        raise ValueError(msg)
    return host + path
