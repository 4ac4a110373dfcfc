"""Everything this plugin raises or warns with.

One base class. Every text says what was expected, what happened and what to do, so the
subclasses below only name the kind; the facts stand in attributes where code may want them.
"""

from __future__ import annotations


class DjceleryError(Exception):
    """Base of every error of pytest-djcelery."""


class DjceleryWarning(UserWarning):
    """Base of every warning of pytest-djcelery."""


class AppNotFoundError(DjceleryError):
    """No Celery app was found for the Django project."""


class BadOptionError(DjceleryError, ValueError):
    """An ini value, command line option, marker or argument is not of the valid set."""


class BadScheduleError(DjceleryError, AssertionError):
    """An entry of beat's schedule can't do what it says."""


class BatchError(DjceleryError, RuntimeError):
    """A batch of celery-batches raised, and with it each of its messages has failed."""


class BeatError(DjceleryError, RuntimeError):
    """``celery_beat`` can't go on with the schedule."""


class ClockError(DjceleryError, RuntimeError):
    """The time of the test can't be moved."""


class FixtureConflictError(DjceleryError):
    """Two fixtures that exclude each other, or one that the test's database can't serve."""


class InlineError(DjceleryError, RuntimeError):
    """``celery_inline`` was asked to deliver where it can't."""


class LimitNotEnforcedWarning(DjceleryWarning):
    """A task has a rate or time limit, which no worker in the test's own thread can enforce."""


class MessageNotSentError(DjceleryError, TimeoutError):
    """``wait_for()`` waited in vain."""


class NeverEndsError(InlineError):
    """The tasks that ``celery_inline`` runs go on publishing without end."""


class NotDeliveredWarning(DjceleryWarning):
    """Messages were sent by a fixture that is wider than a test, and no worker will run them."""


class NotASignatureError(DjceleryError, TypeError):
    """A message was compared with something that is no Celery signature."""


class NotOneMessageError(DjceleryError, AssertionError):
    """``one()`` found no message, or several."""


class QueueNotConsumedWarning(DjceleryWarning):
    """A message is in a queue that no worker consumes."""


class SentInTransactionError(DjceleryError):
    """A message was published inside an open transaction."""


class SentInTransactionWarning(DjceleryWarning):
    """A message was published inside an open transaction."""


class SharedConnectionsWarning(DjceleryWarning):
    """Processes of a live worker may share connections of Django's connection pool."""


class UnhandledTaskFailureError(DjceleryError):
    """A task failed and the test never looked at it."""


class UnhandledTaskFailureWarning(DjceleryWarning):
    """A task failed and the test never looked at it."""


class UnknownResultError(DjceleryError, LookupError):
    """An id that no message of this test has."""


class UnknownSettingWarning(DjceleryWarning):
    """A ``CELERY_…`` setting that Celery does not know was changed in a test."""


class UnregisteredTaskError(DjceleryError):
    """A task is known here only because a test imported its module."""


class WorkerError(DjceleryError):
    """The worker could not start, could not stop or died."""
