"""A case as it is sent."""

from __future__ import annotations

from celery import chain, chord
from kombu.utils.uuid import uuid

from shop import tasks


def send(case, **limits):
    """Send the tasks of a case, and return their ids by role.

    Args:
        case: The case.
        limits: The time limits of the task that is lost.
    """
    ids = {}

    def signature(task):
        ids[task.role] = uuid()
        return task.s(case=case.name).set(task_id=ids[task.role])

    victim = signature(tasks.VICTIMS[case.options]).set(**limits)
    errbacks = [each.s(case=case.name) for each in (tasks.errback, tasks.errback_task)]
    if case.place == "single":
        victim.apply_async(link=signature(tasks.then), link_error=errbacks)
    elif case.place == "chain":
        chain(victim, signature(tasks.then)).apply_async(link_error=errbacks)
    else:
        others = [signature(tasks.other), signature(tasks.another)]
        header = [victim, *others] if case.place == "header" else others
        body = signature(tasks.collect) if case.place == "header" else victim
        for each in errbacks:
            body.link_error(each)
        chord(header, body).apply_async()
    return ids
