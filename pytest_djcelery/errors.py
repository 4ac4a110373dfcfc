"""All errors and warnings of this plugin.

Errors share one base class, and so do warnings. Each text says what was expected, what happened
and what to do; the classes say when that is.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from typing_extensions import Self

#: The page that has each of them with its cause and its cure: here will be its address, once the
#: documentation has one.
PAGE: Final = "docs/reference/errors.md"
_E = TypeVar("_E", bound=BaseException)


def meant(error: _E) -> _E:
    """Mark an error as one that the test has asked for, and return it."""
    with suppress(AttributeError, TypeError):  # its class has slots, or refuses
        error.__dict__["_djcelery_meant"] = True
    return error


def is_meant(error: object) -> bool:
    """Whether the test has asked for an error."""
    return "_djcelery_meant" in getattr(error, "__dict__", ())


def explained_at(kind: type[BaseException]) -> str:
    """The sentence that says where an error or a warning is explained."""
    public = next(
        each.__name__
        for each in kind.__mro__
        if each.__module__.partition(".")[0] == __package__ and not each.__name__.startswith("_")
    )
    return f"See {PAGE}#{public.lower()} in the documentation of pytest-djcelery."


def _named_by_package(kind: type) -> None:
    """Give a public error the module that it is imported from.

    pytest's short summary begins with it, and has one line for the text.
    """
    if kind.__module__.startswith(f"{__package__}.") and not kind.__name__.startswith("_"):
        kind.__module__ = str(__package__)


class DjceleryError(Exception):
    """The base class of all errors of pytest-djcelery, to catch any of them.

    A note (`BaseException.__notes__`), which is printed below its text, says where the
    documentation explains it.
    """

    __notes__: list[str]

    def __init_subclass__(cls) -> None:
        """Name it by the package."""
        _named_by_package(cls)

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Give the error its note."""
        error = super().__new__(cls, *args, **kwargs)
        error.__notes__ = [explained_at(cls)]  # `add_note()` is there since Python 3.11
        return error

    def with_notes(self) -> str:
        """The text and the notes, for where the text alone would be printed."""
        return "\n".join([str(self), *self.__notes__])


class DjceleryWarning(UserWarning):
    """The base class of all warnings of pytest-djcelery, for ``filterwarnings``.

    The last line of its text says where the documentation explains it.
    """

    def __init_subclass__(cls) -> None:
        """Name it by the package."""
        _named_by_package(cls)

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text}\n{explained_at(type(self))}" if text else text


for _base in (DjceleryError, DjceleryWarning):
    _named_by_package(_base)


class AppNotFoundError(DjceleryError):
    """No Celery app was found for the Django project.

    The text says where it was looked for. In pytest it ends the run as a usage error.
    """


class BadOptionError(DjceleryError, ValueError):
    """An ini value, command-line option, marker or argument is not valid.

    The text has the value, and the valid ones. It is a ``ValueError`` too.
    """


class BadScheduleError(DjceleryError, AssertionError):
    """``celery_beat.check()`` found entries of the schedule that no worker could run."""


class BatchError(DjceleryError, RuntimeError):
    """The outcome of each message in a batch of celery-batches that raised."""


class BeatError(DjceleryError, RuntimeError):
    """``celery_beat`` can't go on: an entry is due again and again at one moment."""


class BridgedMessageNotSeenError(DjceleryError, LookupError):
    """A task of `django.tasks` was enqueued, but no Celery message of it was seen.

    So its backend does not send through Celery, or in a way that can't be followed.
    """


class ClockError(DjceleryError, RuntimeError):
    """The clock of the test can't be moved, because of the way in which the test freezes time."""


class ContractFileError(DjceleryError, ValueError):
    """``celery-contract.json`` is missing, damaged, of a newer format, or retires without a reason.

    In pytest it ends the run as a usage error.
    """


class DeliveryRuleError(DjceleryError, AssertionError):
    """A schedule of ``celery_explore`` has broken a rule that each broker and worker keeps.

    A message was lost that was not acknowledged (or, with ``lost="error"``, that was), one was
    delivered that was not sent, or the body of a chord ran more than once.
    """


class DjangoNotConfiguredError(DjceleryError, RuntimeError):
    """``celery_on_commit`` was used without Django's settings, so there are no transactions."""


