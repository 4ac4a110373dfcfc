"""The messages that a message carries: the rest of its chain, its links, its chord, its items."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pytest_djcelery.contract.records import Way


class Result:
    """Stands for what an earlier task returns."""


RESULT: Final = Result()
_ITEMS: Final = frozenset({"celery.map", "celery.starmap"})


@dataclass(frozen=True, slots=True, kw_only=True)
class LaterCall:
    """A call that a worker makes later on."""

    task: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    way: Way = "call"
    serializer: str | None = None


def calls_in(embed: Mapping[str, Any]) -> Iterator[LaterCall]:
    """The calls that the body of a message carries beside its own arguments."""
    for link in _listed(embed.get("callbacks")):
        yield from _calls(link, (RESULT,))
    for link in _listed(embed.get("errbacks")):
        yield from _error_link(link)
    for step in _listed(embed.get("chain")):
        yield from _calls(step, (RESULT,))
    if embed.get("chord"):
        yield from _calls(embed["chord"], ([],))


def calls_of_items(name: str, kwargs: Mapping[str, Any]) -> Iterator[LaterCall]:
    """The calls that `Task.map`, ``starmap`` and ``chunks`` make: one for each item."""
    task, items = kwargs.get("task"), kwargs.get("it")
    if name not in _ITEMS or not isinstance(task, Mapping) or not isinstance(items, Iterable):
        return
    for item in items:
        args = item if name == "celery.starmap" else (item,)
        yield LaterCall(task=task["task"], args=args, kwargs={})


def _calls(signature: Any, before: tuple[Any, ...]) -> Iterator[LaterCall]:
    """The calls of a signature as it is inside a message, and of its links.

    Args:
        signature: A task, a chain, a group or a chord.
        before: The arguments that Celery puts before its own, unless it is immutable.
    """
    if not isinstance(signature, Mapping) or not signature.get("task"):
        return
    yield from _own_calls(signature, () if signature.get("immutable") else before)
    options = signature.get("options") or {}
    yield from calls_in(
        {
            "callbacks": options.get("link"),
            "errbacks": options.get("link_error"),
            "chord": options.get("chord"),
        }
    )


def _own_calls(signature: Mapping[str, Any], given: tuple[Any, ...]) -> Iterator[LaterCall]:
    kwargs, kind = signature.get("kwargs") or {}, signature.get("subtask_type")
    if kind == "chain":
        for step in _listed(kwargs.get("tasks")):
            yield from _calls(step, given)
            given = (RESULT,)
    elif kind in ("group", "chord"):
        for member in _listed(kwargs.get("tasks" if kind == "group" else "header")):
            yield from _calls(member, given)
        yield from _calls(kwargs.get("body"), ([],))
    elif signature["task"] in _ITEMS:
        yield from calls_of_items(signature["task"], kwargs)
    else:
        yield LaterCall(
            task=signature["task"],
            args=(*given, *(signature.get("args") or ())),
            kwargs=kwargs,
            serializer=(signature.get("options") or {}).get("serializer"),
        )


def _error_link(signature: Any) -> Iterator[LaterCall]:
    for call in _calls(signature, ()):
        yield LaterCall(
            task=call.task,
            args=call.args,
            kwargs=call.kwargs,
            way="call" if signature.get("immutable") else "error link",
            serializer=call.serializer,
        )


def _listed(value: Any) -> Iterable[Any]:
    if value is None:
        return ()
    return (value,) if isinstance(value, Mapping) else value
