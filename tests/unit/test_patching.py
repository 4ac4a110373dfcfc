"""Attributes that are replaced for the time of a block."""

from __future__ import annotations

import inspect
from unittest import mock

import pytest
from celery.utils.dispatch import Signal

from pytest_djcelery.patching import (
    StandingChanges,
    last_receivers,
    replaced,
    standing_while,
)


class Library:
    size = 1

    def method(self, given: int) -> int:
        """Do what a library does."""
        return given


class Derived(Library):
    pass


def test_a_function_looks_like_the_one_that_it_replaces() -> None:
    original = vars(Library)["method"]

    def passed_on(self: Library, *args: int) -> int:
        return -original(self, *args)  # type: ignore[no-any-return]

    for owner in (Library, Derived):
        with replaced(owner, method=passed_on, size=2):
            method = Derived.method
            assert (Derived().method(1), Derived.size) == (-1, 2)
            assert (method.__qualname__, method.__doc__) == (
                "Library.method",
                "Do what a library does.",
            )
            assert inspect.signature(method) == inspect.signature(original)
        assert vars(Library)["method"] is original
        assert "method" not in vars(Derived)


def test_what_stood_there_is_put_back_after_an_error() -> None:
    with pytest.raises(LookupError), replaced(Derived, size=2):
        raise LookupError
    assert (Derived.size, "size" in vars(Derived)) == (1, False)


def test_changes_that_stay_know_whether_they_are_as_they_were_made() -> None:
    original, signal = vars(Library)["method"], Signal()
    signal.connect(lambda **_: None, weak=False)
    fits = [True]
    changes = StandingChanges()
    with changes.made() as stack:
        stack.enter_context(replaced(Library, method=lambda *_: 2))
        stack.enter_context(replaced(Library, method=lambda *_: 3))
        standing_while(lambda: fits[0])
        standing_while(last_receivers([signal]))
    assert (Library().method(1), changes.intact) == (3, True)

    fits[0] = False
    assert not changes.intact
    fits[0] = True
    with replaced(Library, method=lambda *_: 4):
        assert not changes.intact
    assert changes.intact
    signal.connect(lambda **_: None, weak=False, dispatch_uid="later")
    assert not changes.intact
    signal.disconnect(dispatch_uid="later")
    assert changes.intact

    changes.undo()
    assert vars(Library)["method"] is original


def test_what_was_covered_is_put_back_once_it_is_uncovered() -> None:
    original = vars(Library)["method"]
    changes, later = StandingChanges(), StandingChanges()
    with changes.made() as stack:
        stack.enter_context(replaced(Library, method=lambda *_: 2))
        stack.enter_context(replaced(Library, method=lambda *_: 3))
    mocked = mock.patch.object(Library, "method", return_value=4)
    mocked.start()

    changes.undo()
    assert Library().method(1) == 4
    with later.made() as stack:
        stack.enter_context(replaced(Library, method=lambda *_: 5))
    assert Library().method(1) == 5
    later.undo()
    assert Library().method(1) == 4
    mocked.stop()
    assert vars(Library)["method"] is not original

    StandingChanges.uncover()
    assert vars(Library)["method"] is original
