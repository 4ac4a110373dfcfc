"""Boot steps and signals of a worker's start run, and what they connect goes with the worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project, Run

WORKERS = ["celery_inline", "celery_worker"]

BOOT = """
    from celery import bootsteps, signals
    from proj.celery import app

    CALLED = []
    SEEN = []


    class Receiver:
        def seen(self, task, **_):
            SEEN.append(task.name)


    class Step(bootsteps.Step):
        def __init__(self, parent, **kwargs):
            super().__init__(parent, **kwargs)
            assert parent.app is app
            CALLED.append("step")
            self.receiver = Receiver()  # held by the step alone
            signals.task_prerun.connect(self.receiver.seen)


    class Started(bootsteps.StartStopStep):
        def start(self, parent):
            CALLED.append("started")

        def stop(self, parent):
            CALLED.append("stopped")


    app.steps["worker"].add(Step)
    app.steps["worker"].add(Started)


    def seen_of_a_signal(task, **_):
        SEEN.append("of a signal")


    @signals.celeryd_init.connect
    def init(sender, instance, conf, **_):
        CALLED.append("celeryd_init")


    @signals.worker_init.connect
    def worker_init(sender, **_):
        assert sender.app is app
        CALLED.append("worker_init")
        signals.task_prerun.connect(seen_of_a_signal)


    @signals.celeryd_after_setup.connect
    def after_setup(sender, instance, conf, **_):
        CALLED.append("celeryd_after_setup")


    @signals.worker_ready.connect
    def ready(sender, **_):
        CALLED.append("worker_ready")


    @signals.worker_init.connect
    def fail(**_):
        raise ValueError("a receiver that fails is logged, and stops nothing")
    """


@pytest.mark.parametrize("worker", WORKERS)
def test_of_the_project(run: Run, project: Project, worker: str) -> None:
    project.write(**{"shop/boot": BOOT})
    project.tasks("import shop.boot")
    run(f"""
        from celery import signals
        from shop.boot import CALLED, SEEN
        from shop.tasks import add

        def receivers():
            return [len(each.receivers) for each in vars(signals).values()
                    if getattr(each, "receivers", None) is not None]

        BEFORE = []

        def test_before():
            BEFORE.extend(receivers())
            assert CALLED == SEEN == []

        def test_with_it({worker}):
            assert add.delay(1, 2).get() == 3  # for the first message is an inline worker built
            assert CALLED[:2] == ["celeryd_init", "worker_init"]
            assert {{"step", "started", "celeryd_after_setup", "worker_ready"}} <= set(CALLED)
            assert CALLED.index("celeryd_after_setup") < CALLED.index("worker_ready")
            assert sorted(SEEN) == ["of a signal", "shop.tasks.add"]

        def test_without(celery_eager):
            SEEN.clear()
            add.delay(1, 2)
            assert SEEN == []

        def test_after():
            assert receivers() == BEFORE

        def test_with_it_again({worker}):
            assert add.delay(1, 2).get() == 3
            assert sorted(SEEN) == ["of a signal", "shop.tasks.add"]
    """).assert_outcomes(passed=5)


def test_what_a_module_connects_that_a_worker_imports_stays(run: Run, project: Project) -> None:
    project.settings('CELERY_IMPORTS = ["shop.heard"]')
    project.write(
        **{
            "shop/heard": """
            from celery import signals

            SEEN = []


            def receiver():
                def hear(task, **_):
                    SEEN.append(task.name)
                return hear


            signals.task_prerun.connect(receiver(), weak=False)
            """,
        }
    )
    run("""
        import pytest
        from shop.tasks import add

        @pytest.mark.parametrize("_", range(2))
        def test_it(celery_worker, _):
            assert add.delay(1, 2).get() == 3

        def test_another_worker(celery_app):
            from pytest_djcelery import worker
            from shop.heard import SEEN
            with worker(pool="threads"):
                assert add.delay(1, 2).get() == 3
            assert SEEN == ["shop.tasks.add"] * 3

        def test_eager(celery_eager):
            from shop.heard import SEEN
            add.delay(1, 2)
            assert len(SEEN) == 4
    """).assert_outcomes(passed=4)


@pytest.mark.parametrize("worker", WORKERS)
def test_of_django_structlog(run: Run, project: Project, worker: str) -> None:
    pytest.importorskip("django_structlog", reason="needs a later Python or Django")
    project.settings("""
        INSTALLED_APPS += ["django_structlog"]
        DJANGO_STRUCTLOG_CELERY_ENABLED = True
        """)
    project.write(
        **{
            "shop/boot": """
            from django_structlog.celery.steps import DjangoStructLogInitStep
            from proj.celery import app

            app.steps["worker"].add(DjangoStructLogInitStep)
            """,
        }
    )
    project.tasks("""
        import shop.boot
        import structlog


        @shared_task
        def tell_context():
            return structlog.contextvars.get_contextvars()
        """)
    run(f"""
        import pytest
        import structlog
        from shop.tasks import tell_context

        @pytest.mark.parametrize("_", range(2))
        def test_it({worker}, _):
            structlog.contextvars.bind_contextvars(request_id="of the view")
            result = tell_context.delay()
            told = result.get()
            assert told["task_id"] == result.id
            assert told["request_id"] == "of the view"
            structlog.contextvars.clear_contextvars()
    """).assert_outcomes(passed=2)


@pytest.mark.parametrize("worker", WORKERS)
def test_of_django_guid(run: Run, project: Project, worker: str) -> None:
    pytest.importorskip("django_guid", reason="needs another Django")
    project.settings("""
        from django_guid.integrations import CeleryIntegration

        INSTALLED_APPS += ["django_guid"]
        DJANGO_GUID = {"INTEGRATIONS": [CeleryIntegration(log_parent=True)]}
        """)
    project.tasks("""
        from django_guid import get_guid


        @shared_task
        def tell_guid():
            return get_guid()
        """)
    run(f"""
        from django_guid import set_guid
        from shop.tasks import tell_guid

        def test_it({worker}):
            set_guid("of-the-view")
            assert tell_guid.delay().get() == "of-the-view"
    """).assert_outcomes(passed=1)
