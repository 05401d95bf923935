"""The hash chain: each record holds the hash of the one before it, and its own over all of its columns.

Writers take turns: a chain's head is a row of its own, locked in the transaction that adds records.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import TYPE_CHECKING, Literal

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from sidefx_sinks.audit_log.record import COLUMNS, canonical
from sidefx_sinks.audit_log.table import head_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from sidefx_sinks.audit_log.record import Record

Chaining = Literal["log", "tenant", "off"]
"""One chain for the log, one for each tenant, or none."""

GENESIS = "0" * 64
"""`prev_hash` of a chain's first record."""

_LONGEST_NAME = 128
_hashed = itemgetter(*COLUMNS)


@dataclass(frozen=True, slots=True)
class Head:
    """Where a chain ends, and where what the table has of it begins."""

    chain: str
    seq: int = 0
    """`chain_seq` of the newest record."""
    hash: str = GENESIS
    base_seq: int = 0
    """`chain_seq` of the last record that was archived and deleted."""
    base_hash: str = GENESIS


def chain_of(record: Record, chaining: Chaining) -> str:
    """The chain's name: the tenant, or nothing; of one that is long or ends in a space, the SHA-256 of the name."""
    tenant: str = record["tenant"] or "" if chaining == "tenant" else ""
    as_it_is = len(tenant) <= _LONGEST_NAME and not tenant.endswith(" ")  # to MariaDB, "a " equals "a"
    return tenant if as_it_is else f"sha256:{hashlib.sha256(tenant.encode()).hexdigest()}"


def hash_of(values: tuple[Any, ...]) -> str:
    """SHA-256 of the canonical JSON of the values of `COLUMNS`, in hexadecimal."""
    return hashlib.sha256(canonical(values).encode()).hexdigest()


def linked(records: Iterable[Record], heads: dict[str, Head]) -> list[Record]:
    """The records with their places in the chains; `heads` is moved on to the last of them."""
    places = {head.chain: (head.seq, head.hash) for head in heads.values()}
    found = []
    for record in records:
        seq, prev = places[record["chain"]]
        link = record.copy()
        link["chain_seq"], link["prev_hash"] = seq + 1, prev
        link["hash"] = digest = hash_of(_hashed(link))
        places[record["chain"]] = (seq + 1, digest)
        found.append(link)
    heads |= {name: replace(heads[name], seq=seq, hash=digest) for name, (seq, digest) in places.items()}
    return found


def lock_heads(connection: sa.Connection, table: sa.Table, chains: Iterable[str]) -> dict[str, Head]:
    """The heads of these chains, which nobody else moves before the transaction ends.

    In one statement and in one order, so that writers of several chains do not wait for each other in a circle.
    """
    names = sorted(set(chains))
    heads = _locked(connection, table, names)
    if missing := [name for name in names if name not in heads]:
        begin_chains(connection, table, missing)
        heads = _locked(connection, table, names)
    for name, head in heads.items():
        if not head.seq:
            heads[name] = _restored(connection, table, head)
    return heads


def lock_all_heads(connection: sa.Connection, table: sa.Table) -> dict[str, Head]:
    """The heads of all chains, likewise. To be the transaction's first statement, so that it sees what they are of."""
    head = head_table(table)
    return _by_name(connection.execute(head.select().order_by(head.c.chain).with_for_update()))


def begin_chains(connection: sa.Connection, table: sa.Table, chains: Iterable[str]) -> None:
    """Heads for chains that have none yet."""
    head = head_table(table)
    rows = [{"chain": name, "seq": 0, "hash": GENESIS, "base_seq": 0, "base_hash": GENESIS} for name in sorted(chains)]
    statement: sa.Executable
    match connection.dialect.name:
        case "postgresql":
            statement = postgresql.insert(head).on_conflict_do_nothing()
        case "sqlite":
            statement = sqlite.insert(head).on_conflict_do_nothing()
        case "mysql" | "mariadb":
            statement = head.insert().prefix_with("IGNORE")
        case _:
            known = set(
                connection.scalars(sa.select(head.c.chain).where(head.c.chain.in_([row["chain"] for row in rows])))
            )
            rows = [row for row in rows if row["chain"] not in known]
            statement = head.insert()
    if rows:
        connection.execute(statement, rows)


def move_heads(connection: sa.Connection, table: sa.Table, heads: Iterable[Head]) -> None:
    """Writes the heads, which are locked."""
    head = head_table(table)
    names = ("seq", "hash", "base_seq", "base_hash")
    connection.execute(
        head.update()
        .where(head.c.chain == sa.bindparam("of_chain"))
        .values({name: sa.bindparam(f"new_{name}") for name in names}),
        [{"of_chain": each.chain} | {f"new_{name}": getattr(each, name) for name in names} for each in heads],
    )


def read_heads(connection: sa.Connection, table: sa.Table) -> dict[str, Head]:
    """All heads, by the name of the chain."""
    return _by_name(connection.execute(head_table(table).select()))


def _locked(connection: sa.Connection, table: sa.Table, names: Sequence[str]) -> dict[str, Head]:
    head = head_table(table)
    statement = head.select().where(head.c.chain.in_(names)).order_by(head.c.chain).with_for_update()
    return _by_name(connection.execute(statement))


def _by_name(rows: Iterable[Any]) -> dict[str, Head]:
    return {row.chain: Head(row.chain, row.seq, row.hash, row.base_seq, row.base_hash) for row in rows}


def _restored(connection: sa.Connection, table: sa.Table, head: Head) -> Head:
    """The head of a chain that has records all the same: its row was lost, and the chain goes on."""
    number = table.c.chain_seq
    whole = (column.is_not(None) for column in (number, table.c.hash, table.c.prev_hash))
    records = sa.select(number, table.c.hash, table.c.prev_hash).where(table.c.chain == head.chain, *whole).limit(1)
    first = connection.execute(records.order_by(number)).first()
    last = connection.execute(records.order_by(number.desc())).first()
    if first is None or last is None:
        return head
    base = first.chain_seq - 1
    return replace(head, seq=last.chain_seq, hash=last.hash, base_seq=base, base_hash=first.prev_hash)
