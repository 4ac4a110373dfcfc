"""A sequence of what was sent, which compares with a list of signatures.

The outbox and its canvas are listings; ``reporting`` explains a comparison of either.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, final, overload

from celery import current_app
from celery.canvas import Signature
from kombu import Queue

from pytest_djcelery.errors import BadOptionError, NotASignatureError
from pytest_djcelery.messages import unittest_failures
from pytest_djcelery.messages.arguments import SomeArguments
from pytest_djcelery.messages.descriptions import (
    LONGEST_LIST,
    Item,
    describe_call,
    describe_entry,
)
from pytest_djcelery.messages.django_tasks import WrittenCall, function_of, is_django_task
from pytest_djcelery.messages.matching import Difference, ExpectedDjangoCall, expectation
from pytest_djcelery.messages.sent_task import SentTask
from pytest_djcelery.messages.signature_types import kind_of
from pytest_djcelery.messages.wire import called_with, equal, is_wildcard, shown

if TYPE_CHECKING:
    from typing import TypeAlias

    from celery.app.task import Task

    from pytest_djcelery.messages.django_tasks import DjangoTask
    from pytest_djcelery.messages.matching import Expectation

    AnyTask: TypeAlias = Task[Any, Any] | Signature | DjangoTask | str

T = TypeVar("T", bound=Item)
T_contra = TypeVar("T_contra", contravariant=True)


class Matcher(Protocol[T_contra]):
    """What a test wrote, compiled to be compared with many items."""

    written: object

    def matches(self, item: T_contra, /) -> bool: ...

    def differences(self, item: T_contra, /) -> list[Difference]: ...


class Listing(Sequence[T]):
    """An immutable view, which equals a list of signatures that its items match, in order."""

    description: str

    @abstractmethod
    def items(self) -> Sequence[T]:
        """What there is now, oldest first."""

    @abstractmethod
    def matcher(self, written: object) -> Matcher[T]:
        """Compile what a test wrote.

        Raises:
            NotASignatureError: It can't be compared with an item.
        """

    def circumstances(self) -> list[str]:
        """What may explain why there is nothing."""
        return []

    def remedies(self, _matcher: Matcher[T], /) -> list[str]:
        """What may explain why there is no match."""
        return []

    def __repr__(self) -> str:
        items = list(self.items())
        more = f", … {len(items) - LONGEST_LIST} more" if len(items) > LONGEST_LIST else ""
        calls = ", ".join(describe_entry(item) for item in items[:LONGEST_LIST])
        return f"<{self.description}: [{calls}{more}]>"

    def __len__(self) -> int:
        return len(self.items())

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> list[T]: ...

    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return list(self.items()[index])
        try:
            return self.items()[index]
        except IndexError:
            raise IndexError(
                f"{self.description}[{index}]: it has {len(self)} "
                f"{'message' if len(self) == 1 else 'messages'}"
            ) from None

    def __iter__(self) -> Iterator[T]:
        return iter(self.items())

    def __contains__(self, written: object) -> bool:
        unittest_failures.compared()
        matcher = self.matcher(written)
        return any(matcher.matches(item) for item in self.items())

    def __eq__(self, other: object) -> bool:
        unittest_failures.compared()
        items = list(self.items())  # a worker may publish meanwhile
        if is_wildcard(other):
            return equal(other, items)
        if isinstance(other, Unordered):
            matchers = [self.matcher(written) for written in other.signatures]
            return _match_in_any_order(matchers, items)
        if isinstance(other, Listing):
            theirs = list(other.items())
            return len(items) == len(theirs) and all(
                mine is his or mine == his for mine, his in zip(items, theirs, strict=True)
            )
        matchers = self.matchers(other)
        return len(items) == len(matchers) and all(
            matcher.matches(item) for matcher, item in zip(matchers, items, strict=True)
        )

    def matchers(self, other: object) -> list[Matcher[T]]:
        """Compile a list that a test wrote.

        Raises:
            NotASignatureError: It isn't a list, or an item of it can't be compared.
        """
        if isinstance(other, (list, tuple)):
            return [self.matcher(written) for written in other]
        if isinstance(other, Signature):
            name = self.description
            if kind_of(other) != "task" and not name.endswith(".canvas"):
                name += ".canvas"
            raise NotASignatureError(
                f"expected a list of Celery signatures, got the signature "
                f"{describe_call(other)}.\n"
                f"Put it in a list: assert {name} == [{describe_call(other)}]"
            )
        raise NotASignatureError(
            f"expected a list of Celery signatures such as [add.s(1, 2)], got {shown(other)} "
            f"({type(other).__name__}).\n"
            f"For how many were sent, compare len({self.description})."
        )

    def count(self, value: Any) -> int:
        """How many items match a signature."""
        unittest_failures.counted()
        matcher = self.matcher(value)
        number = sum(matcher.matches(item) for item in self.items())
        return Count(number, self, matcher)

    def index(self, value: Any, start: int = 0, stop: int | None = None) -> int:
        """The position of the first item that matches a signature.

        Raises:
            ValueError: None of them does.
        """
        matcher = self.matcher(value)
        positions = range(len(self))[start:stop]
        items = self.items()
        for position in positions:
            if matcher.matches(items[position]):
                return position
        raise ValueError(f"{describe_call(value)} is not in {self.description}")


class Unordered:
    """What `unordered` returns: signatures that messages match in any order."""

    def __init__(self, signatures: Sequence[object]) -> None:
        self.signatures = list(signatures)

    def __eq__(self, other: object) -> bool:
        return other == self if isinstance(other, Listing) else NotImplemented

    def __repr__(self) -> str:
        return f"unordered([{', '.join(map(describe_call, self.signatures))}])"


def unordered(*signatures: object) -> Unordered:
    """Expect messages in any order, each signature once.

    ``assert celery_outbox == unordered([add.s(1, 2), mul.s(3, 4)])``, for code whose order of
    sending doesn't matter. pytest-unordered's ``unordered`` and dirty-equals'
    ``IsList(…, check_order=False)`` mean the same.

    Args:
        *signatures: Celery signatures, or one list of them.
    """
    if len(signatures) == 1 and isinstance(signatures[0], (list, tuple)):
        signatures = tuple(signatures[0])
    return Unordered(signatures)


def _match_in_any_order(matchers: Sequence[Matcher[T]], items: Sequence[T]) -> bool:
    """Whether each item can be given to one matcher: several may match the same ones."""
    if len(matchers) != len(items):
        return False
    taken: dict[int, int] = {}  # the matcher of an item

    def place(matcher: int, tried: set[int]) -> bool:
        for at, item in enumerate(items):
            if at not in tried and matchers[matcher].matches(item):
                tried.add(at)
                if at not in taken or place(taken[at], tried):
                    taken[at] = matcher
                    return True
        return False

    return all(place(matcher, set()) for matcher in range(len(matchers)))


@final
class Count(int):
    """How many items of a listing match; a failed comparison of this number names them.

    Args:
        number: How many.
        listing: Where they were counted.
        matcher: What they match.
    """

    listing: Listing[Any]
    matcher: Matcher[Any]

    def __new__(cls, number: int, listing: Listing[Any], matcher: Matcher[Any]) -> Count:
        count = super().__new__(cls, number)
        count.listing = listing
        count.matcher = matcher
        return count

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (int(self),)  # a copy is a plain number


class Messages(Listing[SentTask]):
    """The messages of a plain list."""

    description = "the messages"

    def __init__(self, messages: Sequence[SentTask]) -> None:
        self._messages = messages

    def items(self) -> Sequence[SentTask]:
        return self._messages

    def matcher(self, written: object) -> Matcher[SentTask]:
        return expectation(written)


# Selects the messages of one task, of Celery or of `django.tasks` -------------------------


class TaskSelection:
    """The messages of one task, or those of them whose call includes some arguments.

    Args:
        task: The task, or the name of one of Celery's.
        arguments: What the call has to include, by the names of the task's parameters.

    Raises:
        BadOptionError: ``task`` is not a task, or has no parameter of such a name.
    """

    def __init__(self, task: Any, arguments: Mapping[str, object]) -> None:
        self._task = task
        self.django_task = task if is_django_task(task) else None
        self._matches: Callable[[SentTask], bool]
        if self.django_task is not None:
            matcher = ExpectedDjangoCall(WrittenCall(task=task, kwargs={}))
            self._name, self._matches = str(task.module_path), matcher.matches
            self.text = repr(matcher.written)
        else:
            self._name = name = _name_of(task)
            self._matches = lambda message: message.task == name
            self.text = repr(name)
        self._some: SomeArguments | None = None
        if arguments:
            self._some = SomeArguments(self._name, self._function(), arguments)
            named = ", ".join(f"{key}={shown(value)}" for key, value in arguments.items())
            self.text = f"{self.text}, {named}"

    def __contains__(self, message: SentTask) -> bool:
        return self._matches(message) and (self._some is None or self._some.are_in(message))

    def called(self, call: Any) -> Expectation:
        """What a ``mock.call(…)`` means for this task."""
        args, kwargs = called_with(call)
        if self.django_task is not None:
            written = WrittenCall(task=self.django_task, args=args, kwargs=kwargs)
            return ExpectedDjangoCall(written)
        app = current_app if isinstance(self._task, str) else self._task.app
        return expectation(app.signature(self._name, args=args, kwargs=kwargs))

    def _function(self) -> Callable[..., object] | None:
        """The function of the task; ``None`` if the task isn't registered in this process."""
        if self.django_task is not None:
            return function_of(self.django_task)
        task = self._task
        if isinstance(task, (str, Signature)):
            app = task.app if isinstance(task, Signature) else current_app
            task = app.tasks.get(self._name)
        return getattr(task, "run", None)


def _name_of(task: Any) -> str:
    name = task if isinstance(task, str) else getattr(task, "name", None)
    if not isinstance(name, str) or isinstance(task, Queue):
        raise BadOptionError(
            f"of() takes a task or the name of one, got {shown(task)} ({type(task).__name__})"
        )
    return name
