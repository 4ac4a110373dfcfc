"""A suite that sends many messages, from several places and in several shapes."""

import os

import pytest
from shop.tasks import add, ship

from pytest_djcelery import Outbox

COUNT = int(os.environ["BENCHMARK_COUNT"])
OF_A_TEST = 10


def _send(number: int) -> None:
    for each in range(OF_A_TEST // 2):
        add.delay(number, each)
        ship.delay(
            number,
            address={"name": "Ada", "street": "12 St James's Square", "city": "London"},
            lines=[[number, "widget", 2]],
            notify=True,
        )


@pytest.mark.parametrize("number", range(COUNT // OF_A_TEST))
def test_without_fixture(number: int) -> None:
    """Send to the broker in memory, and look at nothing."""
    _send(number)


@pytest.mark.parametrize("number", range(COUNT // OF_A_TEST))
def test_with_outbox(celery_outbox: Outbox, number: int) -> None:
    """Count the messages, too."""
    _send(number)
    assert len(celery_outbox) == OF_A_TEST
