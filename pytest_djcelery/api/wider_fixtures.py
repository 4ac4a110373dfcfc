"""Handles what is sent while the fixtures of a class, a module or the session are set up.

That is before the test opens a sandbox. If the test's messages are delivered automatically, theirs
are too, at once; otherwise the test warns that no worker will run them.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from pytest_djcelery import locations, markers
from pytest_djcelery.errors import DjceleryError, NotDeliveredWarning
from pytest_djcelery.session import runner
from pytest_djcelery.session.session import current_session

if TYPE_CHECKING:
    from pytest_djcelery.session.sandbox import Sandbox

_OF_TEST_CASES = "_django_setup_unittest"
_LOST: pytest.StashKey[list[str]] = pytest.StashKey()


class WiderFixtures:
    """The hooks, for a run that has tests which use a fixture of ours, or ``djcelery_mode``."""

    def __init__(self) -> None:
        self._automatic = _Automatic()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Deliver from now on, if the test asks for it; wider fixtures are set up later."""
        if not item.stash.get(markers.AUTOMATIC, False):
            self._automatic.end()
            return
        try:
            self._automatic.begin()
        except DjceleryError as error:
            raise pytest.UsageError(error.with_notes()) from None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self) -> Generator[None, object, object]:
        """Let the next test begin clean."""
        try:
            return (yield)
        finally:
            self._automatic.test_ended()

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        """Note what a wider fixture sends that no worker will run."""
        if fixturedef.scope == "function":
            return (yield)
        if fixturedef.argname == "django_db_setup":
            # Whatever migrations and the handlers of their signals send belongs to no test.
            with self._automatic.interrupted():
                return (yield)
        if current_session().sandbox is not None or "celery.app.base" not in sys.modules:
            return (yield)
        if fixturedef.argname == _OF_TEST_CASES and request.cls is None:
            return (yield)  # pytest-django's, which does nothing there, and is in every test
        with _sends_noted() as sent:
            try:
                return (yield)
            finally:
                # A fixture that opens a block decides itself what is run.
                if sent and current_session().sandbox is None and not runner.serves_session():
                    request.node.stash.setdefault(_LOST, []).extend(sent)

    @pytest.hookimpl(tryfirst=True)
    def pytest_unconfigure(self) -> None:
        """Put the app back as it was."""
        self._automatic.end()


class _Automatic:
    """Automatic delivery, in one block for as many tests as don't touch Celery.

    A block for each test would take longer than all the tasks of a suite.
    """

    def __init__(self) -> None:
        self._block = ExitStack()
        self._sandbox: Sandbox | None = None

    def begin(self) -> None:
        """Deliver from now on, unless it already does."""
        if self._sandbox is None:
            from pytest_djcelery.api.inline import automatic_delivery  # needs Celery

            with ExitStack() as block:
                self._sandbox = block.enter_context(automatic_delivery())
                self._sandbox.is_new()
                self._block = block.pop_all()

    def test_ended(self) -> None:
        """End the block if the test has touched Celery."""
        audited = current_session().audit is not None
        if self._sandbox is not None and (audited or not self._sandbox.reusable):
            self._close()

    def end(self) -> None:
        """End it, unless a block that is wider than a test shares the sandbox."""
        if self._sandbox is not None and not self._sandbox.is_shared:
            self._close()

    @contextmanager
    def interrupted(self) -> Iterator[None]:
        """Within the ``with``, deliver nothing."""
        delivers = self._sandbox is not None and not self._sandbox.is_shared
        if delivers:
            self._close()
        try:
            yield
        finally:
            if delivers:
                self.begin()

    def _close(self) -> None:
        self._sandbox = None
        self._block.close()


@contextmanager
def _sends_noted() -> Iterator[list[str]]:
    """Collect, as text, what is sent within the ``with``."""
    from celery.signals import after_task_publish

    from pytest_djcelery.messages.descriptions import call_text  # needs Celery

    sent: list[str] = []

    def note(sender: str, body: Any, **_: Any) -> None:
        args, kwargs = body[:2] if isinstance(body, tuple) else (body["args"], body["kwargs"])
        where = locations.of_caller()
        place = f", sent at {where}" if where else ""
        sent.append(f"{call_text(sender, args, kwargs)}{place}")

    after_task_publish.connect(note, weak=False)
    try:
        yield sent
    finally:
        after_task_publish.disconnect(note)


def report_lost(item: pytest.Item) -> None:
    """Warn, in the first test that uses Celery, of what wider fixtures have sent."""
    for node in item.listchain():
        lost = node.stash.get(_LOST, [])
        if lost:
            del node.stash[_LOST]
            messages = "\n".join(f"  {message}" for message in lost)
            where = node.nodeid or "the session"
            warnings.warn(
                NotDeliveredWarning(
                    f"A fixture of {where}, or its set-up, has sent what no worker will run: each "
                    f"test starts with empty queues.\n{messages}\n"
                    "To have such messages delivered as they are sent, put "
                    "@pytest.mark.celery_inline(auto=True) on the class or module, or set "
                    "djcelery_mode = inline; otherwise send them in the test itself, or in a "
                    "fixture of function scope."
                ),
                stacklevel=2,
            )
