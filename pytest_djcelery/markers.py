"""A test's markers, and the fixtures that it needs because of them or of other fixtures."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any

import pytest

from pytest_djcelery.errors import BadOptionError, django_is_configured
from pytest_djcelery.options import INLINE, policy, queues, redeliver

DECLARED = (
    (
        "celery(**settings): change settings of the project's Celery app for this test, "
        "such as task_acks_late=True"
    ),
    (
        "celery_inline(auto=False): run this test's tasks with celery_inline; auto=True delivers "
        "after each publish, in place of eager mode"
    ),
    (
        "celery_live_worker(pool='prefork', concurrency=2, queues=(), loglevel='INFO'): run this "
        "test's tasks with celery_live_worker, started with these options"
    ),
    (
        "celery_explore(orders=True, duplicates=0, crashes=0, examples=100, lost='allow'): run "
        "this test once for each schedule that a real system may have"
    ),
    (
        "celery_sent_in_transaction(policy): what a message published inside an open transaction "
        "does in this test: 'warn', 'error' or 'ignore'"
    ),
    (
        "celery_redeliver(policy='error', exempt=()): run each message that celery_inline has run "
        "to success once more, and fail the test if that makes a difference ('error'), 'report' it "
        "or do neither ('off'); exempt=[task] leaves tasks out"
    ),
    (
        "celery_queues(*names): the queues that production's workers consume, for this test; a "
        "message to any other stays there, and gives a warning"
    ),
    (
        "celery_unhandled_failures(policy): what a task failure that the test never looked at "
        "does: 'error', 'warn' or 'ignore'"
    ),
)
_POLICIES = {
    "celery_sent_in_transaction": "sent_in_transaction",
    "celery_unhandled_failures": "unhandled_failures",
}
_OTHER_WAYS = ("celery_eager", "celery_inline", "celery_live_worker")
_RUNNERS = (*_OTHER_WAYS, "celery_worker", "celery_session_worker")
_QUEUES = "celery_queues"
_REDELIVER = "celery_redeliver"
_LIVE = "celery_live_worker"
_LIVE_OPTIONS = ("pool", "concurrency", "queues", "loglevel")
# The fixtures that open the test's sandbox, in the order of set-up.
_OPENING = ("_celery_sandbox", "celery_app")
_OURS = frozenset(
    {
        *_OPENING, *_OTHER_WAYS, "_celery_session_worker_here", "celery_beat", "celery_faults",
        "celery_on_commit", "celery_outbox", "celery_results", "celery_worker",
    }
)  # fmt: skip
_STARTING = frozenset(
    {"_celery_session_worker_here", "celery_beat", "celery_live_worker", "celery_worker"}
)
_SETTINGS = ("celery_config", "celery_parameters")
_DATABASE = ("db", "transactional_db", "django_db_reset_sequences", "django_db_serialized_rollback")
_DATABASE_FIXTURES = frozenset(
    {*_DATABASE, "_django_db_helper", "_django_db_marker", "_live_server_helper"}
)

#: On a test: whether it uses a fixture of ours, or ``djcelery_mode``.
USES_OURS: pytest.StashKey[bool] = pytest.StashKey()
#: On a test: whether its messages are delivered automatically.
AUTOMATIC: pytest.StashKey[bool] = pytest.StashKey()


def options(node: pytest.Item) -> dict[str, Any]:
    """Options of the run that markers change for one test.

    Raises:
        BadOptionError: The marker is used in a wrong way.
    """
    changes: dict[str, Any] = {}
    for name, option in _POLICIES.items():
        marker = node.get_closest_marker(name)
        if marker is not None:
            changes[option] = policy(f"@pytest.mark.{name}", _only_argument(marker))
    marker = node.get_closest_marker(_QUEUES)
    if marker is not None:
        changes["queues"] = _queues(marker)
    marker = node.get_closest_marker(_REDELIVER)
    if marker is not None:
        changes.update(_redeliver(marker))
        if changes["redeliver"] != "off":
            _check_delivers(node, marker)
    return changes


def _redeliver(marker: pytest.Mark) -> dict[str, Any]:
    def signature(policy: object = "error", /, *, exempt: object = ()) -> tuple[object, object]:
        return policy, exempt

    shown = f"@pytest.mark.{marker.name}"
    try:
        policy, exempt = signature(*marker.args, **marker.kwargs)
    except TypeError:
        msg = (
            f"{shown}{call_of(marker)}: expected at most 'off', 'report' or 'error' (the default), "
            f"and exempt=[task, …], such as {shown}('report', exempt=[send_email])."
        )
        raise BadOptionError(msg) from None
    return {
        "redeliver": redeliver(shown, policy),
        "redeliver_exempt_here": tuple(_exempt(marker, exempt)),
    }


def _exempt(marker: pytest.Mark, given: object) -> Iterator[str]:
    # A task that is still a proxy passes for any kind of container.
    for task in given if isinstance(given, (list, tuple, set, frozenset)) else [None]:
        name = task if isinstance(task, str) else getattr(task, "name", None)
        if not isinstance(name, str) or not (name is task or hasattr(task, "apply_async")):
            msg = (
                f"@pytest.mark.{marker.name}{call_of(marker)}: expected a list of tasks, or of "
                f"their names, such as exempt=[send_email]."
            )
            raise BadOptionError(msg)
        yield name


def _check_delivers(node: pytest.Item, marker: pytest.Mark) -> None:
    """Refuse the marker on a test whose messages nothing delivers here.

    A class or a module may have it all the same, for its other tests.
    """
    own = any(marker is found for found in node.own_markers)
    names = getattr(node, "fixturenames", ())
    if own and "celery_inline" not in names and not node.stash.get(AUTOMATIC, False):
        other = next((name for name in _RUNNERS if name in names), None)
        runs = "nothing runs its tasks" if other is None else f"{other} runs its tasks"
        msg = (
            f"@pytest.mark.{marker.name}{call_of(marker)} runs messages twice that celery_inline "
            f"delivers, but in {node.name} {runs}.\n"
            "Let the test request celery_inline (or djcelery_mode = inline), or drop the marker."
        )
        raise BadOptionError(msg)


def _queues(marker: pytest.Mark) -> tuple[str, ...]:
    if marker.kwargs or not marker.args:
        msg = (
            f"@pytest.mark.{marker.name}{call_of(marker)}: expected the names of queues, such as "
            f"@pytest.mark.{marker.name}('celery', 'mail')."
        )
        raise BadOptionError(msg)
    return queues(f"@pytest.mark.{marker.name}", marker.args)


def _only_argument(marker: pytest.Mark) -> object:
    def signature(policy: object) -> object:
        return policy

    try:
        bound = inspect.signature(signature).bind(*marker.args, **marker.kwargs)
    except TypeError as error:
        msg = (
            f"@pytest.mark.{marker.name}{call_of(marker)}: {error}. "
            f"Expected one policy, such as @pytest.mark.{marker.name}('error')."
        )
        raise BadOptionError(msg) from None
    return bound.arguments["policy"]


def configuration(node: pytest.Item) -> dict[str, Any]:
    """The settings that ``@pytest.mark.celery(…)`` changes; the closest marker wins.

    Raises:
        BadOptionError: The marker is used in a wrong way.
    """
    settings: dict[str, Any] = {}
    for marker in reversed(list(node.iter_markers("celery"))):
        if marker.args:
            msg = (
                f"@pytest.mark.celery{call_of(marker)}: expected settings of Celery as keyword "
                "arguments only, such as @pytest.mark.celery(task_acks_late=True)."
            )
            raise BadOptionError(msg)
        settings.update(marker.kwargs)
    return settings


def inline(node: pytest.Item) -> dict[str, Any]:
    """Arguments for `inline`, by ``@pytest.mark.celery_inline``.

    Raises:
        BadOptionError: The marker is used in a wrong way.
    """
    marker = node.get_closest_marker("celery_inline")
    if marker is None:
        return {}
    unknown = set(marker.kwargs) - {"auto"}
    if marker.args or unknown or not isinstance(marker.kwargs.get("auto", False), bool):
        msg = (
            f"@pytest.mark.celery_inline{call_of(marker)}: expected nothing, or auto=True to "
            "deliver after each publish."
        )
        raise BadOptionError(msg)
    return {"auto": marker.kwargs.get("auto", False)}


def live_worker(node: pytest.Item) -> dict[str, Any]:
    """Arguments for `live_worker`, by ``@pytest.mark.celery_live_worker``.

    Raises:
        BadOptionError: The marker is used in a wrong way.
    """
    marker = node.get_closest_marker(_LIVE)
    if marker is None:
        return {}
    if marker.args or set(marker.kwargs) - set(_LIVE_OPTIONS):
        msg = (
            f"@pytest.mark.{_LIVE}{call_of(marker)}: expected options of `celery worker` as "
            f"keyword arguments: {', '.join(_LIVE_OPTIONS)}."
        )
        raise BadOptionError(msg)
    return dict(marker.kwargs)


def is_explored(node: pytest.Item) -> bool:
    """Whether a test has ``@pytest.mark.celery_explore``."""
    return node.get_closest_marker("celery_explore") is not None


def call_of(marker: pytest.Mark) -> str:
    """The arguments of a marker, as code has them."""
    shown = [
        *map(repr, marker.args),
        *(f"{name}={value!r}" for name, value in marker.kwargs.items()),
    ]
    return f"({', '.join(shown)})"


def complete_fixtures(item: pytest.Function, mode: str | None) -> bool:
    """Add the fixtures that a test needs because of those it requests, and of its markers.

    Ours are set up first (after those of the database), whatever the order of the test's
    arguments, so that what the other fixtures send counts as the test's.

    Args:
        item: The test.
        mode: The value of ``djcelery_mode``.

    Returns:
        Whether the test uses a fixture of ours, or ``djcelery_mode``.
    """
    names = item.fixturenames
    marked = {marker.name for marker in item.iter_markers()}
    if "celery_app" not in names and not marked.isdisjoint(
        ("celery", _QUEUES, _REDELIVER, *_POLICIES)
    ):
        names.append("celery_app")
    if "celery_inline" in marked and "celery_inline" not in names:
        names.append("celery_inline")
    if _LIVE in marked and _LIVE not in names:
        names.append(_LIVE)
    served_by_session = _served_by_session_worker(item)
    if served_by_session and "_celery_session_worker_here" not in names:
        names.append("_celery_session_worker_here")
    by_mode = mode == INLINE and not any(runner in names for runner in _RUNNERS)
    if by_mode and "celery_app" not in names and any(map(partial(_overridden, item), _SETTINGS)):
        names.append("celery_app")
    item.stash[AUTOMATIC] = by_mode or _is_automatic(item)
    if "transactional_db" not in names and (
        # Its processes open the databases that they find, which must be the test's.
        (_LIVE in names and not _is_django_test_case(item) and django_is_configured())
        or (("celery_worker" in names or served_by_session) and _uses_database(item, marked))
    ):
        # Before the worker, so that the worker ends before the database is removed.
        names.append("transactional_db")
    ours = any(name in _OURS for name in names)
    if ours:
        names[:] = _in_order(item)
    item.stash[USES_OURS] = ours or by_mode
    return item.stash[USES_OURS]


def uses_ours(item: pytest.Item | None) -> bool:
    """Whether a test uses a fixture of ours, or ``djcelery_mode``."""
    return item is not None and item.stash.get(USES_OURS, False)


def _is_automatic(item: pytest.Item) -> bool:
    """Whether a test's marker asks for automatic delivery; wrong use is reported later."""
    marker = item.get_closest_marker("celery_inline")
    return marker is not None and marker.kwargs.get("auto") is True


