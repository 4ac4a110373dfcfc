"""What a test's fixtures send is the test's, whatever the order of its arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Project

Run = Callable[..., pytest.RunResult]

CONFTEST = """
    import pytest
    from shop.tasks import add, ran

    @pytest.fixture(autouse=True)
    def nothing_ran():
        ran.clear()

    @pytest.fixture
    def sends(db):
        add_and_tell.delay("a fixture")

    from shop.tasks import add_and_tell
"""
TASKS = """
    ran = []

    @shared_task
    def add_and_tell(what):
        ran.append(what)
        return what
"""


@pytest.fixture
def sending(project: Project) -> None:
    project.tasks(TASKS)
    project.write(conftest=CONFTEST)


@pytest.mark.usefixtures("sending")
def test_ours_are_set_up_before_the_others(run: Run) -> None:
    result = run("""
        import pytest
        from shop.tasks import add_and_tell, ran

        SENT = [add_and_tell.s("a fixture")]

        def test_outbox(sends, celery_outbox):
            assert celery_outbox == SENT

        def test_outbox_first(celery_outbox, sends):
            assert celery_outbox == SENT

        @pytest.mark.usefixtures("sends", "celery_outbox")
        def test_by_marker(celery_outbox):
            assert celery_outbox == SENT

        @pytest.mark.django_db
        def test_inline(sends, celery_inline, celery_outbox):
            assert celery_outbox == SENT
            assert celery_inline.run().succeeded == 1

        @pytest.mark.celery_inline
        def test_the_marker_of_inline(sends, celery_inline):
            assert ran == []
            celery_inline.run()
            assert ran == ["a fixture"]

        def test_eager(sends, celery_eager, celery_outbox):
            assert (ran, celery_outbox) == (["a fixture"], SENT)

        def test_worker(sends, celery_worker):
            celery_worker.wait_until_idle()
            assert ran == ["a fixture"]

        def test_results(sends, celery_inline, celery_results):
            celery_inline.run()
            assert [each.value for each in celery_results.of(add_and_tell)] == ["a fixture"]

        @pytest.fixture(autouse=True)
        def sends_by_itself(request):
            if "by_itself" in request.node.name:
                add_and_tell.delay("by itself")

        @pytest.mark.parametrize("number", [1, 2])
        def test_by_itself(celery_outbox, number):
            assert celery_outbox == [add_and_tell.s("by itself")]

        @pytest.fixture(scope="module")
        def order(request):
            return []

        def test_after_wider_fixtures_and_the_database(sends, order, celery_outbox, request):
            names = request.fixturenames
            assert names.index("order") < names.index("db") < names.index("celery_outbox")
            assert names.index("celery_outbox") < names.index("sends")
    """)
    result.assert_outcomes(passed=11)


@pytest.mark.usefixtures("sending")
def test_automatic_delivery_reaches_what_fixtures_send(run: Run, project: Project) -> None:
    tests = """
        import pytest
        from shop.tasks import add_and_tell, ran

        @pytest.fixture
        def needs_the_result(db):
            result = add_and_tell.delay("needed")
            assert ran == ["needed"]
            assert result.get() == "needed"
            return result

        MARK
        def test_it(needs_the_result):
            assert needs_the_result.result == "needed"

        MARK
        @pytest.mark.django_db
        def test_again(client, needs_the_result):
            assert ran == ["needed"]
    """
    run(tests.replace("MARK", "@pytest.mark.celery_inline(auto=True)")).assert_outcomes(passed=2)
    project.ini("djcelery_mode = inline")
    run(tests.replace("MARK", "")).assert_outcomes(passed=2)


WIDER = """
    import pytest
    from django.test import TestCase, TransactionTestCase
    from shop.models import Order
    from shop.tasks import add_and_tell, count_orders, ran, ship

    @pytest.fixture(autouse=True)
    def nothing_ran():
        pass

    MARK
    class TestOfDjango(TestCase):
        @classmethod
        def setUpClass(cls):
            super().setUpClass()
            cls.result = add_and_tell.delay("setUpClass")

        @classmethod
        def setUpTestData(cls):
            cls.order = Order.objects.create()
            assert ship.delay(cls.order.pk).get() == "shipped"

        def test_first(self):
            assert ran == ["setUpClass"]
            assert self.result.result == "setUpClass"
            assert Order.objects.get().name == "shipped"

        def test_second(self):
            assert Order.objects.get().name == "shipped"
            assert count_orders.delay().get() == 1

    @pytest.fixture(scope="module")
    def of_module():
        return add_and_tell.delay("module").get()

    @pytest.fixture(scope="class")
    def of_class():
        return add_and_tell.delay("class").get()

    MARK
    class TestOfPytest:
        def setup_class(self):
            add_and_tell.delay("setup_class")

        def test_first(self, of_module, of_class):
            assert (of_module, of_class) == ("module", "class")
            assert sorted(ran[1:]) == ["class", "module", "setup_class"]

        def test_second(self, of_class):
            assert of_class == "class"
            assert len(ran) == 4
