"""The watch over Django's transactions, in rollback tests and with real commits.

No pytest plugin of ours takes part: Django is configured for this process, with two databases.
"""

# ruff: noqa: ANN001, ANN002, ANN003, ANN201, ANN202, ANN204 - helpers and stand-ins, used only here
# ruff: noqa: ARG005 - stand-ins are called as what they stand for
# ruff: noqa: DJ008 - models of which nobody reads the text
# ruff: noqa: PT011, PT012 - what raises is the end of a block, so `raises` has several statements

from __future__ import annotations

import gc
import threading
import warnings
import weakref
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import datetime, timezone
from functools import partial

import pytest
from celery import Celery, Task, _state
from django.db import IntegrityError, connection, connections, models, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.transaction import Atomic, TransactionManagementError, atomic

from pytest_djcelery import locations
from pytest_djcelery.api.on_commit import OnCommit
from pytest_djcelery.errors import (
    DjceleryError,
    SentInTransactionError,
    SentInTransactionWarning,
    explained_at,
)
from pytest_djcelery.messages.events import Published
from pytest_djcelery.messages.journal import Journal
from pytest_djcelery.messages.sent_task import SentTask
from pytest_djcelery.transactions.blocks import WriteListener
from pytest_djcelery.transactions.watch import TransactionWatch
from pytest_djcelery.transactions.writes import wrote
from tests.unit import django_in_process

pytestmark = pytest.mark.skipif(
    not django_in_process.is_ours, reason="Django was configured by another module"
)


class Widget(models.Model):
    name = models.CharField(max_length=20, unique=True)

    class Meta:
        app_label = "auth"


class Gadget(models.Model):
    widget = models.ForeignKey(Widget, on_delete=models.CASCADE)

    class Meta:
        app_label = "auth"


app = Celery(
    "unit",
    broker="memory://",
    task_cls="celery.contrib.django.task:DjangoTask",
    set_as_current=False,
)


@app.task(name="shop.tasks.ship")
def ship(order, *, express=False):
    """Never run here."""


class PlainTask(Task):
    """A base class that lacks delay_on_commit."""


@app.task(name="shop.tasks.plain", base=PlainTask)
def plain():
    """Never run here."""


class Lab:
    """A watch, its journal and its view, and a publish that does what the tap will do."""

    def __init__(self):
        self.journal = Journal()
        self.policy = "warn"
        self.watch = TransactionWatch(self.journal, policy=lambda: self.policy)
        self.hooks = OnCommit(self.journal, self.watch)
        self.calls = []

    def hook(self, name, *, error=None):
        def function():
            self.calls.append(name)
            if error:
                raise error

        function.__qualname__ = name
        return function

    def publish(self, *args, task="shop.tasks.ship", **properties):
        situation = self.watch.publishing()
        values = dict.fromkeys(
            [
                *("queue", "routing_key", "exchange", "eta", "expires", "priority"),
                *("root_id", "parent_id", "group_id", "chord"),
            ]
        )
        values |= {"kwargs": {}, "retries": 0, "headers": {}, "links": (), "link_errors": ()}
        values |= {"chain": (), "sent_at": datetime.now(timezone.utc)}
        values |= {"id": f"id-{len(self.journal)}", "location": locations.of_caller()}
        values |= {"transaction": situation.transaction, **properties}
        message = SentTask(task=task, args=args, **values)
        self.watch.check_race(message)
        self.journal.append(Published(message=message, hook=situation.hook))
        return message

    @contextmanager
    def warns(self, times=1):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield caught
        assert [each.category for each in caught] == [SentInTransactionWarning] * times, [
            str(each.message) for each in caught
        ]


def close_for_good():
    for each in connections.all(initialized_only=True):
        BaseDatabaseWrapper.close(each)  # SQLite's own leaves databases in memory open


def create_tables(alias):
    with connections[alias].schema_editor() as editor:
        editor.create_model(Widget)
        editor.create_model(Gadget)


@contextmanager
def rolled_back_test():
    with ExitStack() as stack:
        for alias in ("default", "other"):
            block = atomic(using=alias)
            block._from_testcase = True
            stack.enter_context(block)
            stack.callback(transaction.set_rollback, rollback=True, using=alias)
        yield


