"""Who of an event's recipients has the mail already: what a retry must know."""

from __future__ import annotations

import logging
import sqlite3
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import anyio

from sidefx import TransientError

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from sidefx_sinks.email.state import State

_log = logging.getLogger("sidefx.email")


@dataclass(slots=True, repr=False)
class Progress:
    """How far the mail of one event has come."""

    delivered: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)
    """Address to the reason (an SMTP code, mostly), of those who are refused for good."""
    saved: set[str] = field(default_factory=set)
    """Those whose outcome is on disk."""

    def still_open(self, recipients: tuple[str, ...]) -> list[str]:
        """Those to try now."""
        return [one for one in recipients if one not in self.delivered and one not in self.refused]

    def known(self) -> int:
        """Of how many recipients the outcome is known."""
        return len(self.delivered) + len(self.refused)


class Ledger:
    """The progress of the events whose mail is not out yet; the least recently tried are forgotten.

    With a `state` it is on disk as well, and so is who has got the mails that are out: an event that
    comes once more after a crash is sent to nobody twice.
    """

    def __init__(self, state: State | None = None, *, max_events: int = 10_000) -> None:
        self._state = state
        self._max_events = max_events
        self._progress: OrderedDict[UUID, Progress] = OrderedDict()

    async def find(self, event_id: UUID, recipients: tuple[str, ...]) -> Progress:
        """What is known of that event.

        Raises:
            TransientError: the file cannot be read. Whether the mail went out is unknown, so it waits.
        """
        progress = self._progress.setdefault(event_id, Progress())
        self._progress.move_to_end(event_id)
        while len(self._progress) > self._max_events:
            self._progress.popitem(last=False)
        if self._state is not None:  # always: another sink or process may have gone on with the event
            try:
                answers = await anyio.to_thread.run_sync(self._state.read, event_id, recipients)
            except (sqlite3.Error, OSError) as error:
                msg = f"state: cannot read {self._state.path}: {error}"
                raise TransientError(msg) from None
            progress.delivered |= {one for one, answer in answers.items() if not answer}
            progress.refused |= {one: answer for one, answer in answers.items() if answer}
            progress.saved = set(answers)
        return progress

    async def save(self, event_id: UUID, progress: Progress) -> None:
        """Put on disk what is not there yet, where there is a file."""
        answers = dict.fromkeys(progress.delivered, "") | progress.refused
        new = {one: answer for one, answer in answers.items() if one not in progress.saved}
        if self._state is not None and new and await self._write(event_id, partial(self._state.write, event_id, new)):
            progress.saved |= new.keys()

    async def give_up(self, event_id: UUID, progress: Progress) -> None:
        """Keep who has the mail, for a replay of the event; it asks again for those who were refused."""
        progress.refused.clear()
        progress.saved &= progress.delivered
        if self._state is not None:
            await self._write(event_id, partial(self._state.forget_refusals, event_id))
        if not progress.delivered:
            self.forget(event_id)

    async def _write(self, event_id: UUID, write: Callable[[], None]) -> bool:
        """Whether it is on disk. A failure is logged: it cannot take a mail back that the server has."""
        try:
            with anyio.CancelScope(shield=True):  # a cancelled attempt, too, has delivered what it has
                await anyio.to_thread.run_sync(write)
        except (sqlite3.Error, OSError) as error:
            _log.error(
                "state: cannot write: %s; after a restart, the mail of event %s may go to the same recipients again",
                error,
                event_id,
            )
            return False
        return True

    def forget(self, event_id: UUID) -> None:
        """Everybody has the mail."""
        self._progress.pop(event_id, None)

    def __len__(self) -> int:
        return len(self._progress)
