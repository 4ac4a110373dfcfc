"""A call bound to the signature of its task: its arguments by their names, defaults included."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import TYPE_CHECKING

from pytest_djcelery.errors import BadOptionError
from pytest_djcelery.messages.wire import ABSENT, same

if TYPE_CHECKING:
    from pytest_djcelery.messages.task_message import TaskMessage


@lru_cache(maxsize=256)
def signature_of(run: Callable[..., object]) -> inspect.Signature:
    """The signature of a task's function; a bound task's is without ``self``."""
    return inspect.signature(run)


def parameters_of(run: Callable[..., object]) -> inspect.Signature:
    """The same without annotations, for a text."""
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
    """A part of a call, by the names that the task's own signature gives to its arguments.

    Args:
        task: the name of the task.
        run: its function; ``None`` where it isn't registered in this process.
        arguments: what the call is to include.

    Raises:
        BadOptionError: the task takes no argument of a name.
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
            BadOptionError: that can't be known, because the task isn't registered here, and so
                the names of its positional arguments are unknown.
        """
        call = bound_call(self._run, message.args, message.kwargs)
        if call is None:
            call = message.kwargs
            if self._run is None and message.args and not self._arguments.keys() <= call.keys():
                raise BadOptionError(
                    f"of({self._task!r}, {', '.join(f'{name}=...' for name in self._arguments)}): "
                    f"{self._task} isn't registered here, so that nobody knows the names of the "
                    f"arguments {tuple(message.args)!r}. Import the module that has it, or look at "
                    "the args of each message."
                )
        return all(
            same(value, call.get(name, ABSENT), message.serializer)
            for name, value in self._arguments.items()
        )
