"""The runs that a fault is for, of a task or of one call; and checks of what a test passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final

from pytest_djcelery.errors import BadOptionError, NotASignatureError
from pytest_djcelery.messages.descriptions import describe_call
from pytest_djcelery.messages.matching import expectation
from pytest_djcelery.messages.task_code import short_code
from pytest_djcelery.recording.task_bodies import function_text

if TYPE_CHECKING:
    from celery import Celery

    from pytest_djcelery.messages.matching import Expectation
    from pytest_djcelery.messages.sent_task import SentTask


_NAMES_SHOWN = 10
_PLAIN: Final = frozenset({int, str, bool})


class Target:
    """A task, by its name, and the call that its runs must equal, if only some are meant.

    Args:
        name: The name of the task.
        text: The task as the test has written it.
        expected: The call; ``None`` for each run.
    """

    def __init__(self, name: str, text: str, expected: Expectation | None = None) -> None:
        self.name = name
        self.text = text
        self._expected = expected
        written: Any = getattr(expected, "written", None)
        positional = () if written is None else tuple(written.args)
        # Values of these types are sent as they are: what differs here differs there.
        plain = written is not None and not written.kwargs
        self._plain = positional if plain and {*map(type, positional)} <= _PLAIN else None

    @property
    def call(self) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """The arguments of that call."""
        written: Any = None if self._expected is None else self._expected.written
        return None if written is None else (tuple(written.args), dict(written.kwargs))

    def excludes(self, args: Sequence[object], kwargs: Mapping[str, object]) -> bool:
        """Whether a look at the arguments shows that the run of such a call is not meant.

        It spares most runs of other calls the search for their messages.
        """
        if self._plain is None or kwargs or len(args) != len(self._plain):
            return False
        pairs = zip(self._plain, args, strict=True)
        return any(type(ours) is type(theirs) and ours != theirs for ours, theirs in pairs)

    def takes(self, sent: SentTask | None) -> bool:
        """Whether the run of a message is meant; one without a record is of no known call."""
        return self._expected is None or (sent is not None and self._expected.matches(sent))

    @property
    def is_call(self) -> bool:
        """Whether only the runs of one call are meant."""
        return self._expected is not None


def target_of(app: Celery, method: str, written: Any, *, unknown: bool = False) -> Target:
    """Find what a test means by a task, a name or a signature.

    Args:
        app: The project's app.
        method: The method that was called, for the text of an error.
        written: What the test has written.
        unknown: Whether a name that the app doesn't know will do.

    Raises:
        BadOptionError: It is neither, or no task of the app.
    """
    __tracebackhide__ = True
    from celery.app.task import Task
    from celery.canvas import Signature

    if isinstance(written, str):
        if written in app.tasks or (unknown and written):
            return Target(written, repr(written))
        raise BadOptionError(f"{method}: {_no_task(app, written)}")
    if isinstance(written, Signature):
        try:
            expected = expectation(written)
        except NotASignatureError as error:
            text = str(error).partition("\n")[0]
            raise BadOptionError(f"{method}: {text}\n{_EXPECTED}") from None
        name = written["task"]
        if name not in app.tasks and not unknown:
            raise BadOptionError(f"{method}: {_no_task(app, name)}")
        return Target(name, describe_call(written), expected)
    if isinstance(written, Task) and isinstance(written.name, str):
        if written.name not in app.tasks:
            raise BadOptionError(f"{method}: {_no_task(app, written.name)}")
        return Target(written.name, short_code(written.name, app.tasks[written.name]))
    raise BadOptionError(f"{method}: got {written!r}.\n{_EXPECTED}")


_EXPECTED = (
    "Expected a task (charge), its name ('shop.tasks.charge'), or the signature of one task "
    "(charge.s(1)) to mean only the runs whose call equals it."
)


def _no_task(app: Celery, name: str) -> str:
    known = sorted(known for known in app.tasks if not known.startswith("celery."))
    near = get_close_matches(name, known, n=3, cutoff=0.5) or known[:_NAMES_SHOWN]
    listed = f" The nearest: {', '.join(near)}." if near else ""
    return (
        f"no task {name!r} is registered with the app {app.main!r}.{listed}\n"
        "Use the task itself, or import the module that defines it. For a task of another service: "
        "stub(name), which registers one for this test."
    )


# Wrong use: checks what a test passes to the methods of `celery_faults` -------------------

_ANYTHING: Final = "an exception (ValueError('declined')) or its class (ValueError)"
#: What ``at`` takes beside a word.
FUNCTION: Final = "or a function that the task calls (at=gateway.charge)"


def check_exception(call: str, exc: Any) -> None:
    """Check what a task is to raise.

    Args:
        call: The call that is given it.
        exc: What is to be raised.

    Raises:
        BadOptionError: It is no exception, and no class that makes one by itself.
    """
    __tracebackhide__ = True
    if isinstance(exc, BaseException):
        return
    if not (isinstance(exc, type) and issubclass(exc, BaseException)):
        raise BadOptionError(f"{call}: {exc!r} is no exception. Expected {_ANYTHING}.")
    try:
        exc()
    except TypeError as error:
        msg = (
            f"{call}: {exc.__name__} can't be raised "
            f"without arguments ({error}). Expected an exception of that class, with them."
        )
        raise BadOptionError(msg) from None


def check_choice(
    call: str, name: str, value: object, valid: tuple[str, ...], more: str = ""
) -> None:
    """Check an argument that takes one of several words.

    Args:
        call: The call that is given it.
        name: The name of the argument.
        value: What is given.
        valid: The words.
        more: What else will do.

    Raises:
        BadOptionError: It is none of them.
    """
    __tracebackhide__ = True
    if value not in valid:
        listed = " or ".join(map(repr, valid))
        msg = f"{call}: {name}={value!r}. Expected {listed}{', ' * bool(more)}{more}."
        raise BadOptionError(msg)


def at_text(at: Any) -> str:
    """The argument ``at`` in the text of a call, unless it is the default."""
    if callable(at):
        return f", at={function_text(at)}"
    return "" if at == "start" else f", at={at!r}"


def exception_text(exc: Any) -> str:
    """An exception, or its class, as a test has written it."""
    return exc.__name__ if isinstance(exc, type) else repr(exc)