@pytest.fixture(scope="module")
def tables(django_db_blocker):
    with django_db_blocker.unblock():
        for alias in ("default", "other"):
            connections[alias].ensure_connection()
            create_tables(alias)
        yield
        close_for_good()


@pytest.fixture(params=["rollback", "real"])
def style(request, tables, monkeypatch, django_db_blocker):
    monkeypatch.setattr(_state._tls, "current_app", app)
    with django_db_blocker.unblock():
        with rolled_back_test() if request.param == "rollback" else nullcontext():
            yield request.param
        for alias in ("default", "other"):
            Gadget.objects.using(alias).all().delete()
            Widget.objects.using(alias).all().delete()
            connections[alias].run_on_commit.clear()
            assert connections[alias].execute_wrappers == []


@pytest.fixture
def lab(style):
    lab = Lab()
    with lab.watch:
        yield lab


def functions(hooks):
    return [hook.function.rpartition(".")[2] for hook in hooks]


# -- on_commit


def test_a_hook_waits_for_the_outermost_block(lab):
    with atomic():
        with atomic():
            transaction.on_commit(lab.hook("one"))
        assert lab.calls == []
        assert functions(lab.hooks.pending) == ["one"]
        transaction.on_commit(lab.hook("two"))
    assert lab.calls == ["one", "two"]
    assert functions(lab.hooks.ran) == ["one", "two"]
    assert lab.hooks.pending == lab.hooks.discarded == []


def test_a_hook_outside_a_block_runs_at_once(lab):
    transaction.on_commit(lab.hook("one"))
    assert lab.calls == ["one"]
    assert functions(lab.hooks.ran) == ["one"]


def test_a_hook_has_the_line_the_database_and_its_name(lab):
    with atomic(using="other"):
        transaction.on_commit(partial(ship.delay, 1), using="other", robust=True)
        [hook] = lab.hooks.pending
        assert (hook.using, hook.robust, hook.function) == ("other", True, "shop.tasks.ship.delay")
        assert hook.location.path == __file__
        transaction.set_rollback(True, using="other")


def test_delay_on_commit_is_named_by_its_task(lab):
    with atomic():
        ship.delay_on_commit(1)
        [hook] = lab.hooks.pending
        assert hook.function == "shop.tasks.ship.delay"
        assert connection.run_on_commit[-1][1].func == ship.delay
        transaction.set_rollback(True)


@pytest.mark.parametrize("savepoint", [True, False])
def test_a_rolled_back_block_discards_its_hooks(lab, savepoint):
    with pytest.raises(KeyError), atomic(savepoint=savepoint):
        transaction.on_commit(lab.hook("one"))
        raise KeyError
    connection.needs_rollback = False
    transaction.on_commit(lab.hook("two"))
    [hook] = lab.hooks.discarded
    assert "rolled back" in hook.reason
    assert lab.calls == ["two"]


def test_set_rollback_discards_the_hooks(lab):
    with atomic():
        transaction.on_commit(lab.hook("one"))
        transaction.set_rollback(True)
    assert lab.calls == []
    assert functions(lab.hooks.discarded) == ["one"]


def test_a_rolled_back_savepoint_discards_only_its_own(lab):
    with atomic():
        transaction.on_commit(lab.hook("kept"))
        with pytest.raises(KeyError), atomic():
            transaction.on_commit(lab.hook("lost"))
            raise KeyError
        assert functions(lab.hooks.discarded) == ["lost"]
        assert lab.hooks.discarded[0].reason == "a savepoint was rolled back"
    assert lab.calls == ["kept"]


def test_a_savepoint_made_by_hand_keeps_its_hooks_as_in_django(lab):
    with atomic():
        sid = connection.savepoint()
        transaction.on_commit(lab.hook("kept"))
        connection.savepoint_rollback(sid)
        assert functions(lab.hooks.pending) == ["kept"]
    assert lab.calls == ["kept"]


def test_a_savepoint_rolled_back_by_hand_inside_its_block_discards(lab):
    with atomic(), atomic():
        transaction.on_commit(lab.hook("lost"))
        transaction.savepoint_rollback(connection.savepoint_ids[-1])
        assert functions(lab.hooks.discarded) == ["lost"]
    assert lab.calls == []


