"""The timeline: what a failing test prints, and what can be read in the middle of one."""

from datetime import timedelta

import pytest
import time_machine
from pytest_djcelery import timeline

from demoapp.tasks import add, flaky

pytestmark = pytest.mark.django_db


@time_machine.travel("2030-01-01 09:00+00:00", tick=False)
def test_the_mail_of_a_user_who_is_gone(client, celery_inline, django_user_model):
    flaky.delay(failures=1)
    client.post("/users/", {"username": "ada"})
    django_user_model.objects.all().delete()
    with pytest.raises(django_user_model.DoesNotExist):
        celery_inline.run(until=timedelta(hours=1))


def test_what_has_happened_so_far(celery_inline):
    add.delay(1, 2)
    assert "never ran: due" in timeline()
    celery_inline.run()
    assert "SUCCESS 3" in timeline(limit=10)
