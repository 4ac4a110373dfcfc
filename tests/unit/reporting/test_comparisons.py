"""What a user reads when a comparison fails."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from datetime import datetime, timezone
from typing import Any
from unittest.mock import ANY

import pytest
from celery import chain, chord, group, signature
from dirty_equals import HasAttributes, IsList
from pytest_unordered import unordered as pytest_unordered

from pytest_djcelery import NotOneMessageError, unordered
from pytest_djcelery.messages.descriptions import describe_call
from pytest_djcelery.messages.events import HookDiscarded, HookRegistered, HookStarted
from pytest_djcelery.reporting.comparisons import compare
from pytest_djcelery.reporting.explanations import _coloured
from tests.unit.sending import LOCATION, Sent, message, new_app

APP = new_app()
ADD, MUL, MAIL, TOTAL = (
    APP.tasks[f"shop.{name}"] for name in ("add", "mul", "send_email", "total")
)
LATER = datetime(2031, 1, 1, tzinfo=timezone.utc)
OUTSIDE = "  (shop/views.py:12 in sign_up, outside any transaction)"
FROM_HERE = "if not, change the call at shop/views.py:12 in sign_up"
UNNAMED = "  - Options that are not named are not compared: name those that this test is about."
PART = (
    "a part of the test alone: celery_outbox.clear() before it, or with celery_outbox.record() as "
    "sent: ..."
)
KEEP = (
    "To fix: Keep shop/views.py:12 in sign_up from sending it; if that is only set-up, look at "
    "the rest of the test alone: celery_outbox.clear() before it, or with celery_outbox.record() "
    "as sent: ..."
)
INSIDE = "  (shop/views.py:12 in sign_up, inside an open transaction)"


@pytest.fixture
def sent() -> Iterator[Sent]:
    with Sent(APP).recording() as recording:
        yield recording


def text(op: str, left: Any, right: Any) -> str:
    lines = compare(op, left, right)
    assert lines is not None
    return "\n".join(lines)


def expected(*lines: str) -> str:
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("call", "described"),
    [
        (MAIL.s(1), "shop.send_email.s(1)"),
        (MAIL.si(1, subject="Hi"), "shop.send_email.si(1, subject='Hi')"),
        (ADD.s(1).set(queue="q", countdown=3), "shop.add.s(1).set(queue='q', countdown=3)"),
        (ADD.s(1).set(link=MUL.s(2)), "shop.add.s(1).set(link=shop.mul.s(2))"),
        (ADD.s(MUL.s(2)), "shop.add.s(shop.mul.s(2))"),
        (chain(ADD.s(1), MUL.s(2)), "chain(shop.add.s(1), shop.mul.s(2))"),
        (group(ADD.s(1), MUL.s(2)), "group(shop.add.s(1), shop.mul.s(2))"),
        (chord([ADD.s(1), ADD.s()], MUL.s()), "chord([shop.add.s(1), shop.add.s()], shop.mul.s())"),
        (ADD.chunks([(1, 2)], 1), "shop.add.chunks([(1, 2)], 1)"),
        (message("shop.add", 1, kwargs={"y": 2}), "shop.add.s(1, y=2)"),
        (ANY, "<ANY>"),
        (5, "5"),
    ],
)  # fmt: skip
def test_a_call_is_written_as_a_person_writes_it(call: Any, described: str) -> None:
    assert describe_call(call) == described


def test_what_is_not_ours_is_left_alone(sent: Sent) -> None:
    assert compare("==", [1], [2]) is None
    assert compare("in", 1, [2]) is None
    assert compare("<", sent.outbox, []) is None


def test_one_message_shows_each_difference(sent: Sent) -> None:
    ADD.apply_async((1, 2), queue="mail")
    lines = expected(
        "shop.add.s(1, 2) == shop.add.s(1, 3).set(queue='other')",
        "",
        "Expected: shop.add.s(1, 3).set(queue='other')",
        f"Sent:     shop.add.s(1, 2){OUTSIDE}",
        "  argument y: expected 3, sent 2",
        "  queue: expected 'other', sent 'mail'",
        "To fix:",
        "  - If what was sent is right, expect shop.add.s(1, 2).set(queue='mail'); "
        f"{FROM_HERE}, or task_routes.",
        UNNAMED,
    )
    written = ADD.s(1, 3).set(queue="other")
    assert text("==", sent.outbox[0], written) == lines
    assert text("==", written, sent.outbox[0]) == lines


def test_messages_in_a_plain_list_are_explained_as_an_outbox_is(sent: Sent) -> None:
    ADD.delay(1, 2)
    lines = expected(
        "the messages == [shop.add.s(1, 3)]",
        "",
        "0 of 1 as expected.",
        "Sent otherwise:",
        "  [0] shop.add.s(1, 3)",
        "      Nearest miss:",
        f"        [0] shop.add.s(1, 2){OUTSIDE}",
        "              argument y: expected 3, sent 2",
        f"To fix: If what was sent is right, expect shop.add.s(1, 2); {FROM_HERE}.",
    )
    assert text("==", list(sent.outbox), [ADD.s(1, 3)]) == lines
    assert text("==", [ADD.s(1, 3)], tuple(sent.outbox)) == lines
    assert compare("==", [], [ADD.s(1, 3)]) is None
    assert compare("==", list(sent.outbox), list(sent.outbox)) is None


def test_a_missing_message_shows_the_nearest_with_each_difference(sent: Sent) -> None:
    MAIL.delay(2)
    ADD.delay(1)
    assert text("in", MAIL.s(3).set(queue="mail", countdown=10), sent.outbox) == expected(
        "shop.send_email.s(3).set(queue='mail', countdown=10) in celery_outbox",
        "",
        "Expected: shop.send_email.s(3).set(queue='mail', countdown=10)",
        "  argument user_pk: expected 3, sent 2",
        "  queue: expected 'mail', sent 'celery'",
        "  countdown: expected 10, sent None",
        "To fix:",
        "  - If what was sent is right, expect shop.send_email.s(2).set(queue='celery'); "
        f"{FROM_HERE}, or task_routes.",
        UNNAMED,
        "",
        "Nearest miss:",
        f"  [0] shop.send_email.s(2){OUTSIDE}",
        "        argument user_pk: expected 3, sent 2",
        "        queue: expected 'mail', sent 'celery'",
        "        countdown: expected 10, sent None",
        "Also sent:",
        f"  [1] shop.add.s(1){OUTSIDE}",
    )


def test_lists_show_what_is_missing_unexpected_and_as_expected(sent: Sent) -> None:
    for call in (ADD.s(1), MAIL.s(1), MUL.s(2, 3)):
        call.apply_async()
    assert text("==", sent.outbox, [ADD.s(1), MAIL.s(2)]) == expected(
        "celery_outbox == [shop.add.s(1), shop.send_email.s(2)]",
        "",
        "1 of 2 as expected; 3 sent.",
        "  [1] argument user_pk: expected 2, sent 1",
        "  [2] not expected: shop.mul.s(2, 3)",
        "To fix:",
        f"  - If what was sent is right, expect shop.send_email.s(1); {FROM_HERE}.",
        f"  - Add what is meant to be sent to the list; or compare {PART}",
        "",
        "Sent otherwise:",
        "  [1] shop.send_email.s(2)",
        "      Nearest miss:",
        f"        [1] shop.send_email.s(1){OUTSIDE}",
        "              argument user_pk: expected 2, sent 1",
        "Sent, but not expected:",
        f"  [2] shop.mul.s(2, 3){OUTSIDE}",
        "As expected:",
        f"  [0] shop.add.s(1){OUTSIDE}",
    )
    assert text("==", [ADD.s(1), MAIL.s(2)], sent.outbox) == text(
        "==", sent.outbox, [ADD.s(1), MAIL.s(2)]
    )


def test_only_the_order_differs(sent: Sent) -> None:
    ADD.delay(1)
    MUL.delay(1, 2)
    assert text("==", sent.outbox, [ANY, ADD.s(1)]) == expected(
        "celery_outbox == [<ANY>, shop.add.s(1)]",
        "",
        "Expected the same messages in another order:",
        "  [0] <ANY>  sent as [1]",
        "  [1] shop.add.s(1)  sent as [0]",
        "Sent:",
        f"  [0] shop.add.s(1){OUTSIDE}",
        f"  [1] shop.mul.s(1, 2){OUTSIDE}",
        "To fix: If the order doesn't matter, say so with pytest_djcelery.unordered: "
        "assert celery_outbox == unordered([<ANY>, shop.add.s(1)]).",
    )


def test_the_order_of_wildcards_alone_may_differ(sent: Sent) -> None:
    ADD.delay(1)
    MUL.delay(1, 2)
    wildcards = [HasAttributes(task="shop.mul"), HasAttributes(task="shop.add")]
    assert "To fix: If the order doesn't matter, say so with " in text("==", sent.outbox, wildcards)


def test_messages_too_many_say_how_to_compare_a_part(sent: Sent) -> None:
    ADD.delay(1)
    assert text("==", sent.outbox, []) == expected(
        "celery_outbox == []",
        "",
        "Expected nothing, 1 sent.",
        "Sent, but not expected:",
        f"  [0] shop.add.s(1){OUTSIDE}",
        f"To fix: Add what is meant to be sent to the list; or compare {PART}",
    )


def test_messages_of_other_tasks_say_how_to_compare_those_of_one(sent: Sent) -> None:
    ADD.delay(1)
    MUL.delay(1, 2)
    add = "To fix: Add what is meant to be sent to the list"
    for listing, rest in (
        (sent.outbox, "; or compare this task's alone: celery_outbox.of('shop.add')."),
        (
            sent.outbox.canvas,
            "; or compare this task's alone: celery_outbox.of('shop.add').canvas.",
        ),
        (list(sent.outbox), "."),
    ):
        assert text("==", listing, [ADD.s(1)]).splitlines()[-1] == f"{add}{rest}"


def test_not_in_and_not_equal_show_what_was_sent(sent: Sent) -> None:
    nothing = text("!=", sent.outbox, []).splitlines()
    assert nothing[2:4] == ["They are equal.", "Nothing was sent."]
    assert nothing[4].startswith("To fix: Check that the code that sends it runs")
    ADD.delay(1)
    MUL.delay(1, 2)
    assert text("not in", ADD.s(ANY), sent.outbox) == expected(
        "shop.add.s(<ANY>) not in celery_outbox",
        "",
        "Expected no message like: shop.add.s(<ANY>)",
        "Sent:",
        f"  [0] shop.add.s(1){OUTSIDE}",
        KEEP,
    )
    assert text("!=", sent.outbox[0], ADD.s(1)) == expected(
        "shop.add.s(1) != shop.add.s(1)",
        "",
        "They are equal.",
        f"Sent:     shop.add.s(1){OUTSIDE}",
        KEEP,
    )
    assert text("!=", sent.outbox, [ADD.s(1), MUL.s(1, 2)]).splitlines()[-1] == KEEP


def test_what_was_sent_is_written_as_the_test_would_write_it(sent: Sent) -> None:
    """It keeps wildcards and what is right, and leaves out what was not sent or is not written."""
    ADD.apply_async((1, 2), queue="mail", countdown=30, headers={"a": 1}, link=MUL.s(3))
    for written, as_sent in (
        (ADD.s(ANY, 3), "shop.add.s(<ANY>, 2)"),
        (ADD.s(1, y=3), "shop.add.s(1, 2)"),
        (ADD.s(1, y=2).set(queue="other"), "shop.add.s(1, y=2).set(queue='mail')"),
        (ADD.s(1, 2).set(countdown=10, priority=3), "shop.add.s(1, 2).set(countdown=30)"),
        (ADD.s(1, 2).set(headers={"a": 2, "b": 1}), "shop.add.s(1, 2).set(headers={'a': 1})"),
        (ADD.s(1, 2).set(link=MUL.s(4)), "shop.add.s(1, 2).set(link=[shop.mul.s(3)])"),
        (ADD.s(1, 2).set(task_id="a", eta=LATER), "shop.add.s(1, 2)"),
        (ADD.s(1, 2).set(exchange="e", routing_key="k"), "shop.add.s(1, 2)"),
    ):
        assert f"right, expect {as_sent}; {FROM_HERE}" in text("in", written, sent.outbox)


def test_a_call_too_long_to_be_written_names_what_to_take_over(sent: Sent) -> None:
    TOTAL.delay(list(range(100)))
    written = TOTAL.s([*range(99), 0])
    assert (
        f"\nTo fix: If what was sent is right, expect its argument numbers[99]; {FROM_HERE}.\n"
    ) in text("in", written, sent.outbox)


def test_many_missing_messages_are_paired_with_what_was_sent_in_their_place(sent: Sent) -> None:
    for x in range(12):
        ADD.delay(x, 1)
    lines = text("==", sent.outbox, [ADD.s(x, 2) for x in range(12)]).splitlines()
    fixes = [
        f"  - If what was sent is right, expect shop.add.s({x}, 1); {FROM_HERE}." for x in range(3)
    ]
    assert lines[2:10] == [
        "0 of 12 as expected.",
        "  [0] argument y: expected 2, sent 1",
        "  [1] argument y: expected 2, sent 1",
        "  … and 10 more",
        "To fix:",
        *fixes,
    ]


def test_what_is_missing_of_several_is_named(sent: Sent) -> None:
    ADD.delay(1)
    assert text("==", sent.outbox, [ADD.s(2), MUL.s(1, 2)]).splitlines()[2:] == [
        "0 of 2 as expected; 1 sent.",
        "  [0] argument x: expected 2, sent 1",
        "  [1] shop.mul.s(1, 2): not sent",
        "To fix:",
        f"  - If what was sent is right, expect shop.add.s(1); {FROM_HERE}.",
        (
            "  - Check that the code that sends shop.mul runs, and that it is not mocked: "
            "a mock of delay() or apply_async() sends nothing."
        ),
        "",
        "Sent otherwise:",
        "  [0] shop.add.s(2)",
        "      Nearest miss:",
        f"        [0] shop.add.s(1){OUTSIDE}",
        "              argument x: expected 2, sent 1",
        "Not sent:",
        "  [1] shop.mul.s(1, 2)",
    ]


def test_a_message_sent_less_often_is_not_a_near_miss(sent: Sent) -> None:
    ADD.delay(1)
    once = (
        "To fix: shop.add.s(1) was sent less often than expected: leave one out, or check that "
        "the code that sends it runs each time."
    )
    assert text("==", sent.outbox, [ADD.s(1), ADD.s(1)]) == expected(
        "celery_outbox == [shop.add.s(1), shop.add.s(1)]",
        "",
        "1 of 2 as expected; 1 sent.",
        "Not sent:",
        "  [1] shop.add.s(1)",
        "As expected:",
        f"  [0] shop.add.s(1){OUTSIDE}",
        once,
    )
    assert text("==", sent.outbox.count(ADD.s(1)), 2) == expected(
        "celery_outbox.count(shop.add.s(1)) == 2: 1 message matches",
        "",
        "Expected 2. Sent:",
        f"  [0] shop.add.s(1){OUTSIDE}",
        once,
    )


def test_messages_do_not_equal_other_messages(sent: Sent) -> None:
    ADD.delay(1)
    with sent.outbox.record() as others:
        ADD.delay(1)
    fix = "To fix: A message equals only itself; to match one like it, compare with a signature."
    assert f"\n{fix}\n" in text("==", others, sent.outbox)


def test_a_count_that_differs_shows_what_was_counted(sent: Sent) -> None:
    ADD.delay(1)
    assert text("==", sent.outbox.count(ADD.s(2)), 1) == expected(
        "celery_outbox.count(shop.add.s(2)) == 1: 0 messages match",
        "",
        "Expected: shop.add.s(2)",
        "Nearest miss:",
        f"  [0] shop.add.s(1){OUTSIDE}",
        "        argument x: expected 2, sent 1",
        f"To fix: If what was sent is right, expect shop.add.s(1); {FROM_HERE}.",
    )
    ADD.delay(1)
    count = sent.outbox.count(ADD.s(1))
    assert text(">=", 1, count) == expected(
        "celery_outbox.count(shop.add.s(1)) <= 1: 2 messages match",
        "",
        "Expected <= 1. Sent:",
        f"  [0] shop.add.s(1){OUTSIDE}",
        f"  [1] shop.add.s(1){OUTSIDE}",
        KEEP,
    )
    assert compare("==", count, "2") is None
    assert repr(count) == "2"
    assert type(copy(count)) is int


def test_one_of_several_is_named_by_what_differs(sent: Sent) -> None:
    def fix(written: Any) -> str:
        with pytest.raises(NotOneMessageError) as caught:
            sent.outbox.one(written)
        return str(caught.value).splitlines()[-1]

    ADD.delay(1)
    ADD.delay(1)
    assert fix(ADD.s(1)).startswith("To fix: If it is meant to be sent that often, count them: ")
    ADD.apply_async((1,), queue="mail")
    assert fix(ADD.s(1)) == "To fix: Tell them apart by the queue: .set(queue='celery')."
    ADD.delay(2)
    assert fix(ADD.s(ANY)) == "To fix: Write the arguments that tell them apart: shop.add.s(1)."


def test_an_empty_outbox_points_to_mocks(sent: Sent) -> None:
    assert text("in", ADD.s(1), sent.outbox) == expected(
        "shop.add.s(1) in celery_outbox",
        "",
        "Expected: shop.add.s(1)",
        "celery_outbox is empty.",
        "To fix: Check that the code that sends it runs, and that it is not mocked: "
        "a mock of delay() or apply_async() sends nothing.",
    )


def test_an_empty_outbox_points_to_hooks_that_did_not_run(sent: Sent) -> None:
    for number in (1, 2, 3):
        sent.journal.append(
            HookRegistered(
                hook=number, location=LOCATION, using="default", robust=False, function="add.delay"
            )
        )
    sent.journal.append(HookStarted(hook=1))
    sent.journal.append(HookDiscarded(hook=2, reason="its block was rolled back"))
    hook = "The on_commit hook add.delay (shop/views.py:12 in sign_up)"
    for listing in (sent.outbox, sent.outbox.canvas):
        assert text("==", listing, [ADD.s(1)]).splitlines()[-3:] == [
            "To fix:",
            f"  - {hook} was discarded: its block was rolled back; see celery_on_commit.discarded.",
            f"  - {hook} still waits for its commit; see celery_on_commit.pending.",
        ]


def test_a_message_sent_before_the_commit_points_to_delay_on_commit(sent: Sent) -> None:
    sent.transaction = "atomic"
    MAIL.delay(1)
    lines = text("in", MAIL.s(1), sent.outbox.after_commit).splitlines()
    assert lines[3] == "celery_outbox.after_commit is empty."
    assert lines[4] == (
        "To fix: It was sent inside the open transaction (shop/views.py:12 in sign_up): a worker "
        "can run it before the commit. Send it with .delay_on_commit(...) or "
        ".apply_async_on_commit(...)."
    )


def test_a_message_sent_outside_any_transaction_says_so(sent: Sent) -> None:
    MAIL.delay(1)
    assert "sent outside any transaction and by no on_commit hook" in text(
        "in", MAIL.s(1), sent.outbox.after_commit
    )


def test_a_message_that_another_view_has_says_where_it_is(sent: Sent) -> None:
    MAIL.delay(1)
    assert (
        "celery_outbox has it, celery_outbox.on_queue('mail') leaves it out: queue 'celery', "
        "transaction 'autocommit'"
    ) in text("==", sent.outbox.on_queue("mail"), [MAIL.s(1)])


def test_a_call_that_does_not_fit_its_task_says_so(sent: Sent) -> None:
    MAIL.delay(1)
    assert text("in", MAIL.s(), sent.outbox).splitlines()[-2:] == [
        "        args: expected (), sent (1,)",
        (
            "To fix: shop.send_email.s() can't be sent at all: missing a required argument: "
            "'user_pk'; the task is shop.send_email(user_pk, subject='Welcome')."
        ),
    ]


def test_a_task_that_is_not_registered_suggests_names(sent: Sent) -> None:
    ADD.delay(1)
    lines = text("in", signature("shop.ad", args=(1,), app=APP), sent.outbox).splitlines()
    assert "        task: expected shop.ad, sent shop.add" in lines
    assert lines[-1].startswith("To fix: No task is registered as 'shop.ad': check the name")
    assert "Did you mean shop.add" in lines[-1]


def test_an_argument_that_can_not_be_sent_says_so(sent: Sent) -> None:
    ADD.delay(1)
    assert text("in", ADD.s({1}), sent.outbox).splitlines()[-1] == (
        "To fix: argument 0 of shop.add.s({1}) is of type set, which json can't encode: expect "
        "what the task gets instead, such as a primary key."
    )


def test_long_listings_are_cut_and_say_how_much_is_left(sent: Sent) -> None:
    for x in range(25):
        ADD.delay(x)
    lines = text("==", sent.outbox, []).splitlines()
    assert lines[2] == "Expected nothing, 25 sent."
    assert lines[-1] == "  … and 15 more"
    assert lines[8] == ""
    assert lines[3:7] == [
        *(f"  [{x}] not expected: shop.add.s({x})" for x in range(3)),
        "  … and 22 more",
    ]
    many = text("==", sent.outbox.of(MUL), [MUL.s(x, x) for x in range(25)]).splitlines()
    assert "  … and 15 more" in many
    assert many[0].endswith("… 22 more]")


def test_a_canvas_shows_the_step_that_differs(sent: Sent) -> None:
    sent.transaction = "atomic"
    chain(ADD.s(1), MUL.s(2)).apply_async()
    assert text("==", sent.outbox.canvas, [chain(ADD.s(1), MUL.s(3))]) == expected(
        "celery_outbox.canvas == [chain(shop.add.s(1), shop.mul.s(3))]",
        "",
        "0 of 1 as expected.",
        "Sent otherwise:",
        "  [0] chain(shop.add.s(1), shop.mul.s(3))",
        "      Nearest miss:",
        f"        [0] chain(shop.add.s(1), shop.mul.s(2)){INSIDE}",
        "              step 2: argument y: expected 3, sent 2",
        "To fix: If what was sent is right, expect chain(shop.add.s(1), shop.mul.s(2)); "
        f"{FROM_HERE}.",
    )
    lines = text("==", sent.outbox.canvas, [chain(ADD.s(1), MUL.s(2).set(queue="mail"))])
    assert UNNAMED in lines.splitlines()


def test_tasks_sent_one_by_one_are_not_a_canvas(sent: Sent) -> None:
    ADD.delay(1)
    ADD.delay(2)
    for written in (group(ADD.s(1), ADD.s(2)), chain(ADD.s(1), ADD.s(2))):
        fix = (
            "To fix: Its tasks were sent one by one: compare them with celery_outbox, or send the "
            "canvas itself, instead of shop/views.py:12 in sign_up.\n"
        )
        assert fix in text("==", sent.outbox.canvas, [written])


def test_two_long_texts_are_marked_where_they_part(sent: Sent) -> None:
    MAIL.delay(1, "The order of the fourth of May has left our house")
    lines = text("in", MAIL.s(1, "The order of the fourth of June has left our house"), sent.outbox)
    assert (
        "        argument subject:\n"
        "          expected 'The order of the fourth of June has left our house'\n"
        "          sent     'The order of the fourth of May has left our house'\n"
        "                                               ^"
    ) in lines


def test_messages_may_be_expected_in_any_order(sent: Sent) -> None:
    """Each signature takes one message, also where another would have taken the same one."""
    for x in (1, 2, 3):
        ADD.delay(x)
    assert sent.outbox == unordered(ADD.s(ANY), ADD.s(3), ADD.s(1))
    assert unordered([ADD.s(3), ADD.s(2), ADD.s(1)]) == sent.outbox
    assert sent.outbox != unordered(ADD.s(3), ADD.s(2))
    assert sent.outbox != unordered(ADD.s(3), ADD.s(2), ADD.s(2))
    assert sent.outbox == IsList(ADD.s(3), ADD.s(2), ADD.s(1), check_order=False)
    assert sent.outbox == pytest_unordered([ADD.s(3), ADD.s(2), ADD.s(1)])
    assert sent.outbox != pytest_unordered([ADD.s(3), ADD.s(2), ADD.s(2)])
    lines = text("==", sent.outbox, unordered(ADD.s(3), ADD.s(2), ADD.s(4))).splitlines()
    assert lines[0] == ("celery_outbox == unordered([shop.add.s(3), shop.add.s(2), shop.add.s(4)])")
    assert lines[2:4] == ["2 of 3 as expected.", "  [2] argument x: expected 4, sent 1"]


def test_differences_have_the_colours_of_the_diffs_of_pytest() -> None:
    def markup(text: str, **colours: bool) -> str:
        return f"<{next(iter(colours))}>{text}</>"

    assert _coloured("  [0] argument y: expected 3, sent 2", markup) == (
        "  [0] argument y: expected <red>3</>, sent <green>2</>"
    )
    assert _coloured("    expected 'a'", markup) == "    expected <red>'a'</>"
    assert _coloured("    sent     'b'", markup) == "    sent     <green>'b'</>"
    assert _coloured("Also sent:", markup) == "Also sent:"
