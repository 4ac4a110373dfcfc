"""The arguments of a call: by the names of the parameters, and which of them can't be sent."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from pytest_djcelery.errors import BadOptionError
from pytest_djcelery.messages.django_tasks import own_call
from pytest_djcelery.messages.wire import ABSENT, same

if TYPE_CHECKING:
    from pytest_djcelery.messages.task_message import TaskMessage


_LONGEST: Final = 60  # characters of a value
FINE: Final = object()  # no part of a value is at fault


def explain_unserializable(error: Exception, task: str, body: Any, serializer: str) -> None:
    """Note on an ``EncodeError`` the arguments at fault and the remedy, unless it has that note.

    The error keeps its own arguments, which code may look at.
    """
    args, kwargs, _ = body
    notes: list[str] = getattr(error, "__notes__", [])
    headline = f"{task} was not sent: the {serializer!r} serializer can't encode its arguments."
    if any(note.startswith(headline) for note in notes):
        return
    lines = [headline]
    for place, argument in named(args, kwargs):
        value = culprit(argument, serializer)
        if value is FINE:
            continue
        lines.append(
            f"  {place}: {_short(value)} (of type {type(value).__qualname__}); {remedy(value)}"
        )
    add_note(error, "\n".join(lines))


def add_note(error: Any, note: str) -> None:
    """Do what ``add_note`` does from Python 3.11 on; pytest shows the notes on 3.10 too."""
    error.__notes__ = [*getattr(error, "__notes__", []), note]


def named(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Each argument with words that say which it is."""
    yield from ((f"argument {place + 1}", value) for place, value in enumerate(args))
    yield from ((f"argument {name!r}", value) for name, value in kwargs.items())


def culprit(value: Any, serializer: str, around: tuple[int, ...] = ()) -> Any:
    """The innermost part of a value that a serializer can't encode, or `FINE`.

    The value is encoded to find out, which runs its own code.
    """
    from kombu import serialization
    from kombu.exceptions import EncodeError

    try:
        serialization.dumps(value, serializer)
    except EncodeError:
        pass
    else:
        return FINE
    parts = (
        value.values()
        if isinstance(value, Mapping)
        else value
        if isinstance(value, list | tuple)
        else ()
    )
    around = (*around, id(value))
    for part in parts:
        # A value that contains itself is at fault as a whole.
        found = FINE if id(part) in around else culprit(part, serializer, around)
        if found is not FINE:
            return found
    return value


def remedy(value: Any) -> str:
    """What to send instead of a value that can't be encoded.

    Only its type is looked at: an attribute of the value could run a query, or anything else.
    """
    kind = type(unwrapped(value))
    if hasattr(kind, "_meta") and hasattr(kind, "pk"):
        name = kind.__name__
        return f"send its primary key ({name.lower()}.pk) and fetch the {name} in the task"
    if is_lazy(kind):
        return "send plain data instead, such as its primary key"
    if issubclass(kind, set | frozenset):
        return "send a list"
    if issubclass(kind, bytes):
        return "send text, or set serializer='pickle' and accept it"
    if hasattr(kind, "query") and hasattr(kind, "as_manager"):
        return "send a list of primary keys"
    return "send plain data (numbers, text, lists, dicts, dates)"


def is_lazy(kind: type) -> bool:
    """Whether a type is one of Django's lazy objects, such as that of ``request.user``."""
    functional = sys.modules.get("django.utils.functional")
    return functional is not None and issubclass(kind, functional.LazyObject)


def unwrapped(value: Any) -> Any:
    """What one of Django's lazy objects stands for, if it is already evaluated.

    ``_wrapped`` and ``empty`` are private; checked on Django 4.2, 5.2, 6.0 and 6.1.
    """
    if is_lazy(type(value)):
        made = object.__getattribute__(value, "_wrapped")
        if made is not sys.modules["django.utils.functional"].empty:
            return made
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


@lru_cache(maxsize=256)
def signature_of(run: Callable[..., object]) -> inspect.Signature:
    """The signature of a task's function; for a bound task, without ``self``."""
    return inspect.signature(run)


def parameters_of(run: Callable[..., object]) -> inspect.Signature:
    """The same signature without annotations, for a text."""
    signature = signature_of(run)
    parameters = [
        parameter.replace(annotation=parameter.empty) for parameter in signature.parameters.values()
    ]
    return inspect.Signature(parameters)


def bound_call(
    run: Callable[..., object] | None, args: Sequence[object], kwargs: Mapping[str, object]
) -> Mapping[str, object] | None:
    """The call as the function sees it; ``None`` when that can't be known."""
    if run is None:
        return None
    try:
        bound = signature_of(run).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return None
    bound.apply_defaults()
    call = dict(bound.arguments)
    for name, parameter in bound.signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            more = call.pop(name)
            # A positional-only parameter may share its name with one of ``**more``.
            call.update({(f"**{key}" if key in call else key): more[key] for key in more})
    return call


class SomeArguments:
    """A part of a call, by the names of the task's parameters.

    Args:
        task: The name of the task.
        run: Its function; ``None`` if it isn't registered in this process.
        arguments: What the call has to include.

    Raises:
        BadOptionError: The task has no parameter of such a name.
    """

    def __init__(
        self, task: str, run: Callable[..., object] | None, arguments: Mapping[str, object]
    ) -> None:
        self._task = task
        self._run = run
        self._arguments = arguments
        if run is None:
            return
        parameters = signature_of(run).parameters
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            return
        for name in arguments:
            if name not in parameters:
                like = get_close_matches(name, parameters, 1)
                guess = f" Did you mean {like[0]}?" if like else ""
                raise BadOptionError(
                    f"of({task!r}, {name}=...): the task takes no argument {name!r}, it is "
                    f"{task}{parameters_of(run)}.{guess}"
                )

    def are_in(self, message: TaskMessage) -> bool:
        """Whether a message of the task was called with all of them.

        Raises:
            BadOptionError: That can't be known: the task isn't registered here, so the names of
                its positional arguments are unknown.
        """
        _, args, kwargs = own_call(message)
        call = bound_call(self._run, args, kwargs)
        if call is None:
            call = kwargs
            if self._run is None and args and not self._arguments.keys() <= call.keys():
                raise BadOptionError(
                    f"of({self._task!r}, {', '.join(f'{name}=...' for name in self._arguments)}): "
                    f"{self._task} isn't registered here, so the names of the arguments "
                    f"{tuple(args)!r} are unknown. Import the module that defines it, or "
                    "look at the args of each message."
                )
        return all(
            same(value, call.get(name, ABSENT), message.serializer)
            for name, value in self._arguments.items()
        )
