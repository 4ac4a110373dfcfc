"""Tasks that decide over their message."""

from __future__ import annotations

from celery import shared_task
from celery.exceptions import Ignore, Reject
from shop.contract.log import LOG


@shared_task(bind=True)
def ignore(self):
    raise Ignore


@shared_task(bind=True)
def ignore_after_a_state(self):
    self.update_state(state="SKIPPED", meta={"why": "nothing to do"})
    raise Ignore


@shared_task(bind=True, acks_late=True)
def reject(self, *, requeue=False):
    LOG.append("reject")
    if requeue and LOG.count("reject") > 2:
        return self.request.delivery_info["redelivered"]
    raise Reject("no", requeue=requeue)


@shared_task(acks_late=True)
def late(*, fails=False):
    if fails:
        raise ValueError("late")
    return "late"


@shared_task
def early(*, fails=False):
    if fails:
        raise ValueError("early")
    return "early"


@shared_task(acks_late=True, acks_on_failure_or_timeout=False)
def not_acknowledged_on_failure():
    LOG.append("ran")
    raise ValueError("rejected")


@shared_task(bind=True)
def progress(self):
    self.update_state(state="PROGRESS", meta={"done": 50})
    return "done"


@shared_task(track_started=True)
def tracked():
    return "tracked"
