"""Which looks at an outcome are the test's own: a failure that nobody else told it of fails it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project, Run

UNSEEN = "*A task failed and the test never looked at it:*"
SERVICES = """
    from celery.result import AsyncResult, ResultSet

    from shop.tasks import fail


    def start(*, look):
        return look(fail.delay())


    def polls(result):
        return result.ready() and not result.successful()


    def polls_late(result):
        result.get(propagate=False)
        return polls(AsyncResult(result.id))


    def reads_state(result):
        result.wait(propagate=False)
        return result.state


    def takes_the_error(result):
        return result.get(propagate=False)


    def swallows(result):
        try:
            result.get()
        except ValueError:
            return "later"


    def asks_a_set(result):
        results = ResultSet([result])
        return results.get(propagate=False) and results.failed()


    def lets_it_through(result):
        result.get()
    """


@pytest.fixture(autouse=True)
def services(project: Project) -> None:
    project.write(shop_services=SERVICES)


@pytest.mark.parametrize("worker", ["celery_inline", "celery_worker"])
def test_a_look_by_the_projects_code_is_not_a_look_by_the_test(run: Run, worker: str) -> None:
    result = run(
        """
        import pytest
        import shop_services as services
        from shop.tasks import fail

        LOOKS = ["polls_late", "reads_state", "takes_the_error", "swallows", "asks_a_set"]

        @pytest.mark.parametrize("name", LOOKS)
        def test_it(WORKER, name):
            services.start(look=getattr(services, name))
        """.replace("WORKER", worker)
    )
    result.assert_outcomes(failed=5)
    result.stdout.fnmatch_lines([UNSEEN] * 5)


def test_whatever_the_test_reads_of_a_failure_is_a_look(run: Run) -> None:
    result = run("""
        import pytest
        from celery.result import ResultSet
        from shop.tasks import add, fail

        READS = {
            "state": lambda r: r.state,
            "status": lambda r: r.status,
            "result": lambda r: r.result,
            "info": lambda r: r.info,
            "traceback": lambda r: r.traceback,
            "successful": lambda r: r.successful(),
            "failed": lambda r: r.failed(),
            "get": lambda r: r.get(propagate=False),
            "wait": lambda r: r.wait(propagate=False),
            "joined": lambda r: ResultSet([r]).get(propagate=False),
            "asked": lambda r: ResultSet([r]).failed(),
            "after another read": lambda r: (r.ready(), r.failed()),
        }

        @pytest.mark.parametrize("name", list(READS))
        def test_it(celery_inline, name):
            result = fail.delay()
            celery_inline.run(raise_failures=False)
            READS[name](result)
    """)
    result.assert_outcomes(passed=12)


def test_reading_what_shows_no_failure_is_not_a_look(run: Run) -> None:
    result = run("""
        import pytest
        from celery.result import ResultSet
        from shop.tasks import fail

        READS = {
            "ready": lambda r: r.ready(),
            "children": lambda r: r.children,
            "date_done": lambda r: r.date_done,
            "retries": lambda r: r.retries,
            "all ready": lambda r: ResultSet([r]).ready(),
            "waiting": lambda r: ResultSet([r]).waiting(),
            "completed": lambda r: ResultSet([r]).completed_count(),
        }

        @pytest.mark.parametrize("name", list(READS))
        def test_it(celery_inline, name):
            result = fail.delay()
            celery_inline.run(raise_failures=False)
            READS[name](result)
    """)
    result.assert_outcomes(failed=7)
    result.stdout.fnmatch_lines([UNSEEN] * 7)


def test_celerys_look_at_an_eager_chain_does_not_count(run: Run) -> None:
    result = run("""
        from celery import chain
        from shop.tasks import add, fail

        def test_unseen(celery_eager):
            chain(add.s(1, 1), fail.si()).delay()

        def test_seen(celery_eager):
            assert chain(add.s(1, 1), fail.si()).delay().failed()
    """)
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines([UNSEEN])


def test_a_failure_that_comes_through_the_projects_code_to_the_test_is_seen(run: Run) -> None:
    result = run("""
        import unittest

        import pytest
        import shop_services as services

        def test_raised(celery_inline):
            with pytest.raises(ValueError):
                services.start(look=services.lets_it_through)

        def test_called(celery_inline):
            pytest.raises(ValueError, services.start, look=services.lets_it_through)

        def test_caught(celery_inline):
            try:
                services.start(look=services.lets_it_through)
            except ValueError:
                pass

        class TestCase(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def worker(self, celery_inline):
                pass

            def test_it(self):
                with self.assertRaises(ValueError):
                    services.start(look=services.lets_it_through)
                self.assertRaises(ValueError, services.start, look=services.lets_it_through)
    """)
    result.assert_outcomes(passed=4)


def test_what_automatic_delivery_raises_to_the_projects_code_is_seen_where_it_gets_to_the_test(
    project: Project, run: Run
) -> None:
    project.settings("CELERY_TASK_EAGER_PROPAGATES = True\n")
    project.write(
        shop_orders="""
        from shop.tasks import fail


        def order():
            fail.delay()


        def order_anyway():
            try:
                fail.delay()
            except ValueError:
                return "later"
        """
    )
    result = run("""
        import pytest
        from shop_orders import order, order_anyway

        pytestmark = pytest.mark.celery_inline(auto=True)

        def test_seen():
            with pytest.raises(ValueError):
                order()

        def test_swallowed():
            assert order_anyway() == "later"
    """)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines([UNSEEN, "FAILED *::test_swallowed*"])


def test_helpers_of_the_tests_look_for_them(project: Project, run: Run) -> None:
    helper = "def look(result):\n    return result.failed()\n"
    project.write(
        **{
            "tests/__init__": "",
            "tests/helpers": helper,
            "conftest": f"""
            import pytest

            {helper.replace(chr(10), chr(10) + " " * 12)}
            @pytest.fixture
            def looks():
                return look
            """,
            "shop_testing": """
            class Base:
                def look(self, result):
                    return result.failed()
            """,
        }
    )
    result = run("""
        import asyncio

        import pytest
        from asgiref.sync import async_to_sync, sync_to_async
        from shop.tasks import fail
        from shop_testing import Base
        from tests import helpers

        @pytest.fixture
        def failed(celery_inline):
            result = fail.delay()
            celery_inline.run(raise_failures=False)
            return result

        def test_helper(failed):
            helpers.look(failed)

        def test_conftest(failed, looks):
            looks(failed)

        class TestBase(Base):
            def test_inherited(self, failed):
                self.look(failed)

        def test_thread(failed):
            async def looks():
                return await sync_to_async(failed.get, thread_sensitive=False)(propagate=False)

            assert isinstance(asyncio.run(looks()), ValueError)
    """)
    result.assert_outcomes(passed=4)


def test_a_view_that_polls_is_not_a_look_for_the_audit(project: Project, run: Run) -> None:
    project.settings("""
        CELERY_TASK_ALWAYS_EAGER = True
        """)
    result = run(
        """
        import shop_services as services

        def test_it():
            services.start(look=services.polls)
        """,
        "--djcelery-audit",
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*task failures nobody saw: 1 place*"])
