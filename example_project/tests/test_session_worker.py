"""``celery_session_worker``: one worker for the whole run, clean for each test.

It saves little, since ``celery_worker`` is reused too, but session fixtures can use it. Name it in
``usefixtures``, and every test of a module runs with a worker.
"""

import pytest

from demoapp.tasks import count_widgets, rename_widget
from tests.factories import WidgetFactory

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("celery_session_worker"),
]


def test_a_task_changes_a_row(widget):
    rename_widget.delay(widget.pk, "new").get(timeout=5)
    widget.refresh_from_db()
    assert widget.name == "new"


@pytest.mark.parametrize("number", [1, 2])
def test_nothing_is_left_of_the_test_before(number):
    WidgetFactory.create_batch(number)
    assert count_widgets.delay().get(timeout=5) == number
