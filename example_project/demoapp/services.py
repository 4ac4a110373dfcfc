"""What the project does with its tasks outside of requests."""

from django.db import transaction

from demoapp.models import Order
from demoapp.tasks import charge_once, delete_widget, rename_widget, send_email


@transaction.atomic
def withdraw(widget):
    """Archive a widget, and have it deleted: the task waits for the commit."""
    widget.archived = True
    widget.save()
    delete_widget.delay_on_commit(widget.pk)


def welcome_again(user):
    send_email.delay(user.pk)


def rename_all(widgets, name):
    for widget in widgets:
        rename_widget.delay(widget.pk, name)


@transaction.atomic
def buy(amount):
    """Save an order, and have it charged after the commit."""
    order = Order.objects.create(amount=amount)
    charge_once.delay_on_commit(order.pk)
    return order
