"""The services, each wrong in a way that ``tests_before/`` hides and ``--djcelery-audit`` finds.

The right ones are in ``services.py``. One more is the view ``create_user_pitfall``.
"""

from django.db import transaction

from demoapp.tasks import delete_widget, rename_widget, send_email


@transaction.atomic
def withdraw(widget):
    """Too early: a worker may look for an archived widget before this has become one."""
    delete_widget.delay(widget.pk)
    widget.archived = True
    widget.save()


def welcome_again(user):
    """A user is no JSON: ``TypeError`` in production."""
    send_email.delay(user)


def rename_all(widgets, name):
    """The argument is called ``name``: ``TypeError`` in production."""
    for widget in widgets:
        rename_widget.delay(widget.pk, new_name=name)
