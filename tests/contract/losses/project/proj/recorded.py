"""What the worker tells a recorder: that it is ready, and how many messages it holds."""

from __future__ import annotations

import os

from celery import signals
from celery.worker import state
from celery.worker.control import inspect_command
from shop.cases import CASES
from shop.notes import note


@signals.worker_ready.connect
def on_ready(sender, **_):
    # The pool looks after its processes every 5 seconds, unless it hears of the end of one at once.
    sender.hub.call_repeatedly(0.02, sender.pool._pool.maintain_pool)
    note("", "worker", "ready", kind="recorder")


@inspect_command()
def held(_state):
    return len(state.reserved_requests)


def queue_of(_name, _args, kwargs, _options, **_):
    """Route a message to the queue of its case: that of a lost host is alone in its queue."""
    case = CASES.get(kwargs.get("case"))
    if case is None:
        return None
    return {"queue": queue_name(case)}


def queue_name(case):
    prefix = os.environ["LOSSES_PREFIX"]
    return f"{prefix}.{list(CASES).index(case.name)}" if case.takes_the_host else prefix
