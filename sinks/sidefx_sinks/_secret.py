"""Settings that nobody must see: read from a file they are a `SecretStr`; in code a plain string will do."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, SecretStr


def as_secret(value: SecretStr | str) -> SecretStr:
    """The value, from now on hidden from every repr and message."""
    return value if isinstance(value, SecretStr) else SecretStr(value)


def _hide(value: Any) -> Any:
    return SecretStr(value) if isinstance(value, str) else value


Secret = Annotated[SecretStr | str, BeforeValidator(_hide)]
"""The annotation of such a setting; the constructor calls `as_secret` for those who call it in code."""
