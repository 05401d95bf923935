"""`RequestInfo`: a snapshot of the request that an effect belongs to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from typing import Self

Outcome: TypeAlias = Literal["complete", "disconnected", "errored", "unknown"]

_REQUEST_ID = re.compile(r"[A-Za-z0-9._~:/+=@-]{1,128}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


class Client(NamedTuple):
    """The peer's address, as the server reports it."""

    host: str
    port: int | None = None


class Fields(Mapping[str, str]):
    """An immutable mapping in which a name can have several values: `[]` gives the first."""

    __slots__ = ("_values",)

    def __init__(self, items: Iterable[tuple[str, str]] = ()) -> None:
        values: dict[str, list[str]] = {}
        for name, value in items:
            values.setdefault(self._key(name), []).append(value)
        self._values = values

    @staticmethod
    def _key(name: str) -> str:
        return name

    def __getitem__(self, name: str) -> str:
        return self._values[self._key(name)][0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def getlist(self, name: str) -> list[str]:
        """Every value of that name, in order; empty where there is none."""
        return list(self._values.get(self._key(name), ()))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {', '.join(self._values) or 'nothing'}>"  # values may be secret


class Headers(Fields):
    """Request headers; names are compared without regard to case."""

    __slots__ = ()

    @staticmethod
    def _key(name: str) -> str:
        return name.lower()


def _empty_cookies() -> Mapping[str, str]:
    return MappingProxyType({})


class RequestInfo(BaseModel):
    """What an effect may know of its request: immutable, and readable long after the request has gone.

    `status`, `bytes_sent`, `duration` and `outcome` are those of the response, known once it is over.

    Its JSON, which is what is stored with an event, holds an allow-list: never headers, cookies,
    authorization, the query string or a body. Its repr leaves the same out.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", arbitrary_types_allowed=True)

    request_id: str
    """The incoming `X-Request-ID` where it is sane, else a new one."""
    method: str = ""
    path: str = ""
    route: str | None = None
    """The route's template (`/orders/{id}`), where the framework leaves one in the ASGI scope."""
    client: Client | None = None
    user_agent: str | None = None
    traceparent: str | None = None
    """W3C Trace Context: of the current span where the app traces with OpenTelemetry, else of the incoming header."""
    status: int | None = None
    """What passed through the adapter; None where the app raised before sending one."""
    bytes_sent: int = 0
    """Body bytes of the response, before any transfer coding."""
    duration: float | None = None
    """Seconds from the request's arrival to the end of its response."""
    outcome: Outcome = "unknown"

    query: Fields = Field(default_factory=Fields, exclude=True, repr=False)
    headers: Headers = Field(default_factory=Headers, exclude=True, repr=False)
    cookies: Mapping[str, str] = Field(default_factory=_empty_cookies, exclude=True, repr=False)

    @classmethod
    def _of(cls, **facts: Any) -> Self:
        """One of these facts, unvalidated: `model_construct` without its generality, once a request."""
        info = object.__new__(cls)
        object.__setattr__(info, "__dict__", {**_UNKNOWN_YET, **facts})
        object.__setattr__(info, "__pydantic_fields_set__", set(facts))
        object.__setattr__(info, "__pydantic_extra__", None)
        object.__setattr__(info, "__pydantic_private__", None)
        return info

    def _complete(self, **response: Any) -> None:
        """Written once, by the scope, when the response is over; to everyone else it is frozen."""
        vars(self).update(response)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self


_UNKNOWN_YET = {
    name: "" if field.is_required() else field.get_default(call_default_factory=True)
    for name, field in RequestInfo.model_fields.items()
}
"""In the order of the fields. Every value is immutable: requests may share them."""


def sane_request_id(value: str | None) -> str | None:
    """The value where it is short and harmless in a log line, else None."""
    return value if value is not None and _REQUEST_ID.fullmatch(value) else None


def sane_traceparent(value: str | None) -> str | None:
    """The value where it is a W3C `traceparent` (https://www.w3.org/TR/trace-context/), else None."""
    return value if value is not None and len(value) <= 256 and _TRACEPARENT.fullmatch(value) else None
