"""Tasks that change the canvas they are in."""

from __future__ import annotations

from celery import chord, group, shared_task
from shop.contract.plain import add, double, total


@shared_task(bind=True)
def replaced(self, x):
    raise self.replace(double.s(x))


@shared_task(bind=True)
def replaced_by_chain(self, x):
    raise self.replace(add.s(x, 1) | double.s())


@shared_task(bind=True)
def replaced_by_chord(self, x):
    raise self.replace(chord([double.s(x), double.s(x + 1)], total.s()))


@shared_task(bind=True)
def replaced_by_group(self, x):
    raise self.replace(group(double.s(x), double.s(x + 1)))


@shared_task(bind=True)
def add_to_chord(self, x):
    self.add_to_chord(double.si(x))
    return x