def test_an_inner_block_without_savepoint_takes_all_with_it(lab):
    with atomic():
        transaction.on_commit(lab.hook("outer"))
        with pytest.raises(KeyError), atomic(savepoint=False):
            transaction.on_commit(lab.hook("inner"))
            raise KeyError
    assert lab.calls == []
    assert functions(lab.hooks.discarded) == ["outer", "inner"]


def test_each_database_has_its_own_hooks(lab):
    with atomic(), atomic(using="other"):
        transaction.on_commit(lab.hook("default"))
        transaction.on_commit(lab.hook("other"), using="other")
    assert lab.calls == ["other", "default"]


def test_a_hook_of_another_database_runs_at_once(lab):
    with atomic():
        transaction.on_commit(lab.hook("other"), using="other")
        assert lab.calls == ["other"]


def test_a_hook_that_raises_loses_the_rest(lab):
    with pytest.raises(KeyError), atomic():
        transaction.on_commit(lab.hook("one", error=KeyError("k")))
        transaction.on_commit(lab.hook("two"))
    assert lab.calls == ["one"]
    assert isinstance(lab.hooks.ran[0].error, KeyError)
    assert functions(lab.hooks.discarded) == ["two"]
    assert "raised" in lab.hooks.discarded[0].reason
    with atomic():
        transaction.on_commit(lab.hook("three"))
    assert lab.calls == ["one", "three"]


@pytest.mark.parametrize("in_block", [True, False])
def test_a_robust_hook_is_logged_as_django_does(lab, caplog, in_block):
    with atomic() if in_block else nullcontext():
        transaction.on_commit(lab.hook("one", error=KeyError("k")), robust=True)
        transaction.on_commit(lab.hook("two"))
    assert lab.calls == ["one", "two"]
    [record] = caplog.records
    assert record.name == "django.db.backends.base"
    during = " during transaction" if in_block else ""
    assert record.getMessage() == f"Error calling one in on_commit(){during} ('k')."


def test_hooks_registered_by_a_hook_run_as_in_django(lab):
    def outer():
        lab.calls.append("outer")
        transaction.on_commit(lab.hook("at once"))
        with atomic(durable=True):
            transaction.on_commit(lab.hook("nested"))
            lab.calls.append("in block")
        with pytest.raises(KeyError), atomic():
            transaction.on_commit(lab.hook("lost"))
            raise KeyError

    with atomic():
        transaction.on_commit(outer)
        transaction.on_commit(lab.hook("next"))
    assert lab.calls == ["outer", "at once", "in block", "nested", "next"]
    assert functions(lab.hooks.discarded) == ["lost"]


def test_a_durable_block_is_refused_inside_a_block_of_the_code(lab):
    with atomic():
        with pytest.raises(RuntimeError, match="durable"), atomic(durable=True):
            pass
        transaction.on_commit(lab.hook("one"))
    with atomic(durable=True):
        pass
    assert lab.calls == ["one"]


def test_a_decorated_function_and_one_atomic_used_twice(lab):
    again = atomic()

    @again
    def work(depth):
        transaction.on_commit(lab.hook(f"work {depth}"))
        if depth:
            work(depth - 1)
        assert lab.calls == []

    work(1)
    assert lab.calls == ["work 1", "work 0"]


def test_a_hook_that_is_not_callable_is_refused_as_in_django(lab):
    with pytest.raises(TypeError, match="must be a callable"):
        transaction.on_commit("no")
    assert lab.hooks.ran == lab.hooks.pending == []


def test_around_hook_is_entered_around_each(lab):
    @contextmanager
    def around():
        lab.calls.append("(")
        yield
        lab.calls.append(")")

    lab.watch.around_hook = around
    with atomic():
        transaction.on_commit(lab.hook("a"))
        transaction.on_commit(lab.hook("b"))
    assert lab.calls == ["(", "a", ")", "(", "b", ")"]


