"""A process with several Celery apps: each of them reaches nothing outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project

REPORTS = """
    from celery import Celery


    def made(name="reports", broker="redis://192.0.2.1:1/3", **conf):
        app = Celery(name, broker=broker, backend=broker, set_as_current=False)
        app.conf.update(task_default_queue=name, **conf)

        @app.task(name=f"{name}.build")
        def build(number):
            return number * 10

        app.build = build
        return app


    reports = made()
    """


@pytest.fixture
def apps(project: Project) -> Project:
    project.write(reports=REPORTS)
    return project


def test_an_app_reaches_nothing_outside_whenever_it_is_made(apps: Project) -> None:
    apps.write(
        conftest="""
            import pytest
            from reports import made, reports

            before = made("before")
            before.conf.broker_url  # it has read its settings before any test


            @pytest.fixture(scope="session")
            def of_session():
                return made("of_session")
            """,
    )
    result = apps.run("""
        import pytest
        from conftest import before
        from reports import made, reports


        def reached(app):
            return app.connection_for_write().transport_cls, type(app.backend).__name__


        def check(app):
            app.build.delay(1)
            assert reached(app) == ("djcelery", "MemoryBackend")
            app.backend.store_result("7", 70, "SUCCESS")
            assert app.AsyncResult("7").get() == 70


        def test_without_a_fixture(of_session):
            for app in (reports, before, of_session, made("in_test")):
                check(app)


        @pytest.mark.parametrize("turn", [1, 2])
        def test_with_one(celery_outbox, of_session, turn):
            for app in (reports, before, of_session, made("in_test")):
                check(app)
            assert [each.task for each in celery_outbox] == [
                "reports.build", "before.build", "of_session.build", "in_test.build",
            ]
            assert celery_outbox[0] == reports.build.s(1)
            assert celery_outbox.on_queue("of_session") == [of_session.build.s(1)]
        """)
    result.assert_outcomes(passed=3)


def test_apps_meet_where_their_settings_name_the_same_server(apps: Project) -> None:
    apps.write(
        legacy="""
            from celery import Celery

            same = Celery("same", set_as_current=False)
            same.config_from_object("django.conf:settings", namespace="CELERY")
            written_out = Celery(
                "written_out", broker="amqp://nobody:nothing@192.0.2.1:1//",
                backend="redis://192.0.2.1:1/0", set_as_current=False,
            )
            elsewhere = Celery("elsewhere", broker="amqp://other//", set_as_current=False)
            """,
    )
    result = apps.run("""
        import pytest
        from legacy import elsewhere, same, written_out
        from shop.tasks import add


        @pytest.mark.parametrize("app", [same, written_out], ids=str)
        def test_the_same(celery_inline, app):
            result = app.send_task("shop.tasks.add", (1, 2))
            celery_inline.run()
            assert result.get() == 3
            assert app.AsyncResult(add.delay(3, 4).id).get() == 7


        def test_another(celery_inline):
            elsewhere.send_task("shop.tasks.add", (1, 2))
            assert celery_inline.run().executions == ()
        """)
    result.assert_outcomes(passed=3)


@pytest.mark.parametrize("worker", ["celery_inline", "celery_worker"])
def test_waiting_for_a_result_of_another_app_ends(apps: Project, worker: str) -> None:
    apps.ini("djcelery_timeout = 0.5")
    result = apps.run(f"""
        import pytest
        from celery.exceptions import TimeoutError
        from reports import reports


        def test_it({worker}):
            with pytest.raises(TimeoutError):
                reports.build.delay(1).get()
        """)
    result.assert_outcomes(passed=1)


def test_what_a_test_sets_on_another_app_is_obeyed_and_undone(apps: Project) -> None:
    result = apps.run("""
        import pytest
        from reports import reports


        @pytest.mark.parametrize("turn", [1, 2])
        def test_it(celery_outbox, turn):
            reports.build.delay(1)
            assert reports.connection_for_write().transport_cls == "djcelery"
            assert sorted(reports.amqp.queues) == ["reports"]
            reports.build.apply_async((2,), queue="unheard")
            reports.conf.broker_url = "memory://"
            reports.conf.update(result_backend="cache+memory://", task_default_queue="own")
            assert reports.connection_for_write().transport_cls == "memory"
            assert type(reports.backend).__name__ == "CacheBackend"
            reports.build.delay(3)
            assert [each.queue for each in celery_outbox] == ["reports", "unheard", "own"]


        def test_after_it():
            assert reports.conf.task_default_queue == "reports"
            assert reports.connection_for_write().transport_cls == "djcelery"
            assert sorted(reports.amqp.queues) == ["reports"]
        """)
    result.assert_outcomes(passed=3)


def test_messages_and_results_of_another_app_are_gone_with_the_test(apps: Project) -> None:
    result = apps.run("""
        import pytest
        from reports import reports


        def waiting():
            with reports.connection_for_write() as connection:
                return connection.default_channel.queue_declare("reports").message_count


        @pytest.mark.parametrize("turn", [1, 2])
        @pytest.mark.parametrize("fixtures", [(), ("celery_outbox",)])
        def test_it(request, fixtures, turn):
            for name in fixtures:
                request.getfixturevalue(name)
            assert waiting() == 0
            assert reports.AsyncResult("7").state == "PENDING"
            reports.build.delay(1)
            reports.backend.store_result("7", 70, "SUCCESS")
            assert waiting() == 1
        """)
    result.assert_outcomes(passed=4)


def test_an_app_is_not_kept_alive(apps: Project) -> None:
    result = apps.run("""
        import gc
        import weakref

        from reports import made

        gone = []


        def test_it(celery_outbox):
            app = made("short_lived")
            app.conf.task_acks_late = True
            app.build.delay(1)
            gone.append(weakref.ref(app))


        def test_after_it(celery_outbox):
            gc.collect()
            assert gone[0]() is None
        """)
    result.assert_outcomes(passed=2)


def test_another_app_is_as_it_was_after_a_block_without_pytest(apps: Project) -> None:
    apps.write(
        script="""
            import os

            os.environ["DJANGO_SETTINGS_MODULE"] = "proj.settings"
            import django

            django.setup()
            from pytest_djcelery import outbox
            from reports import made, reports

            found = dict(reports.conf), reports.pool
            with outbox() as sent:
                reports.build.delay(1)
                later = made("later")
                later.build.delay(2)
                assert [each.task for each in sent] == ["reports.build", "later.build"]
            assert (dict(reports.conf), reports.pool) == found
            print(*(each.connection_for_write().transport_cls for each in (reports, later)))
            """
    )
    result = apps.pytester.runpython(apps.path / "script.py")
    result.stdout.fnmatch_lines(["redis redis"])


def test_a_project_that_keeps_its_broker_keeps_those_of_its_other_apps(apps: Project) -> None:
    apps.ini("djcelery_broker = project", "djcelery_result_backend = project")
    result = apps.run("""
        from reports import reports


        def test_it(celery_outbox):
            assert reports.connection_for_write().transport_cls == "redis"
            assert reports.conf.result_backend == "redis://192.0.2.1:1/3"
        """)
    result.assert_outcomes(passed=1)


@pytest.mark.usefixtures("unmeasured")
def test_another_app_reaches_nothing_outside_from_a_live_worker(apps: Project) -> None:
    apps.settings('DATABASES["default"]["TEST"] = {"NAME": "test.sqlite3"}')
    apps.tasks("""
        @shared_task
        def where():
            from proj.celery import app
            from reports import made, reports

            same = made("same", broker="amqp://nobody:nothing@192.0.2.1:1//")
            for each in (reports, same):
                each.build.delay(1)
            apps = reports, made("in_task"), same, app
            return [each.connection_for_write().transport_cls for each in apps]
        """)
    result = apps.run("""
        from shop.tasks import where


        def test_it(celery_live_worker, celery_outbox):
            elsewhere, in_task, same, project = where.delay().get()
            assert elsewhere == in_task == "djcelery"
            assert same == project == "pytest_djcelery.brokers.filesystem:Transport"
            assert [each.task for each in celery_outbox][1:] == ["reports.build", "same.build"]
        """)
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("worker", ["celery_inline", "celery_worker", "celery_eager"])
def test_shared_tasks_are_of_the_app_that_is_tested(apps: Project, worker: str) -> None:
    apps.ini("djcelery_app = reports:reports")
    result = apps.run(f"""
        from celery import current_app
        from reports import reports
        from shop.tasks import add

        from proj.celery import app


        def test_it({worker}):
            assert current_app._get_current_object() is reports
            assert add.delay(1, 2).get() == 3
            assert reports.build.delay(1).get() == 10


        def test_after_it():
            assert current_app._get_current_object() is app
        """)
    result.assert_outcomes(passed=2)
