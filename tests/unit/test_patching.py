"""Attributes that are replaced for the time of a block."""

from __future__ import annotations

import inspect

import pytest

from pytest_djcelery.patching import replaced


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