def test_hooks_that_wait_can_be_restored_to_those_that_waited_before(lab):
    with lab.hooks.hold(), atomic():
        transaction.on_commit(lab.hook("before"))
        with pytest.raises(ZeroDivisionError), lab.watch.hooks_restored():
            transaction.on_commit(lab.hook("meanwhile"))
            _ = 1 / 0
        assert functions(lab.hooks.pending)[0] == "before"
    assert lab.calls == ["before"]
    with lab.hooks.hold():
        transaction.on_commit(lab.hook("held"))
        with lab.watch.hooks_restored():
            transaction.on_commit(lab.hook("held meanwhile"))
    assert lab.calls == ["before", "held"]


def test_hold_keeps_hooks_back_and_runs_them_in_order(lab, caplog):
    with lab.hooks.hold():
        transaction.on_commit(lab.hook("at once"))
        with atomic():
            transaction.on_commit(lab.hook("raises", error=KeyError()), robust=True)
            transaction.on_commit(lab.hook("after"))
        with lab.hooks.hold():
            pass
        assert lab.calls == []
        assert functions(lab.hooks.pending) == ["at once", "raises", "after"]
    assert lab.calls == ["at once", "raises", "after"]
    assert lab.hooks.pending == []
    assert len(caplog.records) == 1


def test_a_held_hook_that_raises_loses_the_rest_of_its_transaction_only(lab):
    with pytest.raises(KeyError), lab.hooks.hold():
        with atomic():
            transaction.on_commit(lab.hook("raises", error=KeyError()))
            transaction.on_commit(lab.hook("lost"))
        with atomic():
            transaction.on_commit(lab.hook("kept"))
    assert lab.calls == ["raises", "kept"]
    assert functions(lab.hooks.discarded) == ["lost"]


def test_the_view_knows_what_a_hook_sent_and_starts_at_since(lab):
    transaction.on_commit(lab.hook("before"))
    view = OnCommit(lab.journal, lab.watch, since=len(lab.journal))
    with atomic():
        transaction.on_commit(lambda: lab.publish(7))
    [hook] = view.ran
    assert [message.args for message in hook.sent] == [(7,)]
    assert hook.sent[0].after_commit


def test_everything_is_put_back_even_inside_an_open_block(style):
    before = Atomic.__enter__, Atomic.__exit__, BaseDatabaseWrapper.on_commit
    lab, function = Lab(), Lab().hook("one")
    with pytest.raises(ValueError), ExitStack() as blocks, lab.watch:
        assert Atomic.__enter__ is not before[0]
        blocks.enter_context(atomic())
        transaction.on_commit(function)
        assert connection.execute_wrappers
        raise ValueError
    assert before == (Atomic.__enter__, Atomic.__exit__, BaseDatabaseWrapper.on_commit)
    with atomic(), lab.watch:
        transaction.on_commit(function)
    assert connection.execute_wrappers == []
    assert not [entry for entry in connection.run_on_commit if entry[1] is not function]


def test_a_second_watch_is_refused(lab):
    with pytest.raises(DjceleryError, match="Only one TransactionWatch"), Lab().watch:
        pass
    with pytest.raises(DjceleryError, match="Only one TransactionWatch"), lab.watch:
        pass
    transaction.on_commit(lab.hook("still on"))
    assert functions(lab.hooks.ran) == ["still on"]


def test_blocks_opened_before_the_watch_do_not_belong_to_the_code(style):
    lab = Lab()
    with atomic(), lab.watch:
        transaction.on_commit(lab.hook("at once"))
        assert lab.calls == ["at once"]
        assert lab.watch.publishing().transaction == "autocommit"


def test_a_closed_connection_discards(tables, django_db_blocker):
    def work():
        try:
            with lab.watch:
                with pytest.raises(KeyError), atomic():
                    transaction.on_commit(lab.hook("one"))
                    BaseDatabaseWrapper.close(connection)  # SQLite keeps one in memory open
                    assert functions(lab.hooks.discarded) == ["one"]
                    raise KeyError
                connection.connect()
                with atomic():
                    transaction.on_commit(lab.hook("two"))
            refs.append(weakref.ref(connections["default"]))
        finally:
            close_for_good()
        done.append(lab.calls)

    lab, done, refs = Lab(), [], []
    with django_db_blocker.unblock():
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(10)
    assert done == [["two"]]
    gc.collect()
    assert refs[0]() is None


