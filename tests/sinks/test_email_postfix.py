"""The sink `email` against a server by other people: Postfix, where it is installed and root runs the tests.

It runs on a port, with settings, a queue and mailboxes of its own, and touches nothing of the machine's.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from dataclasses import dataclass
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import trustme

from sidefx import Attachment, PermanentError, TransientError, email
from sidefx.testing import check_sink
from sidefx_sinks.email import Email
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import EmailMessage

POSTFIX = shutil.which("postfix", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

USERS = ["ann", "bob", "cid", "dan", "änne"]

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(POSTFIX is None or os.geteuid() != 0, reason="needs Postfix (apt-get install postfix) and root"),
]

MAIN = """
compatibility_level = 3.6
queue_directory = {home}/queue
data_directory = {home}/data
maillog_file = {home}/log/postfix.log
maillog_file_prefixes = {home}
command_directory = {commands}
daemon_directory = {daemons}
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = mail.test
mydestination =
alias_maps =
local_recipient_maps =
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = reject_unauth_destination
smtpd_recipient_restrictions = check_recipient_access inline:{{ {{ grey@example.org = 450 4.2.0 greylisted }} }}
smtpd_recipient_limit = 3
smtpd_tls_security_level = encrypt
smtpd_tls_chain_files = {home}/server.pem
smtpd_tls_loglevel = 0
smtputf8_enable = yes
message_size_limit = 200000
header_checks = regexp:{{ {{ /^Subject: .*cheap pills/ REJECT 5.7.1 we know better }} }}
virtual_mailbox_domains = example.org
virtual_mailbox_base = {home}/mail
virtual_mailbox_maps = inline:{{ {mailboxes} }}
virtual_minimum_uid = 1
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
"""
MASTER = """
127.0.0.1:{port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
error unix - - n - - error
retry unix - - n - - error
smtp unix - - n - - smtp
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""


@dataclass
class Postfix:
    """A server that runs, and its mailboxes."""

    home: Path
    port: int

    def mailbox(self, name: str) -> list[EmailMessage]:
        """The mails that this user has, in no order."""
        new = self.home / "mail" / name / "new"
        return [message_from_bytes(path.read_bytes(), policy=default) for path in new.iterdir()] if new.is_dir() else []

    def mailbox_of(self, name: str, subject: str) -> list[EmailMessage]:
        """Those of one test: the server lives through all of them."""
        return [mail for mail in self.mailbox(name) if mail["Subject"] == subject]

    @property
    def log(self) -> str:
        """What it says about itself."""
        file = self.home / "log" / "postfix.log"
        return file.read_text() if file.exists() else "(no log)"


@pytest.fixture
def anyio_backend() -> str:
    """The sink is for asyncio alone; under trio the runtime hosts it."""
    return "asyncio"


@pytest.fixture(scope="module")
def postfix() -> Iterator[Postfix]:
    """The server; its directories are not pytest's, which its own user may not enter."""
    assert POSTFIX is not None
    user = pwd.getpwnam("postfix")
    with (
        tempfile.TemporaryDirectory(prefix="sidefx-postfix-", ignore_cleanup_errors=True) as directory,
        contextlib.ExitStack() as stack,
    ):
        home = Path(directory)
        home.chmod(0o755)
        for name in ("config", "queue", "log"):
            (home / name).mkdir()
        for name in ("data", "mail"):
            (home / name).mkdir()
            shutil.chown(home / name, user.pw_uid, user.pw_gid)
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(home / "ca.pem"))
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(home / "server.pem"))
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        daemons = subprocess.run(
            [Path(POSTFIX).with_name("postconf"), "-dh", "daemon_directory"],
            check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip
        values = {"home": home, "port": port, "commands": Path(POSTFIX).parent, "daemons": daemons}
        for file, content in (("main.cf", MAIN), ("master.cf", MASTER)):
            mailboxes = ", ".join(f"{name}@example.org={name}/" for name in USERS)
            text = content.format(**values, uid=user.pw_uid, gid=user.pw_gid, mailboxes=mailboxes)
            (home / "config" / file).write_text(text, encoding="utf-8")
        process = subprocess.Popen(
            [POSTFIX, "-c", str(home / "config"), "start-fg"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        stack.callback(_stop, process, home)
        server = Postfix(home, port)
        anyio.run(_wait_for, server, process)
        yield server


async def _wait_for(server: Postfix, process: subprocess.Popen[bytes]) -> None:
    def answers() -> bool:
        assert process.poll() is None, f"{process.stdout and process.stdout.read()!r} {server.log}"
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", server.port), timeout=1) as connection,
        ):
            return connection.recv(3) == b"220"
        return False

    await until(answers, within=20)


def _stop(process: subprocess.Popen[bytes], home: Path) -> None:
    """By its own command; then its children, which are of its process group, get the time to go."""
    assert POSTFIX is not None
    lock = home / "queue" / "pid" / "master.pid"
    group = int(lock.read_text()) if lock.exists() else None
    subprocess.run([POSTFIX, "-c", str(home / "config"), "stop"], check=False, capture_output=True, timeout=30)
    if group is not None:
        with contextlib.suppress(TimeoutError):  # where nobody reaps them they are never gone
            anyio.run(until, lambda: _is_gone(group), 5.0)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)
    assert process.stdout is not None
    process.stdout.close()


def _is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def sink_for(server: Postfix, **settings: Any) -> Email:
    """The sink with that server, not open yet."""
    defaults = {"host": "127.0.0.1", "port": server.port, "ca_file": server.home / "ca.pem"}
    return Email(sender="Shop <shop@shop.example>", **defaults | settings)


async def test_it_keeps_the_contract(postfix: Postfix) -> None:
    """The suite that every sink passes, through STARTTLS, which this server insists on."""
    events = [email(to="dan@example.org", subject=subject, text="x") for subject in "ab"]
    await check_sink(lambda: sink_for(postfix), events, timeout=60)


async def test_a_mail_arrives_as_it_was_meant(postfix: Postfix) -> None:
    """Head, bodies, lines with a dot, inline image and attachment survive a server that rewrites what is wrong."""
    event = email(
        to="Ann <ann@example.org>",
        bcc="bob@example.org",
        subject="Größe",
        text=".\n..\nHällo\n",
        html='<img src="cid:logo">',
        attachments=[
            Attachment(filename="logo.png", content=b"\x89PNG", content_type="image/png", content_id="logo"),
            Attachment(filename="Größe.bin", content=bytes(range(256)) * 100),
        ],
    )
    async with sink_for(postfix) as sink:
        await sink.send(event)
    await until(lambda: postfix.mailbox_of("ann", "Größe") and postfix.mailbox_of("bob", "Größe"), within=20)
    [mail], [copy] = postfix.mailbox_of("ann", "Größe"), postfix.mailbox_of("bob", "Größe")
    assert mail["Message-ID"] == copy["Message-ID"] == f"<{event.id}@shop.example>"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["Return-Path"] == "<shop@shop.example>"
    assert "bob" not in str(mail["To"]) + str(mail["Cc"]) + str(mail["Bcc"])
    assert mail.get_body(("plain",)).get_content().splitlines() == [".", "..", "Hällo"]  # type: ignore[union-attr]
    contents = {part.get_filename(): part.get_content() for part in mail.walk() if part.get_filename()}
    assert contents == {"logo.png": b"\x89PNG", "Größe.bin": bytes(range(256)) * 100}


async def test_one_click_unsubscribe_arrives_whole(postfix: Postfix) -> None:
    """A long URL is neither folded nor rewritten on its way."""
    url = "https://shop.example/unsubscribe/" + "t" * 400
    async with sink_for(postfix) as sink:
        await sink.send(email(to="ann@example.org", subject="news", text="x", unsubscribe=url))
    await until(lambda: postfix.mailbox_of("ann", "news"), within=20)
    [mail] = postfix.mailbox_of("ann", "news")
    assert mail["List-Unsubscribe"] == f"<{url}>"
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"


async def test_its_refusals_are_told_apart(postfix: Postfix) -> None:
    """An unknown user, a greylisted one and one of another domain: the rest has the mail, once."""
    to = ["ann@example.org", "nobody@example.org", "grey@example.org"]
    event = email(to=to, subject="refusals", text="x")
    async with sink_for(postfix) as sink:
        for _ in range(2):
            with pytest.raises(TransientError, match=r"1 of 3 recipients \(g\*\*\*@example.org: 450 4.2.0\) for now"):
                await sink.send(event)
        with pytest.raises(PermanentError, match=r"\(x\*\*\*@elsewhere.example: 554 5.7.1\) for good; nobody"):
            await sink.send(email(to="x@elsewhere.example", subject="refusals", text="x"))
        await sink.send(email(to="ann@example.org", subject="last", text="x"))
    await until(lambda: postfix.mailbox_of("ann", "last"), within=20)
    assert len(postfix.mailbox_of("ann", "refusals")) == 1


async def test_more_recipients_than_it_takes(postfix: Postfix) -> None:
    """It answers 452 to the fourth: a retry reaches that one; with `max_recipients` there is none to refuse."""
    to = [f"{name}@example.org" for name in ("ann", "bob", "cid", "dan")]
    async with sink_for(postfix) as sink:
        event = email(to=to, subject="crowd", text="x")
        with pytest.raises(TransientError, match=r"1 of 4 recipients \(d\*\*\*@example.org: 452 4.5.3\)"):
            await sink.send(event)
        await sink.send(event)
    async with sink_for(postfix, max_recipients=2) as sink:
        await sink.send(email(to=to, subject="crowd", text="x"))
    await until(lambda: all(len(postfix.mailbox_of(name, "crowd")) == 2 for name in ("ann", "bob", "cid", "dan")), 20)


async def test_a_mail_that_it_rejects(postfix: Postfix) -> None:
    """By its size at MAIL, by its words after DATA: both are permanent, and the connection is good for the next."""
    async with sink_for(postfix) as sink:
        with pytest.raises(PermanentError, match=r"550 to DATA: 5\.7\.1 we know better"):
            await sink.send(email(to="ann@example.org", subject="cheap pills", text="x"))
        with pytest.raises(PermanentError, match="552 to MAIL FROM"):
            await sink.send(email(to="ann@example.org", subject="large", text="x" * 300_000))
        await sink.send(email(to="ann@example.org", subject="small", text="x"))
    await until(lambda: postfix.mailbox_of("ann", "small"), within=20)
    assert not postfix.mailbox_of("ann", "cheap pills")


async def test_international_addresses(postfix: Postfix) -> None:
    """It offers SMTPUTF8, and knows such a user."""
    async with sink_for(postfix) as sink:
        await sink.send(email(to="Änne <änne@example.org>", subject="ä", text="x"))
    await until(lambda: postfix.mailbox_of("änne", "ä"), within=20)
    assert "<änne@example.org>" in postfix.mailbox_of("änne", "ä")[0]["To"]


async def test_it_is_not_talked_to_in_the_clear(postfix: Postfix) -> None:
    """It wants TLS, and its certificate is verified."""
    async with sink_for(postfix, tls="none", ca_file=None) as sink:
        with pytest.raises(PermanentError, match="530 to MAIL FROM"):
            await sink.send(email(to="ann@example.org", subject="clear", text="x"))
    async with sink_for(postfix, ca_file=None) as sink:
        with pytest.raises(TransientError, match="is not trusted"):
            await sink.send(email(to="ann@example.org", subject="clear", text="x"))
    assert not postfix.mailbox_of("ann", "clear")
