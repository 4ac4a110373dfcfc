"""Chains, groups and chords, rebuilt from real publishes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import ANY

import pytest
from celery import chain, chord, group
from kombu.serialization import dumps

from pytest_djcelery.errors import NotASignatureError
from pytest_djcelery.messages.canvas import canvas_of
from pytest_djcelery.messages.rehearsal import rehearsed
from pytest_djcelery.messages.signature_types import first_task
from pytest_djcelery.messages.task_message import Parallel, Step, followed_by
from tests.unit.sending import Sent, message, new_app

APP = new_app()
ADD, MUL, TOTAL = (APP.tasks[f"shop.{name}"] for name in ("add", "mul", "total"))


@pytest.fixture
def sent() -> Iterator[Sent]:
    with Sent(APP).recording() as recording:
        yield recording


# Written afresh for each use: publishing freezes parts of a canvas in place.
CANVASES: dict[str, Callable[[], Any]] = {
    "add(1, 2)": lambda: ADD.s(1, 2),
    "chain": lambda: chain(ADD.s(1, 2), MUL.s(3)),
    "chain with si": lambda: chain(ADD.s(1, 2), MUL.si(3, 4), MUL.s(5)),
    "chain in chain": lambda: chain(ADD.s(3), chain(MUL.s(3), MUL.s(4)), TOTAL.s()),
    "group": lambda: group(ADD.s(1), MUL.s(2, 3)),
    "group of one": lambda: group([ADD.s(9)]),
    "chord": lambda: chord([ADD.s(1), ADD.s(2)], TOTAL.s()),
    "chord of one": lambda: chord([ADD.s(8)], TOTAL.s()),
    "chain to group": lambda: ADD.s(1) | group(MUL.s(1), MUL.s(2)),
    "group in the middle": lambda: chain(ADD.s(1), group(MUL.s(2), MUL.s(3)), TOTAL.s()),
    "chord in the middle": lambda: chain(
        ADD.s(1), chord([MUL.s(1), MUL.s(2)], TOTAL.s()), MUL.s(7)
    ),
    "two groups in a chain": lambda: chain(
        group(ADD.s(1), ADD.s(2)), TOTAL.s(), group(MUL.s(1), MUL.s(2))
    ),
    "chord and what follows": lambda: chord([ADD.s(1), ADD.s(3)], TOTAL.s()) | MUL.s(4) | ADD.s(5),
    "chain in group": lambda: group(chain(ADD.s(1), MUL.s(2)), ADD.s(3)),
    "chain in header and body": lambda: chord(
        [chain(ADD.s(1), MUL.s(2)), ADD.s(3)], chain(TOTAL.s(), MUL.s(2))
    ),
    "chord in group": lambda: group(chord([ADD.s(1), ADD.s(2)], TOTAL.s()), ADD.s(3)),
    "chord in chord": lambda: chord([chord([ADD.s(1), ADD.s(2)], TOTAL.s()), ADD.s(3)], TOTAL.s()),
    "group in group": lambda: group(ADD.s(1), group(MUL.s(1, 1), MUL.s(2, 2))),
    "group in header": lambda: chord(group(ADD.s(1), group(MUL.s(1, 1), MUL.s(2, 2))), TOTAL.s()),
    "chunks": lambda: ADD.chunks([(1, 2), (3, 4), (5, 6)], 2),
    "map": lambda: ADD.map([1, 2]),
    "steps with options": lambda: chain(ADD.s(1).set(queue="q"), MUL.s(2, 4).set(countdown=5)),
    "chain with options": lambda: chain(ADD.s(5), MUL.s(2)).set(priority=3),
    "chain with errback": lambda: chain(ADD.s(6), MUL.s(2)).on_error(TOTAL.s()),
    "chain with link": lambda: chain(ADD.s(7), MUL.s(2)).set(link=TOTAL.s()),
    "group with options": lambda: group(ADD.s(4), ADD.s(2)).set(priority=4),
    "chord with options": lambda: chord([ADD.s(1), ADD.s(9)], TOTAL.s()).set(priority=5),
    "to group in group": lambda: group(chain(ADD.s(1), group(ADD.s(2), ADD.s(3))), ADD.s(4)),
    "to group in header": lambda: chord(
        [chain(ADD.s(1), group(ADD.s(2), ADD.s(3)))], TOTAL.s().set(queue="sums")
    ),
    "chord to group in header": lambda: chord(
        [chord([ADD.s(1)], group(ADD.s(2), ADD.s(3)))], TOTAL.s()
    ),
    "group in group, turned around": lambda: group(group(MUL.s(2, 2), MUL.s(1, 1)), ADD.s(1)),
    "group with options in group": lambda: group(group(ADD.s(3), ADD.s(1)).set(queue="q")),
    "group with options, later": lambda: chain(ADD.s(1), group(ADD.s(2)).set(queue="a"), ADD.s(9)),
    "group out of a generator, later": lambda: chain(
        ADD.s(2), group(each for each in [ADD.s(2), group(ADD.s(3), ADD.s(4))])
    ),
    "body with options": lambda: chord(
        [ADD.s(1)], chord([ADD.s(2)], TOTAL.s().set(queue="a")).set(queue="b")
    ),
    "link of a chain to a group": lambda: chain(ADD.s(1), group(ADD.s(8), ADD.s(9))).set(
        link=TOTAL.s()
    ),
    "chunks, later": lambda: chord([ADD.s(1)], TOTAL.s()) | ADD.chunks([(1, 2), (3, 4)], 1),
}


@pytest.mark.parametrize("name", CANVASES)
def test_a_canvas_equals_what_publishing_it_sends(name: str, sent: Sent) -> None:
    CANVASES[name]().apply_async()
    assert sent.outbox.canvas == [CANVASES[name]()]
    assert CANVASES[name]() in sent.outbox.canvas


def test_canvases_are_distinguished_and_listed_in_publish_order(sent: Sent) -> None:
    for write in CANVASES.values():
        write().apply_async()
    entries = sent.outbox.canvas
    assert len(entries) == len(CANVASES)
    for position, write in enumerate(CANVASES.values()):
        assert entries.index(write()) == position


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("to group in group", lambda: chain(ADD.s(1), group(ADD.s(2), ADD.s(3)))),
        ("to group in header", lambda: chain(ADD.s(1), group(ADD.s(2), ADD.s(3)))),
        ("chord to group in header", lambda: chord([ADD.s(1)], group(ADD.s(2), ADD.s(3)))),
    ],
)
def test_a_member_that_ends_in_a_group_belongs_to_what_is_around_it(
    name: str, lost: Callable[[], Any], sent: Sent
) -> None:
    CANVASES[name]().apply_async()
    assert sent.outbox.canvas != [lost()]


def test_an_option_that_the_canvas_around_it_overrides_is_compared_as_a_worker_gets_it(
    sent: Sent,
) -> None:
    def later(**options: Any) -> Any:
        return chain(ADD.s(1), group(ADD.s(2).set(**options), ADD.s(3)).set(queue="all"))

    later(queue="mine").apply_async()
    assert sent.outbox.canvas == [later(queue="mine")]
    assert sent.outbox.canvas != [later(queue="other")]
    [entry] = sent.outbox.canvas
    [found] = entry.differing(later(queue="other"))
    assert (found.property, found.expected, found.actual) == (
        "step 2, member 1: queue",
        "'other'",
        "'mine'",
    )


def test_a_member_of_a_later_canvas_says_whether_it_takes_the_result(sent: Sent) -> None:
    chain(ADD.s(1), group(ADD.s(2), ADD.si(3))).apply_async()
    [entry] = sent.outbox.canvas
    assert list(entry.differing(chain(ADD.s(1), group(ADD.s(2), ADD.si(3))))) == []
    assert [
        (each.property, each.expected, each.actual)
        for each in entry.differing(chain(ADD.s(1), group(ADD.si(2), ADD.s(3))))
    ] == [
        ("step 2, member 1: kind", "immutable, .si(...)", "takes the result before it, .s(...)"),
        ("step 2, member 2: kind", "takes the result before it, .s(...)", "immutable, .si(...)"),
    ]


def test_all_that_follows_a_chord_belongs_to_its_body() -> None:
    steps = [Step(source=ADD.s(at)) for at in range(4)]
    chord_ = Parallel(members=((steps[0],),), body=(steps[1],))
    plain = Parallel(members=((steps[0],),))
    longer = replace(chord_, body=(steps[1], steps[2]))
    assert followed_by((steps[3], chord_), (steps[2],)) == (steps[3], longer)
    three = (steps[3], plain, chord_)
    assert followed_by(three, (steps[2],)) == (steps[3], plain, longer)
    assert followed_by((chord_,), ()) == (chord_,)
    assert followed_by((), (steps[0],)) == (steps[0],)
    assert followed_by((chord_, steps[3]), (steps[2],)) == (chord_, steps[3], steps[2])
    assert followed_by((plain,), (steps[2],)) == (plain, steps[2])


@pytest.mark.parametrize(
    ("written", "name"),
    [
        (lambda: MUL.s(1), "shop.mul"),
        (lambda: chain(MUL.s(1), ADD.s(2)), "shop.mul"),
        (lambda: group(chain(MUL.s(1), ADD.s(2)), ADD.s(2)), "shop.mul"),
        (lambda: chord([MUL.s(1), ADD.s(2)], TOTAL.s()), "shop.mul"),
        (lambda: chord(group(MUL.s(1), ADD.s(2)), TOTAL.s()), "shop.mul"),
        (lambda: chord([], TOTAL.s()), "shop.total"),
        (lambda: group([]), None),
        (lambda: group(group([]), MUL.s(1)), "shop.mul"),
        (lambda: ADD.chunks([(1, 2)], 1), "celery.starmap"),
        (lambda: ADD.map([1, 2]), "celery.map"),
    ],
)
def test_the_task_that_is_published_first(written: Callable[[], Any], name: str | None) -> None:
    assert first_task(written()) == name
    frozen = written()
    if name not in (None, "celery.starmap"):
        frozen.freeze()
        assert first_task(frozen) == name
        assert first_task(json.loads(dumps(frozen, "json")[2])) == name


def test_a_canvas_that_celery_refuses_or_that_sends_nothing_equals_no_canvas(sent: Sent) -> None:
    ADD.delay(1)
    [entry] = sent.outbox.canvas
    [refused] = entry.differing(chord([ADD.s(1)]))
    assert "(publishing it raises AttributeError: " in refused.expected
    [empty] = entry.differing(group([]))
    assert empty.expected == "group() (sends nothing)"


def test_what_is_compared_is_neither_published_nor_changed(sent: Sent) -> None:
    link = TOTAL.s()
    written = chord([ADD.s(1).set(link=[link]), chain(ADD.s(2), ADD.s(3))], TOTAL.s())
    before = repr(dict(written))
    ADD.delay(1)
    assert sent.outbox.canvas != [written]
    assert repr(dict(written)) == before
    assert written.app is APP
    assert len(sent.outbox) == 1


def test_a_canvas_of_another_app_compares_by_its_own_tasks(sent: Sent) -> None:
    def nested(*args: Any, **kwargs: Any) -> Any:
        return chain(ADD.s(1), chord([ADD.si(1, *args, **kwargs), ADD.s(2)], TOTAL.s()), MUL.s(2))

    nested(y=3).apply_async()
    other = new_app()
    other.tasks.pop("shop.add")
    other.set_current()
    assert sent.outbox.canvas == [nested(y=3)]
    assert sent.outbox.canvas == [nested(3)]
    assert sent.outbox.canvas != [nested(y=4)]


def test_ids_that_a_test_gives_are_compared_and_a_wildcard_is_any(sent: Sent) -> None:
    def with_ids(first: Any, second: Any) -> Any:
        return chain(ADD.s(1).set(task_id=first), ADD.s(2).set(task_id=second))

    with_ids("one", "two").apply_async()
    assert sent.outbox.canvas == [with_ids("one", "two")]
    assert sent.outbox.canvas == [with_ids(ANY, "two")]
    assert sent.outbox.canvas != [with_ids("one", "three")]
    assert sent.outbox.canvas != [with_ids("three", "two")]


def test_what_a_message_carries_equals_a_canvas_as_it_is_written(sent: Sent) -> None:
    def nested() -> Any:
        return group(group(ADD.s(1), ADD.s(2)), ADD.s(3))

    ADD.apply_async((1,), link=chain(MUL.s(2), nested()))
    chain(ADD.s(1), nested()).apply_async()
    chord([ADD.s(1)], chain(TOTAL.s(), nested())).apply_async()
    linked, chained, member = sent.outbox
    assert linked.links == [chain(MUL.s(2), nested())]
    assert linked.links != [chain(MUL.s(3), nested())]
    assert chained.chain == [nested()]
    assert chained.chain != [group(ADD.s(3), ADD.s(1), ADD.s(2))]
    assert member.chord == chain(TOTAL.s(), nested())


def test_a_step_that_differs_is_reported_with_its_place(sent: Sent) -> None:
    chain(ADD.s(1, 2), MUL.s(3), group(ADD.s(4), ADD.s(5)), TOTAL.s()).apply_async()
    [entry] = sent.outbox.canvas
    expected = chain(ADD.s(1, 2), MUL.si(3, 3), group(ADD.s(4), ADD.s(6)), TOTAL.s().set(queue="q"))
    assert [(each.property, each.expected, each.actual) for each in entry.differing(expected)] == [
        ("step 2: kind", "immutable, .si(...)", "takes the result before it, .s(...)"),
        ("step 2: args", "(3, 3)", "(3,)"),
        ("step 3, member 2: argument y", "6", "5"),
        ("step 3, body: queue", "'q'", "not set"),
    ]


def test_another_shape_is_reported_as_a_whole(sent: Sent) -> None:
    group(ADD.s(1), ADD.s(2)).apply_async()
    ADD.delay(1)
    parallel, single = sent.outbox.canvas
    assert [(each.property, each.expected) for each in single.differing(group(ADD.s(1)))] == [
        ("kind", "group(shop.add.s(1))")
    ]
    assert [each.actual for each in parallel.differing(chord([ADD.s(1), ADD.s(2)], TOTAL.s()))] == [
        "group(shop.add.s(1), shop.add.s(2))"
    ]
    assert [each.actual for each in parallel.differing(group(ADD.s(1), ADD.s(2), ADD.s(3)))] == [
        "group(shop.add.s(1), shop.add.s(2))"
    ]


def test_the_previous_result_counts_as_the_first_argument_of_a_later_step(sent: Sent) -> None:
    chain(ADD.s(1, 2), ADD.s(y=3)).apply_async()
    assert sent.outbox.canvas == [chain(ADD.s(1, 2), ADD.s(3))]
    assert sent.outbox.canvas != [chain(ADD.s(1, 2), ADD.s(x=3))]


def test_wildcards_work_in_later_steps(sent: Sent) -> None:
    chain(ADD.s(1, 2), MUL.s({"rows": [1, 2]})).apply_async()
    assert sent.outbox.canvas == [chain(ADD.s(ANY, 2), MUL.s({"rows": [ANY, 2]}))]
    assert sent.outbox.canvas == [ANY]
    assert sent.outbox.canvas != [chain(ADD.s(ANY, 2), MUL.s({"rows": [ANY, 3]}))]


def test_the_id_of_a_group_is_compared_where_it_is_set(sent: Sent) -> None:
    group(ADD.s(1), ADD.s(2)).apply_async(task_id="mine")
    assert sent.outbox.canvas == [group(ADD.s(1), ADD.s(2)).set(task_id="mine")]
    assert sent.outbox.canvas != [group(ADD.s(1), ADD.s(2)).set(task_id="other")]


def test_what_tasks_send_and_retries_start_no_canvas() -> None:
    assert canvas_of([message(parent_id="p"), message(retries=1)]) == []
    [entry] = canvas_of([message("celery.chord_unlock"), message("shop.add", 1)])
    assert entry == ADD.s(1)
    assert repr(entry) == "shop.add.s(1)"


def test_many_groups_are_put_together_in_linear_time(sent: Sent) -> None:
    messages = [message("shop.add", at, group_id=f"group-{at // 2}") for at in range(4000)]
    entries = canvas_of(messages)
    assert len(entries) == 2000
    assert entries[-1] == group(ADD.s(3998), ADD.s(3999))


@pytest.mark.parametrize("written", [ADD, "shop.add", 5])
def test_anything_but_a_signature_is_refused(written: Any, sent: Sent) -> None:
    ADD.delay(1)
    with pytest.raises(NotASignatureError):
        sent.outbox.canvas == [written]  # noqa: B015 - comparing raises


def test_entries_are_unhashable_as_the_signatures_they_equal(sent: Sent) -> None:
    ADD.delay(1)
    with pytest.raises(TypeError):
        hash(sent.outbox.canvas[0])
    assert sent.outbox.canvas == sent.outbox.canvas
    assert sent.outbox.canvas[0] != 5


# -- what is told of a difference ------------------------------------------------------------


def reported(sent: Sent, written: Any) -> list[tuple[str, str, str]]:
    [entry] = sent.outbox.canvas
    return [(each.property, each.expected, each.actual) for each in entry.differing(written)]


def test_another_number_of_steps_or_members_is_reported_with_its_place(sent: Sent) -> None:
    chain(ADD.s(1), group(ADD.s(2), ADD.s(3))).apply_async()
    pair = "group(shop.add.s(2), shop.add.s(3))"
    assert reported(sent, ADD.s(1)) == [("steps", "shop.add.s(1)", f"chain(shop.add.s(1), {pair})")]
    assert reported(sent, chain(ADD.s(1), ADD.s(2))) == [("step 2", "shop.add.s(2)", pair)]
    assert reported(sent, chain(ADD.s(1), group(ADD.s(2), ADD.s(3), ADD.s(4)))) == [
        ("step 2", "group(shop.add.s(2), shop.add.s(3), shop.add.s(4))", pair)
    ]
    assert reported(sent, chain(ADD.s(1), chord([ADD.s(2), ADD.s(3)], TOTAL.s()))) == [
        ("step 2", "chord([shop.add.s(2), shop.add.s(3)], shop.total.s())", pair)
    ]


def test_members_and_bodies_of_the_whole_are_told_without_a_step(sent: Sent) -> None:
    def written(a: int, b: int, *, queue: str = "q", task_id: str = "mine") -> Any:
        body = chain(TOTAL.s(), group(ADD.s(b), MUL.si(1, 1)))
        return chord([chain(ADD.s(a), ADD.s(2))], body.set(queue=queue)).set(task_id=task_id)

    written(1, 3).apply_async()
    assert reported(sent, written(1, 3)) == []
    assert reported(sent, written(5, 6)) == [
        ("member 1, step 1: argument x", "5", "1"),
        ("body, step 2, member 1: argument y", "6", "3"),
    ]
    assert reported(sent, written(1, 3, queue="r")) == [("body, step 1: queue", "'r'", "'q'")]


def test_the_id_of_a_group_is_reported(sent: Sent) -> None:
    group(ADD.s(1), ADD.s(2)).set(task_id="mine").apply_async()
    assert reported(sent, group(ADD.s(1), ADD.s(2)).set(task_id="other")) == [
        ("id", "other", "mine")
    ]
    assert reported(sent, group(ADD.s(1), ADD.s(2)).set(task_id=ANY)) == []
    sent.outbox.clear()
    chain(ADD.s(0), group(ADD.s(1), ADD.s(2)).set(task_id="mine")).apply_async()
    assert reported(sent, chain(ADD.s(0), group(ADD.s(1), ADD.s(2)).set(task_id="other"))) == [
        ("step 2, id", "other", "mine")
    ]


def test_ids_inside_of_a_chord_are_compared(sent: Sent) -> None:
    def written(member: str, body: str) -> Any:
        return chord([ADD.s(1).set(task_id=member)], TOTAL.s().set(task_id=body))

    written("m", "b").apply_async()
    assert reported(sent, written("m", "b")) == []
    assert reported(sent, written("n", "c")) == [
        ("member 1: task_id", "'n'", "'m'"),
        ("body: task_id", "'c'", "'b'"),
    ]


def test_a_step_compares_as_the_message_that_carries_it_is_serialized(sent: Sent) -> None:
    def written(pair: Any) -> Any:
        return chain(
            ADD.s(1).set(serializer="pickle"), group(MUL.si(pair, 1), MUL.si(2, 2)), TOTAL.si(pair)
        )

    written((1, 2)).apply_async()
    assert reported(sent, written((1, 2))) == []
    assert [place for place, _, _ in reported(sent, written([1, 2]))] == [
        "step 2, member 1: argument x",
        "step 2, body: argument numbers",
    ]


def test_something_other_than_a_signature_is_explained(sent: Sent) -> None:
    dirty = pytest.importorskip("dirty_equals")
    ADD.delay(1)
    assert reported(sent, dirty.IsInt) == [("canvas", repr(dirty.IsInt), "shop.add.s(1)")]
    assert reported(sent, ANY) == []
    assert reported(sent, group([])) == [("canvas", "group() (sends nothing)", "shop.add.s(1)")]


# -- what a comparison leaves alone ----------------------------------------------------------


def nested() -> Any:
    return chord([group(group(ADD.s(1), ADD.s(2)), ADD.s(3)), chain(ADD.s(4), ADD.s(5))], TOTAL.s())


def test_in_eager_mode_members_of_nested_groups_stay_in_order() -> None:
    eager = new_app(task_always_eager=True)
    add, total = eager.tasks["shop.add"], eager.tasks["shop.total"]
    written = chord([group(group(add.s(1), add.s(2)), add.s(3)), add.s(4)], total.s())
    assert [each.source.args for each in rehearsed(written)] == [(1,), (2,), (3,), (4,)]
    assert [each.source.args for each in rehearsed(nested())] == [(3,), (2,), (1,), (4,)]


def test_neither_the_backend_nor_the_broker_of_the_app_is_asked() -> None:
    class Untouchable:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(name)

    app = new_app()
    untouchable: Any = Untouchable()
    app._local.backend = untouchable
    app.amqp = untouchable
    add, total = app.tasks["shop.add"], app.tasks["shop.total"]
    add.backend = untouchable
    written = chain(add.s(0), chord([add.s(1), group(add.s(2), add.s(3))], total.s()), add.s(4))
    assert len(rehearsed(written)) == 1
    assert len(rehearsed(chord([add.s(1), add.s(2)], total.s()))) == 2
    assert len(rehearsed(group(add.s(1), add.s(2)), after_result=True)) == 2


def test_what_is_written_is_not_changed_by_comparing(sent: Sent) -> None:
    written = nested()
    written.link(TOTAL.s())
    link = written.body.options["link"]
    before = dumps(written, "json")[2]
    sent.outbox.canvas == [written]  # noqa: B015 - comparing is the case
    ADD.delay(1)
    assert sent.outbox.canvas != [written]
    assert dumps(written, "json")[2] == before
    assert written.body.options["link"] is link
    assert [each.type for each in link] == [TOTAL]
