"""Canvas: chain, group, chord"""

from __future__ import annotations

import pytest
from celery import chain, chord, group
from celery.exceptions import ChordError
from shop.contract import failing, plain

from pytest_djcelery import Failure, Success

pytestmark = pytest.mark.django_db


def test_chain(work):
    """A chain passes each result on"""
    assert work(chain(plain.add.s(1, 2), plain.double.s(), plain.add.s(4))) == Success(10)


def test_an_immutable_signature(work):
    """An immutable signature in a chain takes no result"""
    assert work(chain(plain.add.s(1, 2), plain.double.si(5))) == Success(10)


def test_a_chain_stops_at_a_failure(work, log):
    with pytest.raises(ValueError, match="x"):
        chain(failing.fail.s("x"), plain.remember.s()).apply_async().get(timeout=10)
    work.settle()
    assert log == []


def test_a_failing_chain_does_not_raise_at_the_call(work, log):
    """A failing chain does not raise at the call"""
    chain(failing.fail.s("x"), plain.remember.s()).apply_async()
    log.append("after the call")
    work.settle()
    assert log == ["after the call"]
    work.looked_at_everything()


def test_a_chain_in_a_chain(work):
    inner = chain(plain.add.s(1), plain.double.s())
    assert work(chain(plain.add.s(1, 1), inner, plain.add.s(1))) == Success(7)


def test_the_results_of_a_chain_are_linked(work):
    """Each result of a chain has the previous one as its parent"""
    result = chain(plain.add.s(1, 2), plain.double.s())()
    assert work.outcome(result) == Success(6)
    assert result.parent.get(timeout=10) == 3


def test_group(work):
    """A group has the results of its members, in their order"""
    assert work.get(group(plain.double.s(n) for n in range(4))) == [0, 2, 4, 6]


def test_empty_group(work):
    """An empty group has no results"""
    assert work.get(group()) == []


def test_a_group_with_a_failure(work):
    """`get()` of a group raises the failure of a member; the others have run"""
    result = group(plain.double.s(1), failing.fail.s("member")).apply_async()
    with pytest.raises(ValueError, match="member"):
        result.get(timeout=10)
    assert result.results[0].get(timeout=10) == 2
    work.settle()


def test_a_group_in_a_group(work):
    nested = group(group(plain.double.s(1), plain.double.s(2)), plain.double.s(3))
    assert work.get(nested) == [2, 4, 6]


def test_a_chain_in_a_group(work):
    chains = group(plain.add.s(n, 1) | plain.double.s() for n in range(3))
    assert work.get(chains) == [2, 4, 6]


def test_a_group_after_a_group(work):
    """A group after a group, with a task between"""
    first, second = (group(plain.double.s(), plain.double.s()) for _ in range(2))
    assert work.get(plain.add.s(1, 1) | first | plain.total.s() | second) == [16, 16]


def test_chord(work):
    """A chord's body takes the results of its header"""
    canvas = chord([plain.double.s(n) for n in range(4)], plain.total.s())
    assert work(canvas) == Success(12)


def test_the_results_of_a_header_are_in_order(work):
    """The results of a header are in the order of its tasks"""
    header = [plain.echo.s(n) for n in range(5)]
    assert work(chord(header, plain.echo.s())) == Success([0, 1, 2, 3, 4])


def test_a_chord_of_one(work):
    assert work(chord([plain.double.s(2)], plain.total.s())).value in (4, [4])


def test_an_empty_chord_runs_its_body(work):
    assert work(chord([], plain.total.s())) == Success(0)


def test_a_chord_whose_header_fails(work):
    """A chord whose header fails raises that failure"""
    canvas = chord([plain.double.s(1), failing.fail.s("x")], plain.total.s())
    with pytest.raises(Exception, match="x"):
        canvas.apply_async().get(timeout=10)
    work.settle()
    work.looked_at_everything()


def test_a_chord_whose_body_fails(work):
    canvas = chord([plain.double.s(1), plain.double.s(2)], failing.fail.si("body"))
    assert work(canvas) == Failure(ValueError, match="body")


def test_a_chord_in_a_chain(work):
    canvas = chain(plain.add.s(1, 1), group(plain.add.s(1), plain.add.s(2)), plain.total.s())
    assert work(canvas) == Success(7)


def test_a_chord_goes_on_in_a_chain(work):
    """A chain continues after a chord"""
    header = group(plain.double.s(1), plain.double.s(2))
    assert work(chain(header, plain.total.s(), plain.add.s(1))) == Success(7)


def test_a_chord_in_a_chord(work):
    """A chord in the header of a chord"""
    inner = chord([plain.double.s(1), plain.double.s(2)], plain.total.s())
    assert work(chord([inner, plain.double.s(3)], plain.total.s())) == Success(12)


def test_a_chain_in_a_chord(work):
    """A chain in the header of a chord"""
    header = [plain.add.s(1, 1) | plain.double.s(), plain.double.s(3)]
    assert work(chord(header, plain.total.s())) == Success(10)


def test_a_chain_as_body(work):
    """A chain as the body of a chord"""
    header = [plain.double.s(1), plain.double.s(2)]
    assert work(chord(header, plain.total.s() | plain.add.s(1))) == Success(7)


def test_a_group_as_body(work):
    """A group as the body of a chord"""
    header = [plain.double.s(1), plain.double.s(2)]
    assert work.get(chord(header, group(plain.total.s(), plain.total.s()))) == [6, 6]


def test_a_group_of_chords(work):
    """A group of chords"""
    chords = group(chord([plain.double.s(n), plain.double.s(n)], plain.total.s()) for n in range(2))
    assert work.get(chords) == [0, 4]


def test_two_chords_after_each_other(work):
    """A chord after a chord"""
    first = chord([plain.double.s(1), plain.double.s(2)], plain.total.s())
    second = chord(group(plain.add.s(1), plain.add.s(2)), plain.total.s())
    assert work(first | second) == Success(15)


def test_a_member_that_ignores_its_result(work):
    """A chord's body gets what a member returns even if its result is ignored"""
    header = [plain.double.s(1), plain.ignored_result.s(5), plain.double.s(2)]
    assert work(chord(header, plain.echo.s())) == Success([2, 5, 4])


def test_the_failure_of_a_member_fails_the_body(work):
    """A chord's body fails by a `ChordError` that names the member"""
    failing_member = failing.fail.s("x").set(task_id="the-member")
    result = chord([plain.double.s(1), failing_member], plain.total.s()).apply_async()
    text = r"Dependency the-member raised ValueError\('x'\)"
    assert work.outcome(work.app.AsyncResult(result.id)) == Failure(ChordError, match=text)
    work.looked_at_everything()
