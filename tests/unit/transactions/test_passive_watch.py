"""The watch of an audit, which changes nothing, and what every watch knows of hooks."""

# ruff: noqa: E402 - Django is configured before anything asks for a setting
# ruff: noqa: PT012 - what raises is the end of a block, so `raises` has several statements

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, _state

from tests.unit import django_in_process

assert django_in_process.is_ours

from django.db import connections, transaction
from django.test import TestCase

from pytest_djcelery import locations
from pytest_djcelery.messages.events import (
    HookDiscarded,
    HookDue,
    HookFinished,
    HookRegistered,
    HookStarted,
    Published,
)
from pytest_djcelery.messages.journal import Journal
from pytest_djcelery.transactions.blocks import WriteListener
from pytest_djcelery.transactions.captures import Captures, underlying
from pytest_djcelery.transactions.hooks import hook_of
from pytest_djcelery.transactions.openers import Opener
from pytest_djcelery.transactions.passive_watch import PassiveWatch
from pytest_djcelery.transactions.sent_in_transaction import Race
from pytest_djcelery.transactions.stand_in import call_of, stand_in_for
from pytest_djcelery.transactions.watch import TransactionWatch
from tests.unit.sending import message

app = Celery(
    "watched", broker="memory://", task_cls="celery.contrib.django.task:DjangoTask",
    set_as_current=False,
)  # fmt: skip


@app.task(shared=False, name="shop.ship")
def ship(order: int) -> None:
    """Never run here."""


class Lab:
    """A watch, and hooks that note that they ran."""

    def __init__(self, watch: Callable[[Journal], TransactionWatch]) -> None:
        self.journal = Journal()
        self.watch = watch(self.journal)
        self.calls: list[str] = []

    def hook(self, name: str) -> Callable[[], None]:
        return lambda: self.calls.append(name)

    def register(self, name: str, **options: Any) -> None:
        transaction.on_commit(self.hook(name), **options)

    def numbers(self, kind: type[Any]) -> list[int]:
        """Of the hooks with such an event: in the order of their registration, from 0."""
        registered = [event.hook for event in self.journal.events(HookRegistered)]
        return [registered.index(event.hook) for event in self.journal.events(kind)]

    def write(self) -> None:
        with connections["default"].cursor() as cursor:
            cursor.execute("INSERT INTO numbers VALUES (1)")

    def send(self) -> Any:
        sent = message(location=locations.of_caller(sys._getframe(1)))
        self.watch.check_race(sent)
        self.journal.append(Published(message=sent))
        return sent


@contextmanager
def of_test() -> Iterator[None]:
    """A block of ``TestCase``, which is rolled back."""
    block: Any = transaction.atomic()
    block._from_testcase = True
    with block:
        yield
        transaction.set_rollback(rollback=True)


