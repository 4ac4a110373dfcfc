"""An error on a message inside a transaction that the project's code catches fails the test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project, Run

CODE = """
    import contextlib

    from django.db import transaction

    from shop.models import Order
    from shop.tasks import add


    class SendingFailed(Exception):
        pass


    def sell(send):
        with transaction.atomic():
            Order.objects.create(name="sold")
            send()


    def naked():
        add.delay(1, 2)


    def caught():
        try:
            add.delay(1, 2)
        except Exception:
            return "Failed to send"


    def suppressed():
        with contextlib.suppress(Exception):
            add.delay(1, 2)


    def robust():
        # The hook waits for another transaction than that which it sends in.
        transaction.on_commit(lambda: sell(naked), using="other", robust=True)


    def translated():
        try:
            add.delay(1, 2)
        except Exception as error:
            raise SendingFailed from error


    def sell_late():
        with transaction.atomic():
            add.delay(1, 2)
            try:
                Order.objects.create(name="sold")
            except Exception:
                pass
    """

HEAD = """
    import warnings

    import pytest
    from shop.code import (
        SendingFailed, caught, naked, robust, sell, sell_late, suppressed, translated
    )
    from shop.models import Order
    from shop.tasks import add

    from pytest_djcelery import (
        Failure, SentInTransactionError, SentInTransactionWarning, inline, outbox, results
    )
    """

TESTS = {
    "caught": "sell(caught)",
    "suppressed": "sell(suppressed)",
    "logged by a robust hook": "sell(robust)",
    "caught at a late write": "sell_late()",
    "translated, and expected so": """
        with pytest.raises(SendingFailed):
            sell(translated)
        """,
    "caught by a function of the test's, which catches all": """
        sell(helper)
        """,
    "twice": """
        sell(caught)
        sell(suppressed)
        """,
}
SEEN = {
    "expected": """
        with pytest.raises((SentInTransactionError, SentInTransactionWarning)):
            sell(naked)
        """,
    "caught by the test itself": """
        try:
            sell(naked)
        except Exception:
            pass
        """,
    "expected by a function of the test's": "expect(naked)",
    "expected by a block of the test's": """
        with expected():
            sell(naked)
        """,
    "given to pytest.raises": """
        pytest.raises((SentInTransactionError, SentInTransactionWarning), sell, naked)
        """,
    "the failure of a task": """
        with inline() as worker, results() as found:
            result = sell_in_task.delay()
            worker.run(raise_failures=False)
            assert isinstance(found[result], Failure)
        """,
}
HELPERS = """
    import contextlib

    from celery import shared_task

    def helper():
        try:
            naked()
        except Exception:
            pass

    def expect(send):
        with pytest.raises((SentInTransactionError, SentInTransactionWarning)):
            sell(send)

    @contextlib.contextmanager
    def expected():
        with pytest.raises((SentInTransactionError, SentInTransactionWarning)):
            yield

    @shared_task
    def sell_in_task():
        sell(naked)
    """
MARKS = {
    "rollback": "@pytest.mark.django_db(databases=['default', 'other'])",
    "real": "@pytest.mark.django_db(databases=['default', 'other'], transaction=True)",
}
POLICIES = {
    "error": "@pytest.mark.celery_sent_in_transaction('error')",
    # The inner runs have ``-W error``.
    "a warning that is an error": "@pytest.mark.celery_sent_in_transaction('warn')",
}


def module(bodies: dict[str, str], style: str, policy: str) -> str:
    """A test for each body."""
    from textwrap import dedent, indent

    tests = [
        f"{MARKS[style]}\n{POLICIES[policy]}\n@pytest.mark.usefixtures('celery_outbox')\n"
        f"def test_{number}():\n{indent(dedent(body).strip(), '    ')}\n"
        for number, body in enumerate(bodies.values())
    ]
    return "\n\n".join([dedent(HEAD), dedent(HELPERS), *tests])


@pytest.fixture
def two_databases(project: Project) -> Project:
    """The project, with a second database and code that sends inside transactions."""
    project.settings("""
        DATABASES["other"] = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    """)
    project.write(**{"shop/code": CODE})
    return project


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("style", MARKS)
def test_a_race_that_the_code_under_test_has_caught_fails_the_test(
    run: Run, two_databases: Project, style: str, policy: str
) -> None:
    result = run(module(TESTS, style, policy), "--tb=short")
    result.assert_outcomes(failed=len(TESTS))
    name = "SentInTransactionError" if policy == "error" else "SentInTransactionWarning"
    result.stdout.fnmatch_lines(
        [
            "*_ test_0 _*",
            f"{name} was raised, but the code under test caught it, so the test did not see it.",
            "  caught at: shop/code.py:* in caught",
            "shop.tasks.add(1, 2) was sent inside an open transaction of the database 'default'*",
            "Send it after the commit: add.delay_on_commit(1, 2)",
            "To let such messages pass: @pytest.mark.celery_sent_in_transaction('ignore'), or",
            "djcelery_sent_in_transaction = ignore for the whole run.",
            "*_ test_1 _*",
            "  caught at: shop/code.py:* in suppressed",
            "*_ test_2 _*",
            "  caught at: django.db.backends.base.base.*",
            "*_ test_3 _*",
            "  caught at: shop/code.py:* in sell_late",
            "*_ test_4 _*",
            "  caught at: shop/code.py:* in translated",
            "*_ test_5 _*",
            "  caught at: test_it.py:* in helper",
            "*_ test_6 _*",
            "  caught at: shop/code.py:* in caught",
            "  caught at: shop/code.py:* in suppressed",
        ]
    )


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("style", MARKS)
def test_a_race_that_the_test_has_seen_does_not_fail_it(
    run: Run, two_databases: Project, style: str, policy: str
) -> None:
    result = run(module(SEEN, style, policy))
    result.assert_outcomes(passed=len(SEEN))


@pytest.mark.usefixtures("two_databases")
def test_a_test_that_fails_anyway_says_what_was_caught(run: Run) -> None:
    body = "sell(caught)\nassert Order.objects.get().name == 'sent'"
    result = run(module({"": body}, "rollback", "error"))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*celery: errors that were caught*", "SentInTransactionError was raised, but*"]
    )


@pytest.mark.usefixtures("two_databases")
def test_without_a_fixture_the_failure_is_reported_when_the_block_ends(run: Run) -> None:
    result = run("""
        import pytest
        from django.test import TestCase
        from shop.code import caught, sell
        from shop.models import Order

        from pytest_djcelery import SentInTransactionError, outbox

        class Test(TestCase):
            @pytest.mark.filterwarnings("error")
            def test_block(self):
                with self.assertRaisesRegex(SentInTransactionError, "the code under test caught"):
                    with outbox():
                        sell(caught)
    """)
    result.assert_outcomes(passed=1)


@pytest.mark.usefixtures("two_databases")
def test_a_warning_that_is_only_shown_fails_nothing(run: Run) -> None:
    result = run("""
        import pytest
        from shop.code import caught, sell

        @pytest.mark.django_db
        @pytest.mark.filterwarnings("default")
        def test_shown(celery_outbox):
            sell(caught)
            assert len(celery_outbox) == 1

        @pytest.mark.django_db
        @pytest.mark.celery_sent_in_transaction("ignore")
        def test_ignored(celery_outbox):
            sell(caught)
            assert len(celery_outbox) == 1
    """)
    result.assert_outcomes(passed=2, warnings=1)
