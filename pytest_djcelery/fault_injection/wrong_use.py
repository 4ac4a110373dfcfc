"""Checks what a test passes to the methods of `celery_faults`, and says what was expected."""

from __future__ import annotations

from typing import Any, Final

from pytest_djcelery.errors import BadOptionError
from pytest_djcelery.recording.call_sites import function_text

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
        msg = f"celery_faults.{call.removeprefix('celery_faults.')}: {exc!r} is no exception. "
        raise BadOptionError(msg + f"Expected {_ANYTHING}.")
    try:
        exc()
    except TypeError as error:
        msg = (
            f"celery_faults.{call.removeprefix('celery_faults.')}: {exc.__name__} can't be raised "
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
