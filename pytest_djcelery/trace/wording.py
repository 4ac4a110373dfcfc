"""Words for what happened, as the timeline and the other texts about schedules use them.

Every text is one line that can be printed, of a bounded length, and making it never raises:
whatever the project passes to tasks may have a `repr` that raises, or one of a megabyte.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from celery.exceptions import Retry
from celery.utils.saferepr import saferepr

from pytest_djcelery import locations
from pytest_djcelery.messages.descriptions import arguments_text
from pytest_djcelery.messages.events import (
    BlockEntered,
    BlockLeft,
    Dropped,
    Ended,
    EndedWithoutOutcome,
    Event,
    FaultFired,
    HookDiscarded,
    HookFinished,
    HookRegistered,
    NotSent,
    RaceRaised,
    RanTwice,
    RequestRaised,
    RequestStarted,
    Warned,
    WorkerLost,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_djcelery.locations import Location
    from pytest_djcelery.messages.journal import ShortNumbers
    from pytest_djcelery.messages.sent_task import SentTask
    from pytest_djcelery.trace.steps import Step

LONGEST_CALL: Final = 60  # characters of the arguments of a call
LONGEST_VALUE: Final = 120  # characters of a value or of the text of an error
_LONGEST_REPR: Final = 300  # of arguments, as Celery has written them; longer ones are cut
#: Types of values whose `repr` is quick, and what Celery writes for them, too.
_SIMPLE: Final = frozenset({int, float, bool, str, type(None)})
_ALMOST_ONE: Final = 0.9995  # seconds, which is a second in three digits
_SHORTEST: Final = 1e-3  # seconds
_MAXSIZE: Final = 1024  # to which Celery cuts `argsrepr` (``Task.argsrepr_maxsize``)


def call(message: SentTask, *, longest: int = LONGEST_CALL) -> str:
    """The call that a message stands for, with a task's short name: ``send_email(7)``.

    Arguments that the project hides by ``argsrepr`` or ``kwargsrepr`` are shown as it says.

    Args:
        message: The message.
        longest: How many characters the arguments may take.
    """
    return f"{name_of(message)}({cut(plain(_arguments(message)), longest)})"


def name_of(message: SentTask) -> str:
    """The short name of a message's task; of the Django task, if it was sent for one."""
    django_call = message.django_call
    return short_name(message.task if django_call is None else django_call.path)


def short_name(task: str) -> str:
    """The name of a task without that of its module."""
    return plain(task).rpartition(".")[2] or task


def _arguments(message: SentTask) -> str:
    if (enqueued := message.django_call) is not None:
        return _written((*enqueued.args,), enqueued.kwargs)
    written = message.headers.get("argsrepr"), message.headers.get("kwargsrepr")
    args, kwargs = (text if isinstance(text, str) else None for text in written)
    long = len(args or "") + len(kwargs or "") > _LONGEST_REPR
    hides_args = args is not None and (
        long or not (_is_celerys(args, tuple(message.args)) or _is_celerys(args, [*message.args]))
    )
    hides_kwargs = kwargs is not None and (long or not _is_celerys(kwargs, dict(message.kwargs)))
    parts = []
    if hides_args:
        parts.append(_without_parentheses(args or ""))
    elif message.args:
        parts.append(_written((*message.args,), {}))
    if hides_kwargs:
        parts.append("" if kwargs == "{}" else f"**{kwargs}")
    elif message.kwargs:
        parts.append(_written((), message.kwargs))
    return ", ".join(filter(None, parts))


