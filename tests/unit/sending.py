"""Messages for the tests of matching: published for real, over an app in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

from celery import Celery, _state

from pytest_djcelery.api.outbox import Outbox
from pytest_djcelery.locations import Location
from pytest_djcelery.messages.events import Published
from pytest_djcelery.messages.journal import Journal
from pytest_djcelery.messages.sent_task import SentTask
from pytest_djcelery.recording.sent_records import sent_task

LOCATION = Location(path="shop/views.py", line=12, function="sign_up")


def new_app(**conf: Any) -> Celery:
    """An app that touches nothing outside, with the tasks that the tests send."""
    app = Celery("sending", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(
        {"broker_connection_retry_on_startup": False, "timezone": "Australia/Tasmania", **conf}
    )

    def add(x: int, y: int = 0, *rest: int, z: int = 0, **more: int) -> None: ...

    def mul(x: int, y: int) -> None: ...

    def total(numbers: list[int]) -> None: ...

    def send_email(self: Any, user_pk: int, subject: str = "Welcome") -> None: ...

    functions: list[Any] = [add, mul, total, send_email]
    for function in functions:
        function.__module__ = "shop"  # where texts say it is
        name = f"shop.{function.__name__}"
        app.task(shared=False, name=name, bind=function is send_email)(function)
    return app


class Sent:
    """Records each publish of an app as the plugin does."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.journal = Journal()
        self.outbox = Outbox(self.journal, timeout=0.01)
        self.transaction = "autocommit"

    def task(self, name: str) -> Any:
        return self.app.tasks[f"shop.{name}"]

    def last(self) -> SentTask:
        return self.outbox[-1]

    @contextmanager
    def recording(self) -> Iterator[Sent]:
        send = self.app.amqp.send_task_message
        current = _state._tls.current_app
        self.app.set_current()  # Celery 5.4 asks the current app whether it has chords

        def send_task_message(producer: Any, name: str, message: Any, **options: Any) -> None:
            situation: Any = SimpleNamespace(
                transaction=self.transaction, hook_location=None, hook=None
            )
            sent = sent_task(self.app, name, message, options, situation)
            # The first frame outside the libraries would be this one.
            self.journal.append(Published(message=replace(sent, location=LOCATION)))

        self.app.amqp.send_task_message = send_task_message
        try:
            yield self
        finally:
            self.app.amqp.send_task_message = send
            _state._tls.current_app = current


def message(task: str = "shop.add", *args: Any, **changes: Any) -> SentTask:
    """A message made by hand."""
    fields: dict[str, Any] = {
        "task": task, "args": list(args), "kwargs": {}, "id": f"id-{next(_numbers)}",
        "queue": "celery", "routing_key": "celery", "exchange": "", "eta": None, "expires": None,
        "priority": None, "retries": 0, "headers": {}, "root_id": None, "parent_id": None,
        "group_id": None, "links": (), "link_errors": (), "chain": (), "chord": None,
        "sent_at": datetime.now(timezone.utc), "transaction": "autocommit",
        "location": LOCATION,
    }  # fmt: skip
    return SentTask(**{**fields, **changes})


_numbers: Iterator[int] = iter(range(10**9))
