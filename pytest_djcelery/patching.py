"""Replace attributes of a class or module for the time of a block."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import update_wrapper
from types import FunctionType
from typing import Any, Final

_INHERITED: Final = object()


@contextmanager
def replaced(owner: Any, **attributes: Any) -> Iterator[None]:
    """Set ``attributes`` on ``owner`` and put back exactly what stood there, after an error too.

    A function has the name, the text and the signature of the one that it replaces, for those who
    ask: `inspect`, and mocks with ``autospec``.
    """
    before = {name: vars(owner).get(name, _INHERITED) for name in attributes}
    for name, value in attributes.items():
        if isinstance(value, FunctionType) and callable(original := getattr(owner, name, None)):
            update_wrapper(value, original)
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is _INHERITED:
                delattr(owner, name)
            else:
                setattr(owner, name, value)


class SharedChange:
    """A change to the process that several want: the first one makes it, the last one undoes it."""

    def __init__(self) -> None:
        self._changing = threading.RLock()
        self._users = 0
        self._change = ExitStack()

    @contextmanager
    def used(self, change: AbstractContextManager[None]) -> Iterator[None]:
        with self._changing:
            if not self._users:
                self._change.enter_context(change)
            self._users += 1
        try:
            yield
        finally:
            with self._changing:
                self._users -= 1
                if not self._users:
                    self._change.close()
