"""A task of `celery_inline` starts from nothing, and leaves nothing to the test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project, Run

# As django-structlog, django-guid and Sentry do it.
LIBRARY = """
    import threading
    from contextvars import ContextVar

    from celery import signals

    request_id = ContextVar("request_id", default=None)
    received = ContextVar("received", default=None)
    user = threading.local()
    log = []

    def middleware(get_response):
        def respond(request):
            request_id.set("of the request")
            user.name = "ada"
            response = get_response(request)
            log.append(("after the view", request_id.get(), user.name))
            return response
        return respond

    @signals.task_received.connect
    def on_received(**_):
        received.set("by the consumer")

    @signals.task_prerun.connect
    def on_prerun(**_):
        log.append(("prerun", request_id.get(), getattr(user, "name", None), received.get()))
        request_id.set("of the task")
        user.name = "nobody"

    @signals.task_postrun.connect
    def on_postrun(**_):
        log.append(("postrun", request_id.get(), user.name))
        request_id.set(None)
        user.name = None
"""
VIEWS = """
    from django.http import HttpResponse
    from django.urls import path
    from django.utils import translation

    from shop.library import log, request_id
    from shop.tasks import tell

    def order(request):
        tell.delay("from the view")
        log.append(("in the view", request_id.get(), translation.get_language()))
        return HttpResponse()

    urlpatterns = [path("order/", order)]
"""
TASKS = """
    @shared_task
    def tell(what):
        from django.utils import timezone, translation
        from shop.library import log, request_id

        log.append((what, request_id.get(), translation.get_language()))
        translation.activate("fr")
        timezone.activate("Asia/Tokyo")
        if what == "fails":
            raise ValueError(what)
"""


@pytest.fixture
def library(project: Project) -> None:
    project.write(**{"shop/library": LIBRARY, "proj/urls": VIEWS})
    project.tasks(TASKS)
    project.settings("""
        LANGUAGE_CODE = "en-us"
        MIDDLEWARE = ["django.middleware.locale.LocaleMiddleware", "shop.library.middleware"]
        """)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("how", ["celery_inline(auto=True)", "usefixtures('celery_eager')"])
def test_no_library_clears_the_id_of_a_view_that_still_runs(run: Run, how: str) -> None:
    result = run(f"""
        import pytest
        from shop.library import log

        @pytest.mark.{how}
        def test_it(client):
            client.get("/order/", headers={{"accept-language": "de"}})
            task = [each for each in log if each[0] != "prerun"]
            prerun = [each[:3] for each in log if each[0] == "prerun"]
            assert prerun == [("prerun", None, None)]
            assert task == [
                ("from the view", "of the task", "en-us"),
                ("postrun", "of the task", "nobody"),
                ("in the view", "of the request", "de"),
                ("after the view", "of the request", "ada"),
            ]
    """)
    result.assert_outcomes(passed=1)


@pytest.mark.usefixtures("library")
def test_what_the_consumer_has_set_is_not_seen_by_tasks(run: Run) -> None:
    result = run("""
        from shop.library import log, received
        from shop.tasks import add

        def test_it(celery_inline):
            add.delay(1, 2).get()
            assert log[0] == ("prerun", None, None, None)
            assert received.get() is None
    """)
    result.assert_outcomes(passed=1)


GERMAN = """
import pytest
from django.utils import timezone, translation
from shop.library import log, request_id
from shop.tasks import tell

@pytest.fixture
def german():
    with translation.override("de"), timezone.override("Europe/Berlin"):
        yield

@pytest.fixture(autouse=True)
def nothing_logged():
    log.clear()

def languages(*names):
    return [each[2] for each in log if each[0] in names]
