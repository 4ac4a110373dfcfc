"""What a deploy would break, old messages and old workers, and how to change it compatibly."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from pytest_djcelery.contract.model_schemas import Comparison
from pytest_djcelery.contract.records import (
    Contract,
    Misfit,
    Parameters,
    Shape,
    TaskRecord,
    misfits,
    parameters_text,
    shape_text,
)
from pytest_djcelery.contract.release import content_type_of

if TYPE_CHECKING:
    from pytest_djcelery.contract.records import Fault
    from pytest_djcelery.contract.release import BeatEntry, FoundElsewhere, Release
    from pytest_djcelery.contract.sent_shapes import SentByTask


#: Whose messages break: those in the queue, on this code; or this code's, on old workers.
Half = Literal["old messages", "new messages"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """Messages that one change breaks.

    ``keys`` are those of ``retired``, each of which accepts it; the first is the one to write.
    ``recorded`` are the lines that stand against it, ``remedy`` is the compatible way. What
    happens to many tasks for one reason has that reason in ``shared``.
    """

    half: Half
    keys: tuple[str, ...]
    what: str
    recorded: tuple[str, ...] = field(default=())
    remedy: str
    shared: str | None = None

    def accepted_by(self, retired: Collection[str]) -> list[str]:
        """The keys that accept it."""
        return [key for key in self.keys if key in retired]


def of_old_messages(
    contract: Contract,
    release: Release,
    entries: Iterable[BeatEntry],
    consumed: Collection[str],
) -> Iterator[Break]:
    """What messages of the recorded release this code can't run.

    Args:
        contract: What is recorded.
        release: This code.
        entries: The periodic schedule of this code.
        consumed: Names of queues that workers consume though the settings don't declare them.
    """
    for name, task in sorted(contract.tasks.items()):
        if release.knows(name):
            yield from _of_task(name, task, release.record(name), half="old messages")
        else:
            yield _gone(name, task, contract, release)
    yield from _of_content_types(contract, release)
    for queue in contract.queues:
        if queue not in release.queues and queue not in consumed:
            yield _queue_gone(queue, contract)
    for entry in entries:
        if entry.task in contract.tasks and not release.knows(entry.task):
            yield Break(
                half="old messages",
                keys=(f"beat:{entry.name}",),
                what=f"{entry.place} sends {entry.task}, which is gone",
                remedy=OF_BEAT,
            )


def of_new_messages(contract: Contract, release: Release, sent: SentByTask) -> Iterator[Break]:
    """What messages of this code the workers of the recorded release can't run.

    Args:
        contract: What is recorded.
        release: This code.
        sent: The shapes that the tests of this run have sent.
    """
    for name, shapes in sorted(sent.items()):
        old = contract.tasks.get(name)
        if old is None:
            yield Break(
                half="new messages",
                keys=(name,),
                what=f"{name} is new: old workers don't know it, and drop its messages",
                recorded=tuple(_lines(name, shapes)),
                remedy=OF_NEW_TASK,
            )
        else:
            new = release.record(name).with_sent(shapes)
            yield from _of_task(name, new, old, half="new messages")


def _of_task(name: str, sender: TaskRecord, runner: TaskRecord, *, half: Half) -> Iterator[Break]:
    """What messages of a task, as one release sends them, another can't run."""
    found: dict[tuple[Misfit, ...], dict[Shape, str | None]] = {}
    for shape, place in sender.sent.items():
        problems = tuple(misfits(shape, sender.parameters, runner))
        if problems:
            found.setdefault(problems, {})[shape] = place
    old, new = (sender, runner) if half == "old messages" else (runner, sender)
    for problems, broken in found.items():
        parameters = dict.fromkeys(each for problem in problems for each in problem.parameters)
        what = "; ".join(_in_words(problem) for problem in problems)
        yield Break(
            half=half,
            keys=(*(f"{name}:{parameter}" for parameter in parameters), name),
            what=f"{name}: {what}",
            recorded=(
                f"recorded: {parameters_text(name, old.parameters)}",
                f"now: {parameters_text(name, new.parameters)}",
                *_lines(name, broken),
            ),
            remedy=_of_misfits(problems, old.parameters or (), new.parameters or (), half),
        )
    yield from _of_schemas(name, sender, runner, half=half)


def _gone(name: str, task: TaskRecord, contract: Contract, release: Release) -> Break:
    now = release.found_elsewhere(name, task, contract.tasks)
    moved = "" if now is None else f": its function is now {now.code}, the task {now.task}"
    return Break(
        half="old messages",
        keys=(name,),
        what=f"{name} is {'gone' if now is None else 'renamed'}{moved}",
        recorded=(
            f"recorded: {parameters_text(name, task.parameters)}",
            *_lines(name, task.sent),
        ),
        remedy=_of_gone(name, task, now),
    )


def _of_content_types(contract: Contract, release: Release) -> Iterator[Break]:
    by_type: dict[str, dict[str, None]] = {}
    for name, task in sorted(contract.tasks.items()):
        serializers = {task.serializer, *(shape.serializer for shape in task.sent)} - {None}
        for serializer in sorted(map(str, serializers)):
            content_type = content_type_of(serializer)
            refused = content_type not in release.accepted and not task.is_django
            if refused and release.knows(name):
                by_type.setdefault(content_type, {})[name] = None
    for content_type, names in by_type.items():
        reason = f"sent as {content_type}, which accept_content refuses"
        for name in names:
            yield Break(
                half="old messages",
                keys=(name,),
                what=f"{name} was {reason}",
                recorded=tuple(_lines(name, contract.tasks[name].sent)),
                remedy=f"Keep {content_type!r} in accept_content while old messages are left; "
                "change only task_serializer in this release.",
                shared=reason,
            )


