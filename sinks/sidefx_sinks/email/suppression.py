"""Addresses that are to have no mail: a list in a file, or whatever a function of the user's knows."""

from __future__ import annotations

import inspect
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

import anyio

from sidefx import TransientError
from sidefx_sinks.email.address import ascii_domain, is_local_part
from sidefx_sinks.email.threads import DaemonThreads

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

Rule = Callable[[str], bool | Awaitable[bool]]
"""Whether an address, as the envelope has it, is to have no mail; a plain function runs in a thread."""
SUPPRESSED = "suppressed"
"""The reason, where others have an SMTP code."""
_MAX_BYTES = 100_000_000
"""Of the file: some four million addresses."""


class Suppression:
    """Those of a mail's recipients who are to be left out.

    The file has an address a line; `@example.org` stands for a whole domain, what follows `#` is a
    comment, and the case of letters does not count. It is read again when it has changed. Where
    the file or the function fails, nobody can tell who is to have no mail, and the mail waits.
    """

    def __init__(self, file: Path | None, rule: Rule | None) -> None:
        self._file = file
        self._rule = rule
        self._version: tuple[int, ...] | None = None
        self._listed: frozenset[str] = frozenset()
        self._threads = DaemonThreads()

    def open(self) -> None:
        """Make ready for the loop that runs."""
        self._threads = DaemonThreads()

    async def among(self, recipients: Iterable[str]) -> list[str]:
        """Those who are to have no mail, in order.

        Raises:
            TransientError: which of the two failed, and where.
        """
        if self._file is None and self._rule is None:
            return []
        listed = await self._list()
        return [one for one in recipients if _is_listed(one, listed) or await self._is_ruled_out(one)]

    async def read(self) -> None:
        """Find out now what is wrong with the file.

        Raises:
            OSError: it cannot be read.
            ValueError: a line of it is no address.
        """
        if self._file is not None:
            await anyio.to_thread.run_sync(self._refresh, self._file)

    async def _list(self) -> frozenset[str]:
        try:
            await self.read()
        except OSError as error:
            msg = f"suppression_file: cannot read {self._file}: {error.strerror or error}; no mail leaves until it can"
            raise TransientError(msg) from None
        except ValueError as error:
            msg = f"{error}; no mail leaves until it is mended"
            raise TransientError(msg) from None
        return self._listed

    def _refresh(self, file: Path) -> None:
        with file.open("rb") as opened:
            found = _version(opened.fileno())
            if found == self._version:
                return
            content = opened.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            msg = f"suppression_file: {file} has more than {_MAX_BYTES} bytes; give the sink a function (suppressed)"
            raise ValueError(msg)
        self._listed = frozenset(_entries(content, file))
        self._version = found

    async def _is_ruled_out(self, address: str) -> bool:
        if self._rule is None:
            return False
        try:
            if inspect.iscoroutinefunction(self._rule):
                return bool(await self._rule(address))
            answer: Any = await self._threads.run(self._rule, address)
            return bool(await cast("Awaitable[bool]", answer) if inspect.isawaitable(answer) else answer)
        except Exception as error:  # noqa: BLE001 - it is the user's function; its words may hold the address
            name = getattr(self._rule, "__qualname__", type(self._rule).__qualname__)
            msg = f"suppressed: {type(error).__name__} in {name}; the mail waits until it answers"
            raise TransientError(msg) from None


def _version(descriptor: int) -> tuple[int, ...]:
    """What changes when a file does."""
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _entries(content: bytes, file: Path) -> Iterable[str]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        msg = f"suppression_file: {file} is not UTF-8"
        raise ValueError(msg) from None
    for number, line in enumerate(text.splitlines(), 1):
        if entry := line.partition("#")[0].strip():
            try:
                yield _normal(entry)
            except ValueError:
                msg = f"suppression_file: {file}, line {number} is neither an address nor '@domain'"
                raise ValueError(msg) from None


def _normal(entry: str) -> str:
    local_part, at, domain = entry.rpartition("@")
    if not at or local_part == "*" or (local_part and not is_local_part(local_part)):
        raise ValueError
    return f"{local_part}@{ascii_domain(domain)}".casefold()


def _is_listed(address: str, listed: frozenset[str]) -> bool:
    address = address.casefold()
    return address in listed or f"@{address.rpartition('@')[2]}" in listed
