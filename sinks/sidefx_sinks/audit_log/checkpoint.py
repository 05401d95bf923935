"""Checkpoints: signed notes of where the chains stand, kept where whoever writes the database cannot reach."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from sidefx import Event
from sidefx_sinks.audit_log.record import timestamp

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from sidefx_sinks.audit_log.chain import Head
    from sidefx_sinks.audit_log.keys import Key

_LONGEST_LINE = 4_096


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """At that time, record `seq` of the chain had that hash."""

    kind: Literal["head", "archive"]
    """Where the chain ended; or, of an archive, the last record that was taken out of the table."""
    log: str
    """The name of the table."""
    chain: str
    seq: int
    hash: str
    at: str
    key: str
    """The id of the key."""
    signature: str = ""

    @property
    def signed_bytes(self) -> bytes:
        """What the signature is of: the other fields as canonical JSON (RFC 8785)."""
        fields = {name: value for name, value in asdict(self).items() if name != "signature"}
        return json.dumps(fields, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()

    def line(self) -> str:
        """As it stands in the file."""
        return json.dumps(asdict(self), separators=(",", ":")) + "\n"


class AuditCheckpoint(Event, kind="audit.checkpoint"):
    """A checkpoint on its way to another sink, which keeps it elsewhere."""

    entry: Literal["head", "archive"]
    log: str
    chain: str
    seq: int
    hash: str
    signed_at: str
    key: str
    signature: str


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """What a file of them holds."""

    good: tuple[Checkpoint, ...]
    """Those whose signatures are right."""
    bad: tuple[int, ...]
    """The lines of this log whose signatures are wrong, or of another key."""
    foreign: tuple[int, ...]
    """The lines that are of another log."""
    unreadable: tuple[int, ...]
    """The lines that are no checkpoints: a crash leaves such a one."""


def signed(kind: Literal["head", "archive"], log: str, head: Head, key: Key) -> Checkpoint:
    """A checkpoint of now: of the chain's head; or of its base, before which all has been archived."""
    seq, digest = (head.seq, head.hash) if kind == "head" else (head.base_seq, head.base_hash)
    bare = Checkpoint(kind, log, head.chain, seq, digest, timestamp(datetime.now(UTC)), key.id)
    return replace(bare, signature=key.sign(bare.signed_bytes))


def append(path: Path, checkpoints: Iterable[Checkpoint]) -> None:
    """Adds them to the file, which is made for its owner alone, and waits until they are on the disk.

    Raises:
        OSError: they could not be written.
    """
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        new = not os.fstat(file).st_size
        rest = "".join(each.line() for each in checkpoints).encode()
        if (size := os.fstat(file).st_size) and os.pread(file, 1, size - 1) != b"\n":
            rest = b"\n" + rest  # a crash has cut the last line short: ours are to be read nevertheless
        while rest:
            rest = rest[os.write(file, rest) :]
        os.fsync(file)
    finally:
        os.close(file)
    if new:
        sync_name(path)


def sync_name(path: Path) -> None:
    """Waits until the name of a new file is on the disk: `fsync` of the file alone may leave it without.

    Where the folder's file system knows no such thing, or we may not open the folder, that is left to the system.

    Raises:
        OSError: it could not be written.
    """
    try:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        if error.errno not in {errno.EACCES, errno.EINVAL, errno.ENOTSUP}:
            raise


def read(path: Path, log: str, key: Key) -> Checkpoints:
    """The checkpoints of that log in the file.

    Raises:
        OSError: it cannot be read.
    """
    good, bad, foreign, unreadable = [], [], [], []
    with path.open("rb") as lines:
        for number, line in enumerate(iter(lambda: lines.readline(_LONGEST_LINE), b""), start=1):
            if (checkpoint := _parsed(line)) is None:
                unreadable.append(number)
            elif checkpoint.log != log:
                foreign.append(number)
            elif checkpoint.key == key.id and key.signed(checkpoint.signed_bytes, checkpoint.signature):
                good.append(checkpoint)
            else:
                bad.append(number)
    return Checkpoints(tuple(good), tuple(bad), tuple(foreign), tuple(unreadable))


def _parsed(line: bytes) -> Checkpoint | None:
    try:
        checkpoint = Checkpoint(**json.loads(line))
    except (ValueError, TypeError):
        return None
    texts = (checkpoint.log, checkpoint.chain, checkpoint.hash, checkpoint.at, checkpoint.key, checkpoint.signature)
    if not all(isinstance(text, str) for text in texts) or type(checkpoint.seq) is not int:
        return None
    return checkpoint if checkpoint.kind in {"head", "archive"} else None
