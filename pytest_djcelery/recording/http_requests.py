"""Records the requests that Django answers in a test, for the timeline."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pytest_djcelery import locations
from pytest_djcelery.messages.notes import RequestFinished, RequestRaised, RequestStarted

if TYPE_CHECKING:
    from pytest_djcelery.messages.journal import Note


@contextmanager
def requests_recorded(note: Callable[[Note], None]) -> Iterator[None]:
    """Within the ``with``, note when Django begins and ends to answer a request.

    Args:
        note: Adds to the journal.
    """
    from django.core import signals

    def started(environ: Any = None, scope: Any = None, **_: Any) -> None:
        if environ is not None:  # WSGI
            method, path = environ.get("REQUEST_METHOD"), environ.get("PATH_INFO")
        else:
            method, path = (scope or {}).get("method"), (scope or {}).get("path")
        note(RequestStarted(method=str(method), path=str(path), location=locations.of_test(None)))

    def raised(**_: Any) -> None:
        if (error := sys.exc_info()[1]) is not None:
            note(RequestRaised(error=error))

    def finished(**_: Any) -> None:
        note(RequestFinished())

    receivers = {
        signals.request_started: started,
        signals.got_request_exception: raised,
        signals.request_finished: finished,
    }
    for signal, receiver in receivers.items():
        signal.connect(receiver, weak=False)
    try:
        yield
    finally:
        for signal, receiver in receivers.items():
            signal.disconnect(receiver)
