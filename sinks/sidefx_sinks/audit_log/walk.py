"""Walking along the chains: the first record at which one is broken, and what happened there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from sidefx_sinks.audit_log.chain import GENESIS, hash_of
from sidefx_sinks.audit_log.record import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sidefx_sinks.audit_log.chain import Head

Kind = Literal["edited", "deleted", "inserted", "reordered", "replaced", "truncated", "rewritten", "unvouched"]

Anchors = dict[str, dict[int, tuple[str, str]]]
"""What checkpoints say: by chain and number, the record's hash and when it was written down."""

_CHAIN, _NUMBER, _PREV = COLUMNS.index("chain"), COLUMNS.index("chain_seq"), COLUMNS.index("prev_hash")
_ID, _AT = COLUMNS.index("id"), COLUMNS.index("at")
_COUNT = len(COLUMNS)


@dataclass(frozen=True, slots=True)
class Break:
    """Where a chain is broken, and how."""

    kind: Kind
    reason: str
    chain: str | None
    chain_seq: int | None
    seq: int | None = None
    """The row's number in the table, where there is a row."""
    id: str | None = None
    at: str | None = None


@dataclass(slots=True)
class Walk:
    """Takes records in the order of the log, and remembers where each chain is."""

    anchors: Anchors = field(default_factory=dict)
    places: dict[str, tuple[int, str]] = field(default_factory=dict)
    """By chain, number and hash of the last record seen."""
    records: int = 0
    anchored: int = 0
    """How many records were compared with a checkpoint."""
    vouched: dict[str, int] = field(default_factory=dict)
    """By chain, the number of the last of them."""

    def start(self, heads: Mapping[str, Head]) -> Break | None:
        """The chains begin after what was archived; where an archive was walked first, it ends there."""
        if (odd := _odd(heads)) is not None:
            return odd
        for name, head in heads.items():
            if name not in self.places:
                self.places[name] = (head.base_seq, head.base_hash)
            elif self.places[name] != (head.base_seq, head.base_hash):
                number, _ = self.places[name]
                reason = f"the archive ends with record {number:,}, the table goes on after {head.base_seq:,}"
                if number == head.base_seq:
                    reason = "the last record of the archive is not the one after which the table goes on"
                return Break("replaced", reason, name, head.base_seq)
        return None

    def follow(self, rows: Iterable[Any], exists: Callable[[str, int], bool]) -> Break | None:
        """Goes on along these rows (`COLUMNS`, `hash`, `seq`); where one is broken, what happened.

        `exists(chain, number)` says whether the table has that record anywhere.
        """
        places, anchors = self.places, self.anchors
        for row in rows:
            values = row[:_COUNT]
            chain, number, stored = values[_CHAIN], values[_NUMBER], row[_COUNT]
            place = places.get(chain) or (0, GENESIS)
            if _hash(values) != stored or number != place[0] + 1 or values[_PREV] != place[1]:
                return self._explained(row, place, exists)
            if chain in anchors and (anchor := anchors[chain].get(number)) is not None:
                if anchor[0] != stored:
                    return _of(row, "rewritten", f"the checkpoint of {anchor[1]} has another hash of it")
                self.anchored += 1
                self.vouched[chain] = number
            places[chain] = (number, stored)
            self.records += 1
        return None

    def end(self, heads: Mapping[str, Head]) -> Break | None:
        """All rows have been seen: whether the chains end where the heads and the checkpoints say."""
        return _odd(heads) or self._not_at(heads) or self._cut()

    def _not_at(self, heads: Mapping[str, Head]) -> Break | None:
        for name in sorted({*self.places, *heads}):
            number, digest = self.places.get(name, (0, GENESIS))
            head = heads.get(name)
            if head is None:
                return Break("deleted", "the chain has records and no row in the table of heads", name, number)
            if head.seq > number:
                return Break("truncated", _missing(number + 1, head.seq, "the head of the chain"), name, number + 1)
            if head.seq < number:
                reason = f"the head of the chain stands at record {head.seq:,}, the records go on to {number:,}"
                return Break("inserted", reason, name, head.seq + 1)
            if head.hash != digest:
                return Break("replaced", "the head of the chain has another hash of the last record", name, number)
        return None

    def _cut(self) -> Break | None:
        for name in sorted(self.anchors):
            number, _ = self.places.get(name, (0, GENESIS))
            if (last := max(self.anchors[name], default=0)) > number:
                said = f"the checkpoint of {self.anchors[name][last][1]}"
                return Break("truncated", _missing(number + 1, last, said), name, number + 1)
        return None

    def _explained(self, row: Any, place: tuple[int, str], exists: Callable[[str, int], bool]) -> Break:
        values = row[:_COUNT]
        chain, number = values[_CHAIN], values[_NUMBER]
        if not isinstance(chain, str) or not isinstance(number, int) or row[_COUNT] is None:
            return _of(row, "inserted", "it has no place in a chain; it was put in by hand, or with chain = off")
        if _hash(values) != row[_COUNT]:
            return _of(row, "edited", "its hash is not that of its columns")
        expected = place[0] + 1
        if number > expected:
            if exists(chain, expected):
                return _of(row, "reordered", f"record {expected:,} of its chain comes after it")
            missing = _missing(expected, number - 1, "the chain")
            return Break("deleted", missing, chain, expected, row[-1], values[_ID], values[_AT])
        if number < expected:
            return _of(row, "inserted", f"record {place[0]:,} of its chain came before it: it is there twice, or moved")
        return _of(row, "replaced", "it does not follow the record before it: one of the two was written anew")


def _hash(values: tuple[Any, ...]) -> object:
    """Equal to nothing where a value is of a type that no record has."""
    try:
        return hash_of(values)
    except (TypeError, ValueError):
        return object()


def _odd(heads: Mapping[str, Head]) -> Break | None:
    """A head with values that none has: SQLite keeps a value of any type in any column."""
    for name, head in heads.items():
        texts, numbers = (name, head.hash, head.base_hash), (head.seq, head.base_seq)
        if not all(isinstance(text, str) for text in texts) or not all(isinstance(number, int) for number in numbers):
            return Break("edited", "its row in the table of heads holds what no head does", _plain(name), None)
    return None


def _plain(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else repr(value)


def _missing(first: int, last: int, said_by: str) -> str:
    what = f"record {first:,} is" if first == last else f"records {first:,} to {last:,} are"
    return f"{what} missing: {said_by} goes on to {last:,}" if said_by != "the chain" else f"{what} missing"


def _of(row: Any, kind: Kind, reason: str) -> Break:
    values = row[:_COUNT]
    number = values[_NUMBER] if isinstance(values[_NUMBER], int) else None
    return Break(kind, reason, _plain(values[_CHAIN]), number, row[-1], _plain(values[_ID]), _plain(values[_AT]))
