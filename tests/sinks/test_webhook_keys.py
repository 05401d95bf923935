"""The sink `webhook`: rotation of keys, and the asymmetric signatures of Standard Webhooks."""

from __future__ import annotations

import base64
import sys
from typing import TYPE_CHECKING, Any

import pytest
import standardwebhooks
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import SecretStr

from sidefx import MissingExtraError, audit
from sidefx_sinks.webhook import Webhook
from tests.sinks.collector import Collector, Received

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.anyio

SEED = b"s" * 32
PRIVATE = Ed25519PrivateKey.from_private_bytes(SEED)
PUBLIC = PRIVATE.public_key()


def _whsec(key: bytes) -> str:
    return "whsec_" + base64.b64encode(key).decode()


def _whsk(key: bytes) -> str:
    return "whsk_" + base64.b64encode(key).decode()


OLD, NEW, OTHER = (_whsec(letter * 32) for letter in (b"o", b"n", b"x"))


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A receiver that answers 200."""
    with Collector() as running:
        yield running


async def _sent(collector: Collector, secret: Any) -> Received:
    async with Webhook(url=collector.url, secret=secret) as sink:
        await sink.send(audit("order.create", reason="grün"))
    return collector.received[-1]


def _accepts(request: Received, secret: str) -> bool:
    try:
        standardwebhooks.Webhook(secret).verify(request.body, dict(request.headers))
    except standardwebhooks.WebhookVerificationError:
        return False
    return True


async def test_a_rotation_step_by_step(collector: Collector) -> None:
    """Before, while both are valid, and after: no receiver that has a valid secret ever refuses."""
    before = await _sent(collector, SecretStr(OLD))
    during = await _sent(collector, [SecretStr(NEW), SecretStr(OLD)])
    after = await _sent(collector, [SecretStr(NEW)])
    accepted = [[_accepts(request, secret) for secret in (OLD, NEW, OTHER)] for request in (before, during, after)]
    assert accepted == [[True, False, False], [True, True, False], [False, True, False]]


async def test_the_signatures_stand_in_the_order_of_the_secrets(collector: Collector) -> None:
    """Separated by one blank each, each with its version."""
    both = (await _sent(collector, [NEW, OLD])).headers["webhook-signature"].split(" ")
    assert len(both) == 2
    assert all(one.startswith("v1,") for one in both)


@pytest.mark.parametrize("key", [SEED, SEED + PUBLIC.public_bytes_raw()], ids=["seed", "seed and public key"])
async def test_an_asymmetric_signature_verifies_by_the_public_key(collector: Collector, key: bytes) -> None:
    """Over the same content as the symmetric one; and not for another body."""
    request = await _sent(collector, SecretStr(_whsk(key)))
    version, _, signature = request.headers["webhook-signature"].partition(",")
    content = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + request.body
    assert version == "v1a"
    PUBLIC.verify(base64.b64decode(signature, validate=True), content)
    with pytest.raises(InvalidSignature):
        PUBLIC.verify(base64.b64decode(signature), content + b" ")


async def test_both_kinds_stand_beside_each_other(collector: Collector) -> None:
    """A change from one kind to the other is a rotation like any; the reference passes over what it does not know."""
    request = await _sent(collector, [_whsk(SEED), OLD])
    assert [one.partition(",")[0] for one in request.headers["webhook-signature"].split(" ")] == ["v1a", "v1"]
    assert _accepts(request, OLD)


@pytest.mark.parametrize(
    "secret",
    [
        "whsk_",
        _whsk(b"s" * 31),
        _whsk(SEED + b"p" * 31),
        _whsk(SEED + b"p" * 32),  # not the public key of that seed
        "whsk_" + "!" * 44,
        _whsec(SEED).replace("whsec_", "whpk_"),
    ],
)
def test_what_is_no_key_is_refused(secret: str) -> None:
    """At construction, and without being repeated."""
    with pytest.raises(ValueError, match=r"^secret: ") as refused:
        Webhook(url="https://hooks.example/", secret=SecretStr(secret))
    key = secret.partition("_")[2]
    assert not key or key not in str(refused.value)


def test_the_library_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only this kind of key needs it."""
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric.ed25519", None)
    Webhook(url="https://hooks.example/", secret=NEW)
    with pytest.raises(MissingExtraError, match="pip install cryptography"):
        Webhook(url="https://hooks.example/", secret=_whsk(SEED))


@pytest.mark.contract("F03")
def test_no_key_is_held_in_the_open() -> None:
    """Neither as it is written nor as bytes."""
    sink = Webhook(url="https://hooks.example/", secret=[NEW, _whsk(SEED)])
    shown = repr(sink) + str(vars(sink))
    assert not [key for key in ("n" * 32, "s" * 32, NEW, _whsk(SEED)) if key in shown]