def test_manual_transactions_run_their_hooks_when_autocommit_returns(tables, django_db_blocker):
    lab = Lab()
    with django_db_blocker.unblock(), lab.watch:
        transaction.set_autocommit(False)
        try:
            with pytest.raises(TransactionManagementError):
                transaction.on_commit(lab.hook("refused"))
            with atomic():
                transaction.on_commit(atomic()(lab.hook("one")))
                transaction.on_commit(lab.hook("two"))
            assert lab.calls == []
            assert len(lab.hooks.pending) == 2
            transaction.commit()
        finally:
            transaction.set_autocommit(True)
        assert lab.calls == ["one", "two"]
        assert lab.hooks.discarded == []


def test_threads_do_not_see_each_others_blocks(lab):
    def work():
        seen.append(lab.watch.publishing().transaction)
        with atomic():
            transaction.on_commit(lab.hook("thread"))
            seen.append(lab.watch.publishing().transaction)
        seen.append(list(lab.calls))
        close_for_good()

    seen = []
    with atomic():
        transaction.on_commit(lab.hook("main"))
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(10)
    assert seen == ["autocommit", "atomic", ["thread"]]
    assert lab.calls == ["thread", "main"]


# -- publishing


def test_a_publish_records_the_innermost_situation(lab):
    seen = []

    def look():
        situation = lab.watch.publishing()
        seen.append((situation.transaction, situation.hook is not None))

    def hook():
        look()
        with atomic():
            look()
        with lab.watch.eager_task():
            look()
            with atomic():
                look()
        look()

    look()
    with atomic():
        look()
        with lab.watch.eager_task():
            look()
        transaction.on_commit(hook)
    assert seen == [
        ("autocommit", False),
        ("atomic", False),
        ("autocommit", False),
        ("on_commit", True),
        ("atomic", True),
        ("autocommit", False),
        ("atomic", False),
        ("on_commit", True),
    ]


def test_a_hook_is_listed_with_the_line_that_registered_it(lab):
    seen = []
    transaction.on_commit(lambda: seen.append(lab.watch.publishing()))
    assert seen[0].hook_location.path == __file__


# -- messages inside an open transaction


def test_sent_after_a_write_warns_at_the_projects_line(lab):
    with lab.warns() as caught, atomic():
        Widget.objects.create(name="a")
        message = lab.publish(7)
        assert len(caught) == 1
    assert (caught[0].filename, caught[0].lineno) == (__file__, message.location.line)


def test_sent_before_a_write_warns_at_the_write_and_once(lab):
    with lab.warns() as caught, atomic():
        lab.publish(7)
        assert caught == []
        Widget.objects.create(name="a")
        assert len(caught) == 1
        Widget.objects.create(name="b")
    assert "after it was sent, at" in str(caught[0].message)


@pytest.mark.parametrize("late", [True, False])
def test_the_policy_error_raises(lab, late):
    lab.policy = "error"
    with pytest.raises(SentInTransactionError, match="delay_on_commit"), atomic():
        if not late:
            Widget.objects.create(name="a")
        lab.publish(7)
        assert late
        Widget.objects.create(name="a")
    assert len(list(lab.journal.events(Published))) == late


def test_the_policy_ignore_says_nothing(lab):
    lab.policy = "ignore"
    with lab.warns(times=0), atomic():
        Widget.objects.create(name="a")
        lab.publish(7)


def test_warnings_as_errors_raise_at_the_call(lab):
    with warnings.catch_warnings(), pytest.raises(SentInTransactionWarning), atomic():
        warnings.simplefilter("error")
        Widget.objects.create(name="a")
        lab.publish(7)


def read():
    list(Widget.objects.all())


def match_nothing():
    Widget.objects.filter(name="nobody").update(name="x")
    Widget.objects.filter(name="nobody").delete()


def fail_to_write():
    with pytest.raises(IntegrityError), atomic():
        Widget.objects.create(name="kept")


def write_and_roll_back():
    with pytest.raises(KeyError), atomic():
        Widget.objects.create(name="lost")
        raise KeyError


def touch_nothing():
    Widget.objects.bulk_create([Widget(name="kept")], ignore_conflicts=True)


