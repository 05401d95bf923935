"""`changes`: what differs between two states of a thing."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sidefx import audit, changes


class Address(BaseModel):
    city: str
    street: str | None = None


class User(BaseModel):
    name: str
    password: SecretStr = SecretStr("hunter2")
    address: Address | None = None


@dataclass
class Account:
    name: str
    balance: Decimal = Decimal(0)
    tags: list[str] = field(default_factory=list)


class Slotted:
    __slots__ = ("_secret", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._secret = object()


class Base(DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = "changes_row"
    id: Mapped[int] = mapped_column(sa.Integer, primary_key=True)
    name: Mapped[str]


class Incomparable:
    def __eq__(self, other: object) -> bool:
        raise ValueError

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, {"b": [2, 3]}),
        ({"a": 1}, {"a": 1}, {}),
        ({}, {"a": 1}, {"a": [None, 1]}),
        ({"a": 1}, {}, {"a": [1, None]}),
        (None, {"a": 1, "b": None}, {"a": [None, 1]}),
        ({"a": 1}, None, {"a": [1, None]}),
        (None, None, {}),
        ({"a": 1}, {"a": True}, {"a": [1, True]}),
        ({"a": None}, {"a": 0}, {"a": [None, 0]}),
        ({"a": None}, {"a": {}}, {"a": [None, {}]}),
        ({"a": [1, 2]}, {"a": [1, 3]}, {"a": [[1, 2], [1, 3]]}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, {"a.c": [2, 3]}),
        ({"a": {"b": 1}}, {"a": "text"}, {"a": [{"b": 1}, "text"]}),
        ({"a": {1: 2}}, {"a": {1: 3}}, {"a": [{1: 2}, {1: 3}]}),
        (Account("x"), Account("x", Decimal("12.50"), ["t"]), {"balance": [0, Decimal("12.50")], "tags": [[], ["t"]]}),
        (Slotted("a"), Slotted("b"), {"name": ["a", "b"]}),
        (Row(id=1, name="a"), Row(id=1, name="b"), {"name": ["a", "b"]}),
        (
            {"name": "a"},
            User(name="b", password=SecretStr("x")),
            {"name": ["a", "b"], "password": [None, "[redacted]"]},
        ),
        (User(name="a", address=Address(city="Ulm")), User(name="a"), {"address.city": ["Ulm", None]}),
    ],
)
def test_fields_that_differ_are_told_and_the_others_are_not(
    before: object, after: object, expected: dict[str, list[Any]]
) -> None:
    """Mappings, models, dataclasses, slots and rows of SQLAlchemy, of one type or of two; None is what is not there."""
    assert changes(before, after) == expected


@pytest.mark.parametrize(
    ("mask", "hidden"),
    [
        ("password", {"password", "login.password"}),
        (["login.password"], {"login.password"}),
        ("login", {"login.password", "login.name"}),
        ("*word", {"password", "login.password"}),
        ("login.*", {"login.password", "login.name"}),
        ("word", set()),
        ((), set()),
    ],
)
def test_masked_fields_tell_only_that_they_changed(mask: Any, hidden: set[str]) -> None:
    """A name is meant at any depth, a dotted one at its place."""
    before = {"password": "a", "login": {"password": "b", "name": "c"}}
    after = {"password": "A", "login": {"password": "B", "name": "C"}}

    found = changes(before, after, mask=mask)

    assert {name for name, values in found.items() if values == ["[redacted]", "[redacted]"]} == hidden
    assert len(found) == 3


def test_a_mask_holds_inside_what_is_shown_whole() -> None:
    """In lists, in what is new, and in what becomes something else."""
    found = changes(
        {"cards": [{"number": "4111", "year": 1}], "login": {"number": "1"}},
        {"cards": [{"number": "4222", "year": 2}], "login": "none", "new": {"number": "3"}},
        mask="number",
    )
    assert found == {
        "cards": [[{"number": "[redacted]", "year": 1}], [{"number": "[redacted]", "year": 2}]],
        "login": [{"number": "[redacted]"}, "none"],
        "new.number": [None, "[redacted]"],
    }


class Login(NamedTuple):
    user: str
    password: str | None


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        (
            {"users": {1: {"password": "old"}}},
            {"users": {1: {"password": "new"}}},
            {"users": [{1: {"password": "[redacted]"}}, {1: {"password": "[redacted]"}}]},
        ),
        ({"all": [{1: {"password": "old"}}]}, {}, {"all": [[{1: {"password": "[redacted]"}}], None]}),
        ({"login": Login("a", "old")}, {"login": Login("a", "new")}, {"login.password": ["[redacted]", "[redacted]"]}),
        (
            {"all": [Login("a", "old")]},
            {},
            {"all": [[{"user": "a", "password": "[redacted]"}], None]},
        ),
        ({"all": deque([{"password": "old"}])}, {}, {"all": [[{"password": "[redacted]"}], None]}),
        ({"login": Login("a", None)}, {"login": Login("a", "new")}, {"login.password": [None, "[redacted]"]}),
    ],
)
def test_a_mask_holds_whatever_the_field_stands_in(before: Any, after: Any, found: Any) -> None:
    """In mappings with keys of any kind, named tuples and deques; None stays None, so that one sees it was not set."""
    assert changes(before, after, mask="password") == found


def test_secrets_of_pydantic_are_masked_unasked() -> None:
    """Their change is told, their value never."""
    before, after = User(name="a"), User(name="a", password=SecretStr("s3cret"))
    assert changes(before, after) == {"password": ["[redacted]", "[redacted]"]}
    assert changes({"all": [SecretStr("s3cret")]}, {}) == {"all": [["[redacted]"], None]}


def test_ignored_fields_are_left_out() -> None:
    """Such as those that change each time."""
    before = {"name": "a", "meta": {"updated_at": 1, "by": 1}}
    after = {"name": "b", "meta": {"updated_at": 2, "by": 2}}
    assert changes(before, after, ignore=["updated_at"]) == {"name": ["a", "b"], "meta.by": [1, 2]}


def test_what_cannot_be_compared_counts_as_different() -> None:
    """An `__eq__` that fails does not fail the handler."""
    one, other = Incomparable(), Incomparable()
    assert changes({"a": one}, {"a": other}) == {"a": [one, other]}


@pytest.mark.parametrize("thing", [1, "text", User, object()])
def test_what_has_no_fields_is_refused(thing: object) -> None:
    """A mistake of the program, named as one."""
    with pytest.raises(TypeError, match=r"fields|class"):
        changes(thing, thing)


def test_what_is_endless_ends() -> None:
    """A structure that holds itself is cut off."""
    endless: dict[str, Any] = {"n": 1}
    endless["self"] = endless
    other: dict[str, Any] = {"n": 2}
    other["self"] = other
    assert changes(endless, other)["n"] == [1, 2]


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
    max_leaves=12,
)
_things = st.dictionaries(st.text("abc", min_size=1), _json, max_size=4)


@given(_things, _things)
def test_nothing_differs_from_itself_and_what_differs_is_symmetric(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Backwards, each pair is the other way round; and an audit record takes it."""
    assert changes(one, one) == {}
    forth = changes(one, other)
    assert changes(other, one) == {name: values[::-1] for name, values in forth.items()}
    assert audit("x", changes=forth).changes == forth
