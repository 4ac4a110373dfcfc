"""A Celery app of this process, and a session in which `celery_inline` runs its tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from celery import Celery
from celery.exceptions import Ignore, Reject

from pytest_djcelery import inline
from pytest_djcelery.options import Options
from pytest_djcelery.session.session import begin_session, current_sandbox, end_session
from tests.unit import django_in_process

if TYPE_CHECKING:
    from pytest_djcelery.api.inline import Inline
    from pytest_djcelery.messages.journal import Journal
    from pytest_djcelery.messages.sent_task import SentTask

assert django_in_process.is_ours

app = Celery("inline_project", broker="amqp://192.0.2.1//", set_as_current=False)
app.conf.task_routes = {"shop.mail": {"queue": "mail"}}

#: What the tasks did, in order; emptied before each block.
done: list[Any] = []


@app.task(name="shop.add", shared=False)
def add(x: int, y: int = 0) -> int:
    done.append((x, y))
    return x + y


@app.task(name="shop.mail", shared=False)
def mail(to: str) -> None:
    done.append(to)


@app.task(
    name="shop.end", shared=False, bind=True, max_retries=3, default_retry_delay=60, acks_late=True
)
def end(self: Any, how: str) -> str:
    """End in the way that it is asked to."""
    done.append(how)
    if how == "fail":
        raise ValueError(how)
    if how == "retry" and not self.request.retries:
        raise self.retry(exc=ValueError("not yet"))
    if how == "ignore":
        raise Ignore
    if how == "reject":
        raise Reject(how, requeue=False)
    if how == "requeue" and not self.request.delivery_info["redelivered"]:
        raise Reject(how, requeue=True)
    return how


@app.task(name="shop.call", shared=False, acks_late=True)
def call(function: str) -> Any:
    """Call what the test has put into `functions`: it has the test's own eyes and hands."""
    return functions[function]()


functions: dict[str, Callable[[], Any]] = {}


@contextmanager
def session(suite: str) -> Iterator[None]:
    """Begin a session of the plugin whose project is this one; ``suite`` is the test's file."""
    begun = begin_session(Options(app=f"{__name__}:app", timeout=5), suite={suite})
    try:
        yield
    finally:
        end_session(begun)


@contextmanager
def worker(*, auto: bool = False) -> Iterator[Inline]:
    """An inline worker, in a block; failures that it leaves unseen are the test's affair."""
    done.clear()
    functions.clear()
    with inline(auto=auto) as found:
        yield found


def sent() -> list[SentTask]:
    """The messages that the test has published."""
    return [event.message for event in journal().published()]


def journal() -> Journal:
    """The journal of the block."""
    sandbox = current_sandbox()
    assert sandbox is not None
    return sandbox.journal


def now() -> datetime:
    """What the clock of the block shows."""
    return datetime.now(timezone.utc)
