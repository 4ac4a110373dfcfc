"""The line between a test and the processes of its live worker.

Each process of the worker connects to the test's and sends the events of its journal as they
happen: Celery's own task events travel through the broker, late, and carry no more than the
`repr` of a value. The worker's main process also answers questions.
"""

from __future__ import annotations

import os
import pickle
import queue
import secrets
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Client, Connection, Listener
from typing import Any, Final

from pytest_djcelery.journal import Ended, Event, StateStored

KEY: Final = "DJCELERY_LIVE_KEY"  # in the worker's environment


class RemoteTraceback(Exception):  # noqa: N818 - it stands for a traceback, and is never raised
    """The cause of an exception that was raised in another process: its traceback, as text."""

    def __init__(self, remote_traceback: str) -> None:
        super().__init__(f"in the worker's process:\n{remote_traceback}")
        self.remote_traceback = remote_traceback


class Ear:
    """The test's end.

    Args:
        address: of the socket to make.
        heard: called with each event, in a thread of its own for each process of the worker.
    """

    def __init__(self, address: str, *, heard: Callable[[Event], None]) -> None:
        self.address = address
        self.key = secrets.token_bytes(32)
        self._heard = heard
        self._listener = Listener(address, authkey=self.key)
        self._main: Connection | None = None
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._asking = threading.Lock()
        self._closed = False
        self._start(self._accept, "djcelery-live-accept")

    def ask(self, timeout: float, *, patience: float = 0.0) -> Any:
        """What the worker is doing.

        Args:
            timeout: seconds for the answer.
            patience: seconds that a busy worker may wait with it, until it is idle.

        Returns:
            ``None`` when it doesn't answer in time.
        """
        with self._asking, suppress(OSError):
            if self._main is not None:
                self._main.send(patience)
                return self.answer(timeout)
        return None

    def answer(self, timeout: float) -> Any:
        """The next answer: a worker that is ready gives one unasked.

        Returns ``None`` when none comes in ``timeout`` seconds, or never will.
        """
        try:
            return self._answers.get(timeout=timeout)
        except queue.Empty:
            return None

    def give_up(self) -> None:
        """The worker has ended: who waits for an answer waits in vain."""
        self._answers.put(None)

    def close(self) -> None:
        """Listen no more."""
        self._closed = True
        with suppress(OSError):
            # Nothing else wakes a thread that accepts.
            Client(self.address, authkey=self.key).close()
        self._listener.close()

    def _start(self, target: Callable[..., None], name: str, *args: Any) -> None:
        threading.Thread(target=target, args=args, name=name, daemon=True).start()

    def _accept(self) -> None:
        while not self._closed:
            with suppress(OSError, EOFError):
                connection = self._listener.accept()
                self._start(self._listen, "djcelery-live-listen", connection)

    def _listen(self, connection: Connection) -> None:
        with suppress(OSError, EOFError), connection:
            main = connection.recv()
            if main:
                self._main = connection
            while True:
                is_event, payload = connection.recv()
                if is_event:
                    self._heard(payload)
                else:
                    self._answers.put(payload)


class Mouth:
    """The worker's end, in each of its processes; it stands for the journal there.

    Args:
        address: of the test's `Ear`.
        key: that it knows us by.
        kinds: of events that are sent; the test has no use for others.
    """

    def __init__(self, address: str, key: bytes, *, kinds: tuple[type[Event], ...]) -> None:
        self._address = address
        self._key = key
        self._kinds = kinds
        self._main = os.getpid()
        self._of_process = self._connected()

    def append(self, event: Event) -> None:
        """Send an event, as `Journal.append` keeps it."""
        if isinstance(event, self._kinds):
            self._send(_dumped(event))

    def wake(self) -> None:
        """Nobody waits here."""

    def answer(self, answer: Any) -> None:
        """Tell what the test has asked."""
        self._send(pickle.dumps((False, answer)))

    def _send(self, data: bytes) -> None:
        """Send a message; a test that has gone is no concern of the task's."""
        connection, lock = self._connection()
        with lock, suppress(OSError):
            connection.send_bytes(data)

    def questions(self) -> Iterator[float]:
        """The questions of the test, each with its patience, until the test has gone."""
        connection, _ = self._connection()
        with suppress(OSError, EOFError):
            while True:
                yield connection.recv()

    def _connection(self) -> tuple[Connection, threading.Lock]:
        """The connection of this process: what a fork finds is its parent's."""
        pid, connection, _ = self._of_process
        if pid != os.getpid():
            connection.close()
            self._of_process = self._connected()
        return self._of_process[1:]

    def _connected(self) -> tuple[int, Connection, threading.Lock]:
        pid = os.getpid()
        connection = Client(self._address, authkey=self._key)
        connection.send(pid == self._main)
        return pid, connection, threading.Lock()


def _dumped(event: Event) -> bytes:
    if isinstance(event, Ended):
        event = replace(event, value=_value(event.value))
    elif isinstance(event, StateStored):
        event = replace(event, meta=_value(event.meta))
    try:
        return pickle.dumps((True, event))
    except Exception:  # noqa: BLE001 - whatever a task has made, that it ended must be told
        shown: dict[str, Any] = {
            name: repr(getattr(event, name)) for name in ("value", "meta") if hasattr(event, name)
        }
        shown |= {name: None for name in ("args", "kwargs") if hasattr(event, name)}
        return pickle.dumps((True, replace(event, **shown)))


def _value(value: Any) -> Any:
    """A value that arrives as it is, or says what it was."""
    if not isinstance(value, BaseException):
        return value
    from celery.utils.serialization import get_pickleable_exception

    text = "".join(traceback.format_exception(value))
    return _Raised(get_pickleable_exception(value), text)


class _Raised:
    """An exception on its way: arrives as itself, caused by its `RemoteTraceback`."""

    def __init__(self, error: BaseException, text: str) -> None:
        self.error = error
        self.text = text

    def __reduce__(self) -> tuple[Any, ...]:
        return _raised, (self.error, self.text)


def _raised(error: BaseException, text: str) -> BaseException:
    error.__cause__ = RemoteTraceback(text)
    return error
