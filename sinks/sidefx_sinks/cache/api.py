"""`ApiStore`: what the caches of vendors share, that are cleared by requests to one API."""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from sidefx import PermanentError
from sidefx_sinks._http import Answer, Client, ask, open_client
from sidefx_sinks.cache.names import checked_node
from sidefx_sinks.cache.requests import Purge, UnfitError, in_turn
from sidefx_sinks.cache.store import Kind, Target, Wanted, chunks, names

CHECKED = "sidefx-check"
"""A tag that no page has."""

_UNFIT = frozenset({400, 413, 414, 422, 431})
"""What says that it is the request's content that is refused, and not who sends it."""

_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")
_TOKEN = re.compile(r"[\x21-\x7e]+")


class ApiStore:
    """Clears by requests to one API, one after the other; what it cannot take of a request fails alone."""

    clears: tuple[Kind, ...] = ()

    def __init__(self, api: str, headers: Mapping[str, SecretStr | str], accept: Collection[int] = ()) -> None:
        """`accept` are statuses that `answered` is to judge."""
        self._api = checked_node(api, "api")
        self._headers = headers
        self._accept = _UNFIT.union(accept)
        self._opened: Client | None = None

    async def open(self) -> None:
        """Make the client; it connects at its first request."""
        self._opened = open_client(headers=self._headers)

    async def close(self) -> None:
        """Close every connection."""
        client, self._opened = self._opened, None
        if client is not None:
            await client.aclose()

    async def check(self) -> None:
        """Purge a tag that no page has, which needs the token to be good for it and changes nothing."""
        for purge in self.purges({Target("tags", CHECKED): []}, {}):
            await self._send(purge)

    async def clear(self, wanted: Wanted) -> Mapping[Target, Exception]:
        """Clear in as few requests as the API's caps allow."""
        unfit: dict[Target, ValueError] = {}
        purges = self.purges(wanted, unfit)
        failures: dict[Target, Exception] = {
            target: PermanentError(f"cache: one of the event's {target.kind} cannot be purged: {error}")
            for target, error in unfit.items()
        }
        return failures | await in_turn(purges, self._send)

    @abstractmethod
    def purges(self, wanted: Wanted, unfit: dict[Target, ValueError]) -> list[Purge]:
        """The requests; what cannot be asked for goes into `unfit`, with an error that does not repeat it."""

    def answered(self, answer: Answer) -> None:
        """Raises what an accepted status means, or an answer's body."""

    async def _send(self, purge: Purge) -> None:
        if self._opened is None:
            msg = "the cache sink is not open: use it inside `async with`"
            raise RuntimeError(msg)
        url = self._api + purge.path
        headers = purge.headers | ({"Content-Type": "application/json"} if purge.content is not None else {})
        answer = await ask(self._opened, url, content=purge.content or b"", headers=headers, accept=self._accept)
        if answer.status in _UNFIT:
            msg = (
                f"cache: {urlsplit(url).netloc} answered {answer.status}: it does not take the request "
                "as it is; check what the event names"
            )
            raise UnfitError(msg)
        self.answered(answer)


def divisible(some: Mapping[Target, str], make: Callable[[Mapping[Target, str]], Purge]) -> Purge:
    """The request for these targets, which can be made for fewer of them as well."""

    def halves() -> list[Purge]:
        items = list(some.items())
        middle = len(items) // 2
        return [divisible(dict(half), make) for half in (items[:middle], items[middle:])]

    return replace(make(some), targets=tuple(some), halves=halves if len(some) > 1 else None)


def portions(
    wanted: Iterable[Target],
    kind: Kind,
    size: int,
    spelled: Callable[[str], str],
    unfit: dict[Target, ValueError],
) -> list[dict[Target, str]]:
    """The targets of that kind as the API spells them, at most `size` together."""
    fit: dict[Target, str] = {}
    for name in names(wanted, kind):
        target = Target(kind, name)
        try:
            fit[target] = spelled(name)
        except ValueError as error:
            unfit[target] = error
    return [dict(some) for some in chunks(list(fit.items()), size)]


def as_json(body: Any) -> bytes:
    """A request's content."""
    return json.dumps(body, separators=(",", ":")).encode()


def checked_id(value: str, setting: str) -> str:
    """The id, which is to stand in a path.

    Raises:
        ValueError: it cannot.
    """
    if not _ID.fullmatch(value):
        msg = f"{setting} is to be the id that the vendor shows: letters, digits, - and _"
        raise ValueError(msg)
    return value


def checked_token(token: SecretStr) -> SecretStr:
    """The token, which is to stand in a header.

    Raises:
        ValueError: it cannot; the message does not repeat it.
    """
    if not _TOKEN.fullmatch(token.get_secret_value()):
        msg = "token is empty, or is not one word of ASCII text"
        raise ValueError(msg)
    return token