def write_and_roll_back_by_hand():
    savepoint = transaction.get_connection().savepoint()
    Widget.objects.create(name="lost")
    inner = transaction.get_connection().savepoint()
    Widget.objects.create(name="lost, too")
    transaction.savepoint_commit(inner)
    transaction.savepoint_rollback(savepoint)


@pytest.mark.parametrize(
    "work",
    [
        read,
        match_nothing,
        touch_nothing,
        fail_to_write,
        write_and_roll_back,
        write_and_roll_back_by_hand,
    ],
)
def test_a_transaction_that_leaves_no_write_is_not_a_race(lab, work):
    Widget.objects.create(name="kept")  # by the test, before the code's own transaction
    with lab.warns(times=0), atomic():
        work()
        lab.publish(7)
        read()


def test_a_block_without_savepoint_that_fails_has_undone_nothing(lab):
    with lab.warns(), atomic():
        with pytest.raises(KeyError), atomic(savepoint=False):
            Widget.objects.create(name="a")
            raise KeyError
        transaction.set_rollback(False)
        lab.publish(7)
    assert Widget.objects.exists()


def test_what_was_written_before_a_savepoint_outlasts_it(lab):
    with lab.warns(times=2), atomic():
        Widget.objects.create(name="a")
        write_and_roll_back()
        lab.publish(7)
        write_and_roll_back_by_hand()
        lab.publish(8)


def test_a_procedure_may_write(lab, monkeypatch):
    class Cursor:
        def callproc(self, *args):
            return args

        def close(self):
            pass

    called = []
    lab.watch.before_procedure = called.append
    with lab.warns(times=2):
        for _ in range(2):
            with atomic(), connection.cursor() as cursor:
                lab.publish(7)
                monkeypatch.setattr(cursor, "cursor", Cursor())
                assert cursor.callproc("settle", [1]) == ("settle", [1])
    assert called == [connection, connection]


def test_outside_a_block_nothing_is_a_race(lab):
    with lab.warns(times=0):
        Widget.objects.create(name="a")
        lab.publish(7)
        with atomic():
            Widget.objects.create(name="b")
            transaction.on_commit(lambda: lab.publish(8))


def test_an_eager_task_is_judged_by_its_own_blocks(lab):
    with lab.warns(times=0), atomic():
        lab.publish(0)
        with lab.watch.eager_task():
            Widget.objects.create(name="a")  # the task's write, not the sender's
            lab.publish(1)
            with atomic():
                lab.publish(2)
    with lab.warns() as caught, atomic():
        Widget.objects.create(name="b")
        with lab.watch.eager_task(), atomic():
            lab.publish(3)
            Widget.objects.create(name="c")
    assert "ship(3)" in str(caught[0].message)


def test_two_databases_make_one_report(lab):
    with lab.warns(), atomic(), atomic(using="other"):
        lab.publish(1)
        Widget.objects.create(name="a")
        Widget.objects.using("other").create(name="a")


class Proxy:
    """As the wrappers that stand for a replica: another object, the same connection."""

    def __init__(self, target):
        object.__setattr__(self, "_target", target)

    def __getattr__(self, name):
        return getattr(self._target, name)

    def __setattr__(self, name, value):
        setattr(self._target, name, value)


@pytest.fixture
def proxy(style, monkeypatch):
    monkeypatch.setitem(connections.settings, "proxy", connections.settings["default"])
    connections["proxy"] = Proxy(connections["default"])
    yield
    del connections["proxy"]


@pytest.mark.usefixtures("proxy")
def test_a_write_belongs_to_the_alias_of_its_innermost_block(lab):
    with lab.warns(times=0), atomic(using="proxy"):
        read()
        with atomic():
            Widget.objects.create(name="committed in production")
        lab.publish(7)
        with atomic():
            Widget.objects.create(name="likewise")
    with lab.warns(times=2) as caught, atomic():
        with atomic(using="proxy"):
            read()
        lab.publish(8)
        with atomic(using="proxy"), atomic():
            Widget.objects.create(name="in a block of default, which is still open")
        lab.publish(9)
    assert "database 'default'" in str(caught[0].message)
    with lab.warns() as caught, atomic(using="proxy"):
        Widget.objects.create(name="through the proxy")
        lab.publish(10)
    assert "database 'proxy'" in str(caught[0].message)


