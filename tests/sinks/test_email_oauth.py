"""The sink `email` logs in with an OAuth token, and asks for another when the server refuses it."""

from __future__ import annotations

import threading
import traceback
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import trustme

from sidefx import PermanentError, SideEffects, TransientError

from .smtp_server import Mailroom, letter, server_side, serving, sink_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The sink is for asyncio alone; under trio the runtime hosts it."""
    return "asyncio"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority that no system trusts."""
    return trustme.CA()


@pytest.fixture
async def room(authority: trustme.CA) -> AsyncIterator[Mailroom]:
    """A server that takes the token `good`."""
    async with serving(tls=server_side(authority), auth=True) as room:
        room.valid_tokens = {"good"}
        yield room


@pytest.fixture
def login(authority: trustme.CA, tmp_path: Path) -> dict[str, Any]:
    """Settings for that server, but for the token."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return {"tls": "starttls", "ca_file": tmp_path / "ca.pem", "username": "shop"}


class Source:
    """Gives these tokens in turn, then the last one; counts."""

    def __init__(self, *tokens: object) -> None:
        self._tokens = tokens
        self.asked = 0

    def __call__(self) -> Any:
        self.asked += 1
        return self._tokens[min(self.asked, len(self._tokens)) - 1]


async def asynchronous() -> str:
    """A token source that is a coroutine function."""
    await anyio.lowlevel.checkpoint()
    return "good"


@pytest.mark.parametrize(
    "settings", [{"oauth_token": "good"}, {"oauth": lambda: "good"}, {"oauth": asynchronous}, {"oauth": Source("good")}]
)
async def test_a_token_opens_the_door(room: Mailroom, login: dict[str, Any], settings: dict[str, Any]) -> None:
    """One that is fixed, or given by a function, plain or async."""
    async with sink_for(room, **login, **settings) as sink:
        await sink.check()
        await sink.send(letter())
    assert len(room.mails) == 1
    assert room.tokens == ["good", "good"]


async def test_a_source_that_hangs_would_not_keep_the_process(room: Mailroom, login: dict[str, Any]) -> None:
    """It is asked in a thread that nobody waits for."""
    asked_in: list[threading.Thread] = []

    def source() -> str:
        asked_in.append(threading.current_thread())
        return "good"

    async with sink_for(room, **login, oauth=source) as sink:
        await sink.check()
    assert [thread.daemon for thread in asked_in] == [True]


async def test_a_token_is_kept_while_it_is_good(room: Mailroom, login: dict[str, Any]) -> None:
    """A new connection asks for none."""
    source = Source("good")
    async with sink_for(room, **login, oauth=source, idle=0.0) as sink:
        for _ in range(3):
            await sink.send(letter())
    assert (source.asked, len(room.connections)) == (1, 3)


async def test_an_expired_token_is_asked_for_anew(room: Mailroom, login: dict[str, Any]) -> None:
    """When the server refuses the one that was kept; the lane sees no failure."""
    source = Source("good", "better")
    async with sink_for(room, **login, oauth=source, idle=0.0) as sink:
        await sink.send(letter())
        room.valid_tokens = {"better"}
        await sink.send(letter())
        await sink.send(letter())
    assert room.tokens == ["good", "good", "better", "better"]
    assert (source.asked, len(room.mails)) == (2, 3)


async def test_connections_that_find_it_expired_together_ask_once(room: Mailroom, login: dict[str, Any]) -> None:
    """The identity provider is not flooded by its own expiry."""
    source = Source("good", "better")
    async with sink_for(room, **login, oauth=source, idle=0.0) as sink:
        await sink.send(letter())
        room.valid_tokens = {"better"}
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(sink.send, letter())
    assert (source.asked, len(room.mails)) == (2, 6)


@pytest.mark.parametrize("settings", [{"oauth_token": "expired-secret"}, {"oauth": lambda: "expired-secret"}])
@pytest.mark.contract("F03")
async def test_a_fresh_token_that_is_refused_is_permanent(
    room: Mailroom, login: dict[str, Any], settings: dict[str, Any]
) -> None:
    """It is shown to the server once, and to nobody else."""
    async with sink_for(room, **login, **settings) as sink:
        with pytest.raises(PermanentError, match=r"refused the login \(535 5.7.8\): .* OAuth token") as refused:
            await sink.send(letter())
        shown = "".join(traceback.format_exception(refused.value)) + repr(sink) + repr(vars(sink))
        assert "expired-secret" not in shown + repr(sink._server)
    assert room.tokens == ["expired-secret"]


def broken() -> str:
    """A token source whose error holds what it should not say."""
    raise RuntimeError("client_secret=hunter2")


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        (broken, TransientError, "oauth: no token: RuntimeError in broken"),
        (lambda: None, PermanentError, "no access token"),
        (lambda: "good\x01auth=Bearer evil", PermanentError, "no access token"),
        (lambda: "", PermanentError, "no access token"),
    ],
)
async def test_a_source_that_fails(
    room: Mailroom, login: dict[str, Any], source: Callable[[], str], error: type[Exception], said: str
) -> None:
    """Its error may pass; what is no token does not. Neither is shown."""
    async with sink_for(room, **login, oauth=source) as sink:
        with pytest.raises(error, match=said) as failed:
            await sink.send(letter())
    assert "hunter2" not in "".join(traceback.format_exception(failed.value))
    assert room.tokens == []


async def test_a_server_without_xoauth2(authority: trustme.CA, login: dict[str, Any]) -> None:
    """It is told, and the token stays here."""
    async with serving(tls=server_side(authority), auth=True, auth_exclude_mechanism=["XOAUTH2"]) as room:
        async with sink_for(room, **login, oauth_token="good") as sink:
            with pytest.raises(PermanentError, match="no AUTH XOAUTH2"):
                await sink.check()
        assert room.tokens == []


async def test_a_file_names_the_function(
    room: Mailroom, login: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`oauth = "module:name"` is imported when the file is read."""
    (tmp_path / "shop_tokens.py").write_text("def mail():\n    return 'good'\n")
    monkeypatch.syspath_prepend(tmp_path)
    lines = [
        "[sinks.email]", 'type = "email"', 'sender = "shop@example.org"', 'host = "127.0.0.1"', f"port = {room.port}",
        f'ca_file = "{login["ca_file"]}"', 'username = "shop"', 'oauth = "shop_tokens:mail"',
    ]  # fmt: skip
    (tmp_path / "sidefx.toml").write_text("\n".join(lines))
    async with SideEffects.from_toml(tmp_path / "sidefx.toml") as fx:
        await fx.emit(letter())
        await fx.flush(10)
    assert (len(room.mails), room.tokens) == (1, ["good"])