def _queue_gone(queue: str, contract: Contract) -> Break:
    tasks = [name for name, task in sorted(contract.tasks.items()) if task.queue == queue]
    return Break(
        half="old messages",
        keys=(f"queue:{queue}",),
        what=f"the queue {queue!r} is not declared any more, so no worker consumes it",
        recorded=tuple(f"recorded: {name} goes there" for name in tasks),
        remedy=f"Keep {queue!r} in task_queues, without routes to it, until it is empty; remove it "
        "in the next release.",
    )


def _of_schemas(
    name: str, sender: TaskRecord, runner: TaskRecord, *, half: Half
) -> Iterator[Break]:
    schemas = _schemas(sender.parameters)
    for parameter, schema in _schemas(runner.parameters).items():
        if parameter not in schemas:
            continue
        refusals = Comparison(schemas[parameter], schema).refusals()
        if refusals:
            yield Break(
                half=half,
                keys=(f"{name}:{parameter}", name),
                what=f"{name}: the model of {parameter} refuses what was sent: "
                + "; ".join(refusals),
                recorded=tuple(_lines(name, sender.sent)),
                remedy=OF_SCHEMA if half == "old messages" else OF_NEW_SCHEMA,
            )


def _schemas(parameters: Parameters | None) -> dict[str, Mapping[str, object]]:
    return {each.name: each.schema for each in parameters or () if each.schema is not None}


def _lines(name: str, shapes: Mapping[Shape, str | None]) -> Iterator[str]:
    texts = {
        f"sent: {shape_text(name, shape)} from {place or 'an unknown place'}"
        for shape, place in shapes.items()
    }
    yield from sorted(texts)


# What breaks, in words, and the compatible way to make the same change --------------------

OF_BEAT: Final = (
    "Change or remove the entry (in beat_schedule, add_periodic_task or the table of "
    "django-celery-beat, by a migration) in the release that removes the task, or before."
)
OF_NEW_TASK: Final = (
    "Two releases: deploy the task first, and the code that sends it once all workers have it; or "
    "restart the workers before what sends."
)
OF_SCHEMA: Final = (
    "Two releases: give a new field a default and keep the old ones; make the model stricter once "
    "no old message is left."
)
OF_NEW_SCHEMA: Final = (
    "Two releases: let the workers accept the new form first, and send it once all of them do."
)


def _in_words(misfit: Misfit) -> str:
    parameter, other, position = misfit.parameter, misfit.other, misfit.position
    return {
        "missing": f"{parameter!r} is missing in the message",
        "surplus": f"argument {position}{_named(parameter)} is one too many",
        "unexpected": f"{parameter!r} is passed by name, and is not taken",
        "twice": f"{parameter!r} is passed twice: by name, and by argument {position}"
        f"{_named(other)}",
        "moved": f"argument {position} was {other!r}, and would be taken as {parameter!r}",
        "inserted": f"argument {position} was {other!r}, and would be taken as {parameter!r}, "
        "which was put before it",
    }[misfit.fault]


def _named(parameter: str | None) -> str:
    return f" ({parameter!r})" if parameter else ""


def _of_misfits(misfits: Sequence[Misfit], recorded: Parameters, now: Parameters, half: str) -> str:
    by_fault = {misfit.fault: misfit for misfit in misfits}
    if half == "new messages":
        return _of_new_misfits(by_fault)
    if "unexpected" in by_fault:
        name = by_fault["unexpected"].parameter
        if name in {each.name for each in now}:
            return f"Let {name!r} still be passed by name."
        new = [each.name for each in now if each.name not in {old.name for old in recorded}]
        both = f", and read it where {new[0]!r} is not passed" if new else ""
        return (
            f"Keep {name!r} beside the new parameters, with a default{both}; remove it in the next "
            "release, once no old message is left."
        )
    if not by_fault.keys().isdisjoint(("twice", "moved", "inserted")):
        return (
            "Put a new parameter at the end, with a default, or make it keyword-only; keep the "
            "order of the others."
        )
    if "surplus" in by_fault:
        name = by_fault["surplus"].parameter.lstrip("*")
        kept = f"Keep {name!r}" if name else "Keep the parameter"
        return f"{kept}, with a default, in this release; remove it in the next."
    missing = ", ".join(
        f"{misfit.parameter}=None" for misfit in misfits if misfit.fault == "missing"
    )
    return (
        f"Give it a default: {missing}, at the end. In the next release, once no old message is "
        "left, it can be required."
    )


def _of_new_misfits(by_fault: Mapping[Fault, Misfit]) -> str:
    if "missing" in by_fault:
        name = by_fault["missing"].parameter
        return f"Two releases: go on sending {name!r} in this one, and leave it out in the next."
    if "moved" in by_fault or "inserted" in by_fault:
        return "Pass the arguments by name, at least while workers of both releases run."
    return (
        "Two releases: let the task take it first (a parameter with a default, at the end), and "
        "send it once all workers run that."
    )


def _of_gone(name: str, task: TaskRecord, now: FoundElsewhere | None) -> str:
    if task.is_django:  # its name is its path
        module, _, function = name.rpartition(".")
        return (
            f"Two releases: keep {function!r} in {module} in this one, where only old messages "
            "call it, and remove it in the next."
        )
    if now is not None:
        return (
            f'Keep the name: @shared_task(name="{name}") on {now.code}. Or register it by both '
            "names in this release, and remove the old one in the next."
        )
    return (
        "Two releases: stop sending it in this one and keep the task; remove it in the next, once "
        f'no message is left. If it has a new name, keep the old one: name="{name}".'
    )
