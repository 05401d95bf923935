"""Errors of a database: which are one record's fault, and how to tell of them without quoting the record."""

from __future__ import annotations

from sqlalchemy import exc

_REFUSED = (
    "22",  # data exception
    "23",  # integrity constraint violation
    "44",  # WITH CHECK OPTION violation
    "45",  # MariaDB: SIGNAL in a trigger
    "54",  # PostgreSQL: program limit exceeded, such as the size of an index row
    "P0001",  # PostgreSQL: RAISE EXCEPTION in a trigger
)
"""SQLSTATEs, by how they begin (https://www.postgresql.org/docs/current/errcodes-appendix.html)."""

_REFUSED_NUMBERS = frozenset({1153, 1366, 1406, 1644, 3819, 4025})
"""The same on MariaDB and MySQL, for drivers that keep no SQLSTATE and call it an OperationalError
(https://mariadb.com/docs/server/reference/error-codes/mariadb-error-code-reference)."""


def is_refusal(error: Exception) -> bool:
    """Whether the database is well and a record is not: trying that record again is no use."""
    if isinstance(error, (exc.DataError, exc.IntegrityError, UnicodeError)):
        return True
    if not isinstance(error, exc.DBAPIError):
        return isinstance(error, exc.StatementError)  # a value that could not even be bound
    state, number = _codes(error)
    return state.startswith(_REFUSED) or number in _REFUSED_NUMBERS


def code_of(error: Exception) -> str:
    """What the database calls the refusal. Its message is left out: it quotes the row."""
    if not isinstance(error, exc.DBAPIError):
        return type(error).__name__
    state, number = _codes(error)
    constraint = getattr(getattr(error.orig, "diag", None), "constraint_name", None)
    details = (
        state and f"SQLSTATE {state}",
        number is not None and f"error {number}",
        getattr(error.orig, "sqlite_errorname", None),
        constraint and f"constraint {constraint}",
    )
    return f"{type(error.orig).__name__} ({', '.join(detail for detail in details if detail) or 'no code'})"


def one_line(error: Exception) -> str:
    """What a driver says of a connection, a lock or a table: its first line, printable and of bounded length."""
    text = str(getattr(error, "orig", None) or error).strip() or type(error).__name__
    line = text.splitlines()[0][:300]
    return "".join(character if character.isprintable() else " " for character in line)


def _codes(error: exc.DBAPIError) -> tuple[str, int | None]:
    """SQLSTATE, or empty; and the number that MariaDB's and MySQL's drivers put first."""
    arguments = getattr(error.orig, "args", ())
    number = arguments[0] if arguments and isinstance(arguments[0], int) else None
    return getattr(error.orig, "sqlstate", None) or "", number
