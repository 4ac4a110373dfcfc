"""The connections between a test and the processes of its live worker.

Each process of the worker connects to the test and reports the events of its journal as they
happen: Celery's own task events travel through the broker, arrive late, and contain only the `repr`
of a value. A process goes on once the test has acknowledged an event, so that no message or result
arrives before the events that led to it. The worker's main process also answers questions, on a
second connection.
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
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from typing import Any, Final

from pytest_djcelery.messages.events import Ended, Event, Note, Storing

KEY: Final = "DJCELERY_LIVE_KEY"  # in the worker's environment
_ANSWERS: Final = "answers"
_EVENTS: Final = "events"
_RECEIVED: Final = b""
_ACKNOWLEDGED_WITHIN: Final = 30  # seconds; the test may have been stopped
_LONGEST_PATH: Final = 100  # bytes; a socket's takes 107 on Linux, 103 on macOS


class RemoteTraceback(Exception):  # noqa: N818 - it is a traceback, and never raised
    """The cause of an exception that was raised in another process: its traceback, as text."""

    def __init__(self, remote_traceback: str) -> None:
        super().__init__(f"in the worker's process:\n{remote_traceback}")
        self.remote_traceback = remote_traceback


class TestEnd:
    """The test's end of the connections.

    Args:
        path: Where to create the socket; if the path is too long for one, a local port is used.
        on_event: Called with each event, in one thread for each process of the worker.
    """

    def __init__(self, path: str, *, on_event: Callable[[Event], None]) -> None:
        self.key = secrets.token_bytes(32)
        self._on_event = on_event
        too_long = len(os.fsencode(path)) > _LONGEST_PATH
        self._listener = Listener(("127.0.0.1", 0) if too_long else path, authkey=self.key)
        #: The address to which a `WorkerEnd` connects.
        self.address = _as_text(self._listener.address)
        self._main: Connection | None = None
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._asking = threading.Lock()
        self._closed = False
        self._start(self._accept, "djcelery-live-accept")

    def ask(self, timeout: float, *, patience: float = 0.0) -> Any:
        """Ask what the worker is doing.

        Args:
            timeout: Seconds to wait for the answer.
            patience: Seconds for which a busy worker may delay it, until it is idle.

        Returns:
            The answer, or ``None`` if it doesn't come in time.
        """
        with self._asking, suppress(OSError):
            if self._main is not None:
                self._main.send(patience)
                return self.answer(timeout)
        return None

    def answer(self, timeout: float) -> Any:
        """Wait for the next answer, the first of which a worker gives unasked once it is ready.

        Returns:
            The answer, or ``None`` if none comes within ``timeout`` seconds, or ever will.
        """
        try:
            return self._answers.get(timeout=timeout)
        except queue.Empty:
            return None

    def give_up(self) -> None:
        """End a wait for an answer, since the worker has ended."""
        self._answers.put(None)

    def close(self) -> None:
        """Stop listening."""
        self._closed = True
        with suppress(OSError):
            # Nothing else wakes the thread that accepts connections.
            Client(self._listener.address, authkey=self.key).close()
        self._listener.close()

    def _start(self, target: Callable[..., None], name: str, *args: Any) -> None:
        threading.Thread(target=target, args=args, name=name, daemon=True).start()

    def _accept(self) -> None:
        while not self._closed:
            with suppress(OSError, EOFError, AuthenticationError):
                connection = self._listener.accept()
                self._start(self._listen, "djcelery-live-listen", connection)

    def _listen(self, connection: Connection) -> None:
        with suppress(OSError, EOFError), connection:
            if connection.recv() == _ANSWERS:
                self._main = connection
                while True:
                    self._answers.put(connection.recv())
            while True:
                self._on_event(connection.recv())
                connection.send_bytes(_RECEIVED)


class WorkerEnd:
    """The worker's end, in each of its processes, where it replaces the journal.

    Args:
        address: The address of the `TestEnd`.
        key: Authenticates this process to the test.
        kinds: The events to report; the test has no use for others.
    """

    def __init__(self, address: str, key: bytes, *, kinds: tuple[type[Event], ...]) -> None:
        self._address = address
        self._key = key
        self._kinds = kinds
        self._answers: Connection | None = None  # of the main process
        self._events: Connection | None = None
        self._unacknowledged = 0
        self._sending = threading.Lock()
        os.register_at_fork(after_in_child=self._leave_to_parent)

    def append(self, event: Event) -> None:
        """Report an event, which `Journal.append` would keep; the test may have ended."""
        if not isinstance(event, self._kinds):
            return
        data = _dumped(event)
        with self._sending, suppress(OSError, EOFError):
            if self._events is None:
                self._events = self._connected(_EVENTS)
                self._unacknowledged = 0
            try:
                self._events.send_bytes(data)
                self._unacknowledged += 1
                if isinstance(event, Note):
                    return  # nobody waits for it
                while self._unacknowledged:
                    _await_acknowledgement(self._events)
                    self._unacknowledged -= 1
            except BaseException:
                # For example a time limit, when half of it is sent: the connection is unusable.
                self._events.close()
                self._events = None
                raise

    def wake(self) -> None:
        """Do nothing: nobody waits here."""

    def questions(self) -> Iterator[float]:
        """Yield the patience of each question, until the test has ended.

        The first comes unasked, so that the worker says what it is doing once it is ready.
        """
        with suppress(OSError, EOFError):
            self._answers = self._connected(_ANSWERS)
            yield 0.0
            while True:
                yield self._answers.recv()

    def answer(self, answer: Any) -> None:
        """Answer a question of the test."""
        if self._answers is not None:
            with suppress(OSError):
                self._answers.send(answer)

    def _connected(self, purpose: str) -> Connection:
        connection = Client(_from_text(self._address), authkey=self._key)
        connection.send(purpose)
        return connection

    def _leave_to_parent(self) -> None:
        """Drop the connections in a forked process: they are its parent's."""
        for connection in (self._answers, self._events):
            if connection is not None:
                connection.close()
        self._answers = self._events = None
        self._sending = threading.Lock()


