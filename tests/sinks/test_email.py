"""The sink `email` against a real SMTP server: what arrives, what is refused, what is said about it."""

from __future__ import annotations

import asyncio
import inspect
import socket
import ssl
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import pytest
import trustme
from aiosmtpd.smtp import LoginPassword
from pydantic import SecretStr

from sidefx import ConfigError, EmailEvent, PermanentError, SideEffects, TransientError
from sidefx.sink import inspect_sink
from sidefx_sinks.email import Email

from .smtp_server import Mailroom, letter, serving, sink_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

PASSWORD = "hunter2-secret"


@pytest.fixture
def anyio_backend() -> str:
    """The sink is for asyncio alone; under trio the runtime hosts it."""
    return "asyncio"


@pytest.fixture
async def room() -> AsyncIterator[Mailroom]:
    """An SMTP server without TLS."""
    async with serving(enable_SMTPUTF8=True) as room:
        yield room


@pytest.fixture
async def sink(room: Mailroom) -> AsyncIterator[Email]:
    """The sink, open, with that server."""
    async with sink_for(room) as sink:
        yield sink


def test_the_contract() -> None:
    """It takes mails, one at a time, on asyncio; its settings can be read from its constructor."""
    spec = inspect_sink(Email(sender="shop@example.org"))
    assert (spec.event_types, spec.batch, spec.asyncio_only) == ((EmailEvent,), False, True)
    hints = get_type_hints(Email.__init__, include_extras=True)
    del hints["return"]
    assert all(hint.__metadata__[0].description for hint in hints.values())


def test_every_setting_is_in_the_docs() -> None:
    """With its name as the table's first column has it."""
    page = (Path(__file__).parents[2] / "docs" / "sinks" / "email.md").read_text(encoding="utf-8")
    explained = {name for line in page.splitlines() if line.startswith("| `") for name in line.split("|")[1].split("`")}
    assert inspect.signature(Email).parameters.keys() <= explained


