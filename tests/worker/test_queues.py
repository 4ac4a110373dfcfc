"""Queues that nobody consumes: one rule for every worker, said at once."""

from __future__ import annotations

from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project

WARNINGS = ("-W", "default::pytest_djcelery.QueueNotConsumedWarning")
WORKERS = ("celery_inline", "celery_worker")
#: Settings, ini and markers, and of what follows from them: the queues that are consumed.
RULES = {
    "nothing": ("", "", "", ["celery"]),
    "declared": ('CELERY_TASK_QUEUES = [Queue("a"), Queue("b")]', "", "", ["a", "b"]),
    "default queue": ('CELERY_TASK_DEFAULT_QUEUE = "own"', "", "", ["own"]),
    "routes": (
        """
        CELERY_TASK_ROUTES = {
            "shop.*": "r1", "other.task": {"queue": "r2"}, "third.*": {"queue": Queue("r3")},
            "exchange": {"exchange": "e", "routing_key": "k"},
        }
        """,
        "", "", ["celery", "r1", "r2", "r3"],
    ),
    "routes in lists": (
        'CELERY_TASK_ROUTES = ([("shop.*", {"queue": "r1"})], {"x": "r2"}, "proj.urls.route")',
        "", "", ["celery", "r1", "r2"],
    ),
    "a router is asked": ("CELERY_TASK_ROUTES = lambda *_, **__: None", "", "", ["celery"]),
    "ini alone": (
        'CELERY_TASK_QUEUES = [Queue("a")]\nCELERY_TASK_ROUTES = {"x": "r1"}',
        "djcelery_queues = mail, pdf", "", ["mail", "pdf"],
    ),
    "marker alone": (
        'CELERY_TASK_QUEUES = [Queue("a")]',
        "djcelery_queues = mail", '@pytest.mark.celery_queues("a", "sms")', ["a", "sms"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("settings", "ini", "marker", "consumed"), RULES.values(), ids=RULES)
def test_which_queues_are_consumed(
    project: Project, settings: str, ini: str, marker: str, consumed: list[str]
) -> None:
    project.settings("from kombu import Queue\n")
    project.settings(f"{dedent(settings)}\n")
    project.settings('DATABASES["default"]["TEST"] = {"NAME": "test.sqlite3"}')
    project.write(**{"proj/urls": "urlpatterns = []\n\n\ndef route(*_, **__):\n    return None\n"})
    project.ini(ini)
    result = project.run(f"""
        import pytest
        from shop.tasks import add

        CONSUMED = {consumed}
        pytestmark = [{marker.lstrip("@")}]


        def consumes(celery_results, recwarn):
            for number, queue in enumerate(CONSUMED):
                result = add.apply_async((number, 1), queue=queue)
                assert celery_results[result].value == number + 1
            assert not recwarn.list
            with pytest.warns(UserWarning, match="is in the queue 'nowhere'"):
                add.apply_async((1, 2), queue="nowhere")


        def test_inline(celery_inline, celery_results, recwarn):
            consumes(celery_results, recwarn)


        def test_embedded(celery_worker, celery_results, recwarn):
            consumes(celery_results, recwarn)


        def test_live(celery_live_worker, celery_results, recwarn):
            consumes(celery_results, recwarn)
            assert sorted(celery_live_worker.queues) == sorted(CONSUMED)
        """)
    result.assert_outcomes(passed=3)


TEXT = """\
*QueueNotConsumedWarning: No worker consumes the queue that a message was sent to, so it stays *
*  shop.tasks.add(1, 2) [[]*[]] is in the queue 'pdf'
*Workers consume 'celery' (those that the settings declare, and those that static task_routes name).
*If a worker of production consumes it, write one of these:
*  djcelery_queues = celery, pdf   (ini file, or --djcelery-queues)
*  @pytest.mark.celery_queues("celery", "pdf")   (for one test)
*  task_queues = [[]Queue("celery"), Queue("pdf")[]]   (in Celery's settings)
""".splitlines()  # fmt: skip


@pytest.mark.parametrize("worker", WORKERS)
def test_an_unconsumed_queue_is_reported_at_the_publish_and_at_the_wait(
    project: Project, worker: str
) -> None:
    wait = "run" if worker == "celery_inline" else "wait_until_idle"
    result = project.run(
        f"""
        from shop.tasks import add


        def view():
            add.apply_async((1, 2), queue="pdf")


        def test_it({worker}):
            view()
            {worker}.{wait}()
            {worker}.{wait}()  # it is reported once
        """,
        *WARNINGS,
    )
    result.assert_outcomes(passed=1, warnings=2)
    result.stdout.fnmatch_lines([f"*test_it.py:6: {TEXT[0][1:]}", *TEXT[1:]])
    result.stdout.fnmatch_lines([f"*test_it.py:11: {TEXT[0][1:]}", *TEXT[1:]])


def test_a_failing_test_lists_what_nobody_consumes(project: Project) -> None:
    result = project.run(
        """
        from shop.tasks import add


        def test_it(celery_inline):
            add.delay(3, 4)
            add.apply_async((1, 2), queue="pdf")
            celery_inline.run()
            assert False
        """,
        *WARNINGS,
    )
    result.assert_outcomes(failed=1, warnings=2)
    result.stdout.fnmatch_lines(
        ["*celery: messages that no worker consumes*", "No worker consumes the queue*", TEXT[1]]
    )
    result.stdout.no_fnmatch_line("*shop.tasks.add(3, 4)*")


@pytest.mark.parametrize("worker", [*WORKERS, "celery_live_worker"])
def test_waiting_for_the_result_of_an_unconsumed_message_ends_at_once(
    project: Project, worker: str
) -> None:
    project.settings('DATABASES["default"]["TEST"] = {"NAME": "test.sqlite3"}')
    result = project.run(
        f"""
        import time

        import pytest
        from celery import chain, chord, group
        from celery.exceptions import TimeoutError
        from shop.tasks import add

        from pytest_djcelery import Success

        total = add.s(3)
        lost = add.s(1, 2).set(queue="pdf")


        @pytest.mark.parametrize(
            "canvas",
            [lost, lost | total, group(lost, add.s(1, 1)), add.s(1, 1) | total.set(queue="pdf")],
        )
        @pytest.mark.parametrize("by", ["get", "celery_results"])
        def test_it({worker}, celery_results, canvas, by):
            result = canvas.apply_async()
            began = time.monotonic()
            with pytest.raises(TimeoutError, match="is in the queue 'pdf'"):
                celery_results[result] if by == "celery_results" else result.get()
            assert time.monotonic() - began < 4
        """,
        *WARNINGS,
    )
    assert result.parseoutcomes()["passed"] == 8, result.stdout.str()


def test_an_error_on_an_unconsumed_queue_that_code_swallows_fails_the_test_at_its_end(
    project: Project,
) -> None:
    result = project.run("""
        from shop.tasks import add


        def view():
            try:
                add.apply_async((1, 2), queue="pdf")
            except Exception:
                return "sorry"


        def test_it(celery_inline):
            assert view() == "sorry"


        def test_next(celery_inline):
            pass
        """)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["E  " + TEXT[0]])


@pytest.mark.parametrize("worker", [*WORKERS, "celery_live_worker"])
def test_messages_that_tasks_send_to_such_a_queue_are_reported_too(
    project: Project, worker: str
) -> None:
    project.settings('DATABASES["default"]["TEST"] = {"NAME": "test.sqlite3"}')
    project.tasks("""
        @shared_task
        def sends():
            add.apply_async((1, 2), queue="pdf")
        """)
    result = project.run(
        f"""
        from shop.tasks import sends


        def test_it({worker}):
            sends.delay().get()


        def test_next({worker}):
            pass
        """,
        *WARNINGS,
    )
    result.assert_outcomes(passed=2, warnings=1)
    result.stdout.fnmatch_lines(["test_it.py::test_it", "*tasks.py:*" + TEXT[0], TEXT[1]])


@pytest.mark.parametrize("worker", WORKERS)
def test_a_message_sent_before_the_worker_was_asked_for(project: Project, worker: str) -> None:
    block = worker.removeprefix("celery_")
    wait = "run" if block == "inline" else "wait_until_idle"
    result = project.run(
        f"""
        import pytest
        from shop.tasks import add

        import pytest_djcelery


        def test_it(celery_outbox):
            add.apply_async((1, 2), queue="pdf")
            add.apply_async((3, 4))
            with pytest_djcelery.{block}() as worker:
                worker.{wait}()
            assert len(celery_outbox) == 2
        """,
        *WARNINGS,
    )
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*test_it.py:12: *" + TEXT[0][1:], TEXT[1]])


def test_where_no_worker_runs_there_is_nothing_to_report(project: Project) -> None:
    result = project.run("""
        from celery import Celery
        from shop.tasks import add

        other = Celery("other", broker="redis://192.0.2.1:1", set_as_current=False)


        def test_outbox(celery_outbox):
            add.apply_async((1, 2), queue="pdf")


        def test_eager(celery_eager):
            assert add.apply_async((1, 2), queue="pdf").get() == 3


        def test_another_app(celery_inline):
            other.send_task("its.own", queue="its_own")
            celery_inline.run()


        def test_without_a_fixture():
            add.apply_async((1, 2), queue="pdf")
        """)
    result.assert_outcomes(passed=4)


def test_what_remote_control_adds_is_consumed(project: Project) -> None:
    result = project.run("""
        from shop.tasks import add


        def test_it(celery_worker, celery_app):
            celery_app.control.add_consumer("pdf", reply=True, timeout=5, limit=1)
            assert add.apply_async((1, 2), queue="pdf").get() == 3
        """)
    result.assert_outcomes(passed=1)


def test_a_run_can_be_narrowed(project: Project) -> None:
    project.ini("djcelery_queues = celery, pdf")
    result = project.run("""
        import warnings

        import pytest
        from kombu import Queue
        from shop.tasks import add

        from pytest_djcelery import BadOptionError


        def numbers(summary):
            return [each.message.args[0] for each in summary.executions]


        def test_it(celery_inline):
            assert celery_inline.run(queues=["pdf"]).executions == ()  # before any message
            for number, queue in enumerate(["celery", "pdf", "celery"]):
                add.apply_async((number, 1), queue=queue)
            assert numbers(celery_inline.run(queues="pdf")) == [1]
            assert numbers(celery_inline.run(queues=[Queue("celery")], limit=1)) == [0]
            assert [each.args[0] for each in celery_inline.pending] == [2]


        def test_it_can_not_be_widened(celery_inline):
            with pytest.warns(UserWarning, match="'sms'"):
                add.apply_async((1, 2), queue="sms")
            assert celery_inline.pending == []
            with pytest.raises(BadOptionError, match="consumes 'sms'. Workers consume: celery, *"):
                celery_inline.run(queues=["sms"])
            with pytest.raises(BadOptionError, match="no queue 'sns' is declared. There are: *"):
                celery_inline.run(queues=["sns"])
            assert celery_inline.step() is None
            with pytest.warns(UserWarning, match="'sms'"):
                celery_inline.run()
        """)
    result.assert_outcomes(passed=2)


def test_the_marker_holds_in_a_block_wider_than_the_test(project: Project) -> None:
    result = project.run("""
        import pytest
        from shop.tasks import add

        from pytest_djcelery import inline


        @pytest.fixture(scope="class")
        def runs():
            with inline() as runs:
                yield runs


        @pytest.mark.usefixtures("runs")
        class TestIt:
            @pytest.mark.celery_queues("pdf")
            def test_marked(self, runs):
                assert add.apply_async((1, 2), queue="pdf").get() == 3
                with pytest.warns(UserWarning, match="is in the queue 'celery'"):
                    add.delay(1, 2)

            def test_plain(self, runs):
                assert add.delay(1, 2).get() == 3
                with pytest.warns(UserWarning, match="is in the queue 'pdf'"):
                    add.apply_async((1, 2), queue="pdf")
        """)
    result.assert_outcomes(passed=2)


def test_beat_is_checked_by_the_same_rule(project: Project) -> None:
    project.settings("""
        CELERY_TASK_ROUTES = {"shop.tasks.add": "sums"}
        CELERY_BEAT_SCHEDULE = {
            "sum": {"task": "shop.tasks.add", "schedule": 60, "args": (1, 2)},
            "sum of mail": {
                "task": "shop.tasks.add", "schedule": 60, "args": (1, 2),
                "options": {"queue": "mail"},
            },
        }
        """)
    result = project.run("""
        import pytest

        from pytest_djcelery import BadScheduleError


        def unconsumed(beat, **options):
            with pytest.raises(BadScheduleError) as raised:
                beat.check(**options)
            return [line.split("'")[1] for line in str(raised.value).splitlines()[1:-1]]


        def test_by_the_settings(celery_beat):
            assert unconsumed(celery_beat) == ["sum of mail"]
            assert unconsumed(celery_beat, queues=["mail"]) == ["sum"]
            celery_beat.check(queues=["mail", "sums"])


        @pytest.mark.celery_queues("sums", "mail")
        def test_by_what_is_chosen(celery_beat):
            celery_beat.check()


        @pytest.mark.celery_queues("mail")
        def test_by_what_is_chosen_alone(celery_beat):
            assert unconsumed(celery_beat) == ["sum"]
        """)
    result.assert_outcomes(passed=3)


@pytest.mark.parametrize(
    ("marker", "text"),
    [
        ("celery_queues", "celery_queues(): expected the names of queues, such as *"),
        ("celery_queues(names='a')", "celery_queues(names='a'): expected the names of queues*"),
        ("celery_queues('a', 1)", "celery_queues('a', 1): expected names of queues*"),
    ],
)  # fmt: skip
def test_a_wrong_marker_is_refused(project: Project, marker: str, text: str) -> None:
    result = project.run(f"""
        import pytest


        @pytest.mark.{marker}
        def test_it():
            pass
        """)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*@pytest.mark.{text}"])


def test_a_queue_that_celery_may_not_make_is_refused(project: Project) -> None:
    project.settings("CELERY_TASK_CREATE_MISSING_QUEUES = False\n")
    project.ini("djcelery_queues = mail")
    result = project.run("""
        def test_it(celery_inline):
            celery_inline.run()
        """)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([
        "*djcelery_queues names the queue 'mail', which task_queues does not declare, and *",
        "*There are: 'celery'.",
    ])  # fmt: skip


def test_queues_given_to_the_worker_itself_are_named_as_such(project: Project) -> None:
    project.write(
        conftest="""
            import pytest


            @pytest.fixture(scope="session")
            def celery_worker_parameters():
                return {"queues": ["mail"]}
            """
    )
    result = project.run(
        """
        from shop.tasks import add


        def test_it(celery_worker):
            assert add.apply_async((1, 2), queue="mail").get() == 3
            add.delay(1, 2)
        """,
        *WARNINGS,
    )
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines([
        "*Workers consume 'mail' (the queues of celery_worker_parameters).",
        "*To have it consumed, give the queues of celery_worker_parameters these: mail, celery.",
    ])  # fmt: skip


@pytest.mark.parametrize("kind", ["Broadcast", "topic"])
def test_a_message_to_an_exchange_reaches_the_queues_that_are_bound_to_it(
    project: Project, kind: str
) -> None:
    queue = {
        "Broadcast": 'Broadcast("everywhere")',
        "topic": 'Queue("all", Exchange("everywhere", "topic"), "#")',
    }[kind]
    project.settings(f"""
        from kombu import Exchange, Queue
        from kombu.common import Broadcast

        CELERY_TASK_QUEUES = [Queue("celery"), {queue}]
        ROUTE = {{"exchange": "everywhere", "routing_key": "a.b"}}
        CELERY_TASK_ROUTES = {{"shop.tasks.add": ROUTE}}
        DATABASES["default"]["TEST"] = {{"NAME": "test.sqlite3"}}
        """)
    tests = [
        f"""
        def test_{worker}({worker}, celery_outbox):
            assert add.delay(1, 2).get() == 3
            assert celery_outbox[0].exchange == "everywhere"
        """
        for worker in (*WORKERS, "celery_live_worker")
    ]
    result = project.run("\n".join(tests), preamble="from shop.tasks import add")
    result.assert_outcomes(passed=3)