def _await_acknowledgement(connection: Connection) -> None:
    """Wait until the test has an event; a stopped test gets it when it continues."""
    if not connection.poll(_ACKNOWLEDGED_WITHIN):
        raise TimeoutError
    connection.recv_bytes()


def _as_text(address: str | tuple[str, int]) -> str:
    return address if isinstance(address, str) else "{}:{}".format(*address)


def _from_text(text: str) -> str | tuple[str, int]:
    host, _, port = text.rpartition(":")
    return text if os.path.isabs(text) else (host, int(port))


def _dumped(event: Event) -> bytes:
    if isinstance(event, Ended):
        event = replace(event, value=_value(event.value))
    elif isinstance(event, Storing):
        event = replace(event, meta=_value(event.meta))
    try:
        return pickle.dumps(event)
    except Exception:  # noqa: BLE001 - whatever a task returns, its end must be reported
        shown: dict[str, Any] = {
            name: repr(getattr(event, name)) for name in ("value", "meta") if hasattr(event, name)
        }
        shown |= {name: None for name in ("args", "kwargs") if hasattr(event, name)}
        return pickle.dumps(replace(event, **shown))


def _value(value: Any) -> Any:
    """A value in a form that arrives as it is; an exception brings its traceback as text."""
    if not isinstance(value, BaseException):
        return value
    from celery.utils.serialization import get_pickleable_exception

    text = "".join(traceback.format_exception(value))
    return _Raised(get_pickleable_exception(value), text)


class _Raised:
    """An exception in transit: it arrives as itself, with a `RemoteTraceback` as its cause."""

    def __init__(self, error: BaseException, text: str) -> None:
        self.error = error
        self.text = text

    def __reduce__(self) -> tuple[Any, ...]:
        return _raised, (self.error, self.text)


def _raised(error: BaseException, text: str) -> BaseException:
    error.__cause__ = RemoteTraceback(text)
    return error
