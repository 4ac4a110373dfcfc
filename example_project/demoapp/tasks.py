"""The tasks of the demo app."""

import time

from celery import shared_task
from celery.contrib.django.task import DjangoTask
from celery.exceptions import SoftTimeLimitExceeded
from django.contrib.auth import get_user_model
from django.core.mail import send_mail
from django.db import transaction
from django.db.models import F

from demoapp import gateway
from demoapp.models import AuditEntry, Order, Product, Widget


@shared_task
def add(x, y):
    return x + y


@shared_task
def mul(x, y):
    return x * y


@shared_task
def xsum(numbers):
    return sum(numbers)


@shared_task
def count_widgets():
    return Widget.objects.count()


@shared_task
def rename_widget(widget_id, name):
    widget = Widget.objects.get(id=widget_id)
    widget.name = name
    widget.save()


@shared_task
def send_email(user_pk):
    """Welcome a user, in a local mailbox if they have given no address."""
    user = get_user_model().objects.get(pk=user_pk)
    send_mail(
        subject=f"Welcome, {user.username}",
        message=f"Hello {user.username},\n\nyour account is ready.",
        from_email=None,  # DEFAULT_FROM_EMAIL
        recipient_list=[user.email or f"{user.username}@example.com"],
    )


@shared_task(bind=True)
def send_email_once(self, user_pk):
    """Welcome a user as ``send_email`` does, but once, however often the message is delivered.

    A message that is delivered again has the same id. The row and the mail stand and fall
    together: if the mail can't be sent, the row is rolled back, and the next attempt sends it.
    """
    with transaction.atomic():
        _, is_first = AuditEntry.objects.get_or_create(
            task=self.name, task_id=self.request.id, defaults={"state": "SENT"}
        )
        if is_first:
            send_email(user_pk)


@shared_task(
    bind=True,
    autoretry_for=(ConnectionError,),
    max_retries=5,
    retry_backoff=True,  # after 1, 2, 4, … seconds
    retry_jitter=False,
)
def flaky(self, failures=3):
    """Stand in for a service that is down for the first ``failures`` attempts."""
    if self.request.retries < failures:
        raise ConnectionError("the service does not answer")
    return "ok"


@shared_task
def work(seconds):
    """Stand in for something that takes a long time."""
    time.sleep(seconds)


@shared_task(bind=True)
def import_widgets(self, names):
    """Create widgets, and say after each how far it has come."""
    for done, name in enumerate(names, start=1):
        Widget.objects.create(name=name)
        self.update_state(state="PROGRESS", meta={"done": done, "total": len(names)})
    return len(names)


class AuditedTask(DjangoTask):
    """Writes down how each of its tasks ended.

    A base class of one's own inherits from ``DjangoTask``, not from ``celery.Task``: only
    then do its tasks have ``delay_on_commit`` and ``apply_async_on_commit``.
    """

    def after_return(self, status, _retval, task_id, *_call):
        AuditEntry.objects.create(task=self.name, task_id=task_id, state=status)


@shared_task(base=AuditedTask)
def archive_widget(widget_id):
    Widget.objects.filter(id=widget_id, archived=False).update(archived=True)


@shared_task(base=AuditedTask, bind=True, max_retries=6, default_retry_delay=10 * 60)
def delete_widget(self, widget_id):
    """Delete a widget once it is archived; until then, check again every ten minutes."""
    try:
        Widget.objects.get(id=widget_id, archived=True).delete()
    except Widget.DoesNotExist as error:
        raise self.retry(exc=error) from error


@shared_task
def delete_archived_widgets():
    """Run every night, by the schedule in the settings."""
    Widget.objects.filter(archived=True).delete()


@shared_task
def restock(product_id, count):
    Product.objects.filter(id=product_id).update(stock=F("stock") + count)


@shared_task
def sell(product_id, count):
    """Take goods out of the stock, if there are enough, whatever has come before."""
    Product.objects.filter(id=product_id, stock__gte=count).update(stock=F("stock") - count)


@shared_task
def announce(product_id):
    """Tell the customers that a product is there: once, however often the message comes."""
    if Product.objects.filter(id=product_id, announced=False).update(announced=True):
        product = Product.objects.get(id=product_id)
        send_mail(f"New: {product.name}", "Have a look.", None, ["customers@example.com"])


@shared_task(acks_late=True)
def import_products(stocks):
    """Take over the stock of each product from a list.

    If the worker is lost, the broker delivers the message again, since it is acknowledged late; and
    whatever the lost worker has done by then, it is not done twice.
    """
    for name, stock in stocks.items():
        Product.objects.update_or_create(name=name, defaults={"stock": stock})


@shared_task(acks_late=True, reject_on_worker_lost=True)
def charge(order_id):
    """Charge an order: twice, if the worker dies after the charge and before the row is saved."""
    order = Order.objects.get(id=order_id)
    if not order.paid:
        gateway.charge(order.amount)
        order.paid = True
        order.save()


@shared_task(
    acks_late=True,
    reject_on_worker_lost=True,
    autoretry_for=(ConnectionError, SoftTimeLimitExceeded),
    max_retries=3,
    default_retry_delay=60,
)
def charge_once(order_id):
    """Charge an order as ``charge`` does, with a key by which the gateway knows the charge."""
    order = Order.objects.get(id=order_id)
    if not order.paid:
        gateway.charge(order.amount, key=f"order {order.id}")
        order.paid = True
        order.save()


@shared_task
def charge_what_is_left():
    """Charge what was bought and never charged: run every few minutes, by the schedule."""
    for order in Order.objects.filter(paid=False):
        charge_once.delay(order.id)


@shared_task
def price_of(carrier, order_id):
    """Ask a carrier what it takes."""
    return [carrier, len(carrier) * 100]


@shared_task(acks_late=True)
def price_of_for_sure(carrier, order_id):
    """Ask a carrier as ``price_of`` does; the message comes back if the worker is lost."""
    return price_of(carrier, order_id)


@shared_task
def choose_carrier(prices, order_id):
    """Ship with the cheapest carrier, once all have answered."""
    carrier, _ = min(prices, key=lambda price: price[1])
    Order.objects.filter(id=order_id).update(carrier=carrier)
