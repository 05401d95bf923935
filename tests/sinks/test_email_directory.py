"""The transport `directory` of the sink `email`: a file for each mail, whole and private."""

from __future__ import annotations

import os
import stat
from email import message_from_bytes
from email.policy import default
from typing import TYPE_CHECKING, Any

import pytest

from sidefx import PermanentError, TransientError, email
from sidefx.testing import check_sink
from sidefx_sinks.email import Email

from .smtp_server import letter

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio


def written_to(directory: Path, **settings: Any) -> Email:
    """The sink that writes there."""
    return Email(sender="Shop <shop@example.org>", transport="directory", directory=directory, **settings)


def files(directory: Path) -> list[str]:
    """All that is there, hidden files included."""
    return sorted(path.name for path in directory.iterdir())


async def test_it_keeps_the_contract(tmp_path: Path) -> None:
    """The suite that every sink passes."""
    events = [email(to="a@example.org", subject=subject, text="x") for subject in "ab"]
    await check_sink(lambda: written_to(tmp_path / "mail"), events)
    assert files(tmp_path / "mail") == sorted(f"{event.id}.eml" for event in events)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
class TestFiles:
    async def test_a_mail_is_a_file_that_mail_programs_open(self, tmp_path: Path, anyio_backend: str) -> None:
        """Named for the event, private, with the envelope in its head."""
        event = letter("Ann <ann@example.org>", bcc="eve@example.org", html="<b>Hi", text="Hällo")
        async with written_to(tmp_path / "new" / "mail") as sink:
            await sink.send(event)
        file = tmp_path / "new" / "mail" / f"{event.id}.eml"
        message = message_from_bytes(file.read_bytes(), policy=default)
        assert message["X-Envelope-From"] == "shop@example.org"
        assert message["X-Envelope-To"] == "ann@example.org, eve@example.org"
        assert message["Message-ID"] == f"<{event.id}@example.org>"
        assert message.get_body(("plain",)).get_content().strip() == "Hällo"  # type: ignore[union-attr]
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700

    async def test_a_second_delivery_overwrites_the_first(self, tmp_path: Path, anyio_backend: str) -> None:
        """One event is one file, however often it comes, and nothing temporary is left."""
        event = letter()
        async with written_to(tmp_path) as sink:
            await sink.send(event)
            await sink.send(event)
            await sink.send(letter())
            await sink.check()
        assert len(files(tmp_path)) == 2

    async def test_staging_sees_the_true_recipients_in_the_head(self, tmp_path: Path, anyio_backend: str) -> None:
        """`redirect_to` holds for files as well."""
        event = letter("ann@example.org")
        async with written_to(tmp_path, redirect_to="qa@staging.example") as sink:
            await sink.send(event)
        message = message_from_bytes((tmp_path / f"{event.id}.eml").read_bytes(), policy=default)
        assert (message["X-Envelope-To"], message["X-Original-To"]) == ("qa@staging.example", "ann@example.org")

    async def test_who_is_suppressed_is_not_in_the_envelope(self, tmp_path: Path, anyio_backend: str) -> None:
        """And is reported, as with a server."""
        event = letter("ann@example.org", "bob@example.org")
        async with written_to(tmp_path, suppressed=lambda address: address.startswith("bob")) as sink:
            with pytest.raises(PermanentError, match=r"1 of 2 recipients \(b\*\*\*@example.org: suppressed\)"):
                await sink.send(event)
        content = (tmp_path / f"{event.id}.eml").read_bytes()
        assert message_from_bytes(content, policy=default)["X-Envelope-To"] == "ann@example.org"

    async def test_a_file_that_cannot_be_written_may_be_later(
        self, tmp_path: Path, anyio_backend: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A full disk leaves neither half a mail nor a temporary file."""
        async with written_to(tmp_path) as sink:

            def full(_: int) -> None:
                raise OSError(28, "No space left on device")

            with monkeypatch.context() as patched:
                patched.setattr(os, "fsync", full)
                for call in (sink.send(letter()), sink.check()):
                    with pytest.raises(TransientError, match=r"directory: cannot write to .*: No space left"):
                        await call
            assert files(tmp_path) == []
            await sink.send(letter())
        assert len(files(tmp_path)) == 1

    async def test_a_directory_that_is_none_is_found_at_the_start(self, tmp_path: Path, anyio_backend: str) -> None:
        """The first mail is too late to learn of it."""
        (tmp_path / "mail").touch()
        with pytest.raises(OSError, match="mail"):
            async with written_to(tmp_path / "mail"):
                pass
