"""What a test would have to write for a message that was sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from celery.canvas import Signature

from pytest_djcelery.messages.descriptions import describe_call
from pytest_djcelery.messages.option_rules import NOT_SET, UNKNOWN, call_in_message
from pytest_djcelery.messages.sent_task import SentTask
from pytest_djcelery.messages.signatures import matches
from pytest_djcelery.messages.wire import same

if TYPE_CHECKING:
    from pytest_djcelery.messages.listing import Matcher
    from pytest_djcelery.messages.signatures import Difference

_LONGEST = 120  # characters of a call that a person would copy
_IDS: Final = frozenset({"task_id", "root_id", "parent_id", "group_id"})


def written_as_sent(
    matcher: Matcher[Any], item: Any, differences: Sequence[Difference]
) -> str | None:
    """The signature that would match ``item``; ``None`` where no person would write it."""
    if not isinstance(item, SentTask):
        text = repr(item)  # a canvas
    elif isinstance(matcher.written, Signature):
        signature = _signature(matcher.written, item, differences)
        if signature is None:
            return None
        text = describe_call(signature)
    else:
        text = describe_call(item)
    return text if len(text) <= _LONGEST and "…" not in text else None


def _signature(
    written: Signature, message: SentTask, differences: Sequence[Difference]
) -> Signature | None:
    args, kwargs = tuple(written.args or ()), dict(written.kwargs or {})
    if not all(found.option for found in differences):
        args, kwargs = _call(args, kwargs, message)
    signature = Signature(
        message.task,
        args=args,
        kwargs=kwargs,
        options=_options(written.options or {}, message, differences),
        immutable=written.immutable,
        app=written.app,
    )
    return signature if matches(signature, message) else None


def _call(
    args: tuple[Any, ...], kwargs: dict[str, Any], message: SentTask
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What was sent, with what the test wrote (a wildcard, say) where that meets it."""
    if len(args) != len(message.args) or kwargs.keys() != message.kwargs.keys():
        return tuple(message.args), dict(message.kwargs)

    def met(mine: object, theirs: object) -> object:
        return mine if same(mine, theirs, message.serializer) else theirs

    return (
        tuple(map(met, args, message.args)),
        {name: met(value, message.kwargs[name]) for name, value in kwargs.items()},
    )


def _options(
    written: Mapping[str, Any], message: SentTask, differences: Sequence[Difference]
) -> dict[str, Any]:
    """The options that a test has set, as they were sent; without those that were not."""
    call = call_in_message(message)
    differing = {found.property for found in differences if found.option}
    options = {}
    for name, expected in written.items():
        found: Any = call.option(name)
        if name == "headers" and isinstance(expected, Mapping):
            found = {key: found[key] for key in expected if key in found}
            if found:
                options[name] = found
        elif name not in differing:
            options[name] = expected
        elif name == "countdown" and found is not None:
            options[name] = round(found, 3 if message.exact_times else None)
        elif name == "routing_key" and not message.exchange:
            pass  # Celery went by the queue alone
        elif found not in (None, "", (), UNKNOWN, NOT_SET) and _is_written(name, found):
            options[name] = found
    return options


def _is_written(name: str, value: object) -> bool:
    """Whether a person writes it into a test: ids and times differ from message to message."""
    return name not in _IDS and not isinstance(value, datetime)
