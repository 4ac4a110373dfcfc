"""The clock of a test that stands still for a while, as both runs of a message have to see it."""

from __future__ import annotations

import datetime as dt
import time

import time_machine
from freezegun import freeze_time

from pytest_djcelery.clock import Clock

_LATER = dt.datetime(2040, 1, 1, tzinfo=dt.timezone.utc)
_SECOND = dt.timedelta(seconds=1)


def _moves_on() -> bool:
    """Whether the time that code sees moves on by itself."""
    before, end = time.time(), time.monotonic() + 0.005
    while time.monotonic() < end:
        if time.time() != before:
            return True
    return False


def test_it_stands_still_and_then_shows_real_time_again() -> None:
    clock, before = Clock(), time.time()
    with clock.stopped(at_most=60):
        assert not _moves_on()
        assert not clock.moved
        assert abs(time.time() - before) < 1
    assert _moves_on()


def test_one_that_the_test_lets_tick_from_elsewhere_goes_on_from_there() -> None:
    with time_machine.travel(_LATER, tick=True):
        with Clock().stopped(at_most=60):
            assert not _moves_on()
            assert dt.datetime.now(dt.timezone.utc) - _LATER < _SECOND
        assert _moves_on()
        assert dt.datetime.now(dt.timezone.utc) - _LATER < _SECOND


def test_one_that_stands_still_is_left_alone() -> None:
    clock = Clock()
    clock.move_to(_LATER)
    with clock.stopped(at_most=60):
        clock.move_to(_LATER + _SECOND)  # by a task that lets time pass
    assert clock.now() == _LATER + _SECOND
    clock.put_back()
    with freeze_time(_LATER), clock.stopped(at_most=60):
        assert clock.now() == _LATER


def test_it_goes_on_for_code_that_waits_by_it() -> None:
    with Clock().stopped(at_most=0.02):
        began, end = time.time(), time.monotonic() + 10
        while time.time() < began + 0.02:
            assert time.monotonic() < end
