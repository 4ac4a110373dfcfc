"""The patches of a sandbox, which stay on from one test to the next.

To put them on and off takes as long as the rest of a sandbox, and pytest runs tests with fixtures
of ours one after another. So they stay on between two such tests, where they pass everything on;
a test that uses none of ours never meets them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from pytest_djcelery.patching import Current, StandingChanges
from pytest_djcelery.project.configuration import settings_writes_applied
from pytest_djcelery.project.shortcuts.message_path import message_path_shortened
from pytest_djcelery.project.shortcuts.settings_cache import settings_reads_cached
from pytest_djcelery.recording.django_events import enqueues_recorded, requests_recorded
from pytest_djcelery.recording.publishing import PublishRecorder, publishes_recorded
from pytest_djcelery.recording.result_waits import Waits, waits_woken
from pytest_djcelery.recording.task_signals import task_events_recorded
from pytest_djcelery.transactions.watched_methods import methods_watched

if TYPE_CHECKING:
    from collections.abc import Collection, Container

    from pytest_djcelery.messages.journal import Journal
    from pytest_djcelery.project.isolation import Project
    from pytest_djcelery.transactions.captures import Captures
    from pytest_djcelery.transactions.watch import TransactionWatch


class SandboxPatches:
    """All patches of a sandbox, and what they serve at present.

    Args:
        project: The project whose app is patched.
        captures: The blocks in which Django's own test tools capture hooks.
        suite: The files of the tests.
    """

    def __init__(self, project: Project, captures: Captures, suite: Container[str]) -> None:
        self.watch: Current[TransactionWatch] = Current()
        self._layers: Current[ExitStack] = Current()
        self._journal: Current[Journal] = Current()
        self._recorder: Current[PublishRecorder] = Current()
        self._waits: Current[Waits] = Current()
        self._kept: Collection[str] = ()
        self._changes = StandingChanges()
        with self._changes.made() as stack:
            stack.enter_context(settings_reads_cached(project.app, project.settings_cache))
            stack.enter_context(message_path_shortened())
            stack.enter_context(settings_writes_applied(project.configurations, self._layers))
            # The pytest session notes them already; without pytest there is none.
            stack.enter_context(captures.capture_blocks_noted())
            stack.enter_context(methods_watched(self.watch))
            stack.enter_context(publishes_recorded(self._recorder))
            stack.enter_context(requests_recorded(self._journal))
            stack.enter_context(enqueues_recorded(self._journal))
            stack.enter_context(
                task_events_recorded(
                    self._journal, project.knows, lambda task_id: task_id in self._kept
                )
            )
            stack.enter_context(waits_woken(self._waits, suite))

    @property
    def intact(self) -> bool:
        """Whether nothing has changed since that would have them put on in another way."""
        return self._changes.intact

    @property
    def in_use(self) -> bool:
        """Whether a sandbox is open that they serve."""
        return self._journal.now is not None

    @contextmanager
    def settings_written(self) -> Iterator[None]:
        """Within the ``with``, take what is written into ``app.conf`` for a layer."""
        with ExitStack() as layers:
            self._layers.now = layers
            try:
                yield
            finally:
                self._layers.now = None

    @contextmanager
    def recording(
        self, journal: Journal, recorder: PublishRecorder, waits: Waits, kept: Collection[str]
    ) -> Iterator[None]:
        """Within the ``with``, serve a sandbox.

        Args:
            journal: Where it is recorded what happens.
            recorder: Records what is sent.
            waits: How the test waits for results.
            kept: The ids of tasks whose state stays what it is, whatever is to be stored.
        """
        self._kept = kept
        self._recorder.now, self._journal.now, self._waits.now = recorder, journal, waits
        try:
            yield
        finally:
            self._recorder.now = self._journal.now = self._waits.now = None

    def take_off(self) -> None:
        """Put back what was found."""
        self._changes.undo()
