"""Brokers of another kind, the older message protocol, exchanges, canvas: recorded and run."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.project import Project


def test_a_worker_runs_over_another_broker_that_celery_config_names(project: Project) -> None:
    project.write(
        conftest="""
            import pytest


            @pytest.fixture(scope="session")
            def celery_config():
                return {"broker_url": "memory://", "result_backend": "cache+memory://"}
            """
    )
    result = project.run("""
        import pytest
        from shop.tasks import add, fail, flaky

        from pytest_djcelery import Failure, Success


        @pytest.mark.parametrize("turn", [1, 2])
        def test_it(celery_worker, celery_results, celery_outbox, turn):
            assert celery_worker.app.conf.broker_url == "memory://"
            assert celery_results[add.delay(turn, 2)] == Success(turn + 2)
            assert celery_results[flaky.delay()] == Success("ok", retries=2)
            fail.delay()
            celery_worker.wait_until_idle()
            assert celery_results.of(fail) == [Failure(ValueError)]
            assert len(celery_outbox) == 5
        """)
    result.assert_outcomes(passed=2)


def test_messages_of_the_first_protocol_are_recorded_and_run(project: Project) -> None:
    result = project.run("""
        import pytest
        from shop.tasks import add


        @pytest.mark.celery(task_protocol=1)
        def test_it(celery_worker, celery_outbox):
            result = add.apply_async((1,), {"y": 2}, countdown=0.01, link=add.s(3))
            assert result.get() == 3
            celery_worker.wait_until_idle()
            assert celery_outbox.of(add)[0] == add.s(1, 2)
            [link] = celery_outbox[0].links
            assert link.task == "shop.tasks.add"
            assert celery_outbox[0].eta is not None
        """)
    result.assert_outcomes(passed=1)


def test_routes_are_recorded_as_the_broker_gets_them(project: Project) -> None:
    project.settings("""
        from kombu import Exchange, Queue

        CELERY_TASK_QUEUES = [
            Queue("celery", Exchange("celery"), "celery"),
            Queue("media", Exchange("media", "topic"), "media.#"),
        ]
        CELERY_TASK_ROUTES = {
            "shop.tasks.ship": {"exchange": "media", "routing_key": "media.video"},
            "shop.tasks.count_orders": {"queue": "media", "routing_key": "media.image"},
        }
        """)
    result = project.run("""
        from shop.tasks import add, count_orders, ship


        def test_it(celery_outbox):
            add.delay(1, 2)
            ship.delay(1)
            count_orders.delay()
            routes = [(s.queue, s.exchange, s.routing_key) for s in celery_outbox]
            assert routes == [
                ("celery", "", "celery"),
                (None, "media", "media.video"),
                ("media", "media", "media.image"),
            ]
            assert [s.task for s in celery_outbox.on_queue("media")] == [count_orders.name]
        """)
    result.assert_outcomes(passed=1)


def test_a_parameter_that_an_app_can_not_be_given_is_named(project: Project) -> None:
    project.write(
        conftest="""
            import pytest


            @pytest.fixture(scope="session")
            def celery_parameters():
                return {"colour": "blue"}
            """
    )
    result = project.run("def test_it(celery_app): pass")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*BadOptionError: celery_parameters has 'colour'*"])


def test_check_registry_names_a_project_that_a_worker_can_not_import(
    project: Project,
) -> None:
    project.write(**{"shop/broken": "raise RuntimeError('only in a worker')"})
    project.settings('CELERY_IMPORTS = ["shop.broken"]')
    result = project.run("""
        import pytest

        from pytest_djcelery import DjceleryError, check_registry


        def test_it():
            with pytest.raises(DjceleryError, match="only in a worker"):
                check_registry()


        def test_it_is_bounded():
            with pytest.raises(DjceleryError, match="within 0.01 s"):
                check_registry(timeout=0.01)
        """)
    result.assert_outcomes(passed=2)


def test_a_header_that_no_broker_carries_is_named_where_it_is_sent(project: Project) -> None:
    result = project.run("""
        import pytest
        from celery.signals import before_task_publish
        from shop.tasks import add


        def view():
            add.delay(1, 2)


        @pytest.fixture(autouse=True)
        def context():
            def add_context(headers, **_):
                headers["x-context"] = {"tags": {"a"}}

            before_task_publish.connect(add_context)
            yield
            before_task_publish.disconnect(add_context)


        def test_it(celery_outbox):
            view()


        def test_nothing_was_sent(celery_inline, celery_outbox):
            with pytest.raises(TypeError):
                view()
            assert celery_outbox == []
            assert celery_inline.run().executions == ()
        """)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines([
        "E       TypeError: Object of type set is not JSON serializable",
        "E       'x-context' can't be a header of a *carries {'a'} (of type set); send a list.",
        "E       It comes from the call (headers=*), or from a receiver of before_task_publish.",
    ])  # fmt: skip
