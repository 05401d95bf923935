"""SQLite's C interface to files, as far as a VFS needs it (https://sqlite.org/c3ref/vfs.html)."""

from __future__ import annotations

import _sqlite3
import ctypes
import sqlite3
from contextlib import closing
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int, c_int64, c_void_p
from pathlib import Path

SQLITE_OK, SQLITE_IOERR = 0, 10
SQLITE_OPEN_CREATE = 0x4
SQLITE_OPEN_JOURNALS = 0x800 | 0x4000 | 0x80000  # MAIN_JOURNAL, SUPER_JOURNAL, WAL

Close = CFUNCTYPE(c_int, c_void_p)
WriteAt = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
TruncateTo = CFUNCTYPE(c_int, c_void_p, c_int64)
SyncFile = CFUNCTYPE(c_int, c_void_p, c_int)
OpenFile = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, POINTER(c_int))
DeleteFile = CFUNCTYPE(c_int, c_void_p, c_char_p, c_int)


class Methods(ctypes.Structure):
    """`sqlite3_io_methods`, all three versions of it."""

    _fields_ = (
        ("version", c_int),
        ("close", Close),
        ("read", c_void_p),
        ("write", WriteAt),
        ("truncate", TruncateTo),
        ("sync", SyncFile),
        *((f"_{number}", c_void_p) for number in range(13)),
    )


class File(ctypes.Structure):
    """`sqlite3_file`, as far as it is public."""

    _fields_ = (("methods", POINTER(Methods)),)


class VFS(ctypes.Structure):
    """`sqlite3_vfs`, all three versions of it."""

    _fields_ = (
        ("version", c_int),
        ("file_size", c_int),
        ("path_length", c_int),
        ("next", c_void_p),
        ("name", c_char_p),
        ("data", c_void_p),
        ("open", OpenFile),
        ("delete", DeleteFile),
        *((f"_{number}", c_void_p) for number in range(14)),
    )


def library() -> ctypes.CDLL:
    """The SQLite that `sqlite3` uses.

    Raises:
        OSError: it lets nobody else in.
    """
    if not Path("/proc/self/fd").is_dir():
        msg = "what a file descriptor stands for, only Linux says"
        raise OSError(msg)
    found = ctypes.CDLL(getattr(_sqlite3, "__file__", None))  # looks into what `_sqlite3` links to, too
    try:
        found.sqlite3_vfs_find.restype = POINTER(VFS)
        found.sqlite3_vfs_find.argtypes = (c_char_p,)
        found.sqlite3_vfs_register.argtypes = (POINTER(VFS), c_int)
        found.sqlite3_vfs_unregister.argtypes = (POINTER(VFS),)
        found.sqlite3_sourceid.restype = c_char_p
    except AttributeError as error:
        msg = f"the SQLite of this Python is not open to others: {error}"
        raise OSError(msg) from error
    with closing(sqlite3.connect(":memory:")) as connection:
        ours = connection.execute("SELECT sqlite_source_id()").fetchone()[0]
    if found.sqlite3_sourceid().decode() != ours:
        msg = "this Python's sqlite3 uses another SQLite than the one that was found"
        raise OSError(msg)
    return found
