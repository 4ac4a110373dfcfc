"""Tasks that take their time, and tasks that end their process."""

from __future__ import annotations

import os
import signal
import time

from celery import shared_task, signals
from celery.exceptions import SoftTimeLimitExceeded
from celery.worker.control import inspect_command
from shop.contract.log import LOG

INITIALIZED: list[int] = []


@signals.worker_process_init.connect
def on_process_init(**_):
    INITIALIZED.append(os.getpid())


@inspect_command()
def unacknowledged(state):
    """What the worker holds of its broker; for transports that count that themselves."""
    qos = state.consumer.task_consumer.channel.qos
    return len(qos._delivered) - len(qos._dirty)


def pause(seconds):
    """Sleep in pieces, for a signal can come just before a sleep begins."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.02)


@shared_task
def last(seconds):
    LOG.append("began")
    pause(seconds)
    LOG.append("ended")


@shared_task(soft_time_limit=0.3)
def last_until_told(seconds):
    try:
        pause(seconds)
    except SoftTimeLimitExceeded:
        return "cleaned up"
    return "to the end"


@shared_task(time_limit=0.3, acks_late=True)
def last_late(seconds):
    LOG.append("began")
    pause(seconds)


@shared_task
def tell_pid():
    return os.getpid()


@shared_task
def tell_initialized():
    return [INITIALIZED, os.getpid()]


@shared_task
def tell_time():
    return time.time()


@shared_task(rate_limit="5/s")
def limited():
    return time.time()


@shared_task
def meet(name, other, seconds):
    """Wait until another has written its name, too."""
    LOG.append(name)
    deadline = time.monotonic() + seconds
    while other not in LOG:
        if time.monotonic() > deadline:
            return "alone"
        time.sleep(0.01)
    return "together"


def die():
    os.kill(os.getpid(), signal.SIGKILL)


@shared_task
def killed():
    LOG.append("killed")
    die()


@shared_task(acks_late=True)
def killed_late():
    LOG.append("killed")
    die()


@shared_task(acks_late=True, reject_on_worker_lost=True)
def killed_and_rejected():
    LOG.append("killed")
    if LOG.count("killed") < 2:
        die()
    return "second"
