"""Verifying a log: its archives, its table, its heads and its checkpoints, as one."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from sidefx_sinks.audit_log.chain import Head, read_heads
from sidefx_sinks.audit_log.record import COLUMNS
from sidefx_sinks.audit_log.stored import PAGE, in_chain_now, pages, snapshot
from sidefx_sinks.audit_log.walk import Break, Walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    import sqlalchemy as sa

    from sidefx_sinks.audit_log.checkpoint import Checkpoint

_COLUMNS_OF_ARCHIVE = {*COLUMNS, "hash"}
_NEEDED = {"chain", "chain_seq", "prev_hash", "hash"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of it."""

    records: int
    chains: int
    anchored: int
    """Records that were compared with a checkpoint."""
    found: Break | None
    """The first break; None where all is well."""
    notes: tuple[str, ...] = ()
    """What could not be seen."""
    vouched: dict[str, int] = field(default_factory=dict)
    """By chain, the record up to which checkpoints vouch for it."""


class UnreadableArchiveError(ValueError):
    """A line of an archive is no record."""


def verify(
    engine: sa.Engine,
    table: sa.Table,
    *,
    checkpoints: Sequence[Checkpoint] | None = None,
    archives: Iterable[Path] = (),
    progress: Callable[[int], object] = lambda _: None,
    page: int = PAGE,
) -> Verdict:
    """Walks along all archives and the table, up to the first break.

    `checkpoints` are those whose signatures are right; None where there are none to compare with. `progress` is told
    after each page, of so many records, how many have been seen.

    Raises:
        UnreadableArchiveError: a line of an archive is no record.
    """
    walk = Walk(_anchors(checkpoints or ()))
    notes: list[str] = []
    broken = _walk_archives(archives, walk, checkpoints, notes, progress)
    if broken is not None:
        return _verdict(walk, broken, notes)
    with snapshot(engine) as connection:
        before = read_heads(connection, table)
    archived = frozenset(walk.places)
    broken = walk.start(before) or _unvouched(before, archived, checkpoints, notes)
    if broken is None:
        with closing(pages(engine, table, page)) as read:
            broken = _walk_table(read, partial(in_chain_now, engine, table), walk, progress)
        if broken is not None and _archived_since(engine, table, before):
            broken = Break("unvouched", "records were archived meanwhile; verify again", broken.chain, None)
    if checkpoints is None:
        notes.append("without checkpoints, neither a cut-off tail nor a table that was written anew can be seen")
    return _verdict(walk, broken, notes)


def _walk_archives(
    archives: Iterable[Path],
    walk: Walk,
    checkpoints: Sequence[Checkpoint] | None,
    notes: list[str],
    progress: Callable[[int], object],
) -> Break | None:
    for path in archives:
        for rows in _archived(path):
            for chain, (number, digest) in _beginnings(rows).items():
                if chain in walk.places:
                    continue
                walk.places[chain] = (number, digest)
                if number and checkpoints is not None and not _says_archived(checkpoints, chain, number, digest):
                    reason = f"{path} begins after record {number:,}, and no checkpoint says that those were archived"
                    return Break("unvouched", reason, chain, number)
                if number:
                    notes.append(f"{path} begins with record {number + 1:,} of {named(chain)}, not with its first")
            if (broken := walk.follow(rows, lambda *_: False)) is not None:
                return broken
            progress(walk.records)
    return None


def _walk_table(
    pages: Iterable[tuple[list[Any], dict[str, Head] | None]],
    exists: Callable[[str, int], bool],
    walk: Walk,
    progress: Callable[[int], object],
) -> Break | None:
    heads: dict[str, Head] = {}
    for rows, last in pages:
        if (broken := walk.follow(rows, exists)) is not None:
            return broken
        progress(walk.records)
        heads = last or heads
    return walk.end(heads)


def _archived_since(engine: sa.Engine, table: sa.Table, before: dict[str, Head]) -> bool:
    with snapshot(engine) as connection:
        now = read_heads(connection, table)
    return any(name in now and now[name].base_seq != head.base_seq for name, head in before.items())


def _anchors(checkpoints: Iterable[Checkpoint]) -> dict[str, dict[int, tuple[str, str]]]:
    anchors: dict[str, dict[int, tuple[str, str]]] = {}
    for each in sorted(checkpoints, key=lambda each: each.at):  # the first word counts: a later one may be of a forgery
        anchors.setdefault(each.chain, {}).setdefault(each.seq, (each.hash, each.at))
    return anchors


def named(chain: str | None) -> str:
    """The chain, in a sentence."""
    return f"the chain {chain!r}" if chain else "the log's chain"


def _unvouched(
    heads: dict[str, Head], walked: frozenset[str], checkpoints: Sequence[Checkpoint] | None, notes: list[str]
) -> Break | None:
    """A table that does not begin with its first record: whether a signed checkpoint says that the rest is archived."""
    based = {name: head for name, head in heads.items() if head.base_seq and name not in walked}
    if not based:
        return None
    if checkpoints is None:
        notes.append(
            "the table begins after archived records; neither their archive nor a checkpoint is here to show it"
        )
        return None
    for name, head in based.items():
        if not _says_archived(checkpoints, name, head.base_seq, head.base_hash):
            reason = f"the table begins after record {head.base_seq:,}, and no checkpoint says that it was archived"
            return Break("unvouched", reason, name, head.base_seq)
    return None


def _says_archived(checkpoints: Iterable[Checkpoint], chain: str, number: int, digest: str) -> bool:
    said = ("archive", chain, number, digest)
    return any((each.kind, each.chain, each.seq, each.hash) == said for each in checkpoints)


def _archived(path: Path) -> Iterator[list[tuple[Any, ...]]]:
    """The lines of an archive, as rows; their numbers are those of the lines."""
    rows: list[tuple[Any, ...]] = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                if not _is_record(record):
                    raise ValueError  # noqa: TRY301 - as json's own
            except (ValueError, RecursionError):
                msg = f"{path}, line {number:,}: is no record of an archive; was it cut or edited?"
                raise UnreadableArchiveError(msg) from None
            rows.append((*(record.get(name) for name in COLUMNS), record["hash"], number))
            if len(rows) == PAGE:
                yield rows
                rows = []
    if rows:
        yield rows


def _is_record(record: object) -> bool:
    """Whether it has a record's keys, with values of their types; whether they are right is for the walk to see."""
    return (
        isinstance(record, dict)
        and _NEEDED <= record.keys() <= _COLUMNS_OF_ARCHIVE
        and all(type(value) is (int if name == "chain_seq" else str) for name, value in record.items())
    )


def _beginnings(rows: Iterable[tuple[Any, ...]]) -> dict[str, tuple[int, str]]:
    """Where the chains of an archive begin, which need not be the first of the log."""
    found: dict[str, tuple[int, str]] = {}
    chain, number, prev = (COLUMNS.index(name) for name in ("chain", "chain_seq", "prev_hash"))
    for row in rows:
        if row[chain] not in found:
            found[row[chain]] = (row[number] - 1, row[prev])
    return found


def _verdict(walk: Walk, broken: Break | None, notes: Sequence[str]) -> Verdict:
    return Verdict(walk.records, len(walk.places), walk.anchored, broken, tuple(notes), walk.vouched)
