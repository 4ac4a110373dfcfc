"""Which messages of a test are run twice, and what becomes of their second runs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from pytest_djcelery.errors import BadOptionError, DjceleryWarning
from pytest_djcelery.messages.journal import RanTwice
from pytest_djcelery.recording.second_runs import second_run, task_of
from pytest_djcelery.redelivery.effects import Effects, Run

if TYPE_CHECKING:
    from pytest_djcelery.messages.sent_task import SentTask
    from pytest_djcelery.options import Options
    from pytest_djcelery.session.sandbox import Sandbox


class Repeats:
    """Has each message that ran to success run once more, and notes what that does.

    Args:
        sandbox: The sandbox of the test.
        noted: Called with each message that was run twice, if that is to be reported.
    """

    def __init__(self, sandbox: Sandbox, noted: Callable[[RanTwice], None]) -> None:
        self._sandbox = sandbox
        self._noted = noted
        self._checked: Options | None = None
        self._exempt: Collection[str] = ()
        # A message that the test has redelivered is not run a third time.
        self._repeated: set[tuple[object, ...]] = set()

    def follow_options(self) -> None:
        """Exempt the tasks that the options of the running test name.

        Raises:
            BadOptionError: One of them is not registered.
        """
        __tracebackhide__ = True
        options = self._sandbox.options
        if options is not self._checked:
            _check_exempt(options, self._sandbox.app)
            self._checked = options
            self._exempt = {*options.redeliver_exempt, *options.redeliver_exempt_here}

    def repeats(self, message: SentTask) -> bool:
        """Whether a message that has run to success is run once more."""
        task = task_of(message)
        return not (
            task.startswith("celery.")
            or task in self._exempt
            or message._identity() in self._repeated
        )

    @contextmanager
    def second_run(self, message: SentTask) -> Iterator[Callable[[Run], None]]:
        """Enter around a second run; then take back what it has done, and note what that was."""
        sandbox, kept = self._sandbox, self._sandbox.outcomes_kept
        self._repeated.add(message._identity())
        effects = Effects(sandbox, message)
        kept.add(message.id)
        try:
            with second_run(), warnings.catch_warnings(), effects.taken_back() as ended:
                warnings.simplefilter("ignore", DjceleryWarning)  # the first run has given them
                yield ended
        finally:
            kept.discard(message.id)
        event = RanTwice(task_id=message.id, message=message, effects=effects.found)
        sandbox.journal.append(event)
        if sandbox.options.redeliver == "report":
            self._noted(event)


def _check_exempt(options: Options, app: Any) -> None:
    for where, names in (
        ("djcelery_redeliver_exempt", options.redeliver_exempt),
        ("@pytest.mark.celery_redeliver(exempt=…)", options.redeliver_exempt_here),
    ):
        for name in names:
            if name not in app.tasks:
                near = get_close_matches(name, app.tasks, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                msg = (
                    f"{where}: no task {name!r} is registered here. Expected the names of tasks, "
                    f"as in shop.tasks.ship.{hint}"
                )
                raise BadOptionError(msg)