def _in_order(item: pytest.Function) -> list[str]:
    """The fixtures in the order in which they are set up: those of classes, modules, … come first.

    A fixture that starts a worker or beat comes after the fixtures that may configure it: those
    named before it which themselves request one of ours.
    """
    names = item.fixturenames
    starting = [index for index, name in enumerate(names) if name in _STARTING]

    def turn(name: str) -> int:
        definitions = _definitions(item, name)
        if definitions and definitions[-1].scope != "function":
            return 0
        if name in _DATABASE_FIXTURES:
            return 1
        if name in _OPENING:
            return 2
        if name in _OURS - _STARTING - {*(_RUNNERS if starting else ())}:
            return 3
        prepares = starting and names.index(name) < starting[-1] and _asks_for_ours(item, name)
        return 4 if name in _OURS or prepares else 5

    return sorted(names, key=turn)


def _asks_for_ours(item: pytest.Function, name: str) -> bool:
    pending, seen = [name], set[str]()
    while pending:
        fixture = pending.pop()
        if fixture in _OURS:
            return True
        if fixture not in seen:
            seen.add(fixture)
            for definition in _definitions(item, fixture):
                pending += definition.argnames
    return False


def _overridden(item: pytest.Function, name: str) -> bool:
    """Whether the project overrides a fixture of ours.

    Private API (``_fixturemanager``), checked on pytest 8.0 to 9.2: before 8.1 it takes the id.
    """
    manager: Any = item.session._fixturemanager
    node = item if pytest.version_tuple >= (8, 1) else item.nodeid
    definitions = manager.getfixturedefs(name, node) or ()
    return len(definitions) > 1


