"""The errors of sidefx: one root, so that `except SidefxError` catches all that is ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID


class SidefxError(Exception):
    """The root of every error that sidefx raises."""


class NotRunningError(SidefxError, RuntimeError):
    """`after()` or `emit()` was called where no running `SideEffects` can take the effect."""


class ResponseOverError(SidefxError, RuntimeError):
    """An effect tried to change a response that has already been sent."""


class SinkStartError(SidefxError):
    """A sink could not be opened, so the runtime did not start."""


class JournalError(SidefxError):
    """The journal's directory cannot be used, or its disk has failed; the message says which, and what to do."""


class SinkContractError(SidefxError, TypeError):
    """An object given as a sink is none: what it lacks, and how to mend it."""


class PermanentError(SidefxError):
    """Raised by a sink: this event will never be accepted, do not retry it."""


class TransientError(SidefxError):
    """Raised by a sink: try again, in `retry_after` seconds or later where the receiver said so."""

    def __init__(self, message: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PartialError(SidefxError):
    """Raised by a batch sink: these events of the batch failed, the rest was delivered.

    `failures` maps the id of each failed event to its error. A `PermanentError` there rejects
    the event; anything else is tried again, without the events that were delivered.
    """

    def __init__(self, failures: Mapping[UUID, Exception]) -> None:
        super().__init__(f"{len(failures)} event(s) of the batch failed")
        self.failures = dict(failures)


class AttemptTimeout(SidefxError, TimeoutError):  # noqa: N818 - named for what happened, as its base is
    """One attempt took longer than the `timeout` of its sink or effect."""


class MissingExtraError(SidefxError, ImportError):
    """A sink needs a library that is not installed; the message is the command that installs it."""
