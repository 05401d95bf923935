"""`Anchors`: writes checkpoints down as the log grows."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sidefx import NotRunningError, SidefxError, after
from sidefx_sinks.audit_log.checkpoint import AuditCheckpoint, Checkpoint, append, signed

if TYPE_CHECKING:
    from sidefx_sinks.audit_log.chain import Head
    from sidefx_sinks.audit_log.keys import Key

_log = logging.getLogger("sidefx.audit_log")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorOptions:
    """Where checkpoints go, and how often."""

    path: Path | None
    events: bool
    """Whether each is emitted as an `audit.checkpoint` event, for other sinks."""
    every: int
    """Records between two checkpoints of a log."""
    seconds: float
    """The longest time that a stored record waits for one, as far as batches come."""


class Anchors:
    """Remembers the heads that have moved, and signs them when it is time."""

    def __init__(self, log: str, key: Key, options: AnchorOptions) -> None:
        self._log = log
        self._key = key
        self._options = options
        self._moved: dict[str, Head] = {}
        self._records = 0
        self._since = time.monotonic()
        self._lock = threading.Lock()
        self.trouble = ""
        """Why the last checkpoint could not be written; empty where it could."""

    def moved(self, heads: Iterable[Head], records: int) -> None:
        """These chains have grown, and the transaction is committed. Raises nothing: the records are stored."""
        with self._lock:
            for head in heads:
                known = self._moved.get(head.chain)
                if known is None or known.seq < head.seq:  # another thread may have been quicker to tell
                    self._moved[head.chain] = head
            self._records += records
            due = self._records >= self._options.every or time.monotonic() - self._since >= self._options.seconds
            if due and self._moved:
                self._write()

    def close(self) -> None:
        """The last ones."""
        with self._lock:
            if self._moved:
                self._write()

    def archived(self, heads: Iterable[Head]) -> None:
        """That what lies before these heads' bases has been archived.

        Raises:
            OSError: it could not be written down, so nothing is to be deleted.
            NotRunningError: checkpoints go to another sink alone, and no runtime is here to take this one there.
        """
        self._anchor([signed("archive", self._log, head, self._key) for head in heads])

    def _write(self) -> None:
        heads = sorted(self._moved.values(), key=lambda head: head.chain)
        try:
            self._anchor([signed("head", self._log, head, self._key) for head in heads])
        except (OSError, SidefxError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            if not self.trouble:  # else it has been said
                _log.error("audit log %s: no checkpoint could be written: %s", self._log, reason)
            self.trouble = reason
            self._since, self._records = time.monotonic(), 0  # not with every batch
        else:
            self.trouble = ""
            self._moved.clear()
            self._since, self._records = time.monotonic(), 0

    def _anchor(self, checkpoints: list[Checkpoint]) -> None:
        if self._options.path is not None:
            append(self._options.path, checkpoints)
        with suppress(NotRunningError) if self._options.path is not None else nullcontext():
            self._emit(checkpoints)  # a command has no runtime, and a program that ends none any more

    def _emit(self, checkpoints: list[Checkpoint]) -> None:
        if not self._options.events:
            return
        for each in checkpoints:
            after(
                AuditCheckpoint(
                    entry=each.kind,
                    log=each.log,
                    chain=each.chain,
                    seq=each.seq,
                    hash=each.hash,
                    signed_at=each.at,
                    key=each.key,
                    signature=each.signature,
                )
            )
