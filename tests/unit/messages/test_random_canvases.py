"""Random canvases and options: they compare equal with what puts the same on the wire, alone.

What Celery hands to kombu is the truth here, not what is recorded of it. A failure says how to
run it again: ``--hypothesis-seed`` is printed, and the matrix of CI prints the one that it gives.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from celery import chain, chord, group
from hypothesis import assume, given, note, reject, settings
from hypothesis import strategies as st
from kombu.compression import get_encoder
from kombu.entity import maybe_delivery_mode
from kombu.serialization import dumps, loads

from pytest_djcelery.patching import replaced
from tests.unit.sending import Sent, new_app

APP = new_app()
ADD, NOTE = (APP.tasks[f"shop.{name}"] for name in ("add", "total"))
CHANGED = 1_000_000  # no generated value is so high

pytestmark = pytest.mark.filterwarnings(
    "ignore:task_allow_error_cb_on_chord_header:celery.exceptions.CPendingDeprecationWarning"
)


@dataclass
class Node:
    """A task, or a canvas of some."""

    kind: str
    number: int = 0
    immutable: bool = False
    members: list[Node] = field(default_factory=list)
    body: Node | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def nodes(self) -> Iterator[Node]:
        yield self
        for member in (*self.members, *([self.body] if self.body else [])):
            yield from member.nodes()

    def built(self) -> Any:
        """Written afresh for each use: publishing freezes parts of a canvas in place."""
        if self.kind == "task":
            signature: Any = (ADD.si if self.immutable else ADD.s)(self.number)
        elif self.kind == "map":
            signature = ADD.map([self.number, 2])
        elif self.kind == "chunks":
            signature = ADD.chunks([(self.number,), (2,), (3,)], 2)
        elif self.kind == "lazy group":
            signature = group(member.built() for member in self.members)
        else:
            members = [member.built() for member in self.members]
            kinds: dict[str, Callable[[], Any]] = {
                "chain": lambda: chain(*members),
                "group": lambda: group(members),
                "chord": lambda: chord(members, self.body.built() if self.body else None),
            }
            signature = kinds[self.kind]()
        return _with_options(signature, self.options)


def _with_options(signature: Any, options: dict[str, Any]) -> Any:
    options = deepcopy(options)
    link, link_error = options.pop("link", None), options.pop("link_error", None)
    signature.set(**options)
    if link is not None:
        signature.link(NOTE.si([link]))
    if link_error is not None:
        signature.link_error(NOTE.s(link_error))
    return signature


NUMBERS = st.integers(0, 99)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "queue": st.sampled_from(["mail", "slow"]),
        "priority": st.integers(0, 9),
        "countdown": st.sampled_from([1, 30, 60]),
        "expires": st.sampled_from([1, 100, 200]),
        "headers": st.fixed_dictionaries({"tenant": NUMBERS}),
        "time_limit": st.integers(10, 20),
        "compression": st.sampled_from(["gzip", "bzip2"]),
        "link": NUMBERS,
        "link_error": NUMBERS,
    },
)
FEW_OPTIONS = st.one_of(st.just({}), st.just({}), st.just({}), OPTIONS)
TASKS = st.builds(
    Node,
    kind=st.sampled_from(["task"] * 8 + ["map", "chunks"]),
    number=NUMBERS,
    immutable=st.booleans(),
    options=FEW_OPTIONS,
)


def _canvases(inner: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    members = st.lists(inner, min_size=1, max_size=3)
    plain = st.builds(
        Node,
        kind=st.sampled_from(["chain", "group", "lazy group"]),
        members=members,
        options=FEW_OPTIONS,
    )
    return plain | st.builds(
        Node, kind=st.just("chord"), members=members, body=inner, options=FEW_OPTIONS
    )


CANVASES = st.recursive(TASKS, _canvases, max_leaves=8).filter(lambda node: node.kind != "task")


@contextmanager
def wired() -> Iterator[tuple[Sent, list[Any]]]:
    """What is recorded of messages, and what kombu would be given of them."""
    wire: list[Any] = []
    with Sent(APP).recording() as sent, ExitStack() as stack:
        record = APP.amqp.send_task_message
        send = APP.amqp._create_task_sender()

        class Producer:
            connection = SimpleNamespace(_reraise_as_library_errors=nullcontext)

            def publish(self, body: Any, **options: Any) -> None:
                wire.append((body, options))

        # A canvas that Celery can't publish would keep those that it has taken out of the pool.
        stack.enter_context(
            replaced(
                APP, producer_or_acquire=lambda producer=None: nullcontext(producer or Producer())
            )
        )

        def send_task_message(producer: Any, name: str, message: Any, **options: Any) -> None:
            record(producer, name, message, **options)
            send(Producer(), name, message, **options)

        APP.amqp.send_task_message = send_task_message
        yield sent, wire


NOT_COMPARED = {"argsrepr", "kwargsrepr", "origin", "expiration", "declare", "retry_policy"}
NOT_COMPARED |= {"retry", "timeout", "confirm_timeout"}
# Celery numbers the members of a group inside a group from 0 again, which says nothing.
NOT_COMPARED |= {"group_index"}


def _plain(value: Any, ids: dict[str, int], now: datetime) -> Any:
    """A value of the wire: ids by the order in which they appear, times by how far off they are."""
    if isinstance(value, dict):
        return {
            key: _plain(item, ids, now) for key, item in value.items() if key not in NOT_COMPARED
        }
    if value == []:
        return None  # a chain of one says so
    if isinstance(value, list):
        return [_plain(item, ids, now) for item in value]
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", value):
        return ids.setdefault(value, len(ids))
    if isinstance(value, str) and re.match(r"\d{4}-\d\d-\d\dT", value):
        # The clock goes on between two publishes, but not for long.
        return round((datetime.fromisoformat(value) - now).total_seconds() / 10)
    return value


def _on_the_wire(publish: Callable[[], object]) -> list[Any]:
    with wired() as (_, wire):
        now = datetime.now(timezone.utc)
        publish()
    ids: dict[str, int] = {}
    plain = []
    for body, options in wire:
        kept = {name: value for name, value in options.items() if name not in NOT_COMPARED}
        kept.pop("exchange", None)
        # `kombu.Producer.publish` goes on with these.
        kept["delivery_mode"] = maybe_delivery_mode(kept.get("delivery_mode"))
        if kept.get("compression"):
            kept["compression"] = get_encoder(kept["compression"])[1]
        content_type, encoding, data = dumps([body, kept], "json")
        plain.append(_plain(loads(data, content_type, encoding), ids, now))
    return plain


def _changes(canvas: Node) -> Iterator[Callable[[], object]]:
    """Every single change that makes another canvas of it; what it adds, production lacks."""
    for node in canvas.nodes():
        if not node.members:
            yield partial(setattr, node, "number", CHANGED)
        else:
            added = Node(kind="task", number=CHANGED)
            yield partial(node.members.append, added)
        if len(node.members) > 1:
            yield node.members.reverse
            yield node.members.pop
        if node.kind == "task":
            yield partial(setattr, node, "immutable", not node.immutable)
        for name in ("queue", "priority", "countdown", "expires", "link", "link_error"):
            value = f"queue-{CHANGED}" if name == "queue" else CHANGED
            yield partial(node.options.update, {name: value})


def _is_replaced(node: Node, around: frozenset[str] = frozenset()) -> bool:
    """Whether the changed option of a node is one that a canvas around it has, too."""
    options = node.options.keys() - {"link", "link_error"}  # which add up
    # A plain task's is told apart all the same.
    changed = {name for name in options if node.members and str(CHANGED) in str(node.options[name])}
    parts = [*node.members, *([node.body] if node.body else [])]
    return bool(changed & around) or any(_is_replaced(part, around | options) for part in parts)


def _groups_of(value: Any) -> Iterator[str]:
    """Every group that a message knows of, its own or one of what follows."""
    if isinstance(value, dict):
        yield from (value[name] for name in ("group", "group_id") if value.get(name))
        value = value.values()
    if isinstance(value, (list, tuple, type({}.values()))):
        for item in value:
            yield from _groups_of(item)


def _sent_apart(wire: list[Any]) -> int:
    """As how many canvases, that know nothing of each other, Celery has sent one.

    It gives a chord another group than the members beside it in ``group(chain(group(t, chord)))``.
    """
    apart: list[set[str]] = []
    for body, options in wire:
        groups = {*_groups_of(body), *_groups_of(options["headers"])}
        connected = [other for other in apart if other & groups]
        apart = [other for other in apart if not other & groups]
        apart.append(groups.union(*connected))
    return len(apart)


def _published(canvas: Node) -> None:
    try:
        canvas.built().apply_async()
    except (TypeError, IndexError, AttributeError):
        reject()  # Celery itself can't publish it


@settings(max_examples=120)
@given(canvas=CANVASES, data=st.data())
def test_a_random_canvas_equals_itself_and_no_mutant(canvas: Node, data: Any) -> None:
    with wired() as (sent, published):
        _published(canvas)
    assume(len(sent.outbox))
    assert len(sent.outbox.canvas) == _sent_apart(published)
    assume(len(sent.outbox.canvas) == 1)
    assert sent.outbox.canvas == [canvas.built()]
    wire = _on_the_wire(lambda: _published(canvas))

    mutant = deepcopy(canvas)
    changes = list(_changes(mutant))
    changes[data.draw(st.integers(0, len(changes) - 1))]()
    note(f"mutant: {mutant}")
    same = _on_the_wire(lambda: _published(mutant)) == wire
    # The wire has it, but when the worker publishes this part, an option of the whole replaces it.
    assume(same or not _is_replaced(mutant))
    assert (sent.outbox.canvas == [mutant.built()]) is same


@pytest.mark.parametrize("kind", ["chord", "chain"])
@pytest.mark.parametrize(
    ("name", "value"), [("expires", 1), ("queue", "mail"), ("priority", 3), ("countdown", 30)]
)
def test_what_a_group_replaces_in_its_members_is_no_difference(
    kind: str, name: str, value: Any
) -> None:
    def parallel(**options: Any) -> Node:
        task = Node(kind="task")
        inner = Node(
            kind=kind, members=[task, task], body=task if kind == "chord" else None, options=options
        )
        return Node(kind="group", members=[task, inner], options={name: value})

    def in_chain(part: Node) -> Node:
        return Node(kind="chain", members=[Node(kind="task"), part])

    other = f"queue-{CHANGED}" if name == "queue" else CHANGED
    plain, replaced_one = parallel(), parallel(**{name: other})
    # The worker that has run the first task publishes the group, and this is what it sends.
    sends = [_on_the_wire(part.built().apply_async) for part in (plain, replaced_one)]
    assert sends[0] == sends[1]
    with wired() as (sent, _):
        in_chain(plain).built().apply_async()
    assert sent.outbox.canvas == [in_chain(replaced_one).built()]


def test_a_link_that_a_chord_and_the_chain_around_it_have_runs_twice() -> None:
    task = Node(kind="task")
    last = Node(kind="chord", members=[task], body=task, options={"link": 0})
    canvas = Node(kind="chain", members=[task, last], options={"link": 0})
    with wired() as (sent, _):
        canvas.built().apply_async()
    assert sent.outbox.canvas == [canvas.built()]
    last.options.clear()
    assert sent.outbox.canvas != [canvas.built()]


CALL_OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "queue": st.sampled_from(["mail", "slow"]),
        "priority": st.integers(0, 9),
        "countdown": st.sampled_from([0, 1, 1.5, 30, 60]),
        "expires": st.sampled_from([1, 1.5, 100, 200]),
        "headers": st.fixed_dictionaries({"tenant": st.text(max_size=3)}),
        "time_limit": st.integers(10, 12),
        "soft_time_limit": st.integers(5, 7),
        "compression": st.sampled_from(["gzip", "bzip2", "application/x-gzip"]),
        "delivery_mode": st.sampled_from([1, 2, "transient", "persistent"]),
        "reply_to": st.sampled_from(["here", "there"]),
        "correlation_id": st.sampled_from(["one", "two"]),
        "task_id": st.sampled_from(["mine", "yours"]),
        "shadow": st.sampled_from(["name", "other"]),
        "serializer": st.sampled_from(["json", "pickle"]),
        "mandatory": st.booleans(),
        "retries": st.integers(0, 2),
        "eta": st.integers(1, 5).map(
            lambda days: datetime(2040, 1, days, tzinfo=timezone(timedelta(hours=days)))
        ),
    },
)


@settings(max_examples=200)
@given(options=CALL_OPTIONS, others=CALL_OPTIONS, data=st.data())
def test_random_options_equal_what_puts_the_same_on_the_wire(
    options: dict[str, Any], others: dict[str, Any], data: Any
) -> None:
    def publish(named: dict[str, Any]) -> None:
        ADD.s(1).set(**named).apply_async()

    with wired() as (sent, _):
        publish(options)
    message = sent.last()
    assert message == ADD.s(1).set(**options)
    assert message == ADD.s(1)

    assume(others)
    name = data.draw(st.sampled_from(sorted(others)))
    mutant = {**options, name: others[name]}
    same = _on_the_wire(lambda: publish(mutant)) == _on_the_wire(lambda: publish(options))
    assert (message == ADD.s(1).set(**mutant)) is same
