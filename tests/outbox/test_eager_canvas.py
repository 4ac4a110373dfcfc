"""In eager mode the outbox has the messages that a broker would get, workflows included."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery import VERSION

if TYPE_CHECKING:
    from tests.support.project import Project

TASKS = """
    @shared_task
    def mul(x, y):
        return x * y


    @shared_task
    def total(numbers):
        return sum(numbers)


    @shared_task
    def note(*args):
        pass
    """


CANVASES = """
import pytest
from celery import VERSION, chain, chord, group
from shop.tasks import add, mul, note, total

from pytest_djcelery import eager, inline, outbox


def linked(canvas):
    canvas.link(note.s())
    return canvas


CANVASES = {
    "chain": lambda: chain(add.s(1, 1), mul.s(3), mul.s(4)),
    "chain of one": lambda: chain(add.s(1, 1)),
    "chain in a chain": lambda: chain(
        chain(add.s(1, 1), mul.s(2)), chain(mul.s(3), mul.s(4))
    ),
    "chain with options": lambda: chain(add.s(1, 1), mul.s(3)).set(queue="sums"),
    "chain with an errback": lambda: chain(add.s(1, 1), mul.s(3)).on_error(note.si()),
    "group": lambda: group(add.s(1, 1), add.s(2, 2)),
    "group of chains": lambda: group(chain(add.s(1, 1), mul.s(2)), add.s(3, 3)),
    "group at the end": lambda: chain(add.s(1, 1), group(mul.s(2), mul.s(3))),
    "empty group": lambda: chain(add.s(1, 1), group(), mul.s(2)),
    "chord": lambda: chord([add.s(1, 1), add.s(2, 2)], total.s()),
    "chord by itself": lambda: chain(group(add.s(1, 1), add.s(2, 2)), total.s(), mul.s(2)),
    "chord at the end": lambda: chain(add.s(1, 1), group(mul.s(2), mul.s(3)), total.s()),
    "chord out of a generator": lambda: chain(
        add.s(1, 1), group(mul.s(n) for n in range(3)), total.s()
    ),
    "chord of chains": lambda: chord(
        [chain(add.s(1, 1), mul.s(2)), add.s(3, 3)], total.s()
    ),
    "chord with a chain": lambda: chord([add.s(1, 1)] * 2, chain(total.s(), mul.s(2))),
    "chord with a link": lambda: linked(chord([add.s(1, 1), add.s(2, 2)], total.s())),
    "chord of chords": lambda: chord(
        [chord([add.s(1, 1), add.s(2, 2)], total.s()), add.s(3, 3)], total.s()
    ),
    "chord in a group": lambda: group(
        chain(group(add.s(1, 1), add.s(2, 2)), total.s()), add.s(3, 3)
    ),
}

if VERSION >= (5, 7):  # before, eager mode called the link after each step
    CANVASES["chain with a link"] = lambda: linked(chain(add.s(1, 1), mul.s(3)))
"""


def test_each_canvas_is_recorded_as_with_a_worker(project: Project) -> None:
    project.tasks(TASKS)
    result = project.run(
        """
        def sent_by(name, mode):
            with outbox() as sent, mode() as running:
                CANVASES[name]().delay()
                if mode is inline:
                    running.run()
                assert sent.canvas == [CANVASES[name]()]
                return sorted(map(told, sent))

        def told(message):
            # A group's members run one after the other, each with all that comes after it; and
            # Celery 5.7 writes the header's own group into the body of a chord.
            return (message.task, repr(message.args), repr(message.chain),
                    repr(message.chord), repr(message.links), repr(message.link_errors),
                    message.parent_id is None)

        @pytest.mark.celery_queues("celery", "sums")
        @pytest.mark.parametrize("name", CANVASES)
        def test_it(name):
            assert sent_by(name, eager) == sent_by(name, inline)
        """,
        preamble=CANVASES,
    )

    result.assert_outcomes(passed=18 + (VERSION >= (5, 7)))


MORE_TASKS = """
@shared_task(bind=True, default_retry_delay=0)
def at_second(self, x):
    if not self.request.retries:
        raise self.retry()
    return x


