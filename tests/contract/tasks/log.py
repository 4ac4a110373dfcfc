"""What tasks, handlers and receivers have done: a list in a file, for all processes to see."""

from __future__ import annotations

import os
from ast import literal_eval
from collections.abc import Sequence
from pathlib import Path


class Log(Sequence):
    """Values that have a literal, in the order in which any process appended them."""

    def __init__(self, path):
        self._path = Path(path)

    def append(self, value):
        # One write to a file opened for appending: lines of two processes don't mix.
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, f"{value!r}\n".encode())
        finally:
            os.close(file)

    def clear(self):
        self._path.write_bytes(b"")

    def _values(self):
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        return [literal_eval(line) for line in text.split("\n")[:-1]]

    def __getitem__(self, index):
        return self._values()[index]

    def __len__(self):
        return len(self._values())

    def __iter__(self):
        return iter(self._values())

    def __eq__(self, other):
        return self._values() == list(other)

    __hash__ = None

    def __repr__(self):
        return repr(self._values())


LOG = Log(os.environ["CONTRACT_LOG"])
