"""`captureOnCommitCallbacks`, and the fixture of pytest-django, keep their meaning beside ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import databases

if TYPE_CHECKING:
    from tests.support.project import Project, Run

CODE = """
    from functools import partial

    from django.db import transaction

    from shop.models import Order
    from shop.tasks import add

    log = []


    def sell(name, using="default"):
        with transaction.atomic(using=using):
            Order.objects.using(using).create(name=name)
            transaction.on_commit(partial(log.append, name), using=using)
        log.append("sold")


    def sell_and_send(name):
        with transaction.atomic():
            Order.objects.create(name=name)
            add.delay_on_commit(1, 2)
    """

TESTS = """
    import pytest
    from django.db import transaction
    from django.test import TestCase
    from shop.code import log, sell, sell_and_send
    from shop.tasks import add

    from pytest_djcelery import on_commit, outbox

    @pytest.fixture(autouse=True)
    def nothing_logged():
        log.clear()

    FIXTURES = ["none", "celery_outbox", "celery_on_commit", "celery_inline"]

    def use(request, fixture):
        if fixture != "none":
            request.getfixturevalue(fixture)

    class InRollback:
        @pytest.mark.parametrize("fixture", FIXTURES)
        @pytest.mark.parametrize("execute", [False, True])
        def test_hooks_are_kept_and_listed(
            self, request, django_capture_on_commit_callbacks, fixture, execute
        ):
            use(request, fixture)
            with django_capture_on_commit_callbacks(execute=execute) as callbacks:
                sell("a")
                sell("b")
                assert log == ["sold", "sold"]
                assert callbacks == []
            assert len(callbacks) == 2
            assert log == ["sold", "sold", *(["a", "b"] if execute else [])]
            sell("c")  # after the block, hooks run as in production: where a fixture is used
            assert ("c" in log) is (fixture != "none")

        def test_a_fixture_that_is_entered_inside(self, django_capture_on_commit_callbacks):
            with django_capture_on_commit_callbacks(execute=True) as callbacks, outbox() as sent:
                sell_and_send("a")
                assert sent == []
            assert len(callbacks) == 1

        def test_ours_lists_them_too(self, celery_on_commit, django_capture_on_commit_callbacks):
            with django_capture_on_commit_callbacks() as callbacks:
                sell("a")
                transaction.on_commit(lambda: log.append("outside any block"))
                assert len(celery_on_commit.pending) == 2
            assert log == ["sold"]
            assert len(celery_on_commit.pending) == len(callbacks) == 2
            for callback in callbacks:
                callback()
            assert log == ["sold", "a", "outside any block"]
            assert len(celery_on_commit.ran) == 2
            assert celery_on_commit.pending == celery_on_commit.discarded == []

        def test_what_they_send(
            self, celery_outbox, celery_on_commit, django_capture_on_commit_callbacks
        ):
            with django_capture_on_commit_callbacks(execute=True):
                sell_and_send("a")
                assert celery_outbox == []
            assert celery_outbox.after_commit == [add.s(1, 2)]
            [hook] = celery_on_commit.ran
            assert hook.sent == (celery_outbox[0],)

        def test_hooks_that_a_hook_registers(
            self, celery_outbox, django_capture_on_commit_callbacks
        ):
            def outer():
                log.append("outer")
                transaction.on_commit(lambda: log.append("inner"))
                sell("in a block of the hook")

            with django_capture_on_commit_callbacks(execute=True) as callbacks:
                transaction.on_commit(outer)
            assert log == ["outer", "sold", "inner", "in a block of the hook"]
            assert len(callbacks) == 3

        def test_robust_hooks_are_logged(
            self, celery_outbox, django_capture_on_commit_callbacks, caplog
        ):
            def fail():
                raise ValueError("robust")

            with django_capture_on_commit_callbacks(execute=True):
                transaction.on_commit(fail, robust=True)
                sell("a")
            assert log == ["sold", "a"]
            assert "Error calling" in caplog.text
            with pytest.raises(ValueError, match="robust"):
                with django_capture_on_commit_callbacks(execute=True):
                    transaction.on_commit(fail)

        @pytest.mark.parametrize("savepoint", [True, False])
        def test_a_block_that_fails_discards_its_own(
            self, celery_on_commit, django_capture_on_commit_callbacks, savepoint
        ):
            with django_capture_on_commit_callbacks(execute=True) as callbacks:
                sell("a")
                with pytest.raises(KeyError), transaction.atomic(savepoint=savepoint):
                    sell("lost")
                    raise KeyError
            assert (len(callbacks), log) == (1, ["sold", "sold", "a"])
            assert len(celery_on_commit.discarded) == 1

        def test_each_database_by_itself(
            self, celery_on_commit, django_capture_on_commit_callbacks
        ):
            with django_capture_on_commit_callbacks(using="other") as callbacks:
                sell("a")
                sell("b", using="other")
            assert log == ["a", "sold", "sold"]
            assert len(callbacks) == 1

        def test_one_inside_another(self, celery_outbox, django_capture_on_commit_callbacks):
            with django_capture_on_commit_callbacks() as outer:
                sell("a")
                with django_capture_on_commit_callbacks(execute=True) as inner:
                    sell("b")
                sell("c")
            assert (len(outer), len(inner)) == (3, 1)
            assert log == ["sold", "sold", "b", "sold"]

        @pytest.mark.parametrize("execute", [False, True])
        def test_inside_hold(
            self, celery_on_commit, django_capture_on_commit_callbacks, execute
        ):
            with celery_on_commit.hold():
                sell("held")
                with django_capture_on_commit_callbacks(execute=execute) as callbacks:
                    sell("a")
                assert len(callbacks) == 1
                assert log == ["sold", "sold", *(["a"] if execute else [])]
            assert log[-1] == "held"

        def test_a_block_around_it(self, celery_outbox, django_capture_on_commit_callbacks):
            with transaction.atomic():
                transaction.on_commit(lambda: log.append("before"))
                with django_capture_on_commit_callbacks() as callbacks:
                    sell("a")
                transaction.on_commit(lambda: log.append("after"))
            assert len(callbacks) == 1
            assert log == ["sold", "before", "after"]

        @pytest.mark.celery_inline(auto=True)
        def test_tasks_run_when_their_hooks_have(
            self, celery_results, django_capture_on_commit_callbacks
        ):
            with django_capture_on_commit_callbacks(execute=True):
                sell_and_send("a")
                assert celery_results.of(add) == []
            assert [each.value for each in celery_results.of(add)] == [3]


    @pytest.mark.django_db(databases=["default", "other"])
    class TestInRollback(InRollback):
        pass


    @pytest.mark.django_db(transaction=True)
    @pytest.mark.parametrize("fixture", FIXTURES)
    def test_with_real_transactions_hooks_have_run_by_then(
        request, django_capture_on_commit_callbacks, fixture
    ):
        use(request, fixture)
        with django_capture_on_commit_callbacks(execute=True) as callbacks:
            sell("a")
            assert log == ["a", "sold"]
        assert callbacks == []
        assert log == ["a", "sold"]


    class TestUnittest(TestCase):
        def test_method(self):
            with outbox() as sent, self.captureOnCommitCallbacks(execute=True) as callbacks:
                sell_and_send("a")
                assert sent == []
            assert len(callbacks) == 1
            assert sent == [add.s(1, 2)]

        @pytest.mark.usefixtures("celery_outbox")
        def test_fixture(self):
            with self.captureOnCommitCallbacks(execute=True) as callbacks:
                sell("a")
                assert log == ["sold"]
            assert (len(callbacks), log) == (1, ["sold", "a"])
    """


@pytest.mark.parametrize("database", [databases.IN_MEMORY, databases.POSTGRESQL])
def test_hooks_that_are_captured_stay_djangos(run: Run, project: Project, database: str) -> None:
    databases.use(project, database, "other")
    project.write(**{"shop/code": CODE})
    result = run(TESTS)
    result.assert_outcomes(passed=27)


def test_without_a_session_of_pytest(run: Run, project: Project) -> None:
    project.write(**{"shop/code": CODE, "shop/tests": """
        from django.test import TestCase
        from shop.code import sell_and_send
        from shop.tasks import add

        from pytest_djcelery import outbox


        class Tests(TestCase):
            def test_method(self):
                with outbox() as sent, self.captureOnCommitCallbacks(execute=True) as callbacks:
                    sell_and_send("a")
                    assert sent == []
                assert len(callbacks) == 1
                assert sent == [add.s(1, 2)]
        """})  # fmt: skip
    project.write(
        manage="""
        import os

        from django.core.management import execute_from_command_line

        os.environ["DJANGO_SETTINGS_MODULE"] = "proj.settings"
        execute_from_command_line(["manage.py", "test"])
        """
    )
    result = project.pytester.runpython(project.path / "manage.py")
    assert result.ret == 0, result.stderr.str()
    result.stderr.fnmatch_lines(["Ran 1 test*", "OK"])


def test_the_class_method_is_as_it_was_after_the_run(run: Run) -> None:
    result = run("""
        from django.test import TestCase

        FOUND = TestCase.captureOnCommitCallbacks

        def test_is_documented_as_before():
            assert TestCase.captureOnCommitCallbacks.__doc__.startswith("Context manager to")
            assert TestCase.captureOnCommitCallbacks.__name__ == "captureOnCommitCallbacks"
    """)
    result.assert_outcomes(passed=1)