def test_an_alias_behind_a_proxy_counts_once(lab, monkeypatch):
    monkeypatch.setitem(connections.settings, "proxy", connections.settings["default"])
    connections["proxy"] = Proxy(connections["default"])
    try:
        with lab.warns(), atomic(), atomic(using="proxy"):
            assert sum(isinstance(each, WriteListener) for each in connection.execute_wrappers) == 1
            transaction.on_commit(lab.hook("one"), using="proxy")
            lab.publish(1)
            Widget.objects.create(name="a")
            assert len(lab.hooks.pending) == 1
        assert lab.calls == ["one"]
        with pytest.raises(KeyError), atomic(using="proxy"):
            transaction.on_commit(lab.hook("lost"))
            raise KeyError
        assert functions(lab.hooks.discarded) == ["lost"]
    finally:
        del connections["proxy"]


def test_a_users_execute_wrapper_that_ends_inside_the_block_is_left_in_order(lab):
    def wrapper(execute, *args):
        return execute(*args)

    with ExitStack() as stack:
        inner = connection.execute_wrapper(wrapper)
        inner.__enter__()
        stack.enter_context(atomic())
        inner.__exit__(None, None, None)
        assert wrapper not in connection.execute_wrappers
        with lab.warns():
            Widget.objects.create(name="a")
            lab.publish(1)


# -- the text


def text_of(lab, **properties):
    with lab.warns() as caught:
        Widget.objects.create(name="text")
        lab.publish(7, **properties)
    return str(caught[0].message)


def test_the_text_for_a_with_block(lab):
    with atomic():
        line = text_of(lab, kwargs={"express": True})
    here = locations.relative(__file__)
    parts = line.splitlines()
    assert parts[0] == (
        "shop.tasks.ship(7, express=True) was sent inside an open transaction of the database "
        "'default', which also writes."
    )
    assert parts[1].startswith(f"  sent at:   {here}:")
    assert parts[2].startswith(f"  opened by: `with transaction.atomic()` at {here}:")
    assert parts[3] == "  written:   before it was sent"
    assert parts[-2:] == [
        "Send it after the commit: ship.delay_on_commit(7, express=True)",
        explained_at(SentInTransactionWarning),
    ]


def test_the_text_for_a_decorated_function(lab):
    @atomic
    def create():
        return text_of(lab)

    assert (
        f"the decorator transaction.atomic of {__name__}.{create.__qualname__} "
        f"({locations.relative(__file__)}:{create.__wrapped__.__code__.co_firstlineno})"
    ) in create()


def test_the_text_for_a_method_that_a_view_inherits_and_decorates(lab, rf):
    from django.http import HttpResponse
    from django.utils.decorators import method_decorator
    from django.views import View

    @method_decorator(atomic, name="dispatch")
    class Create(View):
        def get(self, request):
            texts.append(text_of(lab))
            return HttpResponse()

    texts = []
    Create.as_view()(rf.get("/"))
    assert (
        f"the decorator transaction.atomic of {__name__}.{Create.__qualname__}.dispatch "
        f"({locations.relative(__file__)}:"
    ) in texts[0]


def test_the_text_for_atomic_requests(lab, monkeypatch, rf):
    from django.core.handlers.base import BaseHandler

    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", value=True)
    texts = []

    def view(request):
        from django.http import HttpResponse

        texts.append(text_of(lab))
        return HttpResponse()

    handler = BaseHandler()
    handler.load_middleware()
    monkeypatch.setattr(handler, "resolve_request", lambda request: (view, (), {}))
    handler._get_response(rf.get("/"))
    assert f"ATOMIC_REQUESTS, around the view {__name__}." in texts[0]


@pytest.mark.parametrize("call", ["get_or_create", "update_or_create", "delete", "bulk_create"])
def test_the_text_names_the_call_of_django(lab, call):
    def receiver(**kwargs):
        texts.append(lab.publish(1))

    texts = []
    signals = models.signals
    widget = Widget.objects.create(name="first")
    Gadget.objects.create(widget=widget)
    signal = signals.pre_delete if call == "delete" else signals.post_save
    signal.connect(receiver, sender=Widget)
    try:
        with lab.warns(times=call != "bulk_create") as caught:
            if call == "delete":
                widget.delete()
            elif call == "bulk_create":
                Widget.objects.bulk_create([Widget(name="z")])
                return
            else:
                getattr(Widget.objects, call)(name="second")
    finally:
        signal.disconnect(receiver, sender=Widget)
    name = "Model.delete" if call == "delete" else f"QuerySet.{call}"
    assert f"  opened by: {name}(), called at {locations.relative(__file__)}:" in str(
        caught[0].message
    )


