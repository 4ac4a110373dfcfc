"""Old-style suites, and what an audit of them says."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project

# What suites do: no server, the messages stay in the process.
SETTINGS = """
CELERY_BROKER_URL = "memory://"
CELERY_RESULT_BACKEND = "cache+memory://"
"""


@pytest.fixture
def old(project: Project) -> Project:
    """A project whose tests use no fixture of the plugin."""
    project.settings(SETTINGS)
    project.write(
        **{
            "shop/services": """
                from django.db import transaction

                from shop.models import Order
                from shop.tasks import add, ship


                def order_in_transaction():
                    with transaction.atomic():
                        order = Order.objects.create()
                        ship.delay(order.pk)
                    return order


                @transaction.atomic
                def count_in_transaction():
                    Order.objects.count()
                    add.delay(1, 2)


                def order_on_commit():
                    with transaction.atomic():
                        order = Order.objects.create()
                        ship.delay_on_commit(order.pk)
                    return order
                """
        }
    )
    return project


Audited = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def audited(old: Project) -> Audited:
    """Run a test module under the audit, which passes; return the findings."""

    def run(test: str, *args: str) -> list[dict[str, Any]]:
        result = old.run(test, "--djcelery-audit", "--djcelery-audit-report=audit.json", *args)
        assert result.ret == 0, result.stdout.str()
        result.stdout.no_fnmatch_line("*The audit itself failed*")
        found: list[dict[str, Any]] = json.loads((old.path / "audit.json").read_text())["findings"]
        return found

    return run
