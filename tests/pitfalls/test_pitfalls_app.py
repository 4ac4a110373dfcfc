"""What goes wrong between a test run and the project's Celery app."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import django
import pytest
from celery.app import autoretry

from tests.docs import patches_page

if TYPE_CHECKING:
    from pytest_djcelery.patching import Patch
    from tests.support.project import Project, Run

# Of pytest, for plugins that import each other: none of it is ours.
NOT_REWRITTEN = ("-W", "ignore::pytest.PytestAssertRewriteWarning")

# A worker of pytest-celery's is a container, one of Celery's own runs a throw-away app.
OURS = """
    import pytest
    from proj.celery import app
    from pytest_djcelery import Worker
    from shop.models import Order
    from shop.tasks import add, count_orders

    @pytest.mark.django_db
    @pytest.mark.celery(task_acks_late=True)
    def test_the_worker_is_ours(celery_app, celery_worker):
        assert celery_app is app
        assert add.acks_late is True
        assert isinstance(celery_worker, Worker)
        Order.objects.create()
        assert count_orders.delay().get() == 1

    def test_so_is_the_worker_of_the_session(celery_session_app, celery_session_worker):
        assert celery_session_app is app
        assert add.delay(1, 2).get() == 3
"""


def test_pitfall_05_the_app_of_a_test_is_the_projects_own(run: Run, project: Project) -> None:
    project.settings("CELERY_TASK_ROUTES = {'shop.tasks.add': {'queue': 'sums'}}\n")
    result = run("""
        from proj.celery import app
        from shop.tasks import add

        def test_app(celery_app):
            assert celery_app is app is add.app
            assert "shop.tasks.add" in celery_app.tasks
            assert celery_app.conf.task_routes == {"shop.tasks.add": {"queue": "sums"}}
            assert not celery_app.conf.broker_url.startswith("amqp")

        def test_session_app(celery_session_app):
            assert celery_session_app is app
    """)

    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["celery: app: proj, broker: memory, result backend: memory"])


def test_pitfall_06_a_worker_is_ready_without_a_ping_task(run: Run) -> None:
    result = run("""
        from celery.signals import task_received
        from shop.tasks import add

        received = []

        @task_received.connect
        def note(request, **kwargs):
            received.append(request.name)

        def test_worker(celery_app, celery_worker):
            assert "celery.ping" not in celery_app.tasks
            assert add.delay(1, 2).get() == 3
            assert received == ["shop.tasks.add"]
    """)

    result.assert_outcomes(passed=1)


@pytest.mark.parametrize(
    "plugins",
    [
        pytest.param(["django", "djcelery", "celery"], id="before"),
        pytest.param(["celery", "djcelery", "django"], id="after"),
    ],
)
def test_pitfall_07_beside_pytest_celery_the_fixtures_stay_ours(
    run: Run, monkeypatch: pytest.MonkeyPatch, plugins: list[str]
) -> None:
    pytest.importorskip("pytest_celery", reason="pytest-celery is not installed")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    named = [argument for plugin in plugins for argument in ("-p", plugin)]
    result = run(OURS, *NOT_REWRITTEN, *named)

    result.assert_outcomes(passed=2)
    result.stdout.no_fnmatch_line("*already registered*")


@pytest.mark.parametrize("autoload", ["0", "1"])
@pytest.mark.parametrize("place", ["command line", "conftest"])
def test_pitfall_07_beside_celerys_own_pytest_plugin_the_fixtures_stay_ours(
    run: Run, project: Project, monkeypatch: pytest.MonkeyPatch, place: str, autoload: str
) -> None:
    arguments = list(NOT_REWRITTEN)
    if place == "conftest":
        project.write(conftest="pytest_plugins = ['celery.contrib.pytest']\n")
    else:
        arguments += ["-p", "celery.contrib.pytest"]
    if autoload == "0":
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        arguments = ["-p", "django", "-p", "djcelery", *arguments]

    result = run(OURS, *arguments)

    result.assert_outcomes(passed=2)
    result.stdout.no_fnmatch_line("*already registered*")


AS_FOUND = """
import pytest
from celery.result import EagerResult
from django.conf import settings as django_settings
from django.test import override_settings
from shop.tasks import add

