"""Projects that use Celery without Django's settings: plain Celery, Flask, FastAPI."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project

TASKS = """
    from celery import Celery

    app = Celery("plain", broker="amqp://nobody:nothing@192.0.2.1:1//", backend="redis://192.0.2.1")
    app.conf.beat_schedule = {"hourly": {"task": "plain.add", "schedule": 3600, "args": (1, 2)}}


    @app.task
    def add(x, y):
        return x + y


    @app.task(bind=True, default_retry_delay=60)
    def flaky(self):
        if self.request.retries < 2:
            raise self.retry(exc=ValueError("not yet"))
        return "ok"
    """

PREAMBLE = """
    import datetime as dt
    import sys
    from datetime import timedelta

    import pytest
    from plain import add, app, flaky
    from pytest_djcelery import DjangoNotConfiguredError, Success, inline, on_commit


    @pytest.fixture(autouse=True)
    def django_stays_unconfigured():
        yield
        assert not sys.modules["django.conf"].settings.configured
    """


@pytest.fixture
def plain(project: Project) -> Project:
    """A project with one module, and no settings of Django."""
    project.write(plain=TASKS)
    project.pytester.makeini("[pytest]\npythonpath = .\ndjcelery_app = plain:app\n")
    return project


def test_every_fixture_that_needs_no_database_works(plain: Project) -> None:
    result = plain.run(
        """
        def test_outbox(celery_outbox, celery_app):
            celery_app.conf.task_default_queue = "mail"
            add.delay(1, 2)
            assert celery_outbox == [add.s(1, 2).set(queue="mail")]

        def test_inline(celery_inline, celery_results):
            result = flaky.delay()
            celery_inline.run(until=timedelta(hours=1))
            assert celery_results[result] == Success("ok", retries=2)

        def test_a_naive_moment_is_in_the_time_zone_of_the_machine(celery_inline):
            moment = dt.datetime.now() + timedelta(days=1)
            celery_inline.run(until=moment)
            assert abs(dt.datetime.now() - moment) < timedelta(seconds=1)

        def test_eager(celery_eager):
            assert add.delay(1, 2).get() == 3

        @pytest.mark.celery_inline(auto=True)
        def test_auto():
            assert add.delay(1, 2).get() == 3

        def test_worker(celery_worker, celery_results):
            assert celery_results[add.delay(4, 4)] == Success(8)

        def test_session_worker(celery_session_worker):
            assert add.delay(4, 4).get() == 8

        def test_live_worker(celery_live_worker, celery_results):
            assert celery_results[add.delay(4, 4)] == Success(8)

        def test_beat(celery_beat, celery_inline):
            assert celery_beat.run(until=timedelta(hours=2)) == [add.s(1, 2)] * 2
            celery_beat.check()

        def test_block():
            with inline() as worker:
                add.delay(1, 2)
                assert worker.run().succeeded == 1
        """,
        preamble=PREAMBLE,
    )
    result.assert_outcomes(passed=10)


def test_on_commit_says_that_there_is_no_django(plain: Project) -> None:
    result = plain.run(
        """
        def test_fixture(celery_on_commit):
            pass

        def test_block(celery_outbox):
            with pytest.raises(DjangoNotConfiguredError), on_commit():
                pass
        """,
        preamble=PREAMBLE,
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        [
            "E *DjangoNotConfiguredError: celery_on_commit * Django is not configured in this run.",
            "E *DJANGO_SETTINGS_MODULE = proj.settings*",
        ]
    )


def test_an_app_that_is_not_named_is_asked_for(plain: Project) -> None:
    plain.pytester.makeini("[pytest]\npythonpath = .\n")
    result = plain.run("def test_it(celery_outbox):\n    pass\n")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["*No Celery app was found for this project*", "*Without Django, *djcelery_app = *:app.*"]
    )


def test_an_audit_of_a_suite_without_django_runs(plain: Project) -> None:
    result = plain.run(
        """
        def test_it():
            app.conf.task_always_eager = True
            assert add.delay(1, 2).get() == 3
        """,
        "--djcelery-audit",
        preamble=PREAMBLE.partition("@pytest.fixture")[0],
    )
    result.assert_outcomes(passed=1)