def remedy(text):
    return text.splitlines()[-2]


def test_the_remedy_fits_the_task_and_the_call(lab):
    with atomic():
        assert "plain has no delay_on_commit, because its class" in (
            reported := remedy(text_of(lab, task="shop.tasks.plain"))
        )
        assert "PlainTask does not inherit from celery.contrib.django.task.DjangoTask" in reported
        assert "transaction.on_commit(lambda: plain.delay(7))" in reported
    Widget.objects.all().delete()
    with atomic():
        reported = remedy(text_of(lab, priority=3))
        assert reported == "Send it after the commit: ship.apply_async_on_commit(args=(7,), …)"
    Widget.objects.all().delete()
    with atomic():
        assert "app.send_task('elsewhere.task', …)" in remedy(text_of(lab, task="elsewhere.task"))
    Widget.objects.all().delete()
    with atomic():
        assert "the chain, group or chord" in remedy(text_of(lab, group_id="g"))


def test_the_remedy_for_another_database_names_it(lab):
    with lab.warns() as caught, atomic(using="other"):
        Widget.objects.using("other").create(name="a")
        lab.publish(7)
    assert remedy(str(caught[0].message)) == (
        "delay_on_commit waits for the database 'default' only. Send it after the commit: "
        "transaction.on_commit(lambda: ship.delay(7), using='other')"
    )


def test_a_hook_that_waited_for_the_wrong_database_is_explained(lab):
    with lab.warns() as caught, atomic(using="other"):
        Widget.objects.using("other").create(name="a")
        transaction.on_commit(lambda: lab.publish(7))
    assert "waited for another database" in str(caught[0].message)
    assert lab.hooks.ran[0].sent[0].after_commit


# -- SQL


class Composed:
    """As psycopg's ``Composable``."""

    def as_string(self, context):
        return 'INSERT INTO "t" VALUES (1)'


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO t VALUES (1)",
        b"update t set a = 1",
        "\n  /* why */ -- INSERT\n DELETE FROM t",
        "(((INSERT INTO t SELECT 1)))",
        "REPLACE INTO t VALUES (1)",
        "MERGE INTO t USING s ON true WHEN MATCHED THEN DO NOTHING",
        "TRUNCATE t",
        "CREATE TABLE t (a int)",
        "ALTER TABLE t ADD a int",
        "DROP TABLE t",
        'COPY "a"."t" ("x", y) FROM STDIN',
        "WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x",
        "WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x",
        "SELECT 1; DELETE FROM t",
        Composed(),
    ],
)
def test_statements_that_write(sql):
    assert wrote(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM t FOR UPDATE",
        "SELECT 'x; DELETE FROM t'",
        "-- DELETE FROM t\nSELECT 1",
        'SAVEPOINT "s1"',
        "RELEASE SAVEPOINT s1",
        "ROLLBACK TO SAVEPOINT s1",
        "COPY (SELECT * FROM t) TO STDOUT",
        "COPY t TO STDOUT",
        "WITH x AS (SELECT * FROM t FOR UPDATE) SELECT * FROM x",
        "WITH x AS (SELECT * FROM t FOR NO KEY UPDATE) SELECT * FROM x",
        """WITH x AS (SELECT "update", 'delete' FROM t) SELECT * FROM x""",
        "CREATE TEMPORARY TABLE t (a int)",
        "EXPLAIN INSERT INTO t VALUES (1)",
        "UPDATED",
        "",
    ],
)
def test_statements_that_do_not_write(sql):
    assert not wrote(sql)


def test_executemany_writes(lab):
    table = Widget._meta.db_table
    with lab.warns(), atomic(), connection.cursor() as cursor:
        cursor.executemany(f"INSERT INTO {table} (name) VALUES (%s)", [["a"], ["b"]])
        lab.publish(1)
