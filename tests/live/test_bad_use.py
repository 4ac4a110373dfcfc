"""`celery_live_worker` used the wrong way: an error that says what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project, Run

ONE = """
    def test_it(celery_live_worker):
        pass
    """


def test_sqlite_in_memory(run: Run, project: Project) -> None:
    project.settings('del DATABASES["default"]["TEST"]')
    result = run(ONE)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([
        "*WorkerError: celery_live_worker runs in a separate process*SQLite in memory*'default'*",
        "E*Set DATABASES[[]'default'][[]'TEST'] = {'NAME': BASE_DIR / 'test.sqlite3'} in the *",
    ])  # fmt: skip


@pytest.mark.usefixtures("fresh_processes")
def test_a_project_that_no_worker_can_start(run: Run, project: Project) -> None:
    project.settings("""
        import sys
        if "pytest" not in sys.modules:
            raise RuntimeError("only in the worker")
        """)
    result = run(ONE)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([
        "*WorkerError: The live worker ended with exit code 1 before it was ready. It was *",
        "E*The end of its log:",
        "E*RuntimeError: only in the worker",
    ])  # fmt: skip


def test_settings_that_cannot_be_sent(run: Run) -> None:
    result = run("""
        import pytest

        @pytest.mark.celery(task_routes=[lambda name, *args, **kwargs: None])
        def test_it(celery_live_worker):
            pass
    """)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*BadOptionError: task_routes = *can't be sent to celery_live_*"])


def test_no_settings_module(run: Run, project: Project) -> None:
    project.pytester.makeini("[pytest]\npythonpath = .\n")
    project.write(conftest="""
        import proj.settings
        from django.conf import settings
        import os

        def pytest_configure():
            os.environ.pop("DJANGO_SETTINGS_MODULE", None)
            values = {name: vars(proj.settings)[name] for name in vars(proj.settings)
                      if name.isupper()}
            settings.configure(**values)
            os.environ["DJANGO_SETTINGS_MODULE"] = "proj.settings"
            from proj.celery import app
            del os.environ["DJANGO_SETTINGS_MODULE"]
        """)  # fmt: skip
    result = run(ONE)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*finds the settings by DJANGO_SETTINGS_MODULE, and that is not*"])


def test_markers(run: Run) -> None:
    result = run("""
        import pytest

        @pytest.mark.celery_live_worker("prefork")
        def test_positional():
            pass

        @pytest.mark.celery_live_worker(processes=3)
        def test_unknown():
            pass

        @pytest.mark.celery_live_worker(pool="gevent")
        def test_pool():
            pass

        @pytest.mark.celery_live_worker(concurrency=0)
        def test_concurrency():
            pass

        @pytest.mark.celery_live_worker(queues=[1])
        def test_queues():
            pass

        @pytest.mark.celery_live_worker(loglevel="LOUD")
        def test_loglevel(celery_live_worker):
            pass

        def test_beside_another(celery_worker, celery_live_worker):
            pass
    """)
    result.assert_outcomes(errors=7)
    result.stdout.fnmatch_lines([
        "*celery_live_worker('prefork'): expected options of *: pool, concurrency, queues, logle*",
        "*celery_live_worker(processes=3): expected options of*",
        "*celery_live_worker(pool=…) = 'gevent': expected one of 'prefork', 'threads', 'solo'.",
        "*celery_live_worker(concurrency=…) = 0: expected a whole number greater than zero.",
        "*celery_live_worker(queues=…) = [[]1[]]: expected names of queues, such as *",
        "*celery_live_worker(loglevel=…) = 'LOUD': expected one of 'DEBUG', *",
        "*celery_live_worker was asked for while celery_worker is in use.*",
    ], consecutive=False)  # fmt: skip


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("djcelery_live_pool = gevent", "djcelery_live_pool = 'gevent': expected one of"),
        (
            "djcelery_live_concurrency = many",
            "djcelery_live_concurrency = 'many': expected a whole",
        ),
        ("djcelery_live_queues = a,,b", "djcelery_live_queues = 'a,,b': expected names of queues"),
        ("djcelery_live_loglevel = 3", "djcelery_live_loglevel = '3': expected one of 'DEBUG'"),
    ],
)
def test_ini_values(run: Run, project: Project, line: str, expected: str) -> None:
    project.ini(line)
    result = run(ONE)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{expected}*"])


def test_an_app_that_no_module_has(run: Run, project: Project) -> None:
    project.write(**{
        "proj/__init__": "from . import celery\n",
        "proj/celery": """
            import os

            from celery import Celery

            os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proj.settings")

            def make():
                app = Celery("hidden")
                app.config_from_object("django.conf:settings", namespace="CELERY")
                app.autodiscover_tasks()
                app.set_default()
                return app

            apps = [make()]
            """,
    })  # fmt: skip
    result = run(ONE)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([
        "*WorkerError: *no module has the app 'hidden' as an attribute.",
        "E*Set djcelery_app = proj.celery:app, or use celery_worker.",
    ])  # fmt: skip
