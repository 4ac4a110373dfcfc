"""Links and error links"""

from __future__ import annotations

import pytest
from celery import chain, chord, group
from shop.contract import failing, plain

from pytest_djcelery import Failure

pytestmark = pytest.mark.django_db


def test_links(work, log):
    """A link is called with the result"""
    work(plain.add.s(1, 2).set(link=plain.remember.s("linked")))
    work.settle()
    assert log == [(3, "linked")]


def test_several_links(work, log):
    """Several links are all called"""
    work(plain.add.s(1, 2).set(link=[plain.remember.s("one"), plain.remember.s("two")]))
    work.settle()
    assert sorted(log) == [(3, "one"), (3, "two")]


def test_a_link_that_is_immutable(work, log):
    """An immutable link is called without the result"""
    work(plain.add.s(1, 2).set(link=plain.remember.si("alone")))
    work.settle()
    assert log == [("alone",)]


def test_no_link_after_a_failure(work, log):
    """No link is called after a failure"""
    work(failing.fail.s("x").set(link=plain.remember.s()))
    work.settle()
    assert log == []


def test_new_style_error_links(work, log):
    """A new-style error link is called with request, exception and traceback"""
    outcome = work(failing.fail.s("x").set(link_error=failing.new_errback.s()))
    work.settle()
    [(kind, _, error, traceback)] = log
    assert (kind, error, traceback) == ("new errback", "ValueError('x')", True)
    assert outcome == Failure(ValueError)


def test_old_style_error_links(work, log):
    """An old-style error link is called with the id"""
    result = failing.fail.apply_async(("x",), link_error=failing.old_errback.s())
    assert work.outcome(result) == Failure(ValueError)
    work.settle()
    [(kind, _)] = log
    assert kind == "old errback"


def test_an_immutable_error_link(work, log):
    """An immutable error link is called with its own arguments"""
    work(failing.fail.s("x").set(link_error=plain.remember.si("failed")))
    work.settle()
    assert log == [("failed",)]


def test_the_error_link_of_a_chain(work, log):
    """The error link of a chain is called once, for the task that failed"""
    canvas = chain(plain.add.s(1, 2), failing.fail.si("in the chain"), plain.double.s())
    canvas.apply_async(link_error=failing.new_errback.s())
    work.settle()
    assert [(kind, error) for kind, _, error, _ in log] == [
        ("new errback", "ValueError('in the chain')")
    ]
    work.looked_at_everything()


def test_the_error_link_of_a_group(work, log):
    """The error link of a group is called for each member that fails"""
    canvas = group(failing.fail.s("one"), plain.double.s(1), failing.fail.s("two"))
    canvas.link_error(plain.remember.si("failed"))
    canvas.apply_async()
    work.settle()
    assert log == [("failed",)] * 2
    work.looked_at_everything()


def test_the_error_link_of_a_chords_body(work, log):
    """The error link of a chord's body is called when the header fails"""
    body = plain.total.s().on_error(failing.new_errback.s())
    chord([plain.double.s(1), failing.fail.s("header")], body).apply_async()
    work.settle()
    if work.backend in ("sqlalchemy", "django-cache"):
        work.later(1.5)  # these can't count: Celery looks for the chord's end once a second
    assert log
    assert "header" in log[0][2]
    work.looked_at_everything()


def test_the_error_link_of_a_chords_body_that_fails(work, log):
    """The error link of a chord's body is called when the body fails"""
    body = failing.fail.si("body").on_error(failing.new_errback.s())
    result = chord([plain.double.s(1), plain.double.s(2)], body).apply_async()
    assert work.outcome(result) == Failure(ValueError, match="body")
    work.settle()
    assert [error for _, _, error, _ in log] == ["ValueError('body')"]