@shared_task
def starts():
    chain(add.s(1, 1), mul.s(2)).delay()
    note.delay()


from celery import chain
"""


EAGER = """
import pytest
from celery import chain, chord, group
from shop.tasks import add, at_second, fail, mul, note, starts, total

pytestmark = pytest.mark.usefixtures("celery_eager")
"""


def test_a_message_knows_what_comes_after_it_and_what_it_comes_from(project: Project) -> None:
    project.tasks(TASKS)
    project.tasks(MORE_TASKS)
    result = project.run(
        """
        def test_chain(celery_outbox):
            result = chain(add.s(1, 1), mul.s(3), mul.s(4)).delay()
            assert result.get() == 24
            first, second, third = celery_outbox
            assert first.chain == [mul.s(3), mul.s(4)]
            assert second.chain == [mul.s(4)]
            assert third.chain == []
            assert [each.parent_id for each in celery_outbox] == [None, first.id, second.id]
            assert {each.root_id for each in celery_outbox} == {first.id}

        def test_chord(celery_outbox):
            assert chord([add.s(1, 1), add.s(2, 2)], total.s()).delay().get() == 6
            first, second, body = celery_outbox
            assert first.chord == second.chord == total.s()
            assert body.chord is None
            assert first.group_id == second.group_id is not None
            assert body.parent_id == second.id

        def test_of_a_chain_in_a_group_the_last_knows_it(celery_outbox):
            group(chain(add.s(1, 1), mul.s(3)), add.s(2, 2)).delay()
            first, second, other = celery_outbox
            assert first.group_id is None
            assert second.group_id == other.group_id is not None

        def test_an_attempt_is_followed_by_what_the_first_was(celery_outbox):
            assert chain(add.s(1, 1), at_second.s(), mul.s(2)).delay().get() == 4
            _, once, again, last = celery_outbox
            assert (once.retries, again.retries) == (0, 1)
            assert once.id == again.id == last.parent_id
            assert once.chain == again.chain == [mul.s(2)]
            assert celery_outbox.canvas == [chain(add.s(1, 1), at_second.s(), mul.s(2))]

        @pytest.mark.celery_unhandled_failures("ignore")
        def test_what_comes_after_a_failure_was_to_come(celery_outbox):
            with pytest.raises(ValueError, match="boom"):
                chain(fail.si("boom"), mul.si(2, 2)).delay()
            assert celery_outbox.canvas == [chain(fail.si("boom"), mul.si(2, 2))]
        """,
        preamble=EAGER,
    )
    result.assert_outcomes(passed=5)


def test_what_a_task_sends_is_not_part_of_the_canvas_it_runs_in(project: Project) -> None:
    project.tasks(TASKS)
    project.tasks(MORE_TASKS)
    result = project.run(
        """
        def test_what_a_task_sends_is_its_own(celery_outbox):
            chain(add.s(1, 1), starts.si(), mul.si(2, 2)).delay()
            first, started, inner, after, noted, last = celery_outbox
            assert inner.chain == [mul.s(2)]
            assert noted.chain == []
            assert last.parent_id == started.id
            assert inner.parent_id == noted.parent_id == started.id
            assert after.parent_id == inner.id
            assert {each.root_id for each in celery_outbox} == {first.id}
            assert celery_outbox.canvas == [chain(add.s(1, 1), starts.si(), mul.si(2, 2))]

        def test_apply_by_the_test_is_not_sent(celery_outbox):
            chain(starts.si(), note.si()).apply()
            assert celery_outbox == [add.s(1, 1), mul.s(2, 2), note.s()]
            assert celery_outbox[0].chain == [mul.s(2)]
        """,
        preamble=EAGER,
    )
    result.assert_outcomes(passed=2)


def test_a_canvas_that_differs_fails_with_the_step_that_differs(project: Project) -> None:
    project.tasks(TASKS)
    project.tasks(MORE_TASKS)
    result = project.run(
        """
        def test_what_differs_is_reported(celery_outbox):
            chain(add.s(1, 1), mul.s(3)).delay()
            assert celery_outbox.canvas == [chain(add.s(1, 1), mul.s(4))]
        """,
        preamble=EAGER,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *step 2: argument y: expected 4, sent 3"])
