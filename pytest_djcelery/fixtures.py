"""The fixtures. Each enters a public context manager and yields what that yields.

Those that request ``celery_app`` without using it do so to open the test's sandbox.

Names that `celery.contrib.pytest` documents mean the same here, but for the project's own app.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

import pytest_djcelery
from pytest_djcelery import markers
from pytest_djcelery.api import wider_fixtures
from pytest_djcelery.api.app import configured_app
from pytest_djcelery.errors import AppNotFoundError, django_is_configured
from pytest_djcelery.session import opening

if TYPE_CHECKING:
    from celery import Celery

    from pytest_djcelery.api.beat import Beat
    from pytest_djcelery.api.faults import Faults
    from pytest_djcelery.api.inline import Inline
    from pytest_djcelery.api.live_worker import LiveWorker
    from pytest_djcelery.api.on_commit import OnCommit
    from pytest_djcelery.api.outbox import Outbox
    from pytest_djcelery.api.results import Results
    from pytest_djcelery.api.worker import SessionWorker, Worker
    from pytest_djcelery.session.sandbox import Sandbox


@pytest.fixture(scope="session")
def celery_config() -> Mapping[str, Any]:
    """Override it to return settings for the app: ``{"task_acks_late": True}``."""
    return {}


@pytest.fixture(scope="session")
def celery_parameters() -> Mapping[str, Any]:
    """Override it to give the app arguments of `Celery`, as far as an existing app takes them."""
    return {}


@pytest.fixture(scope="session")
def celery_enable_logging() -> bool:
    """Override it to return ``True``, and the worker sets up Celery's logging."""
    return False


@pytest.fixture(scope="session")
def celery_includes() -> Sequence[str]:
    """Override it to return modules that the worker imports: ``["shop.tasks"]``."""
    return ()


@pytest.fixture(scope="session")
def celery_class_tasks() -> Sequence[Any]:
    """Override it to return class-based tasks to register: ``[ShipTask]``."""
    return []


@pytest.fixture(scope="session")
def celery_worker_pool() -> Any:
    """Override it to choose the worker's pool: return ``"solo"`` or ``"threads"``."""
    return "solo"


@pytest.fixture(scope="session")
def celery_worker_parameters() -> Mapping[str, Any]:
    """Override it to return arguments of `WorkController`: ``{"queues": ["celery", "mail"]}``."""
    return {}


@pytest.fixture(scope="session")
def celery_session_app(
    celery_config: Mapping[str, Any], celery_parameters: Mapping[str, Any]
) -> Iterator[Celery]:
    """The project's own app, for session fixtures: ``celery_session_app.send_task("a.b")``."""
    with (
        _usage_errors(),
        pytest_djcelery.session_app(config=celery_config, parameters=celery_parameters) as app,
    ):
        yield app


@contextmanager
def _usage_errors() -> Iterator[None]:
    __tracebackhide__ = True
    try:
        yield
    except AppNotFoundError as error:
        raise pytest.UsageError(error.with_notes()) from None


@pytest.fixture
def _celery_sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    # Asking for ``request`` costs pytest an inspection of the function, in each fixture that does:
    # our other fixtures take the test from the sandbox.
    test = request.node
    wider_fixtures.report_lost(test)
    with (
        _usage_errors(),
        opening.sandbox_of_test(**markers.options(test)) as sandbox,
        sandbox.used_by(test),
    ):
        yield sandbox


@pytest.fixture
def celery_app(
    _celery_sandbox: Sandbox,
    celery_config: Mapping[str, Any],
    celery_parameters: Mapping[str, Any],
) -> Iterator[Celery]:
    """The project's own app, with the settings of ``@pytest.mark.celery(task_acks_late=True)``.

    They are undone at the end of the test, as are those of ``celery_config``.
    """
    settings = markers.configuration(_celery_sandbox.test)
    if not (celery_config or celery_parameters or settings):
        yield _celery_sandbox.app
        return
    # Not through celery_session_app: a module, class or test may override celery_config.
    with (
        configured_app(config=celery_config, parameters=celery_parameters),
        pytest_djcelery.app(**settings) as app,
    ):
        yield app


@pytest.fixture
def celery_outbox(celery_app: Celery) -> Iterator[Outbox]:
    """The messages this test has sent: ``assert celery_outbox == [send_email.s(user.pk)]``.

    They compare with Celery's signatures; see `pytest_djcelery.Outbox`.
    """
    with pytest_djcelery.outbox(whole_test=True) as outbox:
        yield outbox


@pytest.fixture
def celery_on_commit(celery_app: Celery) -> Iterator[OnCommit]:
    """The on_commit hooks of this test: ``[hook] = celery_on_commit.discarded``.

    The lists are ``pending``, ``ran`` and ``discarded``; ``with celery_on_commit.hold():`` keeps
    hooks back. See `pytest_djcelery.OnCommit`.
    """
    with pytest_djcelery.on_commit(whole_test=True) as on_commit:
        yield on_commit


@pytest.fixture
def celery_eager(celery_app: Celery) -> Iterator[Celery]:
    """Celery's eager mode for this test: ``assert add.delay(1, 2).get() == 3``, in place.

    Yields the app. Results are stored, so ``AsyncResult`` and ``celery_results`` can read them.
    """
    with pytest_djcelery.eager() as app:
        yield app


