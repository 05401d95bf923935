"""Keys that sign checkpoints: Ed25519 (RFC 8032) or HMAC-SHA256 (RFC 2104)."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any, Protocol

from sidefx import MissingExtraError

_SHORTEST = 32


class Key(Protocol):
    """Signs, or at least says whether a signature is right."""

    id: str
    signs: bool
    """Whether it is more than a public one."""

    def sign(self, data: bytes) -> str:
        """The signature, in base64."""
        ...

    def signed(self, data: bytes, signature: str) -> bool:
        """Whether that is its signature of the data."""
        ...


def key_of(text: str) -> Key:
    """The key in that text: a PEM is Ed25519's (private, or public for those who only verify), all else HMAC's.

    Raises:
        ValueError: it is neither; the message does not quote it.
        MissingExtraError: Ed25519 needs `cryptography`.
    """
    text = text.strip()
    if text.startswith("-----BEGIN "):
        return _Ed25519(text.encode())
    if len(text.encode()) < _SHORTEST:
        msg = f"a key for HMAC has at least {_SHORTEST} bytes, as `openssl rand -base64 32` makes them"
        raise ValueError(msg)
    return _Hmac(text.encode())


class _Hmac:
    signs = True

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self.id = f"hmac-sha256:{hmac.digest(secret, b'sidefx audit key id', 'sha256').hex()[:16]}"

    def sign(self, data: bytes) -> str:
        return base64.b64encode(hmac.digest(self._secret, data, "sha256")).decode()

    def signed(self, data: bytes, signature: str) -> bool:
        return hmac.compare_digest(self.sign(data).encode(), signature.encode(errors="replace"))


class _Ed25519:
    def __init__(self, pem: bytes) -> None:
        try:
            from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - where it is used
            from cryptography.hazmat.primitives import serialization as forms  # noqa: PLC0415
            from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415
        except ImportError as error:
            msg = "an Ed25519 key of the audit log needs cryptography: pip install cryptography"
            raise MissingExtraError(msg, name="cryptography") from error
        self._invalid = InvalidSignature
        self._private: Any = None
        try:
            if b"PRIVATE" in pem.partition(b"\n")[0]:
                self._private = forms.load_pem_private_key(pem, password=None)
                self._public: Any = self._private.public_key()
            else:
                self._public = forms.load_pem_public_key(pem)
        except (ValueError, TypeError) as error:
            msg = f"the PEM of the audit log's key cannot be read ({type(error).__name__}); is it encrypted?"
            raise ValueError(msg) from None
        if not isinstance(self._public, ed25519.Ed25519PublicKey):
            msg = "the PEM of the audit log's key is not of Ed25519; make one with `openssl genpkey -algorithm ed25519`"
            raise ValueError(msg)  # noqa: TRY004 - a mistake in a setting
        raw = self._public.public_bytes(forms.Encoding.Raw, forms.PublicFormat.Raw)
        self.signs = self._private is not None
        self.id = f"ed25519:{hashlib.sha256(raw).hexdigest()[:16]}"

    def sign(self, data: bytes) -> str:
        if self._private is None:
            msg = "a public key signs nothing"
            raise TypeError(msg)
        return base64.b64encode(self._private.sign(data)).decode()

    def signed(self, data: bytes, signature: str) -> bool:
        try:
            self._public.verify(base64.b64decode(signature, validate=True), data)
        except (self._invalid, ValueError):
            return False
        return True
