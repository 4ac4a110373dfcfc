"""What breaks, in words, and the compatible way to make the same change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pytest_djcelery.contract.binding import Fault, Misfit
    from pytest_djcelery.contract.records import Parameters
    from pytest_djcelery.contract.release import FoundElsewhere

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


def in_words(misfit: Misfit) -> str:
    """What happens to a message, in words."""
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


def of_misfits(misfits: Sequence[Misfit], recorded: Parameters, now: Parameters, half: str) -> str:
    """The compatible way to change the parameters of a task."""
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


def of_gone(name: str) -> str:
    """How to remove a task."""
    return (
        "Two releases: stop sending it in this one and keep the task; remove it in the next, once "
        f'no message is left. If it has a new name, keep the old one: name="{name}".'
    )


def of_gone_from_django(name: str) -> str:
    """How to remove a task of `django.tasks`, whose path is its name."""
    module, _, function = name.rpartition(".")
    return (
        f"Two releases: keep {function!r} in {module} in this one, where only old messages call "
        "it, and remove it in the next."
    )


def of_renamed(name: str, found: FoundElsewhere) -> str:
    """How to move or rename the function of a task."""
    return (
        f'Keep the name: @shared_task(name="{name}") on {found.code}. Or register it by both '
        "names in this release, and remove the old one in the next."
    )


def of_content_type(content_type: str) -> str:
    """How to change the serializer."""
    return (
        f"Keep {content_type!r} in accept_content while old messages are left; change only "
        "task_serializer in this release."
    )


def of_queue(queue: str) -> str:
    """How to remove a queue."""
    return (
        f"Keep {queue!r} in task_queues, without routes to it, until it is empty; remove it in the "
        "next release."
    )
