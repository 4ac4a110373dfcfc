"""Whatever is wrong is said at once: what was expected, what came, what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Project

Run = Callable[..., pytest.RunResult]

OPTIONS = {
    "app": "proj/celery.py",
    "broker": "rabbit",
    "result_backend": "postgres",
    "sent_in_transaction": "always",
    "unhandled_failures": "raise",
    "timeout": "soon",
}


# -- the app ---------------------------------------------------------------------------------


def test_without_an_app_only_tests_that_ask_for_celery_fail_and_name_the_places_looked_in(
    project: Project,
) -> None:
    project.write(**{"proj/__init__": "", "shop/tasks": ""})
    (project.path / "proj/celery.py").unlink()
    result = project.run("""
        def test_that_asks_for_nothing():
            pass

        def test_that_asks(celery_app):
            pass
        """)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        [
            "E *UsageError: No Celery app was found for this Django project. Looked in:",
            "E *1. djcelery_app (ini) and --djcelery-app: not given;",
            "E *2. the current Celery app: *",
            "E *3. where 'celery -A' would look next to the settings module: 'proj'.",
            "E *Set djcelery_app = proj.celery:app, *",
        ]
    )
    result.stdout.no_fnmatch_line("*def find_app*")


def test_without_settings_the_remedy_is_to_name_them(project: Project) -> None:
    project.pytester.makeini("[pytest]\npythonpath = .\n")
    result = project.run("""
        def test_that_asks(celery_outbox):
            pass
        """)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            "E *3. where 'celery -A' would look *: no package: DJANGO_SETTINGS_MODULE is not set.",
            (
                "E *Name the project's settings in pytest's configuration, for pytest-django: "
                "DJANGO_SETTINGS_MODULE = proj.settings."
            ),
        ]
    )


def test_settings_in_no_package_are_told_from_none(project: Project) -> None:
    project.write(**{"proj/__init__": "", "shop/tasks": ""})
    (project.path / "proj/celery.py").unlink()
    (project.path / "proj/settings.py").rename(project.path / "settings.py")
    ini = "[pytest]\nDJANGO_SETTINGS_MODULE = settings\npythonpath = .\n"
    project.pytester.makeini(ini)
    result = project.run("def test_that_asks(celery_outbox): pass")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            "E *3. where 'celery -A' would *: no package: DJANGO_SETTINGS_MODULE is 'settings'.",
            "E *Set djcelery_app = proj.celery:app, *",
        ]
    )


@pytest.mark.parametrize("test", ["def test(): pass", "def test(celery_app): pass"])
@pytest.mark.parametrize(
    ("app", "reason"),
    [
        pytest.param("nope.celery:app", "*No module named 'nope'", id="no such package"),
        pytest.param("proj.nowhere:app", "*No module named 'proj.nowhere'", id="no such module"),
        pytest.param("proj.nowhere", "*No module named 'proj.nowhere'", id="nor by its name alone"),
        pytest.param("proj.celery:nope", "*nope*", id="no such name in the module"),
        pytest.param("proj.celery.nope", "*nope*", id="nor with a dot"),
        pytest.param(
            "proj.settings:SECRET_KEY", "*is 'test', which is no Celery app.", id="no Celery app"
        ),
    ],
)
def test_an_app_that_is_not_there_ends_the_run_with_the_reason(
    project: Project, app: str, reason: str, test: str
) -> None:
    project.ini(f"djcelery_app = {app}")
    result = project.run(test)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [
            f"ERROR: djcelery_app = '{app}' {reason}",
            "Expected a module and the name of the app in it, such as 'proj.celery:app'*",
        ]
    )


def test_an_app_whose_module_does_not_import_is_told_to_the_tests_that_ask(
    project: Project,
) -> None:
    project.write(**{"proj/__init__": "", "proj/broken": "import nowhere"})
    project.ini("djcelery_app = proj.broken:app")
    result = project.run("""
        def test_that_asks_for_nothing():
            pass

        def test_that_asks(celery_app):
            pass
        """)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        ["E *UsageError: djcelery_app = 'proj.broken:app' *No module named 'nowhere'"]
    )


@pytest.mark.parametrize(
    "app", ["proj", "proj.celery", "proj.celery:app", "proj.celery.app", "proj:celery_app"]
)
def test_an_app_is_named_in_each_way_that_celery_takes(project: Project, app: str) -> None:
    result = project.run(
        """
        from proj.celery import app

        def test_that_asks_for_nothing():
            assert app.conf.broker_url.startswith("djcelery")
        """,
        f"--djcelery-app={app}",
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["celery: app: proj, broker: memory, result backend: memory"])


# -- options and markers ---------------------------------------------------------------------


@pytest.mark.parametrize("place", ["ini", "command line"])
@pytest.mark.parametrize(("option", "value"), OPTIONS.items())
def test_an_unknown_value_of_an_option_ends_the_run_and_is_named(
    project: Project, option: str, value: str, place: str
) -> None:
    flag = f"--djcelery-{option}".replace("_", "-")
    arguments = [flag, value] if place == "command line" else []
    if place == "ini":
        project.ini(f"djcelery_{option} = {value}")
    result = project.run("def test(): pass", *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: djcelery_{option} = '{value}': expected *"])


TABLES = ["tool.pytest.ini_options"]
if pytest.version_tuple >= (9,):
    TABLES.append("tool.pytest")


@pytest.mark.parametrize("table", TABLES)
def test_a_list_in_toml_may_be_one_of_names(project: Project, table: str) -> None:
    _toml(project, table, 'djcelery_audit_fail_on = ["hooks-never-ran", "outside-reached"]')
    result = project.run("""
        def test(request):
            from pytest_djcelery.session.session import current_session
            kinds = current_session().options.audit_fail_on
            assert kinds == ("hooks-never-ran", "outside-reached")
        """)
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("table", TABLES)
def test_a_wrong_list_in_toml_is_a_usage_error(project: Project, table: str) -> None:
    _toml(project, table, 'djcelery_audit_fail_on = ["races"]')
    result = project.run("def test(): pass")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: djcelery_audit_fail_on = ?'races'?: expected some of 'published-in-transaction',*"]
    )
    result.stderr.no_fnmatch_line("*INTERNALERROR*")


@pytest.mark.skipif(pytest.version_tuple < (9,), reason="pytest 8 has no [tool.pytest]")
@pytest.mark.parametrize("kind", ["values", "texts"])
def test_options_of_toml_may_be_values_or_texts(project: Project, kind: str) -> None:
    values = {"timeout": "5", "live_concurrency": "3", "audit": "true", "live_queues": '["a", "b"]'}
    texts = {
        "timeout": '"5"', "live_concurrency": '"3"', "audit": '"true"', "live_queues": '"a, b"',
    }  # fmt: skip
    chosen = values if kind == "values" else texts
    lines = [f"djcelery_{name} = {value}" for name, value in chosen.items()]
    _toml(project, "tool.pytest", *lines)
    result = project.run(
        """
        def test(request):
            from pytest_djcelery.session.session import current_session
            options = current_session().options
            assert (options.timeout, options.live_concurrency) == (7, 3)
            assert (options.audit, options.live_queues) == (True, ("a", "b"))
        """,
        "-o", "djcelery_timeout=7",
    )  # fmt: skip
    result.assert_outcomes(passed=1)


@pytest.mark.skipif(pytest.version_tuple < (9,), reason="pytest 8 has no [tool.pytest]")
def test_a_wrong_value_in_toml_is_a_usage_error(project: Project) -> None:
    _toml(project, "tool.pytest", "djcelery_timeout = -5")
    result = project.run("def test(): pass")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: djcelery_timeout = -5: expected a number of seconds *"])


def _toml(project: Project, table: str, *lines: str) -> None:
    (project.path / "tox.ini").unlink()
    own = ('DJANGO_SETTINGS_MODULE = "proj.settings"', 'pythonpath = ["."]')
    (project.path / "pyproject.toml").write_text("\n".join([f"[{table}]", *own, *lines]))


def test_unknown_marker_arguments_are_named_with_what_was_expected(run: Run) -> None:
    result = run("""
        import pytest

        @pytest.mark.celery(task_acks_lat=True)
        def test_setting(): pass

        @pytest.mark.celery("task_acks_late")
        def test_positional(): pass

        @pytest.mark.celery_sent_in_transaction("never")
        def test_policy(): pass

        @pytest.mark.celery_unhandled_failures("error", "ignore")
        def test_two_policies(): pass

        @pytest.mark.celery_unhandled_failures(polcy="error")
        def test_keyword(): pass
        """)
    result.assert_outcomes(errors=5)
    for lines in (
        ["E *: Celery has no setting 'task_acks_lat'. Did you mean 'task_acks_late'*"],
        [
            (
                "E *: @pytest.mark.celery('task_acks_late'): expected settings of Celery "
                "as keyword arguments only, such as @pytest.mark.celery(task_acks_late=True)."
            )
        ],
        [
            (
                "E *: @pytest.mark.celery_sent_in_transaction = 'never': expected one of "
                "'warn', 'error', 'ignore'."
            )
        ],
        [
            (
                "E *BadOptionError: @pytest.mark.celery_unhandled_failures('error', 'ignore'): "
                "too many positional arguments. Expected one policy, *"
            )
        ],
        ["E *BadOptionError: @pytest.mark.celery_unhandled_failures(polcy='error'): *"],
    ):
        result.stdout.fnmatch_lines_random(lines)


def test_options_that_an_inner_run_refuses_leave_the_outer_run_as_it_is(
    project: Project,
) -> None:
    project.ini("djcelery_timeout = 0.2")
    result = project.run(
        """
        import pytest
        from shop.tasks import add

        def test_inner(pytester):
            result = pytester.runpytest_inprocess("-p", "no:django", "--djcelery-timeout=soon")
            result.stderr.fnmatch_lines("ERROR: *'soon'*")

        def test_outer(celery_outbox):
            with pytest.raises(TimeoutError, match="0.2 s"):
                celery_outbox.wait_for(add.s(1, 2))
        """,
        "-p",
        "pytester",
    )
    result.assert_outcomes(passed=2)


# -- workers ---------------------------------------------------------------------------------


def test_two_ways_to_run_tasks_in_one_test_are_refused(run: Run) -> None:
    result = run("""
        def test_worker_first(celery_worker, celery_eager): pass

        def test_eager_first(celery_eager, celery_worker): pass
        """)
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines_random(
        [
            "E *FixtureConflictError: celery_eager was asked for while celery_worker is in use.",
            "E *FixtureConflictError: celery_worker was asked for while celery_eager is in use.",
            "E *A test has one way to run its tasks: keep the one you mean and drop the other.",
        ]
    )


def test_a_pool_of_processes_could_not_see_the_database_in_memory_and_is_refused(
    project: Project,
) -> None:
    """The worker shares in-memory SQLite as a thread; a process of its own never could."""
    project.write(
        conftest="""
        import pytest

        @pytest.fixture(scope="session")
        def celery_worker_pool(request):
            return request.config.getoption("pool")

        def pytest_addoption(parser):
            parser.addoption("--pool")
        """
    )
    test = """
        from shop.models import Order
        from shop.tasks import count_orders

        def test_rows(db, celery_worker):
            Order.objects.create()
            assert count_orders.delay().get() == 1
        """
    project.run(test, "--pool", "threads").assert_outcomes(passed=1)
    result = project.run(test, "--pool", "prefork")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            (
                "E *BadOptionError: celery_worker_pool is 'prefork': expected 'solo' or 'threads'. "
                "An embedded worker is a thread of this process, which never forks."
            )
        ]
    )


def test_a_task_that_never_ends_is_named_with_the_stack_of_its_thread(project: Project) -> None:
    project.tasks("""
        from threading import Event

        @shared_task
        def wait_for_ever():
            Event().wait()
        """)
    project.ini("djcelery_timeout = 0.5")
    result = project.run("""
        from shop.tasks import add, wait_for_ever

        def test_result(celery_worker):
            wait_for_ever.delay().get()

        def test_idle(celery_worker):
            wait_for_ever.delay()
            celery_worker.wait_until_idle()

        def test_the_next_is_served_all_the_same(celery_worker):
            assert add.delay(1, 2).get() == 3
        """)
    assert result.parseoutcomes()["passed"] == 1
    stack = [
        "*running: shop.tasks.wait_for_ever*",
        "*stands at:",
        "*in wait_for_ever",
        "*Event().wait()",
    ]
    result.stdout.fnmatch_lines(["*WaitTimeoutError: No result for * after 0.5 s.", *stack])
    result.stdout.fnmatch_lines_random(
        ["E *WorkerError: A task still runs 0.5 s after the test; *"]
    )


def test_a_timeout_that_is_no_number_of_seconds_is_refused(run: Run) -> None:
    result = run("""
        from datetime import timedelta

        import pytest
        from shop.tasks import add

        from pytest_djcelery import BadOptionError

        def test_it(celery_worker, celery_outbox):
            for wait in (
                lambda timeout: celery_worker.wait_until_idle(timeout=timeout),
                lambda timeout: celery_outbox.wait_for(add.s(1, 2), timeout=timeout),
                lambda timeout: add.delay(1, 2).get(timeout=timeout),
            ):
                for timeout in (timedelta(seconds=1), "1"):
                    with pytest.raises(BadOptionError, match="expected seconds, a number"):
                        wait(timeout)
        """)
    result.assert_outcomes(passed=1)


# -- the broker ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        pytest.param(
            "amqp://guest:secret@127.0.0.1:1//", "amqp://guest:[*][*]@127.0.0.1:1//", id="amqp"
        ),
        pytest.param("redis://:secret@127.0.0.1:1/0", "redis://:[*][*]@127.0.0.1:1/0", id="redis"),
    ],
)
def test_a_broker_that_does_not_answer_is_named_in_bounded_time(
    project: Project, url: str, shown: str
) -> None:
    pytest.importorskip(url.partition(":")[0])
    project.ini(f"djcelery_broker = {url}", "djcelery_timeout = 8")
    result = project.run("""
        from time import monotonic

        import pytest
        from pytest_djcelery import BrokerUnreachableError
        from shop.tasks import add

        @pytest.fixture
        def bounded():
            began = monotonic()
            yield
            assert monotonic() - began < 8

        def test_delay(celery_app, bounded):
            add.delay(1, 2)

        def test_code_that_handles_celerys_own_error_still_does(celery_outbox, bounded):
            with pytest.raises(add.OperationalError):
                add.delay(1, 2)
            assert celery_outbox == []

        def test_worker(bounded, celery_worker):
            pass
        """)
    result.assert_outcomes(passed=1, failed=1, errors=1)
    result.stdout.fnmatch_lines_random(
        [
            f"E *BrokerUnreachableError: The broker {shown} does not answer: *Connection refused*",
            "E *shop.tasks.add was not sent. The run uses that broker because of djcelery_broker *",
            "E *No worker was started. The run uses that broker because of djcelery_broker *",
            "E *Start the broker, or use djcelery_broker = memory (the default), which needs none.",
        ]
    )
    assert not re.search(rf"^E .*{url}", str(result.stdout), re.MULTILINE)


# -- messages and results --------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["celery_outbox", "celery_eager", "celery_worker"])
def test_an_argument_that_cannot_be_sent_is_named_with_the_remedy(run: Run, mode: str) -> None:
    result = run(f"""
        from shop.models import Order
        from shop.tasks import add, ship

        def test_model({mode}):
            ship.delay(Order(pk=7))

        def test_set({mode}):
            add.delay(1, y={{2}})
        """)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "E *shop.tasks.ship was not sent: the 'json' serializer can't encode its arguments.",
            (
                "E * argument 1: <Order: Order object (7)> (of type Order); send its primary key "
                "(order.pk) and fetch the Order in the task"
            ),
            "E *shop.tasks.add was not sent: the 'json' serializer can't encode its arguments.",
            "E * argument 'y': {2} (of type set); send a list",
        ]
    )
    said = [line for line in result.outlines if "was not sent: the 'json'" in line]
    assert len(said) == 2  # once for each


@pytest.mark.parametrize("mode", ["celery_outbox", "celery_eager", "celery_worker"])
def test_an_argument_that_cannot_be_sent_raises_what_celery_raises(run: Run, mode: str) -> None:
    result = run(f"""
        import pytest
        from kombu import serialization
        from kombu.exceptions import EncodeError
        from shop.tasks import add

        def test({mode}):
            body = ((1, {{2}}), {{}}, {{}})
            with pytest.raises(EncodeError) as wanted:
                serialization.dumps(body, "json")
            with pytest.raises(EncodeError) as caught:
                add.delay(1, {{2}})
            assert list(map(repr, caught.value.args)) == list(map(repr, wanted.value.args))
            [note] = caught.value.__notes__
            assert note.startswith("shop.tasks.add was not sent: ")
        """)
    result.assert_outcomes(passed=1)


def test_a_task_that_is_not_registered_fails_the_test_that_sent_it(run: Run) -> None:
    result = run("""
        from celery import signature
        from celery.exceptions import NotRegistered
        from pytest_djcelery import Failure

        def test_unseen(celery_app, celery_worker):
            celery_app.send_task("shop.tasks.shipp", [1])

        def test_seen(celery_app, celery_worker, celery_results):
            result = celery_app.send_task("shop.tasks.shipp", [1])
            assert celery_results[result] == Failure(NotRegistered)

        def test_expected(celery_outbox):
            assert signature("shop.tasks.shipp", [1]) in celery_outbox
        """)
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(
        [
            "A task failed and the test never looked at it:",
            "  shop.tasks.shipp(*NotRegistered: *shop.tasks.shipp*",
        ]
    )
    result.stdout.fnmatch_lines_random(
        ["E *No task is registered as 'shop.tasks.shipp'*Did you mean shop.tasks.ship*"]
    )


def test_a_comparison_with_something_that_is_no_signature_says_what_to_write(run: Run) -> None:
    result = run("""
        from shop.tasks import add

        def test_call(celery_outbox):
            add.delay(1, 2)
            assert celery_outbox == [add]

        def test_name(celery_outbox):
            assert "shop.tasks.add" in celery_outbox

        def test_no_list(celery_outbox):
            assert celery_outbox == 1
        """)
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines_random(
        [
            "E *NotASignatureError: *@task: shop.tasks.add*",
            "E *NotASignatureError: *'shop.tasks.add'*",
            "E *: expected a list of Celery signatures such as [[]add.s(1, 2)], got 1 (int).",
        ]
    )


def test_a_result_of_an_unknown_id_lists_what_was_sent(run: Run) -> None:
    result = run("""
        from shop.tasks import add

        def test_id(celery_worker, celery_results):
            add.apply_async((1, 2), task_id="first")
            celery_results["frist"]

        def test_no_result(celery_worker, celery_results):
            celery_results[add]
        """)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            (
                "E *UnknownResultError: No message of this test has the id 'frist', and the result "
                "backend knows none."
            ),
            "E *Sent in this test:",
            "E *first  shop.tasks.add",
        ]
    )
    result.stdout.fnmatch_lines(
        [
            (
                "E *BadOptionError: celery_results[[]<@task: *]: expected what delay() or "
                "apply_async() returned, or a task id. *"
            )
        ]
    )


def test_delay_on_commit_that_is_missing_on_a_base_class_is_explained(project: Project) -> None:
    project.tasks("""
        import celery

        class AuditTask(celery.Task):
            pass

        @shared_task(base=AuditTask)
        def audit():
            pass
        """)
    result = project.run("""
        from unittest import TestCase

        import pytest
        from shop.tasks import audit

        def test_function(celery_app):
            audit.delay_on_commit()

        @pytest.mark.usefixtures("celery_app")
        class TestClass(TestCase):
            def test_method(self):
                audit.apply_async_on_commit()

        def test_other_attributes_are_left_alone(celery_app):
            audit.delay_on_comit()
        """)
    result.assert_outcomes(failed=3)
    for method in ("delay_on_commit", "apply_async_on_commit"):
        result.stdout.fnmatch_lines(
            [
                f"E *AttributeError: 'audit' object has no attribute '{method}'",
                (
                    "E *shop.tasks.audit is built on shop.tasks.AuditTask, which is not a "
                    f"DjangoTask, so it has no {method}."
                ),
                "E *To fix: let that class inherit from celery.contrib.django.task.DjangoTask, *",
            ]
        )
    assert str(result.stdout).count("To fix:") == 2
