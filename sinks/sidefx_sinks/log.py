"""`Log`: every event as a line of JSON, for development and as the `fallback` of another sink."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from sidefx import Event, PartialError, PermanentError, SinkStartError, TransientError

if TYPE_CHECKING:
    from typing import Self
    from uuid import UUID


class Log:
    """Writes JSON Lines (https://jsonlines.org) to a file, or to a stream of the process.

    The lines are ASCII: whatever an event holds can neither start a line of its own nor steer a
    terminal, and is read back the same.
    """

    def __init__(
        self,
        *,
        path: Annotated[str | None, Field(description="File to append to; without it, `stream` is used")] = None,
        stream: Annotated[Literal["stderr", "stdout"], Field(description="Stream of the process")] = "stderr",
    ) -> None:
        self._path = path
        self._stream = stream
        self._file: int | None = None
        self._torn = False

    def __enter__(self) -> Self:
        if self._path is not None:
            try:  # 0600: events hold what is not for everyone on the machine
                self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            except OSError as error:
                msg = f"log: cannot open {self._path}: {error.strerror}; its directory must exist and be writable"
                raise SinkStartError(msg) from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def send_batch(self, events: Sequence[Event]) -> None:
        """Write the batch in one piece.

        Raises:
            PartialError: some events have no JSON form; the rest is written.
            TransientError: the file or stream cannot be written to.
        """
        failures: dict[UUID, Exception] = {}
        lines = []
        for event in events:
            try:
                lines.append(_line(event))
            except (ValueError, TypeError, RecursionError) as error:
                msg = f"the event {event.kind!r} cannot be written as JSON ({type(error).__name__})"
                failures[event.id] = PermanentError(msg)
        try:
            self._write("".join(lines))
        except (OSError, ValueError, AttributeError) as error:  # ValueError: closed; AttributeError: there is none
            reason = getattr(error, "strerror", None) or "it is closed"
            msg = f"log: cannot write to {self._path or self._stream}: {reason}"
            raise TransientError(msg) from error
        if failures:
            raise PartialError(failures)

    def _write(self, text: str) -> None:
        if self._path is None:
            stream = getattr(sys, self._stream)  # looked up now: programs and tests replace it
            stream.write(text)
            stream.flush()
            return
        if self._file is None:
            msg = f"log: {self._path} is not open; use the sink inside `with`"
            raise RuntimeError(msg)
        rest = text.encode("ascii")
        if self._torn:  # a full disk cut the last line short: what follows shall be read nevertheless
            rest = b"\n" + rest
        while rest:
            written = os.write(self._file, rest)
            rest = rest[written:]
            self._torn = bool(rest)


def _line(event: Event) -> str:
    record = {"kind": event.kind, **event.model_dump(mode="json", warnings=False)}
    return json.dumps(record, ensure_ascii=True, allow_nan=False, separators=(",", ":")) + "\n"