@pytest.fixture
def database(django_db_blocker: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(_state._tls, "current_app", app)
    with django_db_blocker.unblock():
        with connections["default"].cursor() as cursor:
            cursor.execute("CREATE TABLE numbers (n integer)")
        yield
        connections["default"].run_on_commit.clear()
        with connections["default"].cursor() as cursor:
            cursor.execute("DROP TABLE numbers")


@pytest.fixture
def passive(database: None) -> Iterator[Lab]:
    """An audit's, in the transaction of a test."""
    lab = Lab(lambda journal: PassiveWatch(journal, lambda _: True))
    with of_test(), lab.watch:
        yield lab


@pytest.fixture
def active(database: None) -> Iterator[Lab]:
    lab = Lab(lambda journal: TransactionWatch(journal, policy=lambda: "ignore"))
    with of_test(), lab.watch:
        yield lab


# An audit ----------------------------------------------------------------------------------


def test_hooks_stay_where_they_were_and_are_noted_as_due(passive: Lab) -> None:
    with transaction.atomic():
        passive.register("one", robust=True)
        passive.register("two")
        assert passive.numbers(HookDue) == []
    assert passive.numbers(HookDue) == [0, 1]
    passive.register("outside of a block", robust=True)
    assert passive.numbers(HookDue) == [0, 1, 2]
    with transaction.atomic():
        pass
    assert passive.numbers(HookDue) == [0, 1, 2]  # each once
    assert passive.calls == []
    entries = connections["default"].run_on_commit
    assert [robust for _, _, robust in entries] == [True, False, True]


def test_hooks_of_a_block_that_was_rolled_back_are_discarded(passive: Lab) -> None:
    passive.register("before")
    with pytest.raises(KeyError), transaction.atomic():
        passive.register("one")
        passive.register("two")
        raise KeyError
    assert passive.numbers(HookDiscarded) == [1, 2]
    [first, _] = passive.journal.events(HookDiscarded)
    assert first.reason == "the transaction was rolled back"
    assert passive.numbers(HookDue) == [0]
    with transaction.atomic():
        passive.register("later")
    assert passive.numbers(HookDiscarded) == [1, 2]
    assert passive.numbers(HookDue) == [0, 3]


def counts_none(opener: Any) -> bool:
    assert isinstance(opener, Opener)
    return False


def test_a_block_of_the_tests_own_is_no_transaction_of_the_code(database: None) -> None:
    lab = Lab(lambda journal: PassiveWatch(journal, counts_none))
    with of_test(), lab.watch:
        with transaction.atomic():
            lab.register("one")
            assert lab.numbers(HookDue) == [0]
        assert lab.numbers(HookDiscarded) == []
        with pytest.raises(KeyError), transaction.atomic():
            lab.register("two")
            raise KeyError
        assert lab.numbers(HookDue) == [0, 1]
        assert lab.numbers(HookDiscarded) == [1]  # the test has shown a rollback
        [discarded] = lab.journal.events(HookDiscarded)
        assert discarded.reason == "the transaction was rolled back"
        with pytest.raises(KeyError), transaction.atomic():
            raise KeyError
        assert lab.numbers(HookDiscarded) == [1]


def test_what_is_due_is_forgotten_with_the_transaction_of_the_test(database: None) -> None:
    lab = Lab(lambda journal: PassiveWatch(journal, lambda _: True))
    with lab.watch:
        with of_test():
            lab.register("one")
        assert lab.numbers(HookDue) == [0]
        assert lab.numbers(HookDiscarded) == []  # that rollback is the test's
        with of_test():
            lab.register("two")
        assert lab.numbers(HookDiscarded) == []


def test_a_write_after_a_message_is_judged_at_the_end_of_the_transaction(passive: Lab) -> None:
    with transaction.atomic():
        first = passive.send()
        passive.write()
        assert list(passive.journal.events(Race)) == []
    [race] = passive.journal.events(Race)
    assert race.message is first
    assert race.late
    assert race.wrote_at is not None
    assert race.wrote_at.function.endswith("write")
    with transaction.atomic():
        passive.write()
        second = passive.send()
        [_, race] = passive.journal.events(Race)
        assert (race.message, race.late) == (second, False)
    assert len(list(passive.journal.events(Race))) == 2


def test_a_write_that_is_undone_before_the_end_is_no_race(passive: Lab) -> None:
    with transaction.atomic():
        passive.send()
        with pytest.raises(KeyError), transaction.atomic():
            passive.write()
            raise KeyError
    with transaction.atomic():
        passive.send()
    with transaction.atomic():
        passive.write()
    assert list(passive.journal.events(Race)) == []


def test_a_late_write_leaves_the_messages_of_other_transactions(active: Lab) -> None:
    with transaction.atomic():
        with transaction.atomic(using="other"):
            first = active.send()
            with connections["other"].cursor() as cursor:
                cursor.execute("CREATE TABLE others (n integer)")
                cursor.execute("DROP TABLE others")
        second = active.send()
        active.write()
    assert first is not second
    [default] = [event for event in active.journal.events(Published) if event.message is second]
    assert default.message is second


def test_the_code_finds_the_test_s_transaction(passive: Lab) -> None:
    assert not connections["default"].get_autocommit()
    assert connections["default"].execute_wrappers == []


def test_a_procedure_that_is_called_in_no_block_is_no_write() -> None:
    written: list[Any] = []
    listener = WriteListener([], written.append)
    listener.procedure_called()
    assert written == []


def test_only_a_stand_in_of_a_hook_is_one() -> None:
    assert hook_of(stand_in_for(print, repr)) is None
    assert hook_of(print) is None


# A test's own watch ------------------------------------------------------------------------


def test_a_hook_is_recorded_with_what_registered_it(active: Lab) -> None:
    with transaction.atomic():
        ship.delay_on_commit(7)
        transaction.on_commit(active.hook("own"), robust=True)
        connections["default"].run_on_commit.clear()
    of_task, own = active.journal.events(HookRegistered)
    assert (of_task.through, of_task.task) == ("delay_on_commit", "shop.ship")
    assert (of_task.using, of_task.robust, of_task.package) == ("default", False, None)
    assert (own.through, own.task, own.robust, own.package) == (None, None, True, None)
    assert own.location is not None
    assert own.location.path == __file__
    assert own.function == f"{__name__}.Lab.hook.<locals>.<lambda>"
    assert active.numbers(HookDiscarded) == [0, 1]


def test_a_hook_of_an_installed_package_is_recorded_as_its(active: Lab) -> None:
    parcel: dict[str, Any] = {"__name__": "parcel.mod"}
    exec(compile("def own(): pass", "/env/lib/site-packages/parcel/mod.py", "exec"), parcel)
    transaction.on_commit(parcel["own"])
    [event] = active.journal.events(HookRegistered)
    assert event.package == "parcel"


def test_a_robust_hook_is_robust_and_another_is_not(
    active: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise KeyError

    transaction.on_commit(fail, robust=True)
    assert "fail" in caplog.text
    with pytest.raises(KeyError):
        transaction.on_commit(fail)
    with pytest.raises(TypeError):
        transaction.on_commit("no function", robust=True)  # type: ignore[arg-type]
    first, second = active.journal.events(HookFinished)
    assert isinstance(first.error, KeyError)
    assert isinstance(second.error, KeyError)
    active.register("one")
    assert [event.error for event in active.journal.events(HookFinished)][-1] is None
    assert active.numbers(HookStarted) == [0, 1, 2]


def test_what_stands_in_for_hooks_is_taken_out_with_the_watch(database: None) -> None:
    lab = Lab(lambda journal: TransactionWatch(journal, policy=lambda: "ignore"))
    of_code, of_django = lab.hook("of the code"), lab.hook("of Django")
    lab.watch.__enter__()
    with transaction.atomic():
        transaction.on_commit(of_code, robust=True)
        entries = connections["default"].run_on_commit
        assert call_of(entries[0][1]) is not None
        entries.insert(0, (set(), of_django, False))  # unknown to the watch
        lab.watch.__exit__()
        sids, functions, robust = zip(*connections["default"].run_on_commit, strict=True)
        assert functions == (of_django, of_code)
        assert call_of(functions[1]) is None
        assert robust == (False, True)
        assert all(isinstance(names, set) for names in sids)
        connections["default"].run_on_commit.clear()
    with lab.watch, transaction.atomic():
        lab.register("lost")
        connections["default"].run_on_commit.clear()
        lab.watch.settle()
    [discarded] = lab.journal.events(HookDiscarded)
    assert discarded.reason == (
        "its savepoint or transaction was rolled back, or the connection was closed"
    )


def test_what_stands_for_a_connection_is_known_by_the_connection_itself() -> None:
    connection = connections["default"]
    proxy: Any = SimpleNamespace(validate_thread_sharing=connection.validate_thread_sharing)
    assert underlying(proxy) is underlying(connection) is connection
    other: Any = SimpleNamespace(validate_thread_sharing=lambda: None)
    assert underlying(other) is other


def test_hooks_that_django_captures_are_left_to_it(database: None) -> None:
    captures = Captures()
    lab = Lab(lambda journal: TransactionWatch(journal, policy=lambda: "ignore", captures=captures))
    with captures.capture_blocks_noted(), captures.capture_blocks_noted(), of_test(), lab.watch:
        with TestCase.captureOnCommitCallbacks() as hooks:
            assert captures.open_on(connections["default"])
            assert not captures.open_on(connections["other"])
            with TestCase.captureOnCommitCallbacks(using="other"):
                assert captures.open_on(connections["other"])
            with TestCase.captureOnCommitCallbacks():
                pass
            assert captures.open_on(connections["default"])
            lab.register("captured")
            with transaction.atomic():
                lab.register("in a block")
            with lab.watch.hold():
                pass
            assert lab.calls == []
        assert not captures.open_on(connections["default"])
        assert len(hooks) == 2
        with TestCase.captureOnCommitCallbacks(execute=True):
            lab.register("executed")
        assert lab.calls == ["executed"]
        lab.register("own")
        assert lab.calls == ["executed", "own"]


def test_django_s_capture_keeps_its_name_and_is_put_back() -> None:
    captures = Captures()
    method = vars(TestCase)["captureOnCommitCallbacks"]
    with captures.capture_blocks_noted():
        inside = vars(TestCase)["captureOnCommitCallbacks"]
        assert inside is not method
        assert TestCase.captureOnCommitCallbacks.__name__ == "captureOnCommitCallbacks"
        with captures.capture_blocks_noted():
            assert vars(TestCase)["captureOnCommitCallbacks"] is inside
    assert vars(TestCase)["captureOnCommitCallbacks"] is method
    with captures.capture_blocks_noted():
        assert vars(TestCase)["captureOnCommitCallbacks"] is not method


def test_hooks_of_a_held_transaction_that_one_of_them_ends_are_discarded(active: Lab) -> None:
    def fail() -> None:
        raise KeyError

    with pytest.raises(KeyError), active.watch.hold(), transaction.atomic():
        transaction.on_commit(fail)
        active.register("lost")
    assert active.calls == []
    [discarded] = active.journal.events(HookDiscarded)
    assert discarded.reason == "an earlier hook of the same transaction raised"


def test_after_the_outermost_block_waiters_are_notified_once(active: Lab) -> None:
    ends: list[bool] = []
    active.watch.after_blocks = lambda: ends.append(active.watch.in_blocks)
    assert not active.watch.in_blocks
    with transaction.atomic():
        with transaction.atomic():
            assert active.watch.in_blocks
        assert ends == []
    assert ends == [False]
    with of_test():
        pass
    assert ends == [False]


def test_rows_are_those_of_the_transactions_of_the_alias(active: Lab) -> None:
    from django.contrib.auth.models import Group, User

    active.watch.written(User, [1], "default")  # in no transaction
    with transaction.atomic(), transaction.atomic(using="other"):
        active.watch.written(User, [7, 8], "default")
        active.watch.written(Group, [9], "other")
        default, other = active.watch._blocks.thread.transactions
        assert [default.rows.named_by(key) for key in (1, 7, 8, 9)] == [
            [], ["auth.User"], ["auth.User"], [],
        ]  # fmt: skip
        assert other.rows.named_by(9) == ["auth.Group"]


def test_two_watches_at_a_time_are_refused(active: Lab) -> None:
    from pytest_djcelery.errors import DjceleryError

    with pytest.raises(DjceleryError) as error:
        TransactionWatch(Journal(), policy=lambda: "ignore").__enter__()
    assert str(error.value) == (
        "Only one TransactionWatch can be on at a time, but one is on already: use that one, or "
        "leave its `with` first."
    )


def test_the_hooks_of_another_thread_are_its_own(active: Lab) -> None:
    seen: list[bool] = []
    with transaction.atomic():
        thread = threading.Thread(target=lambda: seen.append(active.watch.in_blocks))
        thread.start()
        thread.join()
    assert seen == [False]