"""


@pytest.mark.usefixtures("sending")
def test_automatic_delivery_reaches_what_wider_fixtures_send(run: Run, project: Project) -> None:
    run(WIDER.replace("MARK", "@pytest.mark.celery_inline(auto=True)")).assert_outcomes(passed=4)
    project.ini("djcelery_mode = inline")
    run(WIDER.replace("MARK", "")).assert_outcomes(passed=4)


@pytest.mark.usefixtures("sending")
def test_what_wider_fixtures_send_is_none_of_the_first_tests_messages(run: Run) -> None:
    result = run("""
        import pytest
        from shop.tasks import add_and_tell

        @pytest.fixture(scope="class")
        def of_class():
            add_and_tell.delay("class")

        @pytest.mark.celery_inline(auto=True)
        class TestIt:
            @pytest.mark.parametrize("number", [1, 2])
            def test_it(self, of_class, celery_outbox, number):
                assert celery_outbox == []
    """)
    result.assert_outcomes(passed=2)


@pytest.mark.usefixtures("sending")
def test_what_nobody_delivers_is_reported_once(project: Project) -> None:
    result = project.run(
        """
        import pytest
        from django.test import TestCase
        from shop.tasks import add_and_tell

        class TestOfDjango(TestCase):
            @classmethod
            def setUpTestData(cls):
                add_and_tell.delay("data", )

            def test_without_celery(self):
                pass

            @pytest.mark.usefixtures("celery_outbox")
            def test_outbox(self):
                pass

            @pytest.mark.usefixtures("celery_inline")
            def test_inline(self):
                pass

        @pytest.fixture(scope="module")
        def of_module():
            add_and_tell.delay("module")

        @pytest.mark.parametrize("number", [1, 2])
        def test_of_module(of_module, celery_inline, number):
            assert celery_inline.run().executions == []
        """,
        *("-W", "default::pytest_djcelery.NotDeliveredWarning"),
    )
    result.assert_outcomes(passed=5, warnings=2)
    result.stdout.fnmatch_lines_random(
        [
            "*NotDeliveredWarning: A fixture of test_it.py::TestOfDjango, or its set-up, has sent*",
            "*shop.tasks.add_and_tell('data'), sent at test_it.py:9 in TestOfDjango.setUpTestData",
            "*NotDeliveredWarning: A fixture of test_it.py, or its set-up, has sent*",
            "*shop.tasks.add_and_tell('module'), sent at test_it.py:24 in of_module",
            "*@pytest.mark.celery_inline(auto=True)*",
        ]
    )


@pytest.mark.usefixtures("sending")
def test_what_the_sessions_worker_runs_is_not_reported(run: Run) -> None:
    result = run("""
        import pytest
        from shop.tasks import add_and_tell

        @pytest.fixture(scope="session")
        def ran_in_session(celery_session_worker):
            return add_and_tell.delay("session")

        def test_it(ran_in_session, celery_outbox):
            assert celery_outbox == []
    """)
    result.assert_outcomes(passed=1)


@pytest.mark.usefixtures("sending")
@pytest.mark.parametrize("mode", ["", "djcelery_mode = inline"])
def test_a_fixture_that_makes_the_suite_eager_makes_no_worker_eager(
    run: Run, project: Project, mode: str
) -> None:
    project.ini(mode)
    result = run("""
        import pytest
        from shop.tasks import add, add_and_tell, ran

        @pytest.fixture(autouse=True)
        def suite_is_eager(settings):
            settings.CELERY_TASK_ALWAYS_EAGER = True
            settings.CELERY_TASK_ACKS_LATE = True

        @pytest.fixture
        def by_hand(celery_app):
            celery_app.conf.task_always_eager = True

        def test_inline(celery_inline, by_hand):
            result = add.delay(1, 2)
            assert result.state == "PENDING"
            celery_inline.run()

        def test_worker(celery_worker):
            assert type(add.delay(1, 2)).__name__ == "AsyncResult"

        @pytest.mark.celery(task_acks_late=False)
        def test_marker(celery_app):
            assert celery_app.conf.task_acks_late is False
            assert not add.acks_late

        def test_other_settings(celery_inline):
            assert add.acks_late

        def test_body(celery_inline, settings):
            settings.CELERY_TASK_ALWAYS_EAGER = True
            assert type(add.delay(1, 2)).__name__ == "EagerResult"

        @pytest.fixture
        def nothing_is_eager(settings):
            settings.CELERY_TASK_ALWAYS_EAGER = False

        def test_eager(celery_eager, nothing_is_eager):
            assert type(add.delay(1, 2)).__name__ == "EagerResult"

        def test_settings_are_as_they_were(celery_app):
            assert celery_app.conf.task_acks_late is True  # by the fixture
    """)
    result.assert_outcomes(passed=7)


def test_a_task_still_sees_the_mocks_of_a_test_that_failed(run: Run, project: Project) -> None:
    project.tasks("""
        import threading
        begun, go_on, used = threading.Event(), threading.Event(), []

        def gateway():
            return "the real one"

        @shared_task
        def charge():
            begun.set()
            assert go_on.wait(5)
            used.append(gateway())
    """)
    result = run("""
        import threading
        import pytest
        from shop import tasks

        @pytest.fixture
        def mocked(monkeypatch):
            monkeypatch.setattr(tasks, "gateway", lambda: "a mock")

        def test_fails(celery_worker, mocked):
            tasks.charge.delay()
            assert tasks.begun.wait(5)
            threading.Timer(0.2, tasks.go_on.set).start()
            raise KeyError("the test fails while its task runs")

        def test_after_it():
            assert tasks.used == ["a mock"]
    """)
    result.assert_outcomes(failed=1, passed=1)
