"""Mails as `.eml` files in a directory: for development and staging, and for programs that pick them up."""

from __future__ import annotations

import contextlib
import os
import secrets
from typing import TYPE_CHECKING

import anyio

from sidefx import TransientError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sidefx_sinks.email.message import Mail
    from sidefx_sinks.email.recipients import Progress


class Directory:
    """Writes each mail as `EVENT_ID.eml` (0600), whole or not at all; a second delivery overwrites the first.

    Two header lines say what the envelope would have: `X-Envelope-From` and `X-Envelope-To`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    async def open(self) -> None:
        """Make the directory (0700) where there is none.

        Raises:
            OSError: it cannot be made, or is none.
        """
        await anyio.to_thread.run_sync(self._open)

    async def close(self) -> None:
        """There is nothing to close."""

    async def deliver(self, mail: Mail, recipients: list[str], progress: Progress) -> dict[str, str]:
        """Write the file, for all of its recipients who are not refused.

        Raises:
            TransientError: it cannot be written.
        """
        named = [one for one in mail.recipients if one not in progress.refused]
        envelope = [f"X-Envelope-From: {mail.sender}", "X-Envelope-To: " + ",\r\n ".join(named), ""]
        content = "\r\n".join(envelope).encode() + mail.content
        try:
            await anyio.to_thread.run_sync(self._write, f"{mail.event_id}.eml", content)
        except OSError as error:
            raise self._failure(error) from None
        progress.delivered.update(recipients)
        return {}

    async def check(self) -> None:
        """Write a file and remove it.

        Raises:
            TransientError: why that does not work.
        """
        try:
            await anyio.to_thread.run_sync(self._probe)
        except OSError as error:
            raise self._failure(error) from None

    def _open(self) -> None:
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _write(self, name: str, content: bytes) -> None:
        with self._temporary(content) as temporary:
            temporary.replace(self._path / name)

    def _probe(self) -> None:
        with self._temporary(b"check\r\n"):
            pass

    @contextlib.contextmanager
    def _temporary(self, content: bytes) -> Iterator[Path]:
        """A file with that content, on disk, which goes at the end unless it has been renamed."""
        path = self._path / f".{secrets.token_hex(8)}.tmp"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _failure(self, error: OSError) -> TransientError:
        return TransientError(f"directory: cannot write to {self._path}: {error.strerror or error}")