def as_found(app):
    assert not isinstance(add.delay(1, 2), EagerResult)
    assert add.acks_late is False
    assert app.conf.task_acks_late is False
    assert not hasattr(django_settings, "CELERY_TASK_ACKS_LATE")
    assert type(app.backend).__name__ == "MemoryBackend"
    with app.connection_for_write() as connection:
        assert connection.transport.__module__ == "pytest_djcelery.brokers.memory.transport"
"""


def test_pitfall_12_a_change_of_settings_takes_effect_at_once_and_is_undone(run: Run) -> None:
    result = run(
        """
        def test_before(celery_app):
            as_found(celery_app)

        def test_eager(celery_app, settings):
            settings.CELERY_TASK_ALWAYS_EAGER = True
            assert isinstance(add.delay(1, 2), EagerResult)

        def test_task_attributes(celery_app, settings):
            assert add.acks_late is False
            settings.CELERY_TASK_ACKS_LATE = True
            assert add.acks_late is True

        def test_result_backend(celery_app, settings):
            as_found(celery_app)
            settings.CELERY_RESULT_BACKEND = "cache+memory://"
            assert type(celery_app.backend).__name__ == "CacheBackend"
            assert type(add.backend).__name__ == "CacheBackend"

        def test_broker(celery_app, settings):
            as_found(celery_app)
            settings.CELERY_BROKER_URL = "memory://"
            with celery_app.connection_for_write() as connection:
                assert connection.transport.__module__ == "kombu.transport.memory"
            with celery_app.pool.acquire() as connection:
                assert connection.transport.__module__ == "kombu.transport.memory"

        def test_block(celery_app):
            with override_settings(CELERY_TASK_ACKS_LATE=True):
                assert add.acks_late is True
            as_found(celery_app)

        def test_after(celery_app):
            as_found(celery_app)
        """,
        preamble=AS_FOUND,
    )

    result.assert_outcomes(passed=7)


def test_pitfall_12_the_marker_and_writes_to_the_configuration_take_effect_and_are_undone(
    run: Run,
) -> None:
    result = run(
        """
        @pytest.mark.celery(task_acks_late=True)
        def test_marker(celery_app):
            assert add.acks_late is True
            assert celery_app.conf.task_acks_late is True
            assert django_settings.CELERY_TASK_ACKS_LATE is True

        @pytest.mark.celery(task_acks_late=False, task_default_queue="marked")
        def test_app_conf(celery_app, celery_outbox):
            celery_app.conf.task_acks_late = True
            celery_app.conf.update(task_default_queue="written", own_name=1)
            assert add.acks_late is True
            add.delay(1, 2)
            assert celery_outbox[0].queue == "written"
            assert celery_app.conf.own_name == 1
            celery_app.conf["result_backend"] = "cache+memory://"
            assert type(celery_app.backend).__name__ == "CacheBackend"

        def test_after_app_conf(celery_app):
            as_found(celery_app)
            assert celery_app.conf.task_default_queue == "celery"
            assert "own_name" not in celery_app.conf

        def test_after(celery_app):
            as_found(celery_app)
        """,
        preamble=AS_FOUND,
    )

    result.assert_outcomes(passed=4)


def test_pitfall_12_what_a_test_without_a_fixture_sets_on_app_conf_is_undone(run: Run) -> None:
    result = run("""
        import unittest

        import pytest
        from celery.result import EagerResult
        from proj.celery import app
        from shop.tasks import add

        @pytest.fixture(scope="module", autouse=True)
        def of_the_module():
            app.conf.task_default_priority = 3
            yield
            app.conf.task_default_priority = None

        @pytest.mark.parametrize("number", [1, 2])
        def test_it(number):
            assert app.conf.task_always_eager is False
            app.conf.task_always_eager = True
            app.conf.update(result_expires=7)
            assert isinstance(add.delay(1, 2), EagerResult)
            assert app.conf.task_default_priority == 3

        class TestCase(unittest.TestCase):
            def setUp(self):
                app.conf.task_always_eager = True

            def test_it(self):
                assert isinstance(add.delay(1, 2), EagerResult)

        def test_a_setting_that_its_fixture_undoes(settings):
            settings.CELERY_TASK_ALWAYS_EAGER = True
            app.conf.result_expires = 8
            assert isinstance(add.delay(1, 2), EagerResult)

        def test_after(celery_outbox):
            assert app.conf.task_always_eager is False
            assert app.conf.result_expires != 7
            assert not isinstance(add.delay(1, 2), EagerResult)
            assert app.conf.task_default_priority == 3
    """)
    result.assert_outcomes(passed=5)


def test_pitfall_12_a_setting_that_celery_does_not_know_is_named(run: Run) -> None:
    result = run("""
        import pytest
        from pytest_djcelery import UnknownSettingWarning

        def test_misspelt(celery_app, settings):
            with pytest.warns(UnknownSettingWarning) as caught:
                settings.CELERY_TASK_ALWAYS_EAGRE = True
            print(caught[0].message, caught[0].filename, caught[0].lineno)

        @pytest.mark.celery(task_alway_eager=True)
        def test_marker():
            pass
    """, "-rP")  # fmt: skip

    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines_random(
        [
            (
                "CELERY_TASK_ALWAYS_EAGRE: Celery has no setting 'CELERY_TASK_ALWAYS_EAGRE'. "
                "Did you mean 'task_always_eager'* Write CELERY_TASK_ALWAYS_EAGER."
            ),
            "*test_it.py 7",
            "*Celery has no setting 'task_alway_eager'. Did you mean 'task_always_eager'*",
        ]
    )


def test_pitfall_12_a_setting_of_a_library_is_no_mistake(project: Project) -> None:
    project.settings("CELERY_BEAT_TZ_IN_ADMIN = True")  # of the project's own
    project.write(celery_once="")
    result = project.run("""
        import pytest
        from django.test import override_settings

        def lock_expiry(app):  # as celery-singleton asks for its settings
            return app.conf.get("singleton_lock_expiry")

        def test_settings(celery_app, settings):
            settings.CELERY_SINGLETON_LOCK_EXPIRY = 60
            settings.CELERY_REDBEAT_REDIS_URL = "redis://h"
            settings.CELERY_BEAT_TZ_IN_ADMIN = False
            assert lock_expiry(celery_app) == 60

        @override_settings(CELERY_SINGLETON_LOCK_EXPIRY=70)
        def test_overridden(celery_app):
            assert lock_expiry(celery_app) == 70

        @pytest.mark.celery(once_backend="x", CELERY_BEAT_TZ_IN_ADMIN=False)
        def test_marker(celery_app, settings):
            assert celery_app.conf.once_backend == settings.CELERY_ONCE_BACKEND == "x"
            assert settings.CELERY_BEAT_TZ_IN_ADMIN is celery_app.conf.beat_tz_in_admin is False

        def test_all_is_undone(celery_app, settings):
            assert lock_expiry(celery_app) is None
            assert "once_backend" not in celery_app.conf
            assert settings.CELERY_BEAT_TZ_IN_ADMIN is True
            assert not hasattr(settings, "CELERY_ONCE_BACKEND")

        def test_conf(celery_app):
            celery_app.conf.singleton_lock_expiry = 80
            assert lock_expiry(celery_app) == 80
        """)
    result.assert_outcomes(passed=5)


NO_CONNECTIONS = """
    import socket

    def connect(self, address):
        raise AssertionError(f"connects to {address}")

    socket.socket.connect = socket.socket.connect_ex = connect
    """


@pytest.mark.parametrize("where", ["settings", "environment"])
def test_pitfall_21_no_test_reaches_the_broker_of_the_settings(
    run: Run, project: Project, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    if where == "environment":  # Celery reads it before any setting
        monkeypatch.setenv("CELERY_BROKER_URL", "amqp://nobody:nothing@192.0.2.1:1//")
        monkeypatch.setenv("CELERY_RESULT_BACKEND", "redis://192.0.2.1:1/0")
    project.write(conftest=NO_CONNECTIONS)
    result = run("""
        from django.test import SimpleTestCase
        from proj.celery import app
        from shop.tasks import add

        def test_that_uses_no_fixture():
            add.delay(1, 2)
            assert app.control.purge() == 1
            app.send_task("somewhere.else", queue="far")

        class TestDjango(SimpleTestCase):
            def test_that_knows_no_pytest(self):
                assert add.delay(1, 2).state == "PENDING"
                assert app.control.purge() == 1

        def test_with_a_worker(celery_worker):
            assert add.delay(1, 2).get() == 3
    """)

    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["celery: app: proj, broker: memory, result backend: memory"])


@pytest.mark.parametrize(
    "named",
    ["", "proj.tasking:app", "proj.tasking.app", "proj.tasking"],
    ids=lambda name: name or "found",
)
@pytest.mark.parametrize("first", ["request", "fixture", "body"])
def test_pitfall_21_the_first_test_that_imports_the_app_reaches_no_broker(
    project: Project, first: str, named: str
) -> None:
    (project.path / "proj/celery.py").rename(project.path / "proj/tasking.py")
    project.write(
        **{
            "proj/__init__": "",
            "proj/urls": """
                from django.urls import path
                from shop import views

                urlpatterns = [path("add/", views.publish)]
                """,
            "shop/views": """
                from django.http import HttpResponse
                from proj.tasking import app

                def publish(request):
                    sent = app.send_task("shop.tasks.add", (1, 2))
                    return HttpResponse(f"{sent.state} {app.control.purge()}")
                """,
            "conftest": NO_CONNECTIONS,
        }
    )
    result = project.run(
        f"""
        import sys

        import pytest

        def published(client, place):
            if place == "request":
                return client.get("/add/").content.decode()
            from shop.views import publish

            return publish(None).content.decode()

        @pytest.fixture
        def seen(client):
            assert "proj.tasking" not in sys.modules
            return published(client, "fixture") if "{first}" == "fixture" else ""

        def test_first(client, seen):
            assert (seen or published(client, "{first}")) == "PENDING 1"

        def test_next(client, celery_app):
            assert celery_app.main == "proj"
            assert published(client, "request") == "PENDING 1"
        """,
        *([f"--djcelery-app={named}"] if named else []),
    )

    result.assert_outcomes(passed=2)


def test_pitfall_21_an_app_that_reads_its_settings_while_it_is_imported_is_kept_away_too(
    project: Project,
) -> None:
    path = project.path / "proj/celery.py"
    path.write_text(path.read_text() + "assert app.conf.task_default_queue == 'celery'\n")
    path.rename(project.path / "proj/tasking.py")
    project.write(**{"proj/__init__": "", "conftest": NO_CONNECTIONS})
    result = project.run("""
        def test_first():
            from proj.tasking import app

            app.send_task("shop.tasks.add", (1, 2))
            assert app.control.purge() == 1
        """)

    result.assert_outcomes(passed=1)


def test_pitfall_29_a_task_that_only_tests_import_is_named(run: Run, project: Project) -> None:
    project.write(
        **{
            "shop/jobs": """
            from celery import shared_task

            @shared_task
            def forgotten():
                pass
            """
        }
    )
    result = run("""
        from celery import shared_task
        from pytest_djcelery import check_registry

        @shared_task
        def of_this_test():
            pass

        def test_registry_while_all_is_well(celery_app):
            assert "test_it.of_this_test" in celery_app.tasks
            check_registry()

        def test_registry(celery_worker):
            from shop.jobs import forgotten
            assert forgotten.delay().get() is None  # passes here, and not in production
            check_registry()
    """)

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*UnregisteredTaskError: A fresh worker would answer 'Received unregistered task' to:",
            "E *shop.jobs.forgotten  (module shop.jobs)",
            (
                "E *Put them in a module named tasks of an installed app, or name their modules in "
                "app.autodiscover_tasks() or in CELERY_IMPORTS."
            ),
        ]
    )
    result.stdout.no_fnmatch_line("E *of_this_test*")


def test_pitfall_37_a_base_class_without_delay_on_commit_is_named_with_the_remedy(
    run: Run, project: Project
) -> None:
    project.tasks("""
        from celery import Task

        class TenantTask(Task):
            pass

        @shared_task(base=TenantTask)
        def notify(order_id):
            pass
    """)
    project.ini("djcelery_sent_in_transaction = error")
    result = run("""
        import pytest
        from django.db import transaction
        from shop.models import Order
        from shop.tasks import notify, ship

        pytestmark = pytest.mark.django_db

        def test_base(celery_app):
            with transaction.atomic():
                notify.delay(Order.objects.create().pk)

        def test_usual_base(celery_app):
            with transaction.atomic():
                ship.delay(Order.objects.create().pk)
    """)

    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "*SentInTransactionError: shop.tasks.notify(1) was sent inside an open transaction *",
            (
                "E *Send it after the commit: transaction.on_commit(lambda: notify.delay(1)). "
                "notify has no delay_on_commit, because its class shop.tasks.TenantTask does not "
                "inherit from celery.contrib.django.task.DjangoTask."
            ),
            "*SentInTransactionError: shop.tasks.ship(1) was sent inside an open transaction *",
            "E *Send it after the commit: ship.delay_on_commit(1)",
        ]
    )


def test_pitfall_49_every_thread_of_a_worker_has_the_projects_app_as_the_current_one(
    run: Run, project: Project
) -> None:
    # Celery's fixup makes the first app the default of all threads; here it isn't the project's.
    project.write(
        **{
            "proj/celery": """
            import os

            from celery import Celery

            os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proj.settings")
            first = Celery("first", broker="amqp://nobody:nothing@192.0.2.1:1//")
            app = Celery("proj")
            app.config_from_object("django.conf:settings", namespace="CELERY")
            app.autodiscover_tasks()
            """
        }
    )
    project.tasks("""
        from celery import current_app

        @shared_task
        def tell_app():
            return current_app.main

        @shared_task
        def add_elsewhere():
            return add.delay(1, 2).id
    """)
    result = run("""
        import threading

        import pytest
        from celery import current_app
        from proj.celery import app, first
        from pytest_djcelery import worker
        from shop.tasks import add_elsewhere, tell_app

        def test_trouble_a_thread_of_its_own_has_another_app():
            found = []
            thread = threading.Thread(target=lambda: found.append(current_app.main))
            thread.start()
            thread.join()
            assert found == ["first"]

        @pytest.mark.parametrize("pool", ["solo", "threads"])
        def test_worker(celery_app, pool):
            with worker(pool=pool, concurrency=2):
                assert [tell_app.delay().get() for _ in range(3)] == ["proj"] * 3
                assert app.AsyncResult(add_elsewhere.delay().get()).get() == 3
            assert current_app == app

        def test_in_this_thread_it_is_what_it_was(celery_app):
            first.set_current()
            try:
                with worker():
                    assert current_app == first
                assert current_app == first
            finally:
                app.set_current()
    """)

    result.assert_outcomes(passed=4)


ROOT = Path(__file__).resolve().parents[2]

# What this plugin stands on and Celery doesn't promise to keep, with the arguments it relies on.
PRIVATE = {
    "celery._state:_set_task_join_will_block": ["blocks"],
    "celery._state:task_join_will_block": [],
    "celery.app.base:Celery._load_config": ["self"],
    "celery.app.base:Celery.set_current": ["self"],
    "celery.app.task:Task.start_strategy": ["self", "app", "consumer"],
    "celery.backends.base:Backend.store_result": ["self", "task_id", "result", "state"],
    "celery.backends.base:BaseKeyValueStoreBackend.get_many": ["self", "task_ids", "timeout"],
    "celery.backends.base:SyncBackendMixin.wait_for": ["self", "task_id", "timeout", "interval"],
    "celery.fixups.django:DjangoWorkerFixup.close_cache": ["self"],
    "celery.fixups.django:DjangoWorkerFixup.close_database": ["self"],
    "celery.fixups.django:DjangoWorkerFixup.on_task_postrun": ["self", "sender"],
    "celery.fixups.django:DjangoWorkerFixup.on_task_prerun": ["self", "sender"],
    "celery.fixups.django:DjangoWorkerFixup.on_worker_process_init": ["self"],
    "celery.result:AsyncResult._set_cache": ["self", "d"],
    "celery.result:EagerResult.get": ["self", "timeout"],
    "celery.result:ResultSet.join": ["self", "timeout"],
    "celery.result:ResultSet.join_native": ["self", "timeout"],
    "celery.worker.consumer:Consumer.call_soon": ["self", "p"],
    "celery.worker.state:reset_state": [],
}


@pytest.mark.parametrize("place", PRIVATE)
def test_pitfall_53_an_upgrade_of_celery_that_moves_what_the_plugin_stands_on_is_named(
    place: str,
) -> None:
    module, _, path = place.partition(":")
    found = import_module(module)
    for name in path.split("."):
        found = getattr(found, name)

    arguments = list(inspect.signature(found).parameters)

    assert arguments[: len(PRIVATE[place])] == PRIVATE[place]


@pytest.mark.parametrize("patch", patches_page.registered(), ids=lambda patch: patch.target)
def test_pitfall_53_what_the_plugin_replaces_is_there(patch: Patch) -> None:
    module, _, path = patch.target.partition(":")
    if path == "SCHEDULE_SYNC_MAX_INTERVAL" and version("django-celery-beat") < "2.8.1":
        return  # nothing asks for it
    if module.startswith("django.tasks") and django.VERSION < (6, 0):
        return  # which Django has since 6.0
    if module.startswith("django_celery_beat"):  # which can't be imported without settings
        spec = find_spec(module)
        assert spec is not None
        assert spec.origin is not None
        assert re.search(rf"\b{path}\b", Path(spec.origin).read_text(encoding="utf-8"))
        return
    if path == "Task._orig_run":  # which only a task with `autoretry_for` has
        assert "task._orig_run, task.run = " in inspect.getsource(autoretry)
        return
    *owners, name = path.split(".")
    owner = import_module(module)
    for part in owners:
        owner = getattr(owner, part)

    # What only its objects have stands in their ``__init__``.
    assert hasattr(owner, name) or f"self.{name} = " in inspect.getsource(owner)


def test_pitfall_53_the_matrix_has_each_release_that_the_metadata_claims() -> None:
    jobs = (ROOT / ".ci" / "matrix.py").read_text(encoding="utf-8")
    metadata = (ROOT / "pyproject.toml").read_text(encoding="utf-8")

    def in_matrix(name: str) -> set[str]:
        return set(re.findall(rf'\b{name}="([\d.]+)"', jobs))

    def in_metadata(pattern: str) -> set[str]:
        return set(re.findall(pattern, metadata))

    assert in_matrix("celery") == {"5.4", "5.5", "5.6", "5.7"}
    assert in_matrix("python") == in_metadata(r'"Programming Language :: Python :: (3\.\d+)"')
    assert in_matrix("django") == in_metadata(r'"Framework :: Django :: ([\d.]+)"')
    assert in_matrix("pytest") == {"8", "9"}
