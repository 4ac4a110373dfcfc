"""The tasks that are measured."""

from celery import Task, shared_task

from shop.models import Order


@shared_task
def add(x: int, y: int) -> int:
    """Cost nothing, so that only the way there and back is measured."""
    return x + y


@shared_task
def count_orders() -> int:
    """Use the database from the worker's thread."""
    return Order.objects.count()


@shared_task
def rename(order_id: int, name: str) -> int:
    """Write to the database, and leave the row as it is if it comes again."""
    return Order.objects.filter(pk=order_id).update(name=name)


@shared_task
def ship(order_id: int, *, address: dict[str, str], lines: list[list[object]], notify: bool) -> int:
    """Take arguments as a real task does."""
    del address, lines, notify
    return order_id


@shared_task(bind=True, max_retries=None)
def back_off(self: Task) -> None:
    """Try again after 1, 2, 4, … minutes."""
    raise self.retry(countdown=60 * 2**self.request.retries)
