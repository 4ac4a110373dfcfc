"""Tasks with their own classes."""

from __future__ import annotations

from celery import Task, shared_task
from shop.contract.log import LOG
from shop.contract.retrying import SOON


class Handled(Task):
    def before_start(self, task_id, args, kwargs):
        LOG.append("before_start")

    def on_success(self, retval, task_id, args, kwargs):
        LOG.append(f"on_success {retval}")

    def on_failure(self, exc, task_id, args, kwargs, einfo):
        LOG.append(f"on_failure {exc!r} {type(einfo).__name__}")

    def on_retry(self, exc, task_id, args, kwargs, einfo):
        LOG.append(f"on_retry {exc!r}")

    def after_return(self, status, retval, task_id, args, kwargs, einfo):
        LOG.append(f"after_return {status}")


@shared_task(base=Handled, bind=True, max_retries=1)
def handled(self, how):
    if how == "fail":
        raise ValueError("no")
    if how == "retry" and self.request.retries == 0:
        raise self.retry(exc=ValueError("again"), countdown=SOON)
    return how


class Called(Task):
    def __call__(self, *args, **kwargs):
        LOG.append("__call__")
        return super().__call__(*args, **kwargs)


@shared_task(base=Called, bind=True)
def called(self):
    return self.request.id


class Alerting(Task):
    def on_failure(self, exc, task_id, args, kwargs, einfo):
        LOG.append("on_failure")
        raise ConnectionError("the pager is down")


@shared_task(base=Alerting)
def alerting():
    raise ValueError("declined")