def django_is_configured() -> bool:
    """Whether there are Django settings, loaded or yet to be loaded; Celery needs none."""
    conf = sys.modules.get("django.conf")  # which is not imported for this
    if conf is not None and conf.settings.configured:
        return True
    return bool(os.environ.get("DJANGO_SETTINGS_MODULE"))


class FaultNotFiredError(DjceleryError, AssertionError):
    """A fault that the test has set, by ``celery_faults`` or `faults`, never happened.

    The text has the line that set it, and what ran instead. ``optional=True`` allows it.
    """


class FixtureConflictError(DjceleryError):
    """Two fixtures exclude each other, or one can't work with the test's database.

    A test has one way to run its tasks; and a worker can't see rows in a transaction that is never
    committed.
    """


class InlineError(DjceleryError, RuntimeError):
    """``celery_inline`` was asked to deliver where it can't.

    For example inside a task, in a coroutine, or with another broker than the one in memory.
    """


class LimitNotEnforcedWarning(DjceleryWarning):
    """A task has a rate limit or a time limit, which ``celery_inline`` can't enforce."""


class MessageNotSentError(DjceleryError, TimeoutError):
    """``celery_outbox.wait_for()`` waited for a message that was not sent in time."""


class NeverEndsError(InlineError):
    """The tasks that ``celery_inline`` runs keep publishing one another without end."""


class NotDeliveredWarning(DjceleryWarning):
    """A class, module or session fixture has sent messages that no worker will run."""


class NotIdempotentError(DjceleryError, AssertionError):
    """A task is not safe to run twice: a second run did more than the first had done.

    The text says what that was. See ``djcelery_redeliver``.
    """


class NotASignatureError(DjceleryError, TypeError):
    """A message was compared with something that is not a Celery signature."""


class NotEnteredError(DjceleryError, AttributeError):
    """A context manager, such as ``inline()``, was used without ``with``."""


class NotEnteredWarning(DjceleryWarning):
    """A context manager, such as ``inline()``, was made but never entered: it did nothing."""


class NotOneMessageError(DjceleryError, AssertionError):
    """``celery_outbox.one()`` found no matching message, or several."""


class NotReplayableError(DjceleryError):
    """A test with ``celery_explore`` is not deterministic by itself: a schedule can't be repeated.

    The text has the step at which the run was another than before.
    """


class QueueNotConsumedWarning(DjceleryWarning):
    """A message was sent to a queue that no worker consumes, so it stays there.

    See ``djcelery_queues``.
    """


class ScheduleFailedError(DjceleryError, AssertionError):
    """A test with ``celery_explore`` fails in a schedule that a real system may have.

    The text has the steps of the failing schedule with the fewest deviations, and what replays it.
    The cause is the test's own error.
    """


class SentInTransactionError(DjceleryError):
    """A message was published inside an open transaction that writes.

    A worker may run the task before the commit. ``djcelery_sent_in_transaction = error`` raises
    this at the line that sends.
    """


class SentInTransactionWarning(DjceleryWarning):
    """A message was published inside an open transaction that writes.

    A worker may run the task before the commit. ``djcelery_sent_in_transaction = warn``, the
    default, gives this at the line that sends.
    """


class SharedConnectionsWarning(DjceleryWarning):
    """The processes of a live worker may share connections of Django's connection pool."""


class UnhandledTaskFailureError(DjceleryError):
    """A task failed and the test never looked at it, so the test fails at its end.

    The cause is the task's own exception. See ``djcelery_unhandled_failures``.
    """


class UnhandledTaskFailureWarning(DjceleryWarning):
    """A task failed and the test never looked at it; see ``djcelery_unhandled_failures``."""


class UnknownResultError(DjceleryError, LookupError):
    """``celery_results`` was asked for an id that no message of this test has."""


class UnknownSettingWarning(DjceleryWarning):
    """A test changed a ``CELERY_…`` setting that Celery doesn't have."""


class UnregisteredTaskError(DjceleryError):
    """``check_registry()`` found tasks that a fresh worker would not know."""


class WorkerError(DjceleryError):
    """A worker could not start, could not stop or died, or can't run what a task waits for."""
