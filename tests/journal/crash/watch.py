"""Stops a process before each call that changes a folder on disk, and lets it go on, or kills it there.

By seccomp's user notification (https://man7.org/linux/man-pages/man2/seccomp_unotify.2.html, Linux 5.5): the kernel
holds the call until it is told to go on with it. `strace` would count the calls of each thread by itself.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import select
import signal
import struct
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

# asm/unistd_64.h, asm-generic/unistd.h; what is not named here, neither Python nor SQLite uses to change a file
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""The column of the table, and what seccomp calls it."""
_NUMBERS = {
    "write": (1, 64),
    "pwrite64": (18, 68),
    "pwritev": (296, 70),
    "fallocate": (285, 47),
    "ftruncate": (77, 46),
    "truncate": (76, 45),
    "fsync": (74, 82),
    "fdatasync": (75, 83),
    "mkdir": (83, None),
    "rmdir": (84, None),
    "rename": (82, None),
    "link": (86, None),
    "unlink": (87, None),
    "mkdirat": (258, 34),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "linkat": (265, 37),
    "unlinkat": (263, 35),
    "openat": (257, 56),
    "seccomp": (317, 277),
}
_PATH_FIRST = {"truncate", "mkdir", "rmdir", "rename", "link", "unlink"}
_PATH_SECOND = {"openat", "mkdirat", "renameat", "renameat2", "linkat", "unlinkat"}

# linux/prctl.h, linux/seccomp.h, linux/bpf_common.h
_NO_NEW_PRIVILEGES = 38
_SET_FILTER, _NEW_LISTENER = 1, 8
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_LOAD, _IF_EQUAL, _IF_BITS, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _THIRD_ARGUMENT = 0, 4, 32
_NOTIFICATION, _ANSWER = struct.Struct("QIIiIQ6Q"), struct.Struct("QqiI")
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_GO_ON = 1


class Call(NamedTuple):
    """A system call, and the kind of file that it is about: `pwrite64 *.sqlite-wal`."""

    name: str
    file: str

    def __str__(self) -> str:
        return f"{self.name} {self.file}"


def watched() -> int:
    """Has this process, and all threads that it starts from now on, stopped before each such call: a file to `follow`.

    Raises:
        OSError: this system does not do that.
    """
    numbers = dict(_numbers())
    _, architecture = _MACHINES[platform.machine()]
    seccomp, openat = numbers.pop("seccomp"), numbers.pop("openat")
    steps = [(_LOAD, 0, 0, _ARCHITECTURE), (_IF_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _ALLOW)]
    steps.append((_LOAD, 0, 0, _NUMBER))
    for number in numbers.values():
        steps += [(_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _NOTIFY)]
    steps += [(_IF_EQUAL, 0, 3, openat), (_LOAD, 0, 0, _THIRD_ARGUMENT)]
    steps += [(_IF_BITS, 0, 1, os.O_CREAT), (_RETURN, 0, 0, _NOTIFY), (_RETURN, 0, 0, _ALLOW)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    header = struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(program))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    listener = libc.syscall(seccomp, _SET_FILTER, _NEW_LISTENER, header)
    if listener < 0:
        raise OSError(ctypes.get_errno(), "seccomp does not notify here")
    return int(listener)


class Point(NamedTuple):
    """A place on a process' way: before its n-th call of that kind, the first being 1."""

    call: Call
    n: int


def follow(listener: int, process: int, folder: Path, kill_at: Point | None) -> tuple[list[Call], bool]:
    """Lets the process go on until it ends, or to that point, where it is killed; its calls on the folder, and whether.

    Where it was, the last call has not happened.
    """
    calls: list[Call] = []
    try:
        for id_, thread, number, arguments in _notifications(listener):
            if (call := _call(thread, number, arguments, folder)) is not None:
                calls.append(call)
                if kill_at == (call, calls.count(call)):
                    os.kill(process, signal.SIGKILL)
                    return calls, True
            with suppress(FileNotFoundError):  # it was killed by somebody else
                fcntl.ioctl(listener, _SEND, _ANSWER.pack(id_, 0, 0, _GO_ON))
    finally:
        os.close(listener)
    return calls, False


def _notifications(listener: int) -> Iterator[tuple[int, int, int, tuple[int, ...]]]:
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while poll.poll()[0][1] & select.POLLIN:
        notification = bytearray(_NOTIFICATION.size)
        try:
            fcntl.ioctl(listener, _RECEIVE, notification)
        except FileNotFoundError:  # its thread has ended meanwhile
            continue
        id_, thread, _, number, _, _, *arguments = _NOTIFICATION.unpack(notification)
        yield id_, thread, number, tuple(arguments)


def _call(thread: int, number: int, arguments: tuple[int, ...], folder: Path) -> Call | None:
    """The call, where it is about the folder or something in it."""
    name = {of: name for name, of in _numbers().items()}[number]
    if name in _PATH_FIRST:
        path = Path(_text(thread, arguments[0]))
    elif name in _PATH_SECOND:
        path = Path(_text(thread, arguments[1]))
    else:
        path = Path(f"/proc/{thread}/fd/{arguments[0]}").readlink()
    if not path.is_relative_to(folder):
        return None
    return Call(name, _kind(path, folder))


def _kind(path: Path, folder: Path) -> str:
    if path == folder:
        return "the folder"
    stem, dot, ending = path.name.partition(".")
    return f"{stem if stem == 'dead' else '*'}{dot}{ending if stem else '*'}"


def _text(thread: int, address: int) -> str:
    """The string at that address of the process."""
    with Path(f"/proc/{thread}/mem").open("rb", buffering=0) as memory:
        memory.seek(address)
        return memory.read(os.pathconf("/", "PC_PATH_MAX")).partition(b"\0")[0].decode()


@cache
def _numbers() -> dict[str, int]:
    if platform.machine() not in _MACHINES:
        raise OSError(errno.ENOSYS, f"the numbers of the system calls of {platform.machine()} are not known here")
    column, _ = _MACHINES[platform.machine()]
    return {name: number for name, numbers in _NUMBERS.items() if (number := numbers[column]) is not None}
