"""Tasks that are tried again."""

from __future__ import annotations

import os

from celery import shared_task
from shop.contract.log import LOG

# A retry is published before its state is stored. With two processes and no delay the next attempt
# can be over by then, and its outcome is overwritten by ``RETRY``.
SOON = 0.2 if os.environ["CONTRACT_WORKER"] == "live" else 0


@shared_task(bind=True, max_retries=3)
def flaky(self, succeed_at=2):
    LOG.append(("flaky", self.request.retries))
    if self.request.retries < succeed_at:
        raise self.retry(exc=ValueError(f"attempt {self.request.retries}"), countdown=SOON)
    return self.request.retries


@shared_task(bind=True, max_retries=2)
def change_arguments(self, x):
    if x < 2:
        raise self.retry(args=[x + 1], countdown=SOON)
    return x


@shared_task(bind=True, max_retries=1)
def retry_elsewhere(self):
    if self.request.retries == 0:
        raise self.retry(queue="elsewhere", countdown=SOON)
    return self.request.delivery_info["routing_key"]


@shared_task(
    autoretry_for=(ValueError,), retry_backoff=False, default_retry_delay=SOON, max_retries=2
)
def autoretried(text):
    LOG.append(text)
    raise ValueError(text)


@shared_task(
    autoretry_for=(Exception,),
    dont_autoretry_for=(KeyError,),
    default_retry_delay=SOON,
    max_retries=2,
)
def not_autoretried():
    LOG.append("once")
    raise KeyError("never again")


@shared_task(autoretry_for=(ValueError,), retry_kwargs={"max_retries": 1, "countdown": SOON})
def autoretried_once():
    LOG.append("tried")
    raise ValueError("no")


@shared_task(
    autoretry_for=(ValueError,), retry_backoff=40, retry_backoff_max=60, retry_jitter=False
)
def backs_off():
    raise ValueError("wait")


@shared_task(bind=True, max_retries=1)
def retry_in_a_while(self):
    if self.request.retries == 0:
        raise self.retry(countdown=0.4)
    return "later"


@shared_task(bind=True, max_retries=1)
def retry_and_go_on(self):
    if self.request.retries == 0:
        self.retry(countdown=SOON, throw=False)
        LOG.append("went on")
        return "first"
    return "second"


@shared_task(bind=True, max_retries=1)
def tell_after_a_retry(self):
    if self.request.retries == 0:
        raise self.retry(countdown=SOON)
    request = self.request
    return [request.id, request.root_id, request.headers.get("tenant")]


@shared_task(bind=True, max_retries=0)
def retry_without_reason(self):
    raise self.retry(countdown=SOON)


@shared_task(bind=True, max_retries=1)
def retry_with_reason(self):
    raise self.retry(exc=KeyError("the reason"), countdown=SOON)


@shared_task(bind=True, max_retries=1)
def double_at_last(self, x):
    if self.request.retries == 0:
        raise self.retry(countdown=SOON)
    return 2 * x
