"""The jobs, as a project that uses Celery has them."""

from celery import Celery, shared_task
from django.contrib.auth.models import User
from django.db import transaction

app = Celery("tools")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.set_default()

HOUR = 3600
FAILURES = 3


@shared_task
def add(x: int, y: int) -> int:
    """Cost nothing."""
    return x + y


@shared_task
def total(numbers: list[int]) -> int:
    """Be the body of a chord."""
    return sum(numbers)


@shared_task(bind=True, max_retries=FAILURES, default_retry_delay=HOUR)
def flaky(self) -> str:
    """Succeed at the fourth attempt, an hour after the one before."""
    if self.request.retries < FAILURES:
        raise self.retry(exc=ConnectionError())
    return "ok"


@shared_task
def welcome(pk: int) -> str:
    """Need a row that the sender has written."""
    return User.objects.get(pk=pk).username


def sign_up() -> None:
    """Be the code under test: the message waits for the commit."""
    with transaction.atomic():
        user = User.objects.create(username="ada")
        transaction.on_commit(lambda: welcome.delay(user.pk))
