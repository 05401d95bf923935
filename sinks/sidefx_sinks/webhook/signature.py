"""Standard Webhooks 1.0: who sent a request, and that nobody changed it.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hmac
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

from pydantic import SecretStr

from sidefx import MissingExtraError
from sidefx_sinks._secret import as_secret

HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")
"""The names that the scheme sets, in lower case."""

Signer: TypeAlias = Callable[[bytes], str]
"""Gives the signature of some content, with its version; a closure, so that no repr shows the key."""

_SYMMETRIC = "whsec_"
_ASYMMETRIC = "whsk_"
_KEY_BYTES = range(24, 65)


def signers(secret: SecretStr | str | Sequence[SecretStr | str] | None) -> list[Signer]:
    """One for each secret, in the order given.

    Raises:
        ValueError: a secret that is none of the scheme's; the message does not repeat it.
        MissingExtraError: a `whsk_` secret, and `cryptography` is not installed.
    """
    if secret is None:
        return []
    if not secret:  # a rotation that lost its last secret must not turn signing off
        msg = "secret: empty; give at least one, or leave it out to send unsigned requests"
        raise ValueError(msg)
    return [_signer(each) for each in ([secret] if isinstance(secret, SecretStr | str) else secret)]


def signed_headers(signers: Sequence[Signer], message_id: str, body: bytes) -> dict[str, str]:
    """The scheme's headers of one attempt; the timestamp is in whole seconds since 1970."""
    timestamp = str(int(time.time()))
    headers = {"webhook-id": message_id, "webhook-timestamp": timestamp}
    if signers:
        content = f"{message_id}.{timestamp}.".encode() + body
        headers["webhook-signature"] = " ".join(sign(content) for sign in signers)
    return headers


def _signer(secret: SecretStr | str) -> Signer:
    text = as_secret(secret).get_secret_value()
    if text.startswith(_ASYMMETRIC):
        return _ed25519(_decoded(text.removeprefix(_ASYMMETRIC)))
    key = _decoded(text.removeprefix(_SYMMETRIC))
    if not text.startswith(_SYMMETRIC) or len(key) not in _KEY_BYTES:
        msg = (
            "secret: must be whsec_ followed by the base64 of 24 to 64 bytes, as Standard Webhooks has it, "
            "or whsk_ and an Ed25519 key"
        )
        raise ValueError(msg)
    return lambda content: f"v1,{_encoded(hmac.digest(key, content, 'sha256'))}"


def _ed25519(key: bytes) -> Signer:
    """`key` is the seed, or the seed and the public key: both are written as `whsk_`."""
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415 - for this kind alone
            Ed25519PrivateKey,
        )
    except ImportError as error:
        msg = "secret: whsk_ needs the package cryptography: pip install cryptography"
        raise MissingExtraError(msg) from error

    seed, public = key[:32], key[32:]
    private = Ed25519PrivateKey.from_private_bytes(seed) if len(seed) == 32 else None
    if private is None or public not in {b"", private.public_key().public_bytes_raw()}:
        msg = (
            "secret: whsk_ must be followed by the base64 of an Ed25519 key: its 32 bytes of seed, "
            "or those and the 32 of the public key that belongs to it"
        )
        raise ValueError(msg)
    return lambda content: f"v1a,{_encoded(private.sign(content))}"


def _decoded(text: str) -> bytes:
    """What the base64 stands for, with or without its padding; nothing where it is none."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return b""


def _encoded(signature: bytes) -> str:
    return base64.b64encode(signature).decode()
