"""`Recorder`: a VFS for SQLite that takes down every write, truncation, sync, creation and deletion, in their order.

It is the default VFS but for two of its methods and four of each file, which pass the call on and take it down
(https://sqlite.org/vfs.html). What Python's `os` does to the files is taken down, too. The code under test is as it is.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any
from unittest import mock

from tests.journal.power.disk import Create, Delete, Mark, Step, Sync, SyncDirectory, Truncate, Write
from tests.journal.power.native import (
    SQLITE_IOERR,
    SQLITE_OK,
    SQLITE_OPEN_CREATE,
    SQLITE_OPEN_JOURNALS,
    VFS,
    Close,
    DeleteFile,
    File,
    Methods,
    OpenFile,
    SyncFile,
    TruncateTo,
    WriteAt,
    library,
)

_kept: list[object] = []
"""SQLite may call what a connection was opened with until that is finalised: nothing of a VFS is ever freed."""


@dataclass(slots=True)
class _Open:
    """An open file of SQLite's."""

    file: int
    methods: Any
    directory: PurePath | None
    """Which SQLite syncs with it, the first time: that of a journal or log it may have made (UNIXFILE_DIRSYNC)."""


class Recorder:
    """What happens to the databases below `root`, in order, while it is on.

    Args:
        root: a directory.
        checkpoint: pages of a write-ahead log that SQLite moves into the database; its own 1,000 are seldom reached.
        deaf: no sync is taken down: a disk that lies.
    """

    def __init__(self, root: Path, *, checkpoint: int = 24, deaf: bool = False) -> None:
        self.root = root
        self.tape: list[Step] = []
        self.begun = 0
        """How many steps say what was there before."""
        self._checkpoint = checkpoint
        self._deaf = deaf
        self._errors: list[BaseException] = []
        self._lock = threading.RLock()
        self._numbers = itertools.count()
        self._names: dict[PurePath, int | None] = {}
        self._open: dict[int, _Open] = {}
        self._swapped: dict[int, Any] = {}

    def mark(self, what: str, whom: object) -> None:
        """Takes down that the test saw this, here."""
        self.tape.append(Mark(what, whom))

    @contextmanager
    def on(self) -> Iterator[None]:
        """For this long."""
        self._find(self.root)
        self._sync_all()
        self.begun = len(self.tape)
        with ExitStack() as stack:
            for name, instead in (("fsync", self._fsynced), ("unlink", self._unlinked), ("mkdir", self._made)):
                stack.enter_context(mock.patch.object(os, name, _calling(instead, getattr(os, name))))
            stack.enter_context(mock.patch.object(sqlite3, "connect", _calling(self._connected, sqlite3.connect)))
            stack.enter_context(self._registered(library()))
            yield
        if self._errors:
            raise self._errors[0]

    # --- the VFS ----------------------------------------------------------------------------------

    @contextmanager
    def _registered(self, sqlite: ctypes.CDLL) -> Iterator[None]:
        default = sqlite.sqlite3_vfs_find(None)
        vfs = VFS.from_buffer_copy(default.contents)
        vfs.name = f"recorder-{id(self)}".encode()
        vfs.open = OpenFile(self._guarded(lambda _, *args: self._opened(default, *args)))
        vfs.delete = DeleteFile(self._guarded(lambda _, *args: self._deleted(default, *args)))
        _kept.extend((vfs, self))
        assert sqlite.sqlite3_vfs_register(ctypes.byref(vfs), 1) == SQLITE_OK
        try:
            yield
        finally:
            assert sqlite.sqlite3_vfs_unregister(ctypes.byref(vfs)) == SQLITE_OK
            assert ctypes.addressof(sqlite.sqlite3_vfs_find(None).contents) == ctypes.addressof(default.contents)

    def _opened(self, default: Any, name: int | None, file: int, flags: int, out: Any) -> int:
        path = Path(ctypes.string_at(name).decode()) if name else None
        with self._lock:
            result = default.contents.open(ctypes.addressof(default.contents), name, file, flags, out)
            if result == SQLITE_OK and path is not None and path.is_relative_to(self.root):
                path = path.relative_to(self.root)
                handle = File.from_address(file)
                journal = flags & SQLITE_OPEN_CREATE and flags & SQLITE_OPEN_JOURNALS
                self._open[file] = _Open(self._named(path), handle.methods.contents, path.parent if journal else None)
                handle.methods = self._ours(handle.methods)
        return result

    def _ours(self, methods: Any) -> Any:
        """The same methods, four of them taken down."""
        address = ctypes.addressof(methods.contents)
        if address not in self._swapped:
            ours = self._swapped[address] = Methods.from_buffer_copy(methods.contents)
            ours.version = min(ours.version, 2)  # without the third version there is no mapping into memory
            ours.close = Close(self._guarded(self._closed))
            ours.write = WriteAt(self._guarded(self._written))
            ours.truncate = TruncateTo(self._guarded(self._truncated))
            ours.sync = SyncFile(self._guarded(self._synced))
        return ctypes.pointer(self._swapped[address])

    def _deleted(self, default: Any, name: bytes, sync_directory: int) -> int:
        with self._lock:
            result = default.contents.delete(ctypes.addressof(default.contents), name, sync_directory)
            if result == SQLITE_OK:
                self._gone(Path(name.decode()))
                if sync_directory:
                    self._take(SyncDirectory(Path(name.decode()).relative_to(self.root).parent))
        return result

    def _closed(self, file: int) -> int:
        return self._open.pop(file).methods.close(file)

    def _written(self, file: int, data: int, size: int, offset: int) -> int:
        opened = self._open[file]
        result = opened.methods.write(file, data, size, offset)
        if result == SQLITE_OK:
            self._take(Write(opened.file, offset, ctypes.string_at(data, size)))
        return result

    def _truncated(self, file: int, size: int) -> int:
        opened = self._open[file]
        result = opened.methods.truncate(file, size)
        if result == SQLITE_OK:
            self._take(Truncate(opened.file, size))
        return result

    def _synced(self, file: int, flags: int) -> int:
        opened = self._open[file]
        result = opened.methods.sync(file, flags)
        if result == SQLITE_OK:
            self._take(Sync(opened.file))
            if opened.directory is not None:
                self._take(SyncDirectory(opened.directory))
                opened.directory = None
        return result

    def _guarded(self, function: Callable[..., int]) -> Callable[..., int]:
        """C cannot be raised to: the error is kept for the test, and SQLite told of one."""

        def guarded(*args: Any) -> int:
            try:
                return function(*args)
            except BaseException as error:  # noqa: BLE001 - raised when the recording ends
                self._errors.append(error)
                return SQLITE_IOERR

        return guarded

    # --- what Python does ---------------------------------------------------------------------------

    def _connected(self, connection: sqlite3.Connection, *args: Any, **options: Any) -> None:
        connection.execute(f"PRAGMA wal_autocheckpoint = {self._checkpoint}")

    def _fsynced(self, result: None, descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if not path.is_relative_to(self.root):
            return
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            self._find(path)
            self._take(SyncDirectory(path.relative_to(self.root)))
        elif _is_database(path):
            self._take(Sync(self._named(path.relative_to(self.root))))

    def _unlinked(self, result: None, path: str | os.PathLike[str]) -> None:
        self._gone(Path(path).absolute())

    def _made(self, result: None, path: str | os.PathLike[str], mode: int = 0o777) -> None:
        made = Path(path).absolute()
        if made.is_relative_to(self.root):
            self._directory(made.relative_to(self.root))

    # --- the tape -----------------------------------------------------------------------------------

    def _take(self, step: Step) -> None:
        if not (self._deaf and isinstance(step, Sync | SyncDirectory)):
            self.tape.append(step)

    def _find(self, directory: Path) -> None:
        """Takes down what is there and has not been seen yet."""
        for path in sorted(directory.iterdir()):
            if path.is_dir():
                self._directory(path.relative_to(self.root))
                self._find(path)
            elif _is_database(path):
                with suppress(FileNotFoundError):  # another thread has removed it since it was listed
                    self._named(path.relative_to(self.root))

    def _directory(self, path: PurePath) -> None:
        if path not in self._names:
            self._names[path] = None
            self._take(Create(path, None))

    def _named(self, path: PurePath) -> int:
        with self._lock:
            number = self._names.get(path)
            if number is None:
                content = (self.root / path).read_bytes()
                number = self._names[path] = next(self._numbers)
                self._take(Create(path, number))
                if content:
                    self._take(Write(number, 0, content))
        return number

    def _gone(self, path: Path) -> None:
        if path.is_relative_to(self.root) and self._names.pop(path.relative_to(self.root), None) is not None:
            self._take(Delete(path.relative_to(self.root)))

    def _sync_all(self) -> None:
        """What was there before is on disk, also for a disk that lies from here on."""
        self.tape += [Sync(number) for number in self._names.values() if number is not None]
        self.tape += [SyncDirectory(path.parent) for path in self._names]


def _is_database(path: PurePath) -> bool:
    return ".sqlite" in path.name


def _calling(then: Callable[..., None], function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, and after it the other, with what it returned and the same arguments."""

    def called(*args: Any, **options: Any) -> Any:
        result = function(*args, **options)
        then(result, *args, **options)
        return result

    return called