async def test_a_file_can_say_it_all(room: Mailroom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What code says, TOML says: paths, lists, rates, functions by name."""
    (tmp_path / "shop_rules.py").write_text("def bounced(address):\n    return address.startswith('qb')\n")
    (tmp_path / "suppressed.txt").write_text("qc@staging.example")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sidefx.toml").write_text(f"""
        [sinks.email]
        type = "email"
        sender = "shop@example.org"
        host = "127.0.0.1"
        port = {room.port}
        tls = "none"
        connections = 2
        mails_per_connection = 1
        max_recipients = 2
        recipient_rate = "1000/s"
        redirect_to = ["qa@staging.example", "qb@staging.example", "qc@staging.example", "qd@staging.example"]
        suppression_file = "suppressed.txt"
        suppressed = "shop_rules:bounced"
        state = ".sidefx/email.sqlite"
        [sinks.files]
        type = "email"
        sender = "shop@example.org"
        transport = "directory"
        directory = "mail"
    """)
    async with SideEffects.from_toml("sidefx.toml") as fx:
        await fx.emit(event := letter())
        await fx.flush(10)
        [dead] = fx.dead_letters
    assert [mail.recipients for mail in room.mails] == [["qa@staging.example", "qd@staging.example"]]
    assert "2 of 4 recipients" in dead.error
    assert (tmp_path / "mail" / f"{event.id}.eml").exists()


async def test_an_empty_variable_does_not_turn_staging_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a mistake of the file, found at the start."""
    monkeypatch.delenv("STAGING_MAIL", raising=False)
    lines = '[sinks.email]\ntype = "email"\nsender = "shop@example.org"\nredirect_to = "${STAGING_MAIL:-}"'
    (tmp_path / "sidefx.toml").write_text(lines)
    with pytest.raises(ConfigError, match="redirect_to is empty"):
        SideEffects.from_toml(tmp_path / "sidefx.toml")


async def test_a_mail_arrives(sink: Email, room: Mailroom) -> None:
    """Envelope and content reach the server as the event has them."""
    event = letter("Ann <ann@example.org>", cc="bob@example.org", bcc="eve@example.org", text=".\nHällo", html="<b>Hi")
    await sink.send(event)
    [mail] = room.mails
    assert mail.sender == "shop@example.org"
    assert mail.recipients == ["ann@example.org", "bob@example.org", "eve@example.org"]
    assert mail.message["Message-ID"] == f"<{event.id}@example.org>"
    text, html = mail.message.iter_parts()
    assert text.get_content().split() == [".", "Hällo"]
    assert html.get_content().strip() == "<b>Hi"
    assert "eve" not in mail.content.decode()


async def test_a_second_sending_has_the_same_message_id(sink: Email, room: Mailroom) -> None:
    """Who receives an event's mail twice can tell."""
    event = letter()
    await sink.send(event)
    await sink.send(event)
    first, second = (mail.message["Message-ID"] for mail in room.mails)
    assert first == second


async def test_a_mail_from_a_template(room: Mailroom, tmp_path: Path) -> None:
    """Text and HTML come from the directory; what the event brings itself has precedence."""
    (tmp_path / "receipt.txt").write_text("Order {{ order }}")
    (tmp_path / "receipt.html").write_text("<b>{{ order }}</b>")
    async with sink_for(room, templates=tmp_path) as sink:
        await sink.send(letter(text=None, template="receipt", context={"order": "<7>"}))
        await sink.send(letter(text="my own", template="receipt", context={"order": "<7>"}))
    contents = [[part.get_content().strip() for part in mail.message.iter_parts()] for mail in room.mails]
    assert contents == [["Order <7>", "<b>&lt;7&gt;</b>"], ["my own", "<b>&lt;7&gt;</b>"]]


async def test_a_template_without_a_directory(sink: Email, room: Mailroom) -> None:
    """The error names the setting that is missing, and nothing is sent."""
    with pytest.raises(PermanentError, match="'receipt' cannot be rendered: set the sink's templates"):
        await sink.send(letter(text=None, template="receipt"))
    assert room.commands == []


@pytest.mark.parametrize("command", ["MAIL", "ann@example.org", "DATA"])
@pytest.mark.parametrize(("answer", "error"), [("451 4.3.0 later", TransientError), ("550 5.7.1 no", PermanentError)])
async def test_4xx_is_transient_and_5xx_permanent(
    sink: Email, room: Mailroom, command: str, answer: str, error: type[Exception]
) -> None:
    """Wherever in the conversation the server refuses; the next mail goes out, on the same connection."""
    room.refuse[command] = answer
    with pytest.raises(error) as refused:
        await sink.send(letter())
    assert f"127.0.0.1:{room.port}" in str(refused.value)
    assert answer[:3] in str(refused.value)
    assert "ann@" not in str(refused.value)
    room.refuse.clear()
    await sink.send(letter())
    assert [mail.connection for mail in room.mails] == [0]


async def test_addresses_in_the_servers_words_are_masked(sink: Email, room: Mailroom) -> None:
    """Nor do they stand anywhere in the traceback that the lane logs."""
    ann, bob = (f"{name}@example.org" for name in ("ann", "bob"))
    room.refuse["DATA"] = f"554 5.7.1 <{ann}> is not verified, nor is mailto:{bob}"
    with pytest.raises(PermanentError, match=r"a\*\*\*@example.org") as refused:
        await sink.send(letter(ann, bob))
    shown = "".join(traceback.format_exception(refused.value))
    assert ann not in shown
    assert bob not in shown


async def test_one_of_three_refused_for_good(sink: Email, room: Mailroom) -> None:
    """The others have the mail; the error counts and masks; a replay asks only for the refused one."""
    event = letter("ann@example.org", "bob@example.org", "cid@example.org")
    room.refuse["bob@example.org"] = "550 5.1.1 bob@example.org is unknown"
    with pytest.raises(PermanentError) as refused:
        await sink.send(event)
    what = "refused 1 of 3 recipients (b***@example.org: 550 5.1.1) for good; the others have the mail"
    assert str(refused.value) == f"127.0.0.1:{room.port} {what}"
    room.refuse.clear()
    await sink.send(event)
    assert [mail.recipients for mail in room.mails] == [["ann@example.org", "cid@example.org"], ["bob@example.org"]]


async def test_a_retry_goes_only_to_those_still_open(sink: Email, room: Mailroom) -> None:
    """Refused for now, refused for good and accepted: each recipient has at most one mail, and the end is permanent."""
    event = letter("ann@example.org", "bob@example.org", "cid@example.org")
    room.refuse |= {"bob@example.org": "550 no", "cid@example.org": "450 4.2.1 greylisted"}
    with pytest.raises(TransientError, match=r"refused 1 of 3 recipients \(c\*\*\*@example.org: 450 4.2.1\) for now"):
        await sink.send(event)
    with pytest.raises(TransientError, match="for now"):
        await sink.send(event)
    del room.refuse["cid@example.org"]
    with pytest.raises(PermanentError, match=r"refused 1 of 3 recipients \(b\*\*\*@example.org: 550\) for good"):
        await sink.send(event)
    assert [mail.recipients for mail in room.mails] == [["ann@example.org"], ["cid@example.org"]]
    assert room.mails[0].message["Message-ID"] == room.mails[1].message["Message-ID"]
    assert room.commands.count("RCPT") == 5  # three, one, one


async def test_all_refused_for_good(sink: Email, room: Mailroom) -> None:
    """Nothing is transferred, and nothing of it is remembered."""
    room.refuse |= {"ann@example.org": "550 no", "bob@example.org": "551 no"}
    with pytest.raises(PermanentError, match=r"refused 2 of 2 recipients .* nobody has the mail"):
        await sink.send(letter("ann@example.org", "bob@example.org"))
    assert "DATA" not in room.commands
    assert len(sink._ledger) == 0


async def test_what_is_remembered_is_bounded(sink: Email, room: Mailroom) -> None:
    """Delivered mails leave no trace, and of the others the least recently tried are forgotten."""
    sink._ledger._max_events = 2
    room.refuse["ann@example.org"] = "450 later"
    for _ in range(4):
        with pytest.raises(TransientError):
            await sink.send(letter())
    assert len(sink._ledger) == 2
    room.refuse.clear()
    await sink.send(event := letter())
    assert event.id not in sink._ledger._progress


async def test_international_local_parts(sink: Email, room: Mailroom) -> None:
    """They go out with SMTPUTF8 where the server offers it."""
    await sink.send(letter("änne@exämple.org"))
    [mail] = room.mails
    assert mail.recipients == ["änne@xn--exmple-cua.org"]
    assert "SMTPUTF8" in mail.options


async def test_international_local_parts_need_the_server() -> None:
    """Without SMTPUTF8 such a mail is rejected, before anything of it is sent."""
    async with serving() as room, sink_for(room) as sink:
        with pytest.raises(PermanentError, match="SMTPUTF8"):
            await sink.send(letter("änne@example.org"))
        assert room.commands == []


async def test_an_international_recipient_does_not_lose_the_others_their_mail() -> None:
    """Without SMTPUTF8 it is refused alone, whether it is seen in the mail or not; the others get it in ASCII."""
    async with serving() as room, sink_for(room) as sink:
        for values in ({"cc": "änne@example.org"}, {"bcc": "änne@example.org"}):
            with pytest.raises(
                PermanentError, match=r"1 of 2 recipients \(ä\*\*\*@example.org: no SMTPUTF8\) for good"
            ):
                await sink.send(letter("bob@example.org", **values))
    assert [mail.recipients for mail in room.mails] == [["bob@example.org"]] * 2
    assert all(mail.content.isascii() for mail in room.mails)


async def test_an_international_sender_needs_the_server() -> None:
    """There is no mail without a From."""
    async with serving() as room, sink_for(room, sender="änne@example.org") as sink:
        with pytest.raises(PermanentError, match="SMTPUTF8"):
            await sink.send(letter())
        assert room.commands == []


async def test_one_click_unsubscribe_arrives(sink: Email, room: Mailroom) -> None:
    """The event's field becomes the two headers of RFC 8058."""
    url = "https://shop.example.org/unsubscribe/" + "a" * 300
    await sink.send(letter(unsubscribe=url))
    assert room.mails[0].message["List-Unsubscribe"] == f"<{url}>"
    assert room.mails[0].message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"


async def test_staging_reaches_nobody_else(room: Mailroom) -> None:
    """With `redirect_to`, no recipient of the event is ever named to the server."""
    async with sink_for(room, redirect_to=["qa@staging.example", "dev@staging.example"]) as sink:
        await sink.send(letter("ann@example.org", cc="bob@example.org", bcc="cid@example.org"))
    assert [mail.recipients for mail in room.mails] == [["qa@staging.example", "dev@staging.example"]]
    assert room.mails[0].message["X-Original-Bcc"] == "cid@example.org"


async def test_a_mail_beyond_the_servers_size_is_permanent() -> None:
    """The server says its limit, and refuses at MAIL FROM (RFC 1870)."""
    async with serving(data_size_limit=1000) as room, sink_for(room) as sink:
        with pytest.raises(PermanentError, match="552 to MAIL FROM"):
            await sink.send(letter(text="x" * 2000))


async def test_check(sink: Email, room: Mailroom) -> None:
    """`check` says hello and takes its leave, without a mail."""
    await sink.check()
    assert room.commands == ["NOOP", "QUIT"]


async def test_check_says_where_nobody_answers() -> None:
    """The error is one line, with host and port."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: connecting is refused
        port = unused.getsockname()[1]
        sink = Email(sender="shop@example.org", host="127.0.0.1", port=port, tls="none")
        with pytest.raises(TransientError, match=rf"^cannot connect to 127\.0\.0\.1:{port}: .*$") as refused:
            await sink.check()
        with pytest.raises(TransientError, match="cannot connect"):
            await sink.send(letter())
    assert "\n" not in str(refused.value)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority that no system trusts."""
    return trustme.CA()


@pytest.fixture
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    """The server's side of TLS, with a certificate for 127.0.0.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    """What the client is to trust."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return tmp_path / "ca.pem"


@pytest.mark.parametrize("tls", ["starttls", "tls"])
async def test_encrypted_and_logged_in(server_tls: ssl.SSLContext, ca_file: Path, tls: str) -> None:
    """With a `ca_file` of one's own, by STARTTLS or from the first byte; the login goes through it."""
    async with serving(tls=server_tls, implicit=tls == "tls", auth=True, auth_require_tls=tls == "starttls") as room:
        settings = {"tls": tls, "ca_file": ca_file, "username": "shop", "password": SecretStr(PASSWORD)}
        async with sink_for(room, **settings) as sink:
            await sink.check()
            await sink.send(letter())
            await sink.send(letter())
    assert [mail.connection for mail in room.mails] == [1, 1]
    assert set(room.logins) == {LoginPassword(b"shop", PASSWORD.encode())}


@pytest.mark.contract("F03")
async def test_a_refused_login_shows_no_secret(server_tls: ssl.SSLContext, ca_file: Path) -> None:
    """Not the password nor the name: in no message, traceback or repr."""
    wrong = "wrong-secret-password"
    async with serving(tls=server_tls, auth=True) as room:
        settings = {"tls": "starttls", "ca_file": ca_file, "username": "shopkeeper", "password": SecretStr(wrong)}
        async with sink_for(room, **settings) as sink:
            for call in (sink.check(), sink.send(letter())):
                with pytest.raises(PermanentError, match=r"refused the login \(535.*\): check username") as refused:
                    await call
                shown = "".join(traceback.format_exception(refused.value)) + repr(sink) + repr(vars(sink))
                assert wrong not in shown + repr(sink._server)
                assert "shopkeeper" not in "".join(traceback.format_exception(refused.value))
    assert len(room.logins) == 2  # once a call, though the server has several methods: each try counts towards a lock


async def test_a_method_that_the_server_refuses_is_not_the_password(server_tls: ssl.SSLContext, ca_file: Path) -> None:
    """The next one is tried."""
    settings = {"tls": "starttls", "ca_file": ca_file, "username": "shop", "password": SecretStr(PASSWORD)}
    async with serving(tls=server_tls, auth=True) as room, sink_for(room, **settings) as sink:
        room.refuse["AUTH PLAIN"] = "504 5.5.4 unrecognized authentication type"
        await sink.check()
        assert len(room.logins) == 1
        room.refuse["AUTH LOGIN"] = "504 5.5.4 unrecognized authentication type"
        with pytest.raises(PermanentError, match="refused the login"):
            await sink.check()


async def test_an_untrusted_certificate(server_tls: ssl.SSLContext) -> None:
    """It is refused by name of the setting that would help; no mail and no password is said."""
    async with serving(tls=server_tls, auth=True) as room:
        settings = {"tls": "starttls", "username": "shop", "password": SecretStr(PASSWORD)}
        async with sink_for(room, **settings) as sink:
            with pytest.raises(TransientError, match=r"certificate of .* is not trusted .*: set ca_file"):
                await sink.send(letter())
    assert room.logins == []
    assert room.commands == []


async def test_a_certificate_for_another_name(authority: trustme.CA, ca_file: Path) -> None:
    """The name is verified, too."""
    asyncio.get_running_loop().set_debug(enabled=False)  # in debug mode it reports the server's broken handshake
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("other.example").configure_cert(context)
    async with serving(tls=context, implicit=True) as room, sink_for(room, tls="tls", ca_file=ca_file) as sink:
        with pytest.raises(TransientError, match="is not trusted"):
            await sink.check()


async def test_no_starttls_no_mail(room: Mailroom) -> None:
    """A server, or somebody in between, that takes STARTTLS away gets nothing in the clear."""
    async with sink_for(room, tls="starttls") as sink:
        with pytest.raises(PermanentError, match=r"does not offer what is configured.*STARTTLS"):
            await sink.send(letter())
    assert room.commands == []


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"sender": "nobody"}, "sender is refused: it is not one e-mail address"),
        ({"sender": "shop@example.org\r\nBcc: a@b.c"}, "sender is refused: it contains a line break"),
        ({"host": "mail.example.org\r\n"}, "host is refused"),
        ({"local_hostname": "a b"}, "local_hostname is refused"),
        ({"username": "shop"}, "belong together"),
        ({"password": SecretStr(PASSWORD)}, "belong together"),
        ({"tls": "none", "host": "mail.example.org", "username": "a", "password": SecretStr(PASSWORD)}, "in the clear"),
        ({"tls": "none", "host": "192.0.2.1", "username": "a", "password": SecretStr(PASSWORD)}, "in the clear"),
        (
            {"tls": "none", "host": "localhost.evil.test", "username": "a", "password": SecretStr(PASSWORD)},
            "in the clear",
        ),
        ({"tls": "none", "ca_file": "ca.pem"}, "ca_file has no use"),
        ({"redirect_to": ""}, "redirect_to is empty"),
        ({"redirect_to": []}, "redirect_to is empty"),
        ({"redirect_to": ["", "qa@example.org"]}, "redirect_to is refused"),
        ({"redirect_to": "everybody"}, "redirect_to is refused"),
        ({"transport": "directory"}, "belong together"),
        ({"directory": "mail"}, "belong together"),
        ({"recipient_rate": "fast"}, r"recipient_rate is refused: a rate is written as '14/s'"),
        ({"oauth_token": PASSWORD}, "belong together"),
        ({"username": "a\x01auth=x", "oauth_token": PASSWORD}, "username is refused"),
        ({"username": "a", "password": PASSWORD, "oauth_token": PASSWORD}, "give one of them"),
        ({"tls": "none", "host": "192.0.2.1", "username": "a", "oauth_token": PASSWORD}, "in the clear"),
        ({"tls": "none", "host": "192.0.2.1", "username": "a", "oauth": lambda: PASSWORD}, "in the clear"),
    ],
)
@pytest.mark.contract("F03")
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], reason: str) -> None:
    """At construction, with the setting's name and without a secret."""
    with pytest.raises(ValueError, match=reason) as refused:
        Email(**dict[str, Any](sender="shop@example.org") | settings)
    assert PASSWORD not in str(refused.value)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_a_password_may_stay_on_this_machine(host: str) -> None:
    """Without TLS, a loopback address is the one place where a login may go."""
    Email(sender="shop@example.org", host=host, tls="none", username="a", password=SecretStr(PASSWORD))


@pytest.mark.parametrize(("tls", "port"), [("none", 25), ("starttls", 587), ("tls", 465)])
def test_the_port_follows_from_tls(tls: Any, port: int) -> None:
    """As IANA has assigned them."""
    assert Email(sender="shop@example.org", tls=tls)._server.port == port


@pytest.mark.parametrize("setting", ["templates", "ca_file"])
async def test_missing_files_are_found_at_the_start(tmp_path: Path, setting: str) -> None:
    """The first mail is too late to learn of a wrong path."""
    settings: dict[str, Any] = {setting: tmp_path / "nowhere"}
    with pytest.raises(OSError, match=f"{setting}: .*nowhere"):
        async with Email(sender="shop@example.org", **settings):
            pass