def _definitions(item: pytest.Function, name: str) -> Sequence[Any]:
    """The fixtures of a name that the test can see, the nearest last; none for one added here.

    Private API (``_fixtureinfo`` and ``_fixturemanager``, since pytest offers nothing else during
    collection), checked on pytest 8.0 to 9.2.
    """
    return item._fixtureinfo.name2fixturedefs.get(name, ())


def _served_by_session_worker(item: pytest.Function) -> bool:
    """Whether the session's worker runs the test's own tasks.

    It doesn't if only another fixture, such as a session fixture, requests it and the test itself
    has another way to run tasks.
    """
    names = item.fixturenames
    if "celery_session_worker" not in names:
        return False
    if not any(runner in names for runner in _OTHER_WAYS):
        return True
    asked_for = {*inspect.signature(item.function).parameters}
    for marker in item.iter_markers("usefixtures"):
        asked_for.update(marker.args)
    return "celery_session_worker" in asked_for


def _uses_database(item: pytest.Function, marked: Collection[str]) -> bool:
    if _is_django_test_case(item):
        return False
    return "django_db" in marked or any(name in item.fixturenames for name in _DATABASE)


def open_database(request: pytest.FixtureRequest) -> None:
    """Open the test's database for a live worker that was requested by ``getfixturevalue()``."""
    item = request.node
    marked = {marker.name for marker in item.iter_markers()}
    if _is_django_test_case(item) or _uses_database(item, marked) or not django_is_configured():
        return
    # There pytest-django looks for the kind of database that a test wants.
    item.fixturenames.append("transactional_db")
    try:
        request.getfixturevalue("transactional_db")
    finally:
        item.fixturenames.remove("transactional_db")


def _is_django_test_case(item: pytest.Function) -> bool:
    """Whether a test is in one of Django's own test cases, which set the database up themselves."""
    return item.cls is not None and hasattr(item.cls, "databases")


def before_database_cleanup(item: pytest.Item, settle: Callable[[], None]) -> None:
    """Call ``settle`` before a ``unittest`` test case empties its database.

    A pytest fixture is torn down after that, and a task that still runs would write again.
    """
    add_cleanup = getattr(getattr(item, "instance", None), "addCleanup", None)
    if add_cleanup is not None:
        add_cleanup(settle)
