"""What breaks, what accepts it, and how it is said."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_djcelery.contract.breaks import of_new_messages, of_old_messages
from pytest_djcelery.contract.records import (
    Contract,
    Shape,
    TaskParameter,
    TaskRecord,
    parameters_text,
)
from pytest_djcelery.contract.release import BeatEntry
from pytest_djcelery.contract.verdict import Verdict

ORDER, TEXT = TaskParameter(name="order"), TaskParameter(name="text", has_default=True)
BY_POSITION = Shape(args=(("order", "int"),))


def _task(*parameters: TaskParameter, **rest: Any) -> TaskRecord:
    return TaskRecord(**{"queue": "celery", "serializer": "json"} | rest, parameters=parameters)


def _release(queues: tuple[str, ...] = ("celery",), **tasks: TaskRecord) -> Any:
    return SimpleNamespace(
        queues=queues,
        accepted={"application/json"},
        knows=tasks.__contains__,
        record=tasks.__getitem__,
        found_elsewhere=lambda *_: None,
    )


def _old(contract: Contract, release: Any, *entries: BeatEntry, consumed: Any = ()) -> list[Any]:
    return [*of_old_messages(contract, release, entries, consumed)]


def test_a_queue_is_gone_unless_workers_are_said_to_consume_it() -> None:
    contract = Contract(queues=("celery", "mail"), tasks={"send": _task(queue="mail")})
    release = _release(send=_task())
    [gone] = _old(contract, release)
    assert gone.keys == ("queue:mail",)
    assert gone.recorded == ("recorded: send goes there",)
    assert not _old(contract, release, consumed=("mail",))


def test_a_content_type_is_that_of_the_task_or_of_the_message() -> None:
    pickled = Shape(args=BY_POSITION.args, serializer="pickle")
    contract = Contract(
        tasks={"send": _task(ORDER, sent={pickled: None, BY_POSITION: "a.py in b"})}
    )
    [refused] = _old(contract, _release(send=_task(ORDER)))
    assert "application/x-python-serialize" in refused.what
    assert refused.recorded == (
        "sent: send(int) by pickle from an unknown place",
        "sent: send(int) from a.py in b",
    )
    unknown = Contract(tasks={"send": _task(serializer="of-the-project")})
    assert "of-the-project" in _old(unknown, _release(send=_task()))[0].what


def test_only_an_entry_of_beat_that_names_a_recorded_task_is_of_this_project() -> None:
    entries = [BeatEntry(name=name, task=name, kwargs={}) for name in ("send", "of another")]
    contract = Contract(tasks={"send": _task()})
    assert [each.keys for each in _old(contract, _release(), *entries)] == [
        ("send",),
        ("beat:send",),
    ]


@pytest.mark.parametrize("key", ["send", "send:more", "send:other"])
def test_a_break_is_accepted_by_its_task_or_by_a_parameter_at_fault(key: str) -> None:
    contract = Contract(tasks={"send": _task(ORDER, sent={BY_POSITION: None})})
    more = TaskParameter(name="more")
    found = _old(contract, _release(send=_task(ORDER, more)))

    verdict = Verdict.of(found, {key: "planned"}, "error")

    assert bool(verdict.failing) == (key == "send:other")
    assert (verdict.accepted, verdict.stale) == (
        ((), (key,)) if key == "send:other" else ((key,), ())
    )


def test_breaks_of_new_messages_follow_the_policy() -> None:
    contract = Contract(tasks={"send": _task(ORDER)})
    sent: Any = {"send": {Shape(args=(("order", "int"), ("text", "str"))): "a.py in b"}}
    found = [*of_new_messages(contract, _release(send=_task(ORDER, TEXT)), sent)]
    assert [each.keys for each in found] == [("send:text", "send")]
    for rolling, failing, shown in (("warn", 0, 1), ("error", 1, 1), ("ignore", 0, 0)):
        verdict = Verdict.of(found, {}, rolling)  # type: ignore[arg-type]
        assert (len(verdict.failing), len(verdict.new)) == (failing, shown)
        text = "\n".join(verdict.lines("celery-contract.json"))
        assert ("(a warning: " in text) == (rolling == "warn")
        assert ("No message of the contract" in text) == (rolling == "ignore")


def test_the_head_of_a_task_is_written_as_a_person_writes_it() -> None:
    parameters = (
        TaskParameter(name="a", kind="positional only"),
        ORDER,
        TEXT,
        TaskParameter(name="b", kind="keyword only"),
        TaskParameter(name="more", kind="any keyword"),
    )
    assert parameters_text("shop.send", parameters) == "send(a, /, order, text=…, *, b, **more)"
    rest = (TaskParameter(name="rest", kind="any positional"), parameters[3])
    assert parameters_text("send", rest) == "send(*rest, b)"
    assert parameters_text("send", None) == "send(…)"