"""


@pytest.mark.usefixtures("library")
def test_inline_each_task_starts_in_the_projects_language_and_the_test_keeps_its_own(
    run: Run,
) -> None:
    result = run(
        """
        def test_by_hand(german, celery_inline):
            tell.delay("first")
            tell.delay("fails")
            tell.delay("last")
            celery_inline.run(limit=1)
            with pytest.raises(ValueError, match="fails"):
                celery_inline.run()
            assert translation.get_language() == "de"
            celery_inline.step()
            assert languages("first", "fails", "last") == ["en-us"] * 3
            assert translation.get_language() == "de"
            assert timezone.get_current_timezone_name() == "Europe/Berlin"
            assert request_id.get() is None

        async def arun(celery_inline):
            tell.delay("async")
            await celery_inline.arun()

        def test_async(german, celery_inline):
            from asgiref.sync import async_to_sync
            async_to_sync(arun)(celery_inline)
            assert languages("async") == ["en-us"]
            assert translation.get_language() == "de"

        def test_by_get(german, celery_inline):
            tell.delay("get").get()
            assert languages("get") == ["en-us"]
        """,
        preamble=GERMAN,
    )
    result.assert_outcomes(passed=3)


@pytest.mark.usefixtures("library")
def test_under_a_worker_and_in_eager_mode_it_is_the_projects_language_too(run: Run) -> None:
    result = run(
        """
        @pytest.mark.django_db(transaction=True)
        @pytest.mark.parametrize("celery_worker_pool", ["solo", "threads"])
        def test_worker(german, celery_worker, celery_worker_pool):
            tell.delay("first").get()
            tell.delay("next").get()
            assert languages("first", "next") == ["en-us"] * 2

        def test_eager(german, celery_eager):
            (tell.si("first") | tell.si("next")).delay()
            assert languages("first", "next") == ["en-us"] * 2
            assert translation.get_language() == "de"

        def test_a_call_that_is_no_publish_is_the_tests_own(german, celery_eager):
            tell.apply(args=["in place"])
            assert languages("in place") == ["de"]
        """,
        preamble=GERMAN,
    )
    result.assert_outcomes(passed=4)


@pytest.mark.parametrize("fixture", ["celery_inline", "celery_eager"])
def test_environment_folder_and_connection_are_put_back(
    run: Run, project: Project, fixture: str
) -> None:
    project.tasks("""
        import os
        from django.db import connection

        @shared_task
        def change(folder):
            found = os.environ.get("STAYS"), getattr(connection, "mark", None)
            os.environ["NEW"] = os.environ["CHANGED"] = "by the task"
            del os.environ["GONE"]
            connection.mark = connection.more = "by the task"
            os.chdir(folder)
            raise ValueError(*found)
    """)
    result = run(f"""
        import os
        import subprocess
        import pytest
        from django.db import connection
        from shop.tasks import change

        @pytest.mark.django_db
        def test_it({fixture}, celery_results, tmp_path, monkeypatch):
            for name in ("STAYS", "CHANGED", "GONE"):
                monkeypatch.setenv(name, "by the test")
            monkeypatch.setattr(connection, "mark", "by the test", raising=False)
            environment, folder = dict(os.environ), os.getcwd()
            attributes = set(vars(connection))
            for _ in range(2):
                failure = celery_results[change.delay(str(tmp_path))]
                assert failure.exception.args == ("by the test", None)
                assert (dict(os.environ), os.getcwd()) == (environment, folder)
                told = subprocess.run("echo $NEW$GONE", shell=True, capture_output=True, text=True)
                assert told.stdout == "by the test\\n"
                assert connection.mark == "by the test"
                assert not hasattr(connection, "more")
    """)
    result.assert_outcomes(passed=1)


def test_what_the_import_of_the_tasks_has_set_is_there(run: Run, project: Project) -> None:
    project.tasks("""
        import decimal
        decimal.getcontext().prec = 41

        @shared_task
        def tell_precision():
            found = decimal.getcontext().prec
            decimal.getcontext().prec = 7
            return found
    """)
    result = run("""
        import decimal
        import pytest
        from shop.tasks import tell_precision

        @pytest.mark.parametrize("fixture", ["celery_inline", "celery_eager", "celery_worker"])
        def test_it(fixture, request):
            request.getfixturevalue(fixture)
            with decimal.localcontext() as context:
                context.prec = 11
                assert [tell_precision.delay().get() for _ in range(2)] == [41, 41]
                assert decimal.getcontext().prec == 11

        def test_named(celery_inline):
            assert tell_precision.delay().get() == 41
    """)
    result.assert_outcomes(passed=4)
