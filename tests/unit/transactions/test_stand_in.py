"""A stand-in behaves as what it wraps, but for ``is`` and ``type()``."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import pickle
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import pytest

from pytest_djcelery.transactions.stand_in import StandIn, _classes, stand_in_for


@pytest.fixture(autouse=True)
def _nothing_remembered() -> None:
    """The class of a stand-in is made once in a process: here, in each test."""
    _classes.clear()


def function(x: int = 1) -> int:
    """Tell a number."""
    return x


async def coroutine() -> None:
    pass


class Fake:
    """Takes the place of a function, and keeps what it is given."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, x: int) -> None:
        self.calls.append(x)

    def __len__(self) -> int:
        return len(self.calls)

    def __getitem__(self, place: int) -> int:
        return self.calls[place]

    def __contains__(self, x: object) -> bool:
        return x in self.calls

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fake) and self.calls == other.calls

    def __enter__(self) -> str:
        return "entered"

    def __exit__(self, *_: object) -> None:
        pass

    def method(self) -> None:
        pass


def _magic() -> Any:
    made = mock.MagicMock()
    made.__len__.return_value = 3
    return made


WRAPPED: dict[str, Callable[[], Any]] = {
    "function": lambda: function,
    "lambda": lambda: lambda: 1,
    "coroutine": lambda: coroutine,
    "method": lambda: Fake().method,
    "builtin": lambda: print,
    "partial": lambda: partial(function, 2),
    "class": lambda: Fake,
    "object": Fake,
    "mock": mock.Mock,
    "magic mock": _magic,
}
SEEN: dict[str, Callable[[Any], Any]] = {
    "module": lambda it: it.__module__,
    "doc": lambda it: it.__doc__,
    "name": lambda it: it.__qualname__,
    "wrapped": lambda it: it.__wrapped__,
    "missing": lambda it: it.nothing_of_that_name,
    "vars": vars,
    "dir": dir,
    "repr": repr,
    "str": str,
    "hash": hash,
    "bool": bool,
    "len": len,
    "list": lambda it: it[0],
    "contains": lambda it: 1 in it,
    "with": lambda it: it.__class__.__enter__(it),
    "class": lambda it: it.__class__,
    "function": inspect.isfunction,
    "ismethod": inspect.ismethod,
    "isclass": inspect.isclass,
    "callable": callable,
    "coroutine": inspect.iscoroutinefunction,
    "asyncio": asyncio.iscoroutinefunction,
    "signature": lambda it: str(inspect.signature(it)),
    "source": inspect.getsource,
    "order": lambda it: it < it,  # noqa: PLR0124 - functions have none
    "subclass": lambda it: issubclass(Fake, it),
    "pickled": lambda it: pickle.loads(pickle.dumps(it)).__class__,
}


def _answer(question: Callable[[Any], Any], it: Any) -> object:
    try:
        answer = question(it)
    except Exception as error:  # noqa: BLE001 - the same is to be raised
        return type(error)
    return type(answer) if isinstance(answer, mock.NonCallableMock) else answer


@pytest.mark.filterwarnings("ignore:.*iscoroutinefunction:DeprecationWarning")
@pytest.mark.parametrize("question", SEEN)
@pytest.mark.parametrize("wrapped", WRAPPED)
def test_what_is_asked_of_a_stand_in_is_answered_as_by_what_it_wraps(
    wrapped: str, question: str
) -> None:
    real = WRAPPED[wrapped]()
    assert _answer(SEEN[question], stand_in_for(real, print)) == _answer(SEEN[question], real)


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_it_is_equal_to_what_it_wraps_and_of_its_class(wrapped: str) -> None:
    real = WRAPPED[wrapped]()
    stand_in, other = stand_in_for(real, print), stand_in_for(real, repr)
    assert stand_in == real
    assert real == stand_in
    assert stand_in == other
    assert [print, real].index(stand_in) == (0 if real is print else 1)
    assert not stand_in != real  # noqa: SIM202 - that is another method
    assert stand_in != function.__code__
    assert isinstance(stand_in, type(real))
    assert isinstance(stand_in, StandIn)


def test_attributes_are_those_of_what_it_wraps() -> None:
    fake, hook = Fake(), mock.Mock()
    stand_in, of_mock = stand_in_for(fake, print), stand_in_for(hook, print)
    stand_in.calls = [5]
    stand_in.id = 7
    of_mock.return_value = 5
    assert (fake.calls, vars(fake)["id"], hook()) == ([5], 7, 5)
    assert _magic().mock_calls == [] == stand_in_for(_magic(), print).mock_calls
    del stand_in.id
    assert not hasattr(fake, "id")
    with stand_in as entered:
        assert entered == "entered"


def test_copying_it_copies_what_it_wraps() -> None:
    fake = Fake()
    stand_in = stand_in_for(fake, print)
    copies = [copy.copy(stand_in), copy.deepcopy(stand_in), pickle.loads(pickle.dumps(stand_in))]
    assert [type(each) for each in copies] == [Fake, Fake, Fake]
    assert all(each is not fake for each in copies)
    assert copy.copy(stand_in_for(function, print)) is function


def test_a_call_goes_elsewhere_as_it_came() -> None:
    called: list[Any] = []
    stand_in = stand_in_for(function, lambda *args, **kwargs: called.append((args, kwargs)))
    stand_in(1, self=2)
    stand_in.__call__()
    assert called == [((1,), {"self": 2}), ((), {})]


def test_types_are_not_kept_alive() -> None:
    class Own(Fake):
        def __call__(self, x: int) -> None:
            super().__call__(x)

    alive = weakref.ref(Own)
    stand_in: Any = stand_in_for(Own(), print)
    assert len(stand_in) == 0
    del Own, stand_in
    gc.collect()
    assert alive() is None


def test_copies_made_together_share_one_copy_of_what_it_wraps() -> None:
    fake = Fake()
    one, other = copy.deepcopy([stand_in_for(fake, print), fake])
    assert one is other


def test_in_a_class_it_is_a_method_of_the_instances() -> None:
    called: list[Any] = []

    class Owner:
        method = stand_in_for(function, lambda *args: called.append(args))

    owner = Owner()
    owner.method(5)
    Owner.method(6)
    assert called == [(owner, 5), (6,)]
    assert Owner.method is vars(Owner)["method"]
    assert owner.method.__self__ is owner
