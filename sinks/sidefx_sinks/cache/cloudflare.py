"""`CloudflareStore`: tags, prefixes, URLs, hosts and everything of a Cloudflare zone.

Limits: https://developers.cloudflare.com/cache/how-to/purge-cache/ (100 operations a request, 500 URLs for Enterprise;
5 requests a minute with bursts of 25 for Free, 5, 10 and 50 a second for Pro, Business and Enterprise).
The API: https://developers.cloudflare.com/api/resources/cache/methods/purge/.
Prefixes: https://developers.cloudflare.com/cache/how-to/purge-cache/purge_by_prefix/ (no scheme, query or fragment).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from pydantic import BaseModel, SecretStr, ValidationError

from sidefx import TransientError
from sidefx_sinks._http import Answer
from sidefx_sinks.cache.api import ApiStore, as_json, checked_id, checked_token, divisible, portions
from sidefx_sinks.cache.names import check_tag, parse_host, parse_url
from sidefx_sinks.cache.requests import Purge
from sidefx_sinks.cache.store import EVERYTHING, Kind, Target, Wanted

_API = "https://api.cloudflare.com/client/v4"

_MAX_OPERATIONS = 100
_LONGEST_TAG = 1_024
_MOST_SEPARATORS = 31
_FIELDS = {"tags": "tags", "hosts": "hosts", "prefixes": "prefixes", "urls": "files"}
"""What the API calls each kind; a request has one of them."""


class _Said(BaseModel):
    success: bool = True


class CloudflareStore(ApiStore):
    """Purges in as few requests as there can be. The limits count requests: give the sink a `rate_limit` below them."""

    clears: tuple[Kind, ...] = ("tags", "prefixes", "urls", "hosts", "everything")

    def __init__(self, zone: str, token: SecretStr, *, api: str = "") -> None:
        bearer = SecretStr(f"Bearer {checked_token(token).get_secret_value()}")
        super().__init__(api or _API, {"Authorization": bearer, "Accept": "application/json"})
        self._path = f"/zones/{checked_id(zone, 'zone')}/purge_cache"

    def purges(self, wanted: Wanted, unfit: dict[Target, ValueError]) -> list[Purge]:
        """Everything first: where it is asked for, nothing else is left to do."""
        if EVERYTHING in wanted:
            return [Purge("POST", self._path, content=as_json({"purge_everything": True}), targets=tuple(wanted))]
        spelled = {"tags": _tag, "hosts": parse_host, "prefixes": _prefix, "urls": _file}
        kinds: tuple[Kind, ...] = ("tags", "hosts", "prefixes", "urls")
        return [
            divisible(some, partial(self._named, _FIELDS[kind]))
            for kind in kinds
            for some in portions(wanted, kind, _MAX_OPERATIONS, spelled[kind], unfit)
        ]

    def answered(self, answer: Answer) -> None:
        """A 2xx alone says nothing where the body takes it back."""
        try:
            said = _Said.model_validate_json(answer.body or b"{}")
        except ValidationError:  # somebody else's body, perhaps of a proxy: the status is all there is
            return
        if not said.success:
            msg = f"cache: Cloudflare answered {answer.status}, and in its body that the purge has failed"
            raise TransientError(msg)

    def _named(self, field: str, some: Mapping[Target, str]) -> Purge:
        return Purge("POST", self._path, content=as_json({field: list(some.values())}))


def _tag(tag: str) -> str:
    check_tag(tag, _LONGEST_TAG)
    return tag


def _prefix(prefix: str) -> str:
    host, path = parse_url(prefix)
    if not host or "?" in prefix or "#" in prefix or path.count("/") > _MOST_SEPARATORS:
        msg = f"Cloudflare takes http(s)://HOST/PATH, without query and of at most {_MOST_SEPARATORS} slashes"
        raise ValueError(msg)
    return host + path


def _file(url: str) -> str:
    if not parse_url(url).host:
        msg = "Cloudflare needs its host as well: give http(s)://HOST/PATH"
        raise ValueError(msg)
    return url.partition("#")[0]
