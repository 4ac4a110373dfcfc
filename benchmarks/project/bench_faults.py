"""What it costs a task that a fault is waiting for it, or has happened."""

import os
import sys
from time import process_time

import probe
from shop.tasks import add

from pytest_djcelery import Inline

COUNT = int(os.environ["BENCHMARK_COUNT"])
ROUNDS = 7


def _each(celery_inline: Inline) -> float:
    """Processor seconds of one task."""
    for number in range(COUNT):
        add.delay(number, 4)
    start = process_time()
    assert celery_inline.run().succeeded == COUNT
    return (process_time() - start) / COUNT


def test_unused(celery_inline: Inline) -> None:
    """What is loaded of it in a test that uses none."""
    _each(celery_inline)
    name = "pytest_djcelery.fault_injection"
    probe.note(loaded=[module for module in sys.modules if module.startswith(name)])


def test_used(celery_inline: Inline) -> None:
    """Tasks without faults, with one that has happened, and with one for another call, in turns."""
    from pytest_djcelery import faults

    _each(celery_inline)
    plain, over, other = [], [], []
    for _ in range(ROUNDS):
        plain.append(_each(celery_inline))
        with faults() as broken:
            broken.fail(add, ValueError)
            add.delay(1, 2)
            assert celery_inline.run(raise_failures=False).failed == 1
            over.append(_each(celery_inline))
        with faults() as broken:
            broken.fail(add.s(-1, -1), ValueError, optional=True)
            other.append(_each(celery_inline))
    probe.note(plain=min(plain), over=min(over), other=min(other))
