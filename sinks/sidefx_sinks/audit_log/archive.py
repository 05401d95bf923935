"""Retention: the oldest records go to a file, and what is left can be verified all the same."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from sidefx_sinks.audit_log.append_only import deleting_allowed
from sidefx_sinks.audit_log.chain import Head, lock_all_heads, move_heads
from sidefx_sinks.audit_log.checkpoint import sync_name
from sidefx_sinks.audit_log.database import WRITING
from sidefx_sinks.audit_log.record import COLUMNS
from sidefx_sinks.audit_log.stored import PAGE, page_query, plain
from sidefx_sinks.audit_log.walk import Break, Walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime
    from pathlib import Path

    from sidefx_sinks.audit_log.anchors import Anchors

_CHAIN, _NUMBER = COLUMNS.index("chain"), COLUMNS.index("chain_seq")
_COUNT = len(COLUMNS)


class BrokenChainError(RuntimeError):
    """A chain is broken among the records that were to be archived: nothing is."""

    def __init__(self, found: Break) -> None:
        super().__init__(f"a chain is broken, so nothing is archived: {found.reason}")
        self.found = found


@dataclass(frozen=True, slots=True)
class Archived:
    """What has been taken out of the table."""

    records: int
    chains: int


def archive(
    engine: sa.Engine,
    table: sa.Table,
    before: datetime,
    path: Path,
    *,
    anchors: Anchors | None = None,
    progress: Callable[[int], object] = lambda _: None,
) -> Archived:
    """Moves each chain's records up to the first that is not older than `before` into a new file of JSON Lines.

    In one transaction that holds the chains' heads, so writers wait. The file is on the disk, and with `anchors` a
    signed checkpoint of it written, before a record is deleted; where anything fails the table is as it was. Where it
    is the commit that fails, the file stays: the database may have carried it out.

    Raises:
        FileExistsError: there is such a file already.
        OSError: the file or the checkpoint cannot be written.
        BrokenChainError: a chain is broken among these records.
        AppendOnlyError: the table's triggers refuse it here.
    """
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    kept = False
    try:
        with (
            os.fdopen(file, "w", encoding="utf-8", newline="\n") as lines,
            engine.execution_options(**{WRITING: True}).begin() as connection,
        ):
            heads = lock_all_heads(connection, table)
            ends = {head.chain: end for head in heads.values() if (end := _end(connection, table, head, before))}
            with deleting_allowed(connection, table):
                rows = _rows(connection, table, heads, ends)
                moved = _written(rows, heads, ends, lines.write, progress)
                lines.flush()
                os.fsync(lines.fileno())
                sync_name(path)
                if moved and anchors is not None:
                    anchors.archived(moved)
                for head in moved:
                    of_chain = (table.c.chain == head.chain, table.c.chain_seq <= head.base_seq)
                    connection.execute(table.delete().where(*of_chain))
                if moved:
                    move_heads(connection, table, moved)
            kept = bool(moved)  # before the commit, of which nobody may know whether it came through
    finally:
        if not kept:
            path.unlink()
    return Archived(sum(head.base_seq - heads[head.chain].base_seq for head in moved), len(moved))


def _end(connection: sa.Connection, table: sa.Table, head: Head, before: datetime) -> int:
    """The number of the last record of the chain that goes; 0 where none does."""
    younger = sa.select(sa.func.min(table.c.chain_seq)).where(table.c.chain == head.chain, table.c.at >= before)
    first = connection.scalar(younger)
    end = head.seq if first is None else int(first) - 1
    return end if end > head.base_seq else 0


def _written(
    pages: Iterable[list[tuple[Any, ...]]],
    heads: dict[str, Head],
    ends: dict[str, int],
    write: Callable[[str], object],
    progress: Callable[[int], object],
) -> list[Head]:
    """Writes the records and walks along them; the heads as they are without them."""
    walk = Walk(places={head.chain: (head.base_seq, head.base_hash) for head in heads.values()})
    for rows in pages:
        if (broken := walk.follow(rows, lambda *_: False)) is not None:
            raise BrokenChainError(broken)
        for row in rows:
            write(_line(row))
        progress(walk.records)
    for chain, end in ends.items():
        if walk.places[chain][0] != end:
            reason = f"record {walk.places[chain][0] + 1:,} is missing"
            raise BrokenChainError(Break("deleted", reason, chain, walk.places[chain][0] + 1))
    return [replace(heads[chain], base_seq=end, base_hash=walk.places[chain][1]) for chain, end in sorted(ends.items())]


def _rows(
    connection: sa.Connection, table: sa.Table, heads: dict[str, Head], ends: dict[str, int]
) -> Iterator[list[tuple[Any, ...]]]:
    """The records that go, in the order of the log."""
    dialect = connection.dialect.name
    left = sum(end - heads[chain].base_seq for chain, end in ends.items())
    after: int | None = None
    while left:
        query = page_query(table, dialect).limit(PAGE)
        page = connection.execute(query if after is None else query.where(table.c.seq > after)).all()
        rows = [plain(row, dialect) for row in page]
        going = [row for row in rows if (row[_NUMBER] or 0) <= ends.get(row[_CHAIN], 0) or row[_NUMBER] is None]
        yield going
        left -= len(going)
        if len(page) < PAGE:
            return
        after = rows[-1][-1]


def _line(row: tuple[Any, ...]) -> str:
    """The record as it was hashed, and its hash."""
    record = {name: value for name, value in zip(COLUMNS, row, strict=False) if value is not None}
    return json.dumps({**record, "hash": row[_COUNT]}, sort_keys=True, ensure_ascii=False, separators=(",", ":")) + "\n"
