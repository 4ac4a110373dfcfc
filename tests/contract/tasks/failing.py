"""Tasks that fail."""

from __future__ import annotations

from celery import shared_task
from shop.contract.log import LOG


@shared_task
def fail(text="boom"):
    raise ValueError(text)


class UnpicklableError(Exception):
    def __init__(self, one, two):
        super().__init__(one)
        self.two = lambda: two


class TwoFactsError(Exception):
    """One with its own attributes."""


@shared_task
def fail_unpicklable():
    raise UnpicklableError("one", "two")


@shared_task
def fail_with_facts():
    raise TwoFactsError("one", 2)


@shared_task
def fail_because():
    try:
        raise KeyError("the cause")
    except KeyError as error:
        raise ValueError("the effect") from error


@shared_task(ignore_result=True, store_errors_even_if_ignored=True)
def ignored_error():
    raise ValueError("kept")


@shared_task
def exits():
    raise SystemExit(3)


@shared_task(throws=(KeyError,))
def throws():
    raise KeyError("expected")


@shared_task
def old_errback(task_id):
    LOG.append(("old errback", task_id))


@shared_task
def new_errback(request, exc, traceback):
    LOG.append(("new errback", request.id, repr(exc), bool(traceback)))


class CutOffError(BaseException):
    """What no `except Exception` catches."""


@shared_task
def fail_past_exception(kind):
    raise {"generator": GeneratorExit, "own": CutOffError}[kind]("cut off")
