"""Canvas: chunks, replace, stamps"""

from __future__ import annotations

import pytest
from celery import chain, chord, group
from shop.contract import flows, plain

from pytest_djcelery import Success

pytestmark = pytest.mark.django_db


def test_chunks(work):
    """`chunks` run as a group of lists"""
    canvas = plain.add.chunks([(n, n) for n in range(4)], 2).group()
    assert work.get(canvas) == [[0, 2], [4, 6]]


def test_map(work):
    """`map` runs in one task"""
    assert work(plain.double.map([1, 2, 3])) == Success([2, 4, 6])


def test_starmap(work):
    """`starmap` runs in one task"""
    assert work(plain.add.starmap([(1, 2), (3, 4)])) == Success([3, 7])


def test_replace(work):
    """`replace` by a task: it has the id and the result"""
    assert work(flows.replaced.s(4)) == Success(8)


def test_replace_by_a_chain(work):
    """`replace` by a chain"""
    assert work(flows.replaced_by_chain.s(4)) == Success(10)


def test_replace_by_a_chord(work):
    """`replace` by a chord"""
    assert work(flows.replaced_by_chord.s(4)) == Success(18)


def test_replace_by_a_group(work):
    """`replace` by a group: its result is the list of theirs"""
    assert work(flows.replaced_by_group.s(4)) == Success([8, 10])


def test_replace_inside_a_chain(work):
    """`replace` in a chain, which continues after it"""
    assert work(chain(flows.replaced.s(4), plain.add.s(1))) == Success(9)


def test_replace_inside_a_group(work):
    """`replace` in a group"""
    assert work.get(group(flows.replaced.s(1), flows.replaced.s(2))) == [2, 4]


def test_replace_inside_a_chord(work):
    """`replace` in the header of a chord, which waits for it"""
    canvas = chord([flows.replaced.s(1), plain.double.s(2)], plain.total.s())
    assert work(canvas) == Success(6)


def test_add_to_chord(work):
    """`add_to_chord`"""
    canvas = chord([flows.add_to_chord.s(1), plain.double.s(2)], plain.total.s())
    assert work(canvas) == Success(7)


def test_stamps_are_in_the_message(work, celery_outbox):
    """Stamps are in the headers of the message"""
    signature = plain.add.s(1, 2)
    signature.stamp(tenant="acme")
    assert work(signature) == Success(3)
    assert celery_outbox[0].headers["stamps"] == {"tenant": "acme"}


def test_stamps_of_a_canvas(work, celery_outbox):
    """Stamps of a canvas are on each of its messages"""
    canvas = chain(plain.add.s(1, 2), plain.double.s())
    canvas.stamp(tenant="acme")
    assert work(canvas) == Success(6)
    assert [sent.headers["stamps"].get("tenant") for sent in celery_outbox] == ["acme"] * 2
