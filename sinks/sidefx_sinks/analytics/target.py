"""`Target`: a preset, with the address and the key that the settings give it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias
from urllib.parse import urlencode, urlsplit

from pydantic import SecretStr

from sidefx_sinks import _http
from sidefx_sinks._secret import as_secret
from sidefx_sinks.analytics.ga4 import ga4
from sidefx_sinks.analytics.generic import GENERIC
from sidefx_sinks.analytics.otlp import otlp
from sidefx_sinks.analytics.posthog import POSTHOG, POSTHOG_V1
from sidefx_sinks.analytics.preset import Preset
from sidefx_sinks.analytics.segment import SEGMENT

PresetName: TypeAlias = Literal["segment", "posthog", "posthog_v1", "ga4", "otlp", "json"]

_READY: dict[str, Preset] = {"segment": SEGMENT, "posthog": POSTHOG, "posthog_v1": POSTHOG_V1, "json": GENERIC}
_OWN_HEADERS = frozenset(
    {
        "content-type",
        "content-encoding",
        "posthog-sdk-info",
        "posthog-attempt",
        "posthog-request-id",
        "posthog-request-timestamp",
    }
)


class Target:
    """Where the events go, and as whom.

    Raises:
        ValueError: a setting that the preset needs is missing, or one is set that it does not have.
    """

    def __init__(
        self,
        name: PresetName,
        *,
        url: str | None,
        write_key: SecretStr | str | None,
        headers: Mapping[str, SecretStr | str] | None,
        measurement_id: str | None,
        resource: Mapping[str, str] | None,
        validate: bool,
    ) -> None:
        self.preset = _preset(name, measurement_id, resource)
        if validate and self.preset.validation_path is None:
            msg = f"validate: the preset {name} has nobody who validates; remove it"
            raise ValueError(msg)
        self._key = _checked_key(self.preset, write_key)
        base = url or self.preset.url
        if base is None:
            msg = f"url: the preset {name} has no address of its own; set the URL to send to"
            raise ValueError(msg)
        self._base = _checked_base(base, self.preset.path)
        reserved = {"authorization"} if self.preset.auth in {"basic", "bearer"} else set[str]()
        self._headers = _http.checked_headers(headers, reserved=_OWN_HEADERS | reserved)

    @property
    def label(self) -> str:
        """The preset and the host, for logs and reports: never a path, which can be a secret."""
        return f"{self.preset.name} {urlsplit(self._base).netloc.rpartition('@')[2]}"

    @property
    def key(self) -> str:
        """In the open, for a body."""
        return self._key.get_secret_value()

    def address(self, path: str | None = None) -> str:
        """The preset's, or another path's of the same vendor; it can hold the key, so it is made for each request."""
        url = self._base + (self.preset.path if path is None else path)
        if self.preset.auth != "query":
            return url
        return f"{url}?{urlencode({**(self.preset.query or {}), self.preset.key_parameter: self.key})}"

    def open_client(self, way: _http.Way, *, gzip: bool) -> _http.Client:
        """A client with what every request carries."""
        bearer = {"Authorization": SecretStr(f"Bearer {self.key}")} if self.preset.auth == "bearer" else {}
        return _http.open_client(
            headers={
                **self._headers,
                **bearer,
                "Content-Type": "application/json",
                **({"Content-Encoding": "gzip"} if gzip else {}),
            },
            auth=(self._key, "") if self.preset.auth == "basic" else None,
            way=way,
        )


def _preset(name: PresetName, measurement_id: str | None, resource: Mapping[str, str] | None) -> Preset:
    makers: dict[str, tuple[str, Any, Callable[[Any], Preset]]] = {
        "ga4": ("measurement_id", measurement_id, ga4),
        "otlp": ("resource", resource, otlp),
    }
    for other, (setting, value, _) in makers.items():
        if other != name and value is not None:
            msg = f"{setting}: the preset {name} does not use it; it belongs to {other}"
            raise ValueError(msg)
    if name in makers:
        _, value, make = makers[name]
        return make(value)
    return _READY[name]


def _checked_base(url: str, path: str) -> str:
    _http.checked_url(url)
    if not path:
        return url
    if "?" in url or "#" in url:
        msg = "url: a base address, to which the preset adds its path, has no query"
        raise ValueError(msg)
    return url.rstrip("/")


def _checked_key(preset: Preset, write_key: SecretStr | str | None) -> SecretStr:
    secret = as_secret(write_key or "")
    key = secret.get_secret_value()
    if preset.auth != "none" and not key:
        msg = f"write_key: the preset {preset.name} needs the project's key"
        raise ValueError(msg)
    if key and preset.auth == "none":
        msg = f"write_key: the preset {preset.name} does not use it; set headers.Authorization"
        raise ValueError(msg)
    if not key.isascii() or not key.isprintable() or ":" in key or " " in key:
        msg = "write_key: holds a character that no key has, such as a space, a colon or a line break"
        raise ValueError(msg)
    return secret
