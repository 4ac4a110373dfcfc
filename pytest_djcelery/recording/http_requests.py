"""Records the requests that Django answers in a test, for the timeline."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_djcelery import locations
from pytest_djcelery.messages.notes import RequestFinished, RequestRaised, RequestStarted
from pytest_djcelery.patching import Current, last_receivers, standing_while

if TYPE_CHECKING:
    from pytest_djcelery.messages.journal import Journal, Note


@contextmanager
def requests_recorded(current: Current[Journal]) -> Iterator[None]:
    """Within the ``with``, note when Django begins and ends to answer a request.

    Args:
        current: The journal where it is noted.
    """
    from django.core import signals

    note = partial(_note, current)

    def started(environ: Any = None, scope: Any = None, **_: Any) -> None:
        if current.now is None:
            return
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
    standing_while(last_receivers(receivers))
    try:
        yield
    finally:
        for signal, receiver in receivers.items():
            signal.disconnect(receiver)


def _note(current: Current[Journal], what: Note) -> None:
    journal = current.now
    if journal is not None:
        journal.note(what)
