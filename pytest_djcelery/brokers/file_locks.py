"""Locks on files that keep other processes out, on POSIX and on Windows."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

fcntl: Any
try:
    fcntl = import_module("fcntl")
except ImportError:  # Windows
    fcntl = None

#: A byte far behind the content: Windows keeps others from reading what is locked.
_BYTE = 1 << 30
#: For `os.open`: a lock must not be inherited by other programs.
NOT_INHERITED = getattr(os, "O_CLOEXEC", getattr(os, "O_NOINHERIT", 0))


def lock(file: int) -> None:
    """Wait until the lock on an open file is this process's, until the file is closed."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX)
    else:
        while not _locked_on_windows(file, "LK_LOCK"):  # which gives up after ten seconds
            pass


def lock_now(file: int) -> bool:
    """Take the lock on an open file, unless another process has it; return whether it is ours."""
    if fcntl is None:
        return _locked_on_windows(file, "LK_NBLCK")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _locked_on_windows(file: int, mode: str) -> bool:
    windows: Any = import_module("msvcrt")
    os.lseek(file, _BYTE, os.SEEK_SET)
    try:
        windows.locking(file, getattr(windows, mode), 1)
    except OSError:
        return False
    return True
