"""``--djcelery-contract``: the file, the check, and what becomes of the run."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.deploys.conftest import Shop

SENDS = """
import pytest
from celery import chain
from shop.services import order
from shop.tasks import add, ship


def test_by_position():
    order(1)
    add.delay(1, 2)


def test_by_name(celery_outbox):
    ship.delay(order_id="1", express=True)
    chain(add.s(1, 2), ship.s(express=False)).apply_async(link=add.s(1).set(link_error=ship.s()))


def test_eagerly(celery_eager):
    add.delay(1.5, 2)


def test_of_the_test_alone():
    from celery import shared_task

    @shared_task
    def of_this_test(): ...

    of_this_test.delay()
"""
UPDATE, CHECK = "--djcelery-contract=update", "--djcelery-contract=check"


def test_the_file_has_what_is_published_and_is_the_same_from_run_to_run(shop: Shop) -> None:
    assert shop.run(SENDS, UPDATE).ret == 0
    path = shop.path / "celery-contract.json"
    text = path.read_text()
    tasks = json.loads(text)["tasks"]

    assert list(tasks) == [f"shop.tasks.{name}" for name in
                           ("add", "count_orders", "fail", "flaky", "ship")]  # fmt: skip
    assert tasks["shop.tasks.ship"]["parameters"] == [
        {"name": "order_id", "kind": "positional or keyword", "default": False},
        {"name": "express", "kind": "keyword only", "default": True},
    ]
    in_test = "test_it.py in test_by_name"
    assert tasks["shop.tasks.ship"]["sent"] == [
        {"args": [], "kwargs": {}, "as": "error link", "from": in_test},
        {"args": [], "kwargs": {"express": "bool", "order_id": "str"}, "from": in_test},
        {"args": ["order_id: int"], "kwargs": {}, "from": "shop/services.py in order"},
        {"args": ["order_id: result"], "kwargs": {"express": "bool"}, "from": in_test},
    ]
    assert [each["args"] for each in tasks["shop.tasks.add"]["sent"]] == [
        ["x: float", "y: int"],
        ["x: int", "y: int"],
        ["x: result", "y: int"],
    ]
    assert str(shop.path) not in text

    again = shop.run(SENDS, UPDATE, "-n", "2", "-p", "randomly", "-p", "no:cacheprovider")
    again.stdout.fnmatch_lines(
        ["celery-contract.json is as it was: 5 tasks, 7 shapes of messages."]
    )
    assert path.read_text() == text

    # A part of the suite takes nothing away; `rewrite` begins anew.
    assert shop.run(SENDS, UPDATE, "-k", "eagerly").ret == 0
    assert path.read_text() == text
    assert shop.run(SENDS, "--djcelery-contract=rewrite", "-k", "eagerly").ret == 0
    assert not shop.contract()["tasks"]["shop.tasks.ship"]["sent"]


def test_a_check_names_what_breaks_for_whom_and_the_compatible_way(shop: Shop) -> None:
    assert shop.run(SENDS, UPDATE).ret == 0
    green = shop.run(SENDS, CHECK)
    assert green.ret == 0
    green.stdout.fnmatch_lines(
        [
            "celery: contract: check celery-contract.json",
            "*= celery contract =*",
            "No message of the contract in celery-contract.json would break.",
        ]
    )

    shop.change("def add(x, y):", "def add(x, carry, y=0):")
    shop.change("def ship(order_id, *, express", "def deliver(order_id, *, express")
    shop.change("ship", "deliver", "shop/services.py")
    tests = SENDS.replace("ship", "deliver")
    red = shop.run(tests, CHECK, "-n", "1", "--junitxml=junit.xml")

    assert red.ret == 1
    red.assert_outcomes(passed=4)
    red.stdout.fnmatch_lines(
        [
            "Messages in the queue, of the release before, that break on this code:",
            " 1. shop.tasks.add: argument 2 was 'y', and would be taken as 'carry', which *",
            "      recorded: add(x, y)",
            "      now: add(x, carry, y=…)",
            "      sent: add(float, int) from test_it.py in test_eagerly",
            "    do: Put a new parameter at the end, with a default, or make it keyword-only; *",
            '    planned? "retired": {"shop.tasks.add:carry": "the reason"}',
            " 2. shop.tasks.ship is renamed: its function is now shop.tasks.deliver, *",
            "      sent: ship(int) from shop/services.py in order",
            '    do: Keep the name: @shared_task(name="shop.tasks.ship") on shop.tasks.deliver. *',
            "Messages of this code that break on workers of the release before, * (a warning: *",
            " 3. shop.tasks.add: argument 2 was 'carry', and would be taken as 'y'",
            " 4. shop.tasks.deliver is new: old workers don't know it, and drop its messages",
            "    do: Two releases: *",
        ]
    )
    failures = [
        case.get("name")
        for case in ET.parse(shop.path / "junit.xml").iter("testcase")
        if case.find("failure") is not None
    ]
    assert failures == [
        "old messages: shop.tasks.add:carry",
        "old messages: shop.tasks.ship",
    ]
