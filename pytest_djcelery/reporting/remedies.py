"""What to do about a message that differs from what a test expects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final

from celery.canvas import Signature

from pytest_djcelery.messages.descriptions import (
    LONGEST_LIST,
    arguments_text,
    describe_call,
    task_name,
)
from pytest_djcelery.messages.django_tasks import WrittenCall, own_call
from pytest_djcelery.messages.listing import Messages
from pytest_djcelery.messages.matching import Expected, matches
from pytest_djcelery.messages.option_rules import NOT_SET, UNKNOWN, call_in_message
from pytest_djcelery.messages.sent_task import SentTask
from pytest_djcelery.messages.task_message import Step
from pytest_djcelery.messages.wire import same

if TYPE_CHECKING:
    from pytest_djcelery.messages.canvas import CanvasEntry
    from pytest_djcelery.messages.listing import Listing, Matcher
    from pytest_djcelery.messages.matching import Difference


MOST = 3  # of what the remedies of one comparison name: messages, outcomes, lines of code
_ROUTED: Final = frozenset({"queue", "exchange", "routing_key"})
_PART = "celery_outbox.clear() before it, or with celery_outbox.record() as sent: ..."
_NOT_SENT = (
    "Check that the code that sends {} runs, and that it is not mocked: "
    "a mock of delay() or apply_async() sends nothing."
)
_UNNAMED = "Options that are not named are not compared: name those that this test is about."

Near = Sequence[tuple[int, Any]]  # positions and items, the nearest first
_LONGEST = 120  # characters of a call that a person would copy
_IDS: Final = frozenset({"task_id", "root_id", "parent_id", "group_id"})


def fixes(remedies: Iterable[str]) -> Iterator[str]:
    """The lines that end a text."""
    found = list(dict.fromkeys(remedies))
    if len(found) == 1:
        yield f"To fix: {found[0]}"
    elif found:
        yield "To fix:"
        yield from (f"  - {remedy}" for remedy in found[:LONGEST_LIST])
        if len(found) > LONGEST_LIST:
            yield f"  … and {len(found) - LONGEST_LIST} more"


def of_missing(listing: Listing[Any], missing: Sequence[tuple[Matcher[Any], Near]]) -> list[str]:
    """What to do about messages that were expected but not sent, each with the nearest ones."""
    found: list[str] = []
    apart: list[tuple[Matcher[Any], Any]] = []
    absent: list[Matcher[Any]] = []
    for matcher, near in missing[:LONGEST_LIST]:
        known = [*_of_call(matcher, listing), *listing.remedies(matcher)]
        found += known
        if not known and near:
            apart.append((matcher, near[0][1]))
        elif not known:
            absent.append(matcher)
    found += _of_differences(apart)
    if absent or (missing and not len(listing)):
        found += listing.circumstances() or [
            _of_absent(matcher, missing) for matcher in absent[:MOST]
        ]
    return found


def of_nothing(listing: Listing[Any]) -> list[str]:
    """What to do if any message at all was expected."""
    return listing.circumstances() or [_NOT_SENT.format("it")]


def _of_absent(matcher: Matcher[Any], missing: Sequence[object]) -> str:
    name = task_name(matcher.written) if len(missing) > 1 else None
    text = _NOT_SENT.format(name or "it")
    if isinstance(matcher.written, WrittenCall):
        text = text.replace("delay() or apply_async()", "enqueue()")
    return text


def _of_differences(apart: Sequence[tuple[Matcher[Any], Any]]) -> Iterator[str]:
    any_option = False
    for matcher, item in apart[:MOST]:
        differences = matcher.differences(item)
        yield _of_near(matcher, item, differences)
        any_option = any_option or any(found.option for found in differences)
    if any_option:
        yield _UNNAMED


def _of_near(matcher: Matcher[Any], item: Any, differences: Sequence[Difference]) -> str:
    if not differences:
        return (
            f"{describe_call(matcher.written)} was sent less often than expected: leave one out, "
            "or check that the code that sends it runs each time."
        )
    if isinstance(matcher.written, SentTask):
        return "A message equals only itself; to match one like it, compare with a signature."
    if not isinstance(item, SentTask) and _was_single(item, differences):
        return (
            "Its tasks were sent one by one: compare them with celery_outbox, or send the canvas "
            f"itself, instead of {_location(item) or 'each task'}."
        )
    call = written_as_sent(matcher, item, differences)
    named = ", ".join(found.property for found in differences[:MOST])
    more = ", …" if len(differences) > MOST else ""
    right = f"expect {call}" if call else f"expect its {named}{more}"
    routed = any(
        found.option and found.property.rpartition(": ")[2] in _ROUTED for found in differences
    )
    place = f"the call at {_location(item)}" if _location(item) else "the call"
    place += ", or task_routes" if routed else ""
    return f"If what was sent is right, {right}; if not, change {place}."


def _was_single(entry: CanvasEntry, differences: Sequence[Difference]) -> bool:
    """Whether a task was sent by itself although a canvas was expected."""
    whole = differences[0].property in ("kind", "steps")
    return whole and len(entry.line) == 1 and isinstance(entry.line[0], Step)


def of_unexpected(
    listing: Listing[Any], matchers: Sequence[Matcher[Any]], items: Sequence[Any]
) -> str:
    """What to do about messages that were sent but not expected."""
    add = "Add what is meant to be sent to the list"
    if isinstance(listing, Messages):
        return f"{add}."
    wanted = {task_name(matcher.written) for matcher in matchers}
    others = {task_name(item) for item in items}
    if len(wanted) == 1 and None not in wanted and not wanted & others:
        outbox = listing.description.removesuffix(".canvas")
        canvas = ".canvas" if outbox != listing.description else ""
        return f"{add}; or compare this task's alone: {outbox}.of({wanted.pop()!r}){canvas}."
    return f"{add}; or compare a part of the test alone: {_PART}"


def of_order(listing: Listing[Any], matchers: Sequence[Matcher[Any]]) -> str:
    """What to do if only the order differs."""
    calls = [describe_call(matcher.written) for matcher in matchers[:MOST]]
    calls += ["…"] if len(matchers) > MOST else []
    return (
        "If the order doesn't matter, say so with pytest_djcelery.unordered: "
        f"assert {listing.description} == unordered([{', '.join(calls)}])."
    )


def of_present(items: Sequence[Any]) -> str:
    """What to do about messages that were sent but must not be."""
    places = list(dict.fromkeys(str(_location(item)) for item in items if _location(item)))
    more = f" and {len(places) - MOST} more" if len(places) > MOST else ""
    senders = " and ".join(places[:MOST]) + more or "the code that sends it"
    return (
        f"Keep {senders} from sending it; if that is only set-up, look at the rest of the "
        f"test alone: {_PART}"
    )


def of_several(outbox: Listing[Any], found: Sequence[SentTask]) -> str:
    """What to do if one message was asked for and several match."""
    calls = {describe_call(message): None for message in found}
    queues = {message.queue: None for message in found}
    if len(calls) > 1:
        return f"Write the arguments that tell them apart: {next(iter(calls))}."
    if len(queues) > 1:
        return f"Tell them apart by the queue: .set(queue={next(iter(queues))!r})."
    return (
        f"If it is meant to be sent that often, count them: {outbox.description}.count(...); or "
        f"look at a part of the test alone: {_PART}"
    )


def _of_call(matcher: Matcher[Any], listing: Listing[Any]) -> Iterator[str]:
    """Why a signature could not be sent at all."""
    if not isinstance(matcher, Expected):
        return
    call = describe_call(matcher.written)
    if not matcher.registered:
        name = matcher.written["task"]
        like = get_close_matches(name, matcher.known, 3, 0.6)
        guess = f" Did you mean {' or '.join(like)}?" if like else ""
        yield f"No task is registered as {name!r}: check the name, or import its module.{guess}"
    elif matcher.misfit:
        yield f"{call} can't be sent at all: {matcher.misfit}."
    serializer = next((item.serializer for item in listing if hasattr(item, "serializer")), "json")
    for name, value in matcher.unsendable(serializer):
        yield (
            f"{name} of {call} is of type {type(value).__name__}, which {serializer} can't encode: "
            "expect what the task gets instead, such as a primary key."
        )


def _location(item: Any) -> object:
    message = item if isinstance(item, SentTask) else item.messages[0]
    return message.location


def written_as_sent(
    matcher: Matcher[Any], item: Any, differences: Sequence[Difference]
) -> str | None:
    """The signature that would match ``item``; ``None`` if no person would write it."""
    if not isinstance(item, SentTask):
        text = repr(item)  # a canvas
    elif isinstance(matcher.written, WrittenCall):
        found = own_call(item)
        if matcher.written.args is None or found.name != matcher.written.path:
            return None
        text = f"call({arguments_text(found.args, found.kwargs)})"
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
    """What was sent, but with what the test wrote, such as a wildcard, wherever that matches."""
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
    """The options that a test sets, with the values that were sent, if there are any."""
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
            pass  # Celery only used the queue
        elif found not in (None, "", (), UNKNOWN, NOT_SET) and _is_written(name, found):
            options[name] = found
    return options


def _is_written(name: str, value: object) -> bool:
    """Whether a person would write it in a test: ids and times differ for each message."""
    return name not in _IDS and not isinstance(value, datetime)