@pytest.fixture
def celery_inline(celery_app: Celery, _celery_sandbox: Sandbox) -> Iterator[Inline]:
    """A worker in the test's own thread and transaction: ``celery_inline.run()`` runs what is due.

    ``run(until=timedelta(hours=1))`` lets an hour pass at once, on a virtual clock. With
    ``@pytest.mark.celery_inline(auto=True)`` it delivers by itself. See `pytest_djcelery.Inline`.
    """
    with pytest_djcelery.inline(**markers.inline(_celery_sandbox.test)) as inline:
        yield inline


@pytest.fixture
def celery_beat(celery_app: Celery) -> Iterator[Beat]:
    """The periodic schedule: ``celery_beat.run(until=timedelta(days=7))`` sends a week of it.

    ``due(…)`` says what would be sent, and ``check()`` finds entries that no worker could run. See
    `pytest_djcelery.Beat`.
    """
    with pytest_djcelery.beat() as beat:
        yield beat


@pytest.fixture
def celery_faults(celery_app: Celery) -> Iterator[Faults]:
    """What production does to tasks: ``celery_faults.fail(charge, ConnectionError)``, and more.

    ``celery_faults.lose_worker(charge, at=gateway.charge)`` has the worker die when the task has
    called the gateway. A fault that never happens fails the test. See `pytest_djcelery.Faults`.
    """
    with pytest_djcelery.faults(whole_test=True) as faults:
        yield faults


@pytest.fixture
def celery_results(celery_app: Celery) -> Iterator[Results]:
    """The outcomes of tasks: ``assert celery_results[add.delay(4, 4)] == Success(8)``.

    It reads whatever result backend is configured; see `pytest_djcelery.Results`.
    """
    with pytest_djcelery.results() as results:
        yield results


def _worker_arguments(
    celery_includes: Sequence[str],
    celery_class_tasks: Sequence[Any],
    celery_worker_pool: Any,
    celery_worker_parameters: Mapping[str, Any],
    celery_enable_logging: bool,
) -> Mapping[str, Any]:
    return {
        "includes": tuple(celery_includes),
        "class_tasks": tuple(celery_class_tasks),
        "pool": celery_worker_pool,
        "parameters": celery_worker_parameters,
        "logging": celery_enable_logging,
    }


# A test may override what these take if they have its scope; the session's worker has its own.
_of_test = pytest.fixture(_worker_arguments, name="_celery_worker_arguments")
_of_session = pytest.fixture(
    _worker_arguments, scope="session", name="_celery_session_worker_arguments"
)


@pytest.fixture
def celery_worker(
    celery_app: Celery,
    _celery_sandbox: Sandbox,
    _celery_worker_arguments: Mapping[str, Any],
) -> Iterator[Worker]:
    """A worker in a thread of this process: ``assert add.delay(4, 4).get() == 8``.

    ``celery_results`` waits for a task, too, and ``celery_worker.wait_until_idle()`` for all of
    them. It needs a test that commits. See `pytest_djcelery.Worker`.
    """
    with pytest_djcelery.worker(**_celery_worker_arguments) as worker:
        markers.before_database_cleanup(_celery_sandbox.test, worker.settle)
        yield worker


@pytest.fixture(scope="session")
def _celery_live_processes(request: pytest.FixtureRequest) -> Iterator[None]:
    from pytest_djcelery.workers.live.posix import check_posix

    check_posix()
    if django_is_configured():
        # So that the processes end before the databases are removed.
        request.getfixturevalue("django_db_setup")
    yield
    from pytest_djcelery.workers.live import process_reuse  # needs Celery and Django

    process_reuse.stop()


@pytest.fixture
def celery_live_worker(
    request: pytest.FixtureRequest,
    celery_app: Celery,
    _celery_live_processes: None,
) -> Iterator[LiveWorker]:
    """``celery -A proj worker`` in its own processes: ``assert add.delay(4, 4).get() == 8``.

    ``@pytest.mark.celery_live_worker(pool=…, concurrency=…)`` chooses its options. It needs a test
    that commits. See `pytest_djcelery.LiveWorker`.
    """
    markers.open_database(request)
    with pytest_djcelery.live_worker(**markers.live_worker(request.node)) as worker:
        markers.before_database_cleanup(request.node, worker.settle)
        yield worker


@pytest.fixture(scope="session")
def celery_session_worker(
    celery_session_app: Celery,  # applies celery_config
    _celery_session_worker_arguments: Mapping[str, Any],
) -> Iterator[SessionWorker]:
    """One worker thread for the whole run: session fixtures may ``add.delay(4, 4).get()``, too."""
    with pytest_djcelery.session_worker(**_celery_session_worker_arguments) as worker:
        yield worker


@pytest.fixture
def _celery_session_worker_here(
    celery_app: Celery,
    _celery_sandbox: Sandbox,
    celery_session_worker: SessionWorker,
) -> Iterator[None]:
    """Have the session's worker run the messages of a test that requests it."""
    with celery_session_worker.in_test() as worker:
        markers.before_database_cleanup(_celery_sandbox.test, worker.settle)
        yield


NAMES = frozenset(
    {
        "celery_app", "celery_beat", "celery_eager", "celery_faults", "celery_inline",
        "celery_live_worker", "celery_on_commit", "celery_outbox", "celery_results",
        "celery_session_worker", "celery_worker",
    }
)  # fmt: skip
