"""Tasks that tell what they find around them, and tasks that leave something there."""

from __future__ import annotations

import decimal
import os
import threading
from contextvars import ContextVar

from celery import shared_task
from django.db import connection
from django.utils import timezone, translation

REQUEST = ContextVar("request", default=None)
USER = threading.local()
IMPORTED = ContextVar("imported", default=None)
IMPORTED.set("by the import")
USER.imported = "by the import"
LEFT = ContextVar("left", default=None)


class Middleware:
    current = threading.local()


def surroundings():
    return {
        "language": translation.get_language(),
        "time zone": timezone.get_current_timezone_name(),
        "context variable": REQUEST.get(),
        "precision": decimal.getcontext().prec,
        "thread": getattr(USER, "name", None),
        "thread, by a class": getattr(Middleware.current, "name", None),
        "connection": getattr(connection, "mark", None),
        "environment": os.environ.get("MARK"),
        "folder": os.getcwd(),
    }


def change(*, language, zone, mark, precision):
    translation.activate(language)
    timezone.activate(zone)
    REQUEST.set(mark)
    decimal.getcontext().prec = precision
    USER.name = Middleware.current.name = connection.mark = mark


@shared_task
def see():
    return surroundings()


@shared_task
def see_imported():
    return [IMPORTED.get(), getattr(USER, "imported", None)]


@shared_task
def leave():
    change(language="fr", zone="Asia/Tokyo", mark="of a task", precision=7)


@shared_task
def leave_in_process(folder):
    os.environ["MARK"] = "of a task"
    os.chdir(folder)


@shared_task
def leave_for_the_next():
    found = LEFT.get()
    LEFT.set("left")
    return [os.getpid(), found]
