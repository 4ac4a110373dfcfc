"""Advice names what code has: the function, where the task is called otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project

NAMED = """
from celery import shared_task
from celery.contrib.django.task import DjangoTask
from django.db import transaction
from proj.celery import app
from shop.models import Order


@shared_task(name="shop.mail.send_draft")
def task_send_draft(pk, copy=False):
    pass


class Import(DjangoTask):
    name = "shop.import"

    def run(self, pk):
        pass


import_orders = app.register_task(Import())


class Export(DjangoTask):
    name = "shop.export"

    def run(self, pk):
        pass


app.register_task(Export())


@transaction.atomic
def order(task):
    task.delay(Order.objects.create().pk)
"""


@pytest.fixture
def named(project: Project) -> Project:
    """A project whose tasks have other names than their functions."""
    project.write(**{"shop/named": NAMED})
    return project


def test_the_remedy_for_a_race_is_what_the_code_would_call(named: Project) -> None:
    result = named.run("""
        import pytest
        from proj.celery import app
        from pytest_djcelery import SentInTransactionError
        from shop.named import import_orders, order, task_send_draft

        @pytest.mark.django_db
        @pytest.mark.celery_sent_in_transaction("error")
        @pytest.mark.parametrize(
            ("task", "text"),
            [
                (task_send_draft, "task_send_draft"),
                (import_orders, "import_orders"),
                (app.tasks["shop.export"], "app.tasks['shop.export']"),
            ],
        )
        def test(celery_outbox, task, text):
            with pytest.raises(SentInTransactionError) as caught:
                order(task)
            first, *_, last = str(caught.value).splitlines()
            assert first.startswith(f"{task.name}(1) was sent inside an open transaction")
            assert last == f"Send it after the commit: {text}.delay_on_commit(1)"
        """)
    result.assert_outcomes(passed=3)


def test_a_comparison_that_failed_names_the_function(named: Project) -> None:
    result = named.run("""
        from shop.named import import_orders, task_send_draft

        def test_arguments(celery_outbox):
            task_send_draft.delay(1)
            assert celery_outbox == [task_send_draft.s(2)]

        def test_the_task_itself(celery_outbox):
            import_orders.delay(1)
            assert celery_outbox == [import_orders]
        """)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "E * [[]0] shop.named.task_send_draft.s(2)",
            (
                "E * To fix: If what was sent is right, expect shop.named.task_send_draft.s(1); "
                "if not, change the call at test_it.py:5 in test_arguments."
            ),
            "E *: call .s(...) with the arguments: import_orders.s(...)*",
        ]
    )