def _written(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    try:
        return arguments_text(args, kwargs)
    except Exception as error:  # noqa: BLE001 - a text about a failure must not hide it
        return f"<arguments that can't be shown: {type(error).__name__}>"


def _is_celerys(text: str, values: Any) -> bool:
    """Whether a text is what Celery writes for arguments if the project does not choose it."""
    inside = values.values() if isinstance(values, dict) else values
    try:
        if _SIMPLE.issuperset(map(type, inside)):
            return text == repr(values) or text == str(saferepr(values, _MAXSIZE))
        return text == str(saferepr(values, _MAXSIZE))
    except Exception:  # noqa: BLE001 - a `repr` of the project raises what it likes
        return False


def _without_parentheses(args: str) -> str:
    if args[:1] + args[-1:] in ("()", "[]"):  # Celery's own form of the arguments
        return args[1:-1].removesuffix(",")
    return args


def value(found: object, *, longest: int = LONGEST_VALUE) -> str:
    """A value, as its `repr` shows it."""
    if type(found) is str and len(found) > longest:
        found = found[:longest]
    try:
        text = repr(found) if type(found) in _SIMPLE else saferepr(found, longest * 2)
    except Exception as error:  # noqa: BLE001 - a `repr` of the project raises what it likes
        text = f"<{type(found).__name__} whose repr raises {type(error).__name__}>"
    return cut(plain(text[: longest * 4]), longest)


def error_text(error: object, *, longest: int = LONGEST_VALUE) -> str:
    """The type of an error and the first line of its text: ``ValueError: boo``."""
    try:
        text = str(error)[: longest * 4].strip()
    except Exception as raised:  # noqa: BLE001 - likewise
        text = f"<its text raises {type(raised).__name__}>"
    first = text.partition("\n")[0]
    name = type(error).__name__
    return cut(plain(f"{name}: {first}" if first else name), longest)


def outcome(ended: Ended) -> str:
    """How a run of a task ended: ``SUCCESS 3``, ``FAILURE ValueError: boo``."""
    if ended.expired:
        return "EXPIRED"
    if ended.state == "RETRY" and isinstance(ended.value, Retry):
        return _retry(ended.value)
    if isinstance(ended.value, BaseException):
        return f"{ended.state} {error_text(ended.value)}"
    if ended.state == "SUCCESS":
        return f"SUCCESS {value(ended.value)}"
    return ended.state if ended.value is None else f"{ended.state} {value(ended.value)}"


def _retry(retry: Retry) -> str:
    """Why a task is retried, and when."""
    when = retry.when
    moment = f"in {duration(when)}" if isinstance(when, int | float) else f"at {value(when)}"
    reason = f": {error_text(retry.exc)}" if isinstance(retry.exc, BaseException) else ""
    return f"RETRY {moment}{reason}"


def attempt(retries: int) -> str:
    """Which attempt at a task, unless it is the first: ``, attempt 2``."""
    return f", attempt {retries + 1}" if retries else ""


def place(location: Location | None) -> str:
    """A file and a line, from the working folder if the file is below it."""
    return "" if location is None else plain(f"{_relative(location.path)}:{location.line}")


@lru_cache(maxsize=64)
def _relative(path: str) -> str:
    return locations.relative(path)


def what(step: Step, numbers: ShortNumbers) -> str:
    """What happened in a step: ``publish ① add(1, 2)``."""
    event, message = step.event, step.message
    if step.line is not None:
        return f"{place(step.line)}  {source(step.line)}".rstrip()
    if message is not None:
        number = numbers.of(message.id)
        if isinstance(event, RanTwice):
            return f"again {number} {name_of(message)}"
        if step.kind == "run":
            again = attempt(_retries(step))
            return f"run {number} {name_of(message)}{again}"
        return f"{sent_as(step)} {number} {call(message)}"
    if (word := _EVENTS.get(type(event))) is not None:
        return str(word(event))
    task_id, name = getattr(event, "task_id", ""), getattr(step.end or event, "task", "")
    return f"run {numbers.of(task_id)} {short_name(name)}".rstrip()


def sent_as(step: Step) -> str:
    """How a message was sent: ``publish``, ``retry``, ``replace``; or what has followed a task.

    That is ``chain``, ``link``, ``error link`` or ``chord``. What eager mode runs in place of
    sending it is ``eager``.
    """
    message = step.message
    if message is None:
        return ""
    if step.kind == "eager":
        return "eager retry" if message.retries else "eager"
    if message.retries:
        return "retry"
    if step.within is None:
        return "publish" if step.entry is None else "beat"
    return _followed(step.within, message)


def _followed(before: SentTask, message: SentTask) -> str:
    """How a message came out of the run of another."""
    if message.id == before.id:
        return "replace"
    following = {
        "chain": before.chain[:1],
        "link": before.links,
        "error link": before.link_errors,
        "chord": () if before.chord is None else (before.chord,),
    }
    for how, signatures in following.items():
        if any(signature.options.get("task_id") == message.id for signature in signatures):
            return how
    location = message.location
    if location is not None and not locations.in_suite(location.path):
        return "publish"  # by a line of the project's, not by Celery itself
    for how, signatures in following.items():
        unnamed = (each for each in signatures if not each.options.get("task_id"))
        if any(signature.task == message.task for signature in unnamed):
            return how
    return "publish"


def _retries(step: Step) -> int:
    if isinstance(step.end, Ended):
        return step.end.retries
    return 0 if step.message is None else step.message.retries


def _opener(event: BlockEntered) -> str:
    location = event.opener.location
    text = str(event.opener).removeprefix("the decorator transaction.atomic of ")
    if location is None:
        return text
    return f"{place(location)} in {location.function}"


def _hook(event: HookRegistered) -> str:
    name = event.function
    if event.through and event.task:
        name = f"{short_name(event.task)}.{event.through}"
    return plain(f"{name}  {place(event.location)}".rstrip())


def source(location: Location) -> str:
    """The line itself, as far as the file can be read."""
    import linecache

    return plain(linecache.getline(location.path, location.line).strip())


def duration(seconds: float) -> str:
    """A length of time as a person would say it: ``1.5 s``, ``3 min``, ``1 h 5 min``, ``2 d``."""
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds < _SHORTEST:
        return "0 s"
    if seconds < _ALMOST_ONE:
        return f"{seconds * 1000:.3g} ms"
    if round(seconds, 1) < 60:  # noqa: PLR2004 - seconds of a minute
        return f"{round(seconds, 1):g} s"
    minutes = round(seconds / 60)
    parts = ((minutes // 1440, "d"), (minutes // 60 % 24, "h"), (minutes % 60, "min"))
    return " ".join(f"{count} {unit}" for count, unit in parts if count)


def cut(text: str, longest: int) -> str:
    """A text of at most so many characters, with its end in place of what is left out."""
    if len(text) <= longest:
        return text
    return f"{text[: max(longest - 1, 0)]}…"


def plain(text: str) -> str:
    """A text in one line, with what a terminal would obey, or not show, written out."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else _escaped(character) for character in text
    )


def _escaped(character: str) -> str:
    if character.isspace():
        return " "
    if unicodedata.category(character) == "Cs":  # half of a pair, which can't be encoded
        return "\N{REPLACEMENT CHARACTER}"
    return character.encode("unicode-escape").decode("ascii")


def result(step: Step) -> str:
    """How a step ended, as far as its own events say; empty if it says nothing."""
    end = step.end
    word: Any = _ENDS.get(type(end)) or _ENDS.get(type(step.event))
    if word is not None:
        return str(word(end if type(end) in _ENDS else step.event))
    raised = None if step.ran is None else step.ran[2]
    return f"raised {error_text(raised.error)}" if isinstance(raised, RequestRaised) else ""


_ENDS: Final[dict[type[Event | None], Any]] = {
    Ended: outcome,
    EndedWithoutOutcome: outcome,
    NotSent: lambda _: "not sent",
    BlockLeft: lambda left: "committed" if left.committed else "rolled back",
    HookDiscarded: lambda hook: f"discarded: {hook.reason}",
    HookFinished: lambda hook: "ran" if hook.error is None else f"raised {error_text(hook.error)}",
    RaceRaised: lambda race: error_text(race.error),
    RanTwice: lambda ran: cut(plain("; ".join(ran.effects)), LONGEST_VALUE) or "no effect",
    WorkerLost: lambda lost: "host lost" if lost.host else "worker lost",
    Warned: lambda warned: cut(plain(warned.text.partition("\n")[0]), LONGEST_VALUE),
}
_EVENTS: Final[dict[type[Event], Any]] = {
    RequestStarted: lambda request: (
        f"request {plain(request.method)} {cut(plain(request.path), LONGEST_CALL)}"
    ),
    BlockEntered: lambda entered: f"atomic {plain(_opener(entered))}",
    HookRegistered: lambda hook: f"hook {_hook(hook)}",
    RaceRaised: lambda race: type(race.error).__name__,
    Warned: lambda _: "warning",
    FaultFired: lambda fault: f"fault {cut(plain(fault.text), LONGEST_CALL)}",
    Dropped: lambda _: "dropped by the worker",
}
