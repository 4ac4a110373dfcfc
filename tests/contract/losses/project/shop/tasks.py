"""The tasks of a case: the victim, and those around it."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

from celery import Task, current_app, shared_task, signals
from celery.exceptions import SoftTimeLimitExceeded
from django.db import transaction

from shop import gateway
from shop.cases import CASES, task_options
from shop.losing import reached
from shop.models import Row
from shop.notes import note

SIGNALS = (
    "task_prerun", "task_postrun", "task_success", "task_failure", "task_retry", "task_revoked",
    "task_internal_error",
)  # fmt: skip


class Noted(Task):
    """A task whose messages are noted."""

    Request = "shop.requests:NotedRequest"
    role = ""


class Victim(Noted):
    """A task that notes what becomes of it."""

    role = "victim"

    def note(self, case, what):
        note(case, self.role, what)

    def before_start(self, task_id, args, kwargs):
        request = self.request
        self.note(
            kwargs["case"],
            f"before_start redelivered={bool(request.delivery_info['redelivered'])} "
            f"retries={request.retries}",
        )

    def on_success(self, retval, task_id, args, kwargs):
        self.note(kwargs["case"], "on_success")

    def on_failure(self, exc, task_id, args, kwargs, einfo):
        self.note(kwargs["case"], f"on_failure {type(exc).__name__}")

    def on_retry(self, exc, task_id, args, kwargs, einfo):
        self.note(kwargs["case"], f"on_retry {type(exc).__name__}")

    def after_return(self, status, retval, task_id, args, kwargs, einfo):
        self.note(kwargs["case"], f"after_return {status}")


def victim_of(options):
    @shared_task(
        base=Victim,
        bind=True,
        name=f"shop.victim[{' '.join(options)}]",
        default_retry_delay=0,
        **task_options(options),
    )
    def victim(self, *_, case):
        reached(case, "start")
        try:
            value = work(case)
        finally:
            note(case, "victim", "finally")
        reached(case, "end")
        return value

    return victim


def work(name):
    case = CASES[name]
    note(name, "victim", "began")
    Row.objects.create(case=name, name="first")
    with transaction.atomic() if case.atomic else nullcontext():
        Row.objects.create(case=name, name="second")
        transaction.on_commit(partial(hook, name))
        try:
            gateway.charge(name)
        except SoftTimeLimitExceeded:
            note(name, "victim", "SoftTimeLimitExceeded")
            if not case.caught:
                raise
    Row.objects.create(case=name, name="third")
    return "done"


def hook(case):
    note(case, "victim", "hook")
    follow.delay(case=case)


VICTIMS = {options: victim_of(options) for options in {case.options for case in CASES.values()}}


@shared_task(base=Noted, role="follow")
def follow(*, case):
    note(case, "follow", "ran")


@shared_task(base=Noted, role="then")
def then(*_, case):
    note(case, "then", "ran")
    return "then"


@shared_task(base=Noted, role="other")
def other(*, case):
    note(case, "other", "ran")
    return "other"


@shared_task(base=Noted, role="another")
def another(*, case):
    note(case, "another", "ran")
    return "another"


@shared_task(base=Noted, role="collect")
def collect(results, *, case):
    note(case, "collect", f"ran with {results}")
    return "collected"


@shared_task(base=Noted, role="errback")
def errback(request, exc, traceback, *, case):
    note(case, "errback", f"called {type(exc).__name__}")


@shared_task(base=Noted, role="errback task")
def errback_task(task_id, *, case):
    note(case, "errback task", "ran")


def _on_signal(name, sender, **kwargs):
    request = kwargs.get("request")
    task = sender if isinstance(sender, Victim) else kwargs.get("task", request and request.task)
    if isinstance(task, Victim):
        called = kwargs.get("kwargs") or getattr(request, "kwargs", None) or task.request.kwargs
        task.note(called["case"], name)
        if name == "task_postrun":
            reached(called["case"], "stored")


for _name in SIGNALS:
    getattr(signals, _name).connect(partial(_on_signal, _name), weak=False)


@signals.task_received.connect
def on_received(request, **_):
    if isinstance(request.task, Victim):
        note(request.kwargs["case"], "victim", "received", kind="message")


@signals.before_task_publish.connect
def on_publish(sender, body, **_):
    _args, kwargs, _embed = body
    if "case" in kwargs:
        note(kwargs["case"], current_app.tasks[sender].role, "sent", kind="message")
