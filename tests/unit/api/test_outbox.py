"""The outbox: a view of the journal."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from typing import Any
from unittest.mock import ANY

import pytest
from celery import chain, chord, group
from kombu import Queue

from pytest_djcelery import MessageNotSentError, NotOneMessageError
from pytest_djcelery.api.outbox import Outbox
from pytest_djcelery.errors import BadOptionError, DjceleryError, NotASignatureError
from pytest_djcelery.messages.events import Looked, Published
from pytest_djcelery.messages.journal import Journal
from tests.unit.sending import Sent, message, new_app

APP = new_app()
ADD, MUL = (APP.tasks[f"shop.{name}"] for name in ("add", "mul"))


@pytest.fixture
def sent() -> Iterator[Sent]:
    with Sent(APP).recording() as recording:
        yield recording


@pytest.fixture
def outbox(sent: Sent) -> Outbox:
    return sent.outbox


def filled(*messages: Any, **options: Any) -> tuple[Journal, Outbox]:
    journal = Journal()
    for each in messages:
        journal.append(Published(message=each))
    return journal, Outbox(journal, **options)


def test_it_lists_messages_oldest_first_as_they_are_published(outbox: Outbox) -> None:
    assert outbox == []
    assert not outbox
    ADD.delay(1, 2)
    MUL.delay(3, 4)
    assert len(outbox) == 2
    assert [each.task for each in outbox] == ["shop.add", "shop.mul"]
    assert (outbox[0].task, outbox[-1].task) == ("shop.add", "shop.mul")
    assert outbox[:1] == [ADD.s(1, 2)]
    assert isinstance(outbox[:1], list)


def test_what_a_message_carries_compares_with_signatures_too(outbox: Outbox) -> None:
    total = APP.tasks["shop.total"]
    ADD.apply_async((1, 2), link=MUL.s(3), link_error=[MUL.si(4, 5)])
    chain(ADD.s(1, 2), MUL.s(3), MUL.s(4).set(queue="mail")).apply_async()
    chord([ADD.s(1, 2), ADD.s(3, 4)], chain(total.s(), ADD.s(5))).apply_async()
    linked, chained, member, _ = outbox
    assert linked.links == [MUL.s(3)] == list(linked.links)
    assert linked.links == (MUL.s(y=3),)
    assert linked.links != [MUL.s(4)]
    assert linked.links[0] != MUL.si(3, 3)
    assert linked.link_errors == [MUL.si(4, 5)] != [MUL.s(4)]
    assert linked.chain == [] == linked.chain
    assert chained.chain == [MUL.s(3), MUL.s(4).set(queue="mail")]
    assert chained.chain != [MUL.s(3), MUL.s(4).set(queue="other")]
    assert chained.chain[0] == MUL.s(ANY)
    assert member.chord == chain(total.s(), ADD.s(5))
    assert member.chord != chain(total.s(), ADD.s(6))
    assert member.chord == member.chord.clone()


def test_arguments_compare_with_a_list_and_with_a_tuple(outbox: Outbox) -> None:
    ADD.delay(1, 2)
    assert outbox[0].args == (1, 2) == outbox[0].args
    assert outbox[0].args == [1, 2] == outbox[0].args
    assert outbox[0].args != [1, 3]
    assert outbox[0].args != (1, 3)
    assert hash(outbox[0].args) == hash((1, 2))


def test_it_equals_a_list_of_signatures_in_order(outbox: Outbox) -> None:
    ADD.delay(1, 2)
    MUL.delay(3, 4)
    assert outbox == [ADD.s(1, y=2), MUL.s(3, 4)]
    assert [ADD.s(1, 2), MUL.s(3, 4)] == outbox
    assert outbox == (ADD.s(1, 2), MUL.s(3, ANY))
    assert outbox == [ANY, outbox[1]]
    assert outbox == ANY
    assert outbox == outbox[:]
    assert outbox != [MUL.s(3, 4), ADD.s(1, 2)]
    assert outbox != [ADD.s(1, 2)]
    assert outbox != []


def test_it_compares_with_another_outbox(outbox: Outbox) -> None:
    ADD.delay(1, 2)
    assert outbox == outbox.of(ADD)
    assert outbox != outbox.of(MUL)


def test_in_finds_signatures_messages_and_wildcards(outbox: Outbox) -> None:
    assert ANY not in outbox
    ADD.delay(1, 2)
    assert ADD.s(1, 2) in outbox
    assert ADD.s(1, 3) not in outbox
    assert outbox[0] in outbox
    assert message() not in outbox
    assert ANY in outbox


def test_count_and_index_speak_in_signatures(outbox: Outbox) -> None:
    for x in (1, 2, 1):
        ADD.delay(x)
    assert outbox.count(ADD.s(1)) == 2
    assert outbox.index(ADD.s(2)) == 1
    assert outbox.index(ADD.s(1), 1) == 2
    with pytest.raises(ValueError, match=r"shop\.add\.s\(3\) is not in celery_outbox"):
        outbox.index(ADD.s(3))


def test_an_index_out_of_range_says_how_many_there_are(outbox: Outbox) -> None:
    ADD.delay(1)
    with pytest.raises(IndexError, match=r"celery_outbox\[3\]: it has 1 message$"):
        outbox[3]


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (5, "compare len(celery_outbox)"),
        ({"a": 1}, "compare len(celery_outbox)"),
        (None, "got None (NoneType)"),
        (ADD.s(1), "assert celery_outbox == [shop.add.s(1)]"),
        (group(ADD.s(1), ADD.s(2)), "assert celery_outbox.canvas == [group(shop.add.s(1), "),
        ([ADD], "call .s(...) with the arguments"),
        ([chain(ADD.s(1), ADD.s(2))], "celery_outbox.canvas"),
    ],
)
def test_anything_but_a_list_of_signatures_is_refused(
    other: Any, text: str, outbox: Outbox
) -> None:
    with pytest.raises(NotASignatureError) as caught:
        outbox == other  # noqa: B015 - comparing raises
    assert text in str(caught.value)


def test_it_is_unhashable_and_its_repr_lists_what_was_sent(outbox: Outbox) -> None:
    with pytest.raises(TypeError):
        hash(outbox)
    for x in range(12):
        ADD.delay(x)
    assert repr(outbox).startswith("<celery_outbox: [shop.add.s(0), shop.add.s(1), ")
    assert repr(outbox).endswith(", shop.add.s(9), … 2 more]>")
    assert repr(outbox.of(MUL)) == "<celery_outbox.of('shop.mul'): []>"


# -- views -----------------------------------------------------------------------------------


def test_views_show_a_part_and_follow_what_is_published(sent: Sent) -> None:
    outbox = sent.outbox
    adds, mail = outbox.of(ADD), outbox.on_queue("mail")
    after, inside = outbox.after_commit, outbox.in_transaction
    ADD.s(1).set(queue="mail").apply_async()
    sent.transaction = "on_commit"
    MUL.delay(1, 2)
    sent.transaction = "atomic"
    ADD.delay(2)
    assert adds == [ADD.s(1), ADD.s(2)]
    assert mail == [ADD.s(1)] == outbox.on_queue(Queue("mail"))
    assert after == [MUL.s(1, 2)]
    assert inside == [ADD.s(2)]
    assert outbox.of("shop.add").in_transaction == [ADD.s(2)] == outbox.of(ADD.s()).in_transaction
    assert outbox.of(ADD).after_commit.description == "celery_outbox.of('shop.add').after_commit"
    assert adds.canvas == [ADD.s(1), ADD.s(2)]


@pytest.mark.parametrize("task", [5, None, Queue("mail")])
def test_of_takes_a_task(task: Any, outbox: Outbox) -> None:
    with pytest.raises(BadOptionError, match=r"of\(\) takes a task or the name of one, got "):
        outbox.of(task)


ALL = [(1,), (1, 2), (2, 2, 7, 8)]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"x": 1}, [(1,), (1, 2)]),
        ({"y": 0}, [(1,)]),  # a default
        ({"y": 2}, [(1, 2), (2, 2, 7, 8)]),
        ({"x": 1, "y": 2}, [(1, 2)]),
        ({"rest": (7, 8)}, [(2, 2, 7, 8)]),
        ({"rest": [7, ANY]}, [(2, 2, 7, 8)]),
        ({"tenant": "a"}, [(2, 2, 7, 8)]),  # inside **more
        ({"tenant": ANY}, [(2, 2, 7, 8)]),
        ({"tenant": "b"}, []),
        ({"other": ANY}, []),
        ({"x": ANY}, ALL),
        ({"x": "1"}, []),
    ],
)
@pytest.mark.parametrize("task", [ADD, "shop.add", ADD.s(9)], ids=["task", "name", "signature"])
def test_of_takes_single_arguments_by_their_names(
    task: Any, arguments: dict[str, Any], expected: list[Any], outbox: Outbox
) -> None:
    ADD.delay(1)
    ADD.delay(y=2, x=1)
    MUL.delay(1, 2)
    ADD.delay(2, 2, 7, 8, tenant="a")
    assert [each.args or (1, 2) for each in outbox.of(task, **arguments)] == expected


def test_an_argument_may_be_called_as_a_parameter_of_ours(outbox: Outbox) -> None:
    ADD.apply_async((1,), {"self": 3, "task": 4})
    assert len(outbox.of(ADD, self=3, task=4)) == 1
    assert outbox.of(ADD, self=4) == []


def test_an_argument_compares_with_what_arrives_of_it(outbox: Outbox) -> None:
    number = uuid.UUID(int=7)
    ADD.delay({"rows": (1, number)})
    assert len(outbox.of(ADD, x={"rows": (1, number)})) == 1
    assert len(outbox.of(ADD, x={"rows": [ANY, number]})) == 1


def test_a_view_by_arguments_says_so_and_follows_what_is_published(outbox: Outbox) -> None:
    view = outbox.of(ADD, x=1, y="two")
    assert view.description == "celery_outbox.of('shop.add', x=1, y='two')"
    ADD.delay(1, "two")
    assert view == [ADD.s(1, "two")]


def test_an_argument_that_the_task_does_not_take_is_refused(outbox: Outbox) -> None:
    mail = APP.tasks["shop.send_email"]
    with pytest.raises(BadOptionError) as caught:
        outbox.of(mail, subjet="Hello")
    assert str(caught.value) == (
        "of('shop.send_email', subjet=...): the task takes no argument 'subjet', it is "
        "shop.send_email(user_pk, subject='Welcome'). Did you mean subject?"
    )


def test_of_a_task_that_is_not_registered_keyword_arguments_are_known(outbox: Outbox) -> None:
    APP.send_task("other.task", kwargs={"pk": 1})
    assert len(outbox.of("other.task", pk=1)) == 1
    assert outbox.of("other.task", pk=2) == []
    APP.send_task("other.task", (1,))
    with pytest.raises(BadOptionError, match=r"other\.task isn't registered here, so the names"):
        len(outbox.of("other.task", pk=1))
    with pytest.raises(BadOptionError) as caught:
        len(outbox.of("other.task", pk=1, by=2))
    assert str(caught.value) == (
        "of('other.task', pk=..., by=...): other.task isn't registered here, so the names of the "
        "arguments (1,) are unknown. Import the module that defines it, or look at the args of "
        "each message."
    )


def test_a_named_argument_of_an_unregistered_task_is_compared_beside_others(
    outbox: Outbox,
) -> None:
    APP.send_task("other.task", (1,), {"pk": 2})
    assert len(outbox.of("other.task", pk=2)) == 1
    assert outbox.of("other.task", pk=1) == []


def test_an_argument_compares_as_it_is_serialized(outbox: Outbox) -> None:
    ADD.apply_async(((1, 2),), serializer="pickle")
    assert len(outbox.of(ADD, x=(1, 2))) == 1
    assert outbox.of(ADD, x=[1, 2]) == []


def test_a_name_like_no_other_is_refused_without_a_guess(outbox: Outbox) -> None:
    with pytest.raises(BadOptionError, match=r"it is shop\.mul\(x, y\)\.\n"):
        outbox.of(MUL, tenant=1)


def test_a_call_that_does_not_fit_its_task_has_the_arguments_that_are_named(
    outbox: Outbox,
) -> None:
    APP.send_task("shop.mul", kwargs={"x": 1, "wrong": 2})
    assert len(outbox.of(MUL, x=1)) == 1
    assert outbox.of(MUL, x=2) == []


def test_on_queue_takes_a_queue(outbox: Outbox) -> None:
    wrong: Any = 5
    with pytest.raises(BadOptionError, match=r"on_queue\(\) takes a queue or the name of one"):
        outbox.on_queue(wrong)


# -- one, wait_for ---------------------------------------------------------------------------


def test_one_is_the_only_match(outbox: Outbox) -> None:
    ADD.delay(1)
    ADD.delay(2)
    assert outbox.one(ADD.s(2)) is outbox[1]
    with pytest.raises(NotOneMessageError, match="0 messages match") as caught:
        outbox.one(ADD.s(3))
    assert isinstance(caught.value, AssertionError)
    assert "argument x: expected 3, sent 1" in str(caught.value)
    with pytest.raises(NotOneMessageError, match="2 messages match"):
        outbox.one(ADD.s(ANY))


def test_wait_for_returns_what_is_published_meanwhile() -> None:
    journal, outbox = filled(message("shop.add", 1), timeout=10)
    late = message("shop.mul", 1, 2)
    thread = threading.Thread(target=lambda: journal.append(Published(message=late)))
    thread.start()
    assert outbox.wait_for(MUL.s(1, 2)) is late
    thread.join()
    assert outbox.wait_for(ADD.s(1), timeout=0) is outbox[0]


def test_wait_for_in_vain_tells_all() -> None:
    _, outbox = filled(message("shop.add", 1), timeout=0.01, situation=lambda: "No worker runs.")
    with pytest.raises(MessageNotSentError) as caught:
        outbox.wait_for(ADD.s(2))
    assert isinstance(caught.value, (DjceleryError, TimeoutError))
    assert str(caught.value).splitlines() == [
        "celery_outbox.wait_for(shop.add.s(2)): not sent within 0.01 seconds",
        "Expected: shop.add.s(2)",
        "Nearest miss:",
        "  [0] shop.add.s(1)  (shop/views.py:12 in sign_up, outside any transaction)",
        "        argument x: expected 2, sent 1",
        (
            "To fix: If what was sent is right, expect shop.add.s(1); if not, change the call at "
            "shop/views.py:12 in sign_up."
        ),
        "Meanwhile: No worker runs.",
    ]


# -- parts of a test -------------------------------------------------------------------------


def test_it_shows_its_own_span_of_the_journal() -> None:
    journal, _ = filled(*(message("shop.add", x) for x in range(4)))
    assert Outbox(journal, since=1, until=3) == [ADD.s(1), ADD.s(2)]
    assert Outbox(journal, since=3) == [ADD.s(3)]
    assert Outbox(journal, since=4) == []


def test_other_events_are_not_messages() -> None:
    journal, outbox = filled(message("shop.add", 1))
    journal.append(Looked(task_id="1"))
    journal.append(Published(message=message("shop.add", 2)))
    assert outbox == [ADD.s(1), ADD.s(2)]


def test_clear_forgets_what_was_sent_so_far(outbox: Outbox) -> None:
    adds = outbox.of(ADD)
    ADD.delay(1)
    assert len(adds) == 1
    outbox.clear()
    assert outbox == adds == []
    ADD.delay(2)
    assert outbox == adds == [ADD.s(2)]


def test_a_view_is_not_cleared(outbox: Outbox) -> None:
    with pytest.raises(DjceleryError, match=r"celery_outbox\.after_commit only shows part of"):
        outbox.after_commit.clear()


def test_record_collects_what_a_block_sends(outbox: Outbox) -> None:
    ADD.delay(1)
    with outbox.record() as block, outbox.of(MUL).record() as muls:
        ADD.delay(2)
        MUL.delay(1, 2)
        assert block == [ADD.s(2), MUL.s(1, 2)]
    MUL.delay(3, 4)
    assert block == [ADD.s(2), MUL.s(1, 2)]
    assert muls == [MUL.s(1, 2)]
    assert block.description == "celery_outbox.record()"
    assert len(outbox) == 4


def test_a_block_ends_where_it_raises(outbox: Outbox) -> None:
    blocks = []

    def sends_and_fails() -> None:
        with outbox.record() as block:
            blocks.append(block)
            ADD.delay(1)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        sends_and_fails()
    ADD.delay(2)
    assert blocks[0] == [ADD.s(1)]


# -- size ------------------------------------------------------------------------------------


class Counted(int):
    """A number that counts how often one is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return super().__eq__(other)

    __hash__ = int.__hash__


def test_ten_thousand_messages_compare_in_linear_time() -> None:
    _, outbox = filled(*(message("shop.add", x, 2) for x in range(10_000)))
    expected = [ADD.s(Counted(x), y=2) for x in range(10_000)]
    assert outbox == expected
    assert ADD.s(Counted(9_999), y=2) in outbox
    assert ADD.s(Counted(10_000), y=2) not in outbox
    assert 10_000 < Counted.compared < 100_000  # quadratic were 50 million
