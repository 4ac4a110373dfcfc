"""Rows, columns and terminals."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from celery.exceptions import Retry

from pytest_djcelery.locations import Location
from pytest_djcelery.messages.events import (
    BlockEntered,
    BlockLeft,
    Dropped,
    Event,
    FaultFired,
    HookDiscarded,
    HookFinished,
    HookRegistered,
    HookStarted,
    NotSent,
    Published,
    RanTwice,
    RequestFinished,
    RequestRaised,
    RequestStarted,
    WorkerLost,
)
from pytest_djcelery.messages.task_message import DjangoCall
from pytest_djcelery.trace import wording
from pytest_djcelery.trace.table import columns, table
from tests.unit.sending import LOCATION, message, new_app
from tests.unit.trace.stories import lines, run_of, sent_and_run, story_of, worker

if TYPE_CHECKING:
    from pytest_djcelery.messages.sent_task import SentTask

HERE = Location(path=__file__, line=1, function="test_it")
ADD = new_app().tasks["shop.add"]


class Opener:
    """What opened a transaction."""

    location = Location(path="shop/services.py", line=7, function="sign_up")


def test_a_request_a_transaction_a_hook_and_a_message_stand_below_what_led_to_them() -> None:
    sent = replace(message("shop.add", 1, 2), transaction="on_commit")
    hook = HookRegistered(
        hook=2, location=LOCATION, using="default", robust=False, function="shop.views.later",
    )  # fmt: skip
    events = [
        RequestStarted(method="POST", path="/users/", location=HERE),
        BlockEntered(block=1, opener=Opener()),
        hook,
        BlockLeft(block=1, committed=True),
        HookStarted(hook=2),
        Published(message=sent, hook=2),
        HookFinished(hook=2),
        RequestFinished(),
        *run_of(sent, value=3),
    ]
    story = story_of(events, runner=worker())
    source = '"""Rows, columns and terminals."""'
    assert lines(story) == [
        "ms  what  queue  took  outcome",
        f"-  tests/unit/trace/test_table.py:1  {source}",
        "-  request POST /users/  -",
        "-  atomic shop/services.py:7 in sign_up  -  committed",
        "-  hook shop.views.later  shop/views.py:12  -  ran",
        "-  publish ① add(1, 2)  celery",
        "-  run ① add  -  SUCCESS 3",
    ]
    assert [step.depth for step in story.steps] == [0, 1, 2, 3, 4, 5]
    assert story.matters is None


def test_rows_are_in_the_order_of_events_whatever_sent_them() -> None:
    first, second, third = message(), message(), message()
    events: list[Event] = [Published(message=first), Published(message=second)]
    events += [run_of(second)[0], Published(message=third), run_of(second)[1], *run_of(first)]
    story = story_of([*events, *run_of(third)], runner=worker())
    assert [line.split()[1:3] for line in lines(story)[1:]] == [
        ["publish", "①"],
        ["publish", "②"],
        ["run", "②"],
        ["publish", "③"],
        ["run", "①"],
        ["run", "③"],
    ]
    assert [step.depth for step in story.steps] == [0, 0, 1, 2, 1, 3]


def test_retries_links_and_chains_are_called_so() -> None:
    link, step = ADD.s(5), ADD.s(6).set(task_id="second")
    first = message(links=(link,), chain=(step,))
    again = replace(first, retries=1, sent_at=first.sent_at + timedelta(seconds=1))
    retry = Retry("again", exc=ValueError("not yet"), when=180)
    events = [
        *(Published(message=first), run_of(first)[0], Published(message=again)),
        run_of(first, "RETRY", retry)[1],
        run_of(again)[0],
        Published(message=message(id="second", location=None)),
        Published(message=message(location=None)),
        Published(message=message("shop.mul")),
        run_of(again)[1],
    ]
    rows = [line for line in lines(story_of(events)) if re.match(r">?-", line)]
    assert [line.partition("  ")[2] for line in rows] == [
        "publish ① add()  celery",
        "run ① add  -  RETRY in 3 min: ValueError: not yet",
        "retry ① add()  celery",
        "run ① add, attempt 2  -  SUCCESS None",
        "chain ② add()  celery  never ran: no worker",
        "link ③ add()  celery  never ran: no worker",
        "publish ④ mul()  celery  never ran: no worker",
    ]


def test_ends_of_every_kind_are_named() -> None:
    lost = message(other := "shop.mul")
    hook = HookRegistered(
        hook=1, location=None, using="default", robust=False, function="f",
        through="delay_on_commit", task=other,
    )  # fmt: skip
    events = [
        Published(message=lost),
        NotSent(message=lost),
        hook,
        HookDiscarded(hook=1, reason="a savepoint was rolled back"),
        RequestStarted(method="GET", path="/a\nb", location=None),
        RequestRaised(error=KeyError("x")),
        RequestFinished(),
        Dropped(task_id=None),
        *run_of(message(), "REVOKED"),
        *run_of(message(), "FAILURE", ValueError("boo\nand more")),
    ]
    found = [line.lstrip("> ").partition("  ")[2] for line in lines(story_of(events))[1:]]
    assert [re.sub(r" id-\d+", "", line) for line in found] == [
        "publish ① mul()  celery  not sent",
        "hook mul.delay_on_commit  discarded: a savepoint was rolled back",
        "request GET /a b  -  raised KeyError: 'x'",
        "dropped by the worker",
        "run add  -  REVOKED",
        "run add  -  FAILURE ValueError: boo",
    ]


def test_what_never_ran_says_why() -> None:
    now = datetime.now(timezone.utc)
    due, later, stays, other = (
        message(), message(eta=now + timedelta(hours=1, seconds=1)), message(queue="mail"),
        message(),
    )  # fmt: skip
    events = [Published(message=each) for each in (due, later, stays)]
    events.append(Published(message=other, other_app=True))
    story = story_of(events, runner=worker([due], [later]), stays=[stays])
    assert lines(story)[1:] == [
        ">-  publish ① add()  celery  never ran: due",
        "It was due: celery_inline.run() would deliver it.",
        "add() was sent at shop/views.py:12.",
        "-  publish ② add()  celery  never ran: ETA in 1 h",
        "-  publish ③ add()  mail  never ran: not consumed",
        "-  publish ④ add()  celery  never ran: another app's",
    ]


def many(count: int) -> list[SentTask]:
    return [message("shop.add", number) for number in range(count)]


@pytest.mark.parametrize("limit", [1, 2, 5, 40])
def test_the_row_that_matters_is_shown_with_those_around_it_and_the_rest_counted(
    limit: int,
) -> None:
    sent = many(50)
    events: list[Event] = [Published(message=each) for each in sent]
    for number, each in enumerate(sent):
        state, value = ("FAILURE", ValueError("boo")) if number == 25 else ("SUCCESS", number)
        events += run_of(each, state, value)
    shown = lines(story_of(events, runner=worker()), limit=limit)
    rows = [line for line in shown if re.match(r">?-", line)]
    assert len(rows) == limit
    [marked] = [line for line in rows if line.startswith(">")]
    assert "run #26 add" in marked
    assert "FAILURE ValueError: boo" in marked
    assert shown[-1] == f"{100 - limit} rows left out, of 100."
    assert any("publish #26 add(25)" in line for line in rows) is (limit > 1)
    if limit == 5:
        numbers = [line.split()[2] for line in rows]
        assert numbers == ["#26", "#24", "#25", "#26", "#27"]


def failing(text: str) -> list[Event]:
    sent = message("shop.add", "x" * 500)
    return [Published(message=sent), *run_of(sent, "FAILURE", ValueError(text))]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_row_fits_the_terminal_and_the_one_that_matters_is_told_in_full(width: int) -> None:
    text = table(story_of(failing("a cause 世界 " * 5)), width=width)
    assert max(map(columns, text.splitlines())) <= width
    assert "a cause 世界 a cause 世界" in " ".join(text.split())


def test_wide_characters_take_two_columns_and_accents_none() -> None:
    assert columns("世界") == 4
    assert columns("e\u0301") == 1


class Loud:
    """Whose `repr` raises."""

    def __repr__(self) -> str:
        raise RuntimeError("loud")


class SilentError(Exception):
    """Whose text raises."""

    def __str__(self) -> str:
        raise RuntimeError("silent")


@pytest.mark.parametrize(
    ("args", "shown"),
    [
        ((Loud(),), "add(<Loud whose repr raises RuntimeError>)"),
        (("\x1b[31mred\nline",), r"add('\x1b[31mred\nline')"),
        (("y" * 10**6,), "add('yyy"),
    ],
)
def test_whatever_arguments_are_the_table_is_made(args: Any, shown: str) -> None:
    sent = message("shop.add", *args)
    text = table(story_of(sent_and_run(sent, value=args[0])), width=120)
    assert shown in text
    assert "\x1b" not in text
    assert len(text) < 1000
    assert "SilentError" in table(
        story_of([Published(message=sent), *run_of(sent, "FAILURE", SilentError())])
    )


def test_arguments_that_the_project_hides_stay_hidden() -> None:
    headers = {"argsrepr": "('***',)", "kwargsrepr": "{'pin': '***'}"}
    sent = message("shop.add", "secret", kwargs={"pin": 1234}, headers=headers)
    text = table(story_of([Published(message=sent)]))
    assert "add('***', **{'pin': '***'})" in text
    assert "1234" not in text
    written = {"argsrepr": "([1],)", "kwargsrepr": "{'y': 2}"}  # as Celery itself does
    plain = message("shop.add", [1], kwargs={"y": 2}, headers=written)
    assert "add([1], y=2)" in table(story_of([Published(message=plain)]))


def test_the_failure_of_the_test_chooses_the_row_that_matters() -> None:
    first, second, third = many(3)
    cause = ValueError("second")
    events = [
        *(Published(message=each) for each in (first, second, third)),
        *run_of(first, "FAILURE", ValueError("first")),
        *run_of(second, "FAILURE", cause),
        *run_of(third, value=3),
    ]
    assert story_of(events).matters == 3
    assert story_of(events, error=cause).matters == 4
    assert story_of(events, error=AssertionError(f"add() [{third.id}]: expected 4")).matters == 5
    assert story_of(events, error=AssertionError("add() [③]: expected 4")).matters == 5
    both = AssertionError("add() [①]: first\nadd() [②]: second")
    assert story_of(events, error=both).matters == 3


def test_without_events_one_line_says_so() -> None:
    assert table(story_of([])) == "No message was published and no task ran."
    empty = [BlockEntered(block=1, opener=Opener()), BlockLeft(block=1, committed=True)]
    assert table(story_of(empty)) == "No message was published and no task ran."


def test_faults_lost_workers_and_second_runs_have_rows() -> None:
    lost, again = message(), message("shop.mul")
    events = [
        *(Published(message=lost), run_of(lost)[0]),
        FaultFired(fault=1, text="lose_worker(add)", task_id=lost.id),
        WorkerLost(task_id=lost.id, host=True),
        *sent_and_run(again, value=3),
        RanTwice(task_id=again.id, message=again, effects=("INSERT shop_order: 1 row",)),
    ]
    # The mark of the row that matters stands before its milliseconds, however many.
    assert [line.lstrip("> ") for line in lines(story_of(events)) if re.match(r">? *-", line)] == [
        "-  publish ① add()  celery",
        "-  run ① add  -  host lost",
        "-  fault lose_worker(add)",
        "-  publish ② mul()  celery",
        "-  run ② mul  -  SUCCESS 3",
        "-  again ② mul  INSERT shop_order: 1 row",
    ]


def test_a_message_of_a_django_task_is_called_by_it() -> None:
    enqueued = DjangoCall(
        enqueued="1", path="shop.jobs.welcome", args=("ada",), kwargs={}, priority=0,
        queue_name="default", backend="default", run_after=None, location=None,
    )  # fmt: skip
    sent = message("bridge.run_task", "shop.jobs.welcome", django_call=enqueued)
    assert [line.partition("  ")[2] for line in lines(story_of(sent_and_run(sent)))[1:]] == [
        "publish ① welcome('ada')  celery",
        "run ① welcome  -  SUCCESS None",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.0123, "12.3 ms"), (0.9998, "1 s"), (1.54, "1.5 s"), (59.9, "59.9 s"),
     (59.98, "1 min"), (60, "1 min"), (3900, "1 h 5 min"), (2 * 86400, "2 d"), (-5, "-5 s")],
)  # fmt: skip
def test_a_length_of_time_is_said_as_a_person_would(seconds: float, text: str) -> None:
    assert wording.duration(seconds) == text


def test_an_error_without_a_text_and_ids_of_other_types_change_nothing() -> None:
    sent = message(id=uuid4())
    unknown = message(id=uuid4())
    events = [Published(message=sent), *run_of(sent, "FAILURE", SilentError()), *run_of(unknown)]
    story = story_of(events, error=SilentError())
    assert story.matters == 1
    named = story_of(events, error=AssertionError(f"[{sent.id}] differs"))
    assert named.matters == 1
    assert f"run {unknown.id} add" in table(named, width=120)
