"""The database behind a URL: its driver, its time limits, its file."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc

from sidefx import MissingExtraError, TransientError
from sidefx_sinks.audit_log.record import to_json

_DRIVERS = {
    "mariadb": "mariadb+pymysql",
    "mysql": "mysql+pymysql",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
}
_PACKAGES = {"psycopg": "psycopg[binary]", "pymysql": "pymysql"}

_TIME_LIMITS: dict[str, dict[str, Any]] = {
    "psycopg": {"connect_timeout": 10, "tcp_user_timeout": 60_000},  # seconds; milliseconds
    "pymysql": {"connect_timeout": 10, "read_timeout": 60, "write_timeout": 60},
    "pysqlite": {"timeout": 5.0},  # waiting for another writer's lock
}
"""Upper bounds for calls whose attempt the lane has already given up on: a thread cannot be cancelled.
The query of the URL overrides them."""

WRITING = "sidefx_writing"
"""The execution option of a transaction that is going to write."""

_creating_file = threading.Lock()


def parse_url(text: str) -> sa.URL:
    """The URL, with the driver that we use where it names none.

    Raises:
        ValueError: it is not a URL of a database that can be written to from threads. The message does not quote it.
    """
    try:
        url = sa.make_url(text)
    except (exc.ArgumentError, ValueError):
        msg = "url is not an SQLAlchemy URL, such as postgresql+psycopg://user:password@host/database"
        raise ValueError(msg) from None
    url = url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))
    try:
        dialect = url.get_dialect()
    except exc.NoSuchModuleError:
        msg = f"url: SQLAlchemy knows no database {url.drivername!r}; use sqlite, postgresql or mysql"
        raise ValueError(msg) from None
    if dialect.is_async:
        msg = f"url: {url.drivername} is an asynchronous driver; use sqlite, postgresql+psycopg or mysql+pymysql"
        raise ValueError(msg)
    if "@" in (url.host or ""):
        msg = "url: percent-encode the password ('@' as %40): a part of it reads as the host"
        raise ValueError(msg)
    if dialect.name == "sqlite" and url.database in {None, "", ":memory:"}:
        msg = "url: an in-memory database would be read by nobody; name a file, as in sqlite:///audit.db"
        raise ValueError(msg)
    return _password_in_place(url)


def _password_in_place(url: sa.URL) -> sa.URL:
    """A password given in the query moves to where SQLAlchemy hides it."""
    for name in ("password", "passwd"):
        if (value := url.query.get(name)) is not None:
            url = url.set(password=value if isinstance(value, str) else value[-1]).difference_update_query([name])
    return url


def shown(url: sa.URL) -> str:
    """The URL for messages: without its password, and without its query, which may hold another secret."""
    return url.set(query={}).render_as_string(hide_password=True)


def make_engine(url: sa.URL) -> sa.Engine:
    """An engine that has not connected yet.

    Raises:
        MissingExtraError: the driver is not installed.
    """
    limits = _TIME_LIMITS.get(url.get_driver_name(), {})
    options: dict[str, Any] = {}
    if url.get_backend_name() == "sqlite":
        options["poolclass"] = sa.NullPool  # opened for each batch: a file that was moved away is not written to
    try:
        engine = sa.create_engine(
            url,
            connect_args={name: limit for name, limit in limits.items() if name not in url.query},
            hide_parameters=True,  # no error holds a record's contents
            json_serializer=to_json,
            pool_pre_ping=True,  # the first batch after a restart of the database does not fail
            **options,
        )
    except ImportError as error:
        package = _PACKAGES.get(url.get_driver_name(), error.name)
        msg = f"the audit log at {shown(url)} needs a driver: pip install '{package}'"
        raise MissingExtraError(msg) from error
    if url.get_backend_name() == "sqlite":
        _take_turns(engine)
    if url.get_backend_name() == "sqlite" and not str(url.database).startswith("file:"):
        path = Path(str(url.database))

        @event.listens_for(engine, "do_connect")
        def create_private_file(*_: object) -> None:
            _create_private(path)

    return engine


@contextmanager
def creating_alone(connection: sa.Connection, name: str) -> Iterator[None]:
    """On MariaDB and MySQL, where a table and its indexes are no one statement, others wait until all are there."""
    if connection.dialect.name not in {"mysql", "mariadb"}:
        yield
        return
    lock = {"name": f"sidefx:{name}"[:64]}
    connection.execute(sa.text("SELECT GET_LOCK(:name, 30)"), lock)
    try:
        yield
    finally:
        connection.execute(sa.text("SELECT RELEASE_LOCK(:name)"), lock)


def _take_turns(engine: sa.Engine) -> None:
    """A transaction that writes has SQLite's lock from its beginning: nobody adds to a chain that it has read.

    So it is begun by hand, not by the driver
    (https://docs.sqlalchemy.org/en/21/dialects/sqlite.html#sqlite-transactions).
    """

    @event.listens_for(engine, "connect")
    def leave_it_to_us(connection: Any, _: object) -> None:
        connection.isolation_level = None
        connection.text_factory = _text  # what is no UTF-8 fails no reader, and the hash of no record

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        writing = connection.get_execution_options().get(WRITING)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


def _text(data: bytes) -> str:
    return data.decode(errors="surrogateescape")


def _create_private(path: Path) -> None:
    """Make the file, for its owner alone, where there is none: SQLite's own would follow the umask.

    Under a lock, because closing a file drops the process's locks on it, SQLite's included
    (https://www.sqlite.org/howtocorrupt.html, section 2.2).
    """
    with _creating_file:
        if path.exists():
            return
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            return  # another process was quicker
        except OSError as error:
            todo = "create the directory" if not path.parent.is_dir() else "mend the permissions or the path"
            msg = f"cannot create the audit log {path}: {error.strerror}; {todo}"
            raise TransientError(msg) from error
