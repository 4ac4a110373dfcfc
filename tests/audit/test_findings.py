"""What the audit finds in an old-style suite, and what it doesn't take for a fault."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.audit.suites import EAGER, QUEUED
from tests.support import services

if TYPE_CHECKING:
    from tests.audit.conftest import Audited
    from tests.support.project import Project


def _brief(found: list[dict[str, Any]]) -> list[tuple[str, str, str, int]]:
    return [(each["kind"], each["function"], each["subject"], each["tests"]) for each in found]


# Published inside an open transaction --------------------------------------------------------


def test_a_message_that_overtakes_a_commit_is_found(audited: Audited) -> None:
    [found, *_] = audited(
        EAGER
        + """
REAL = pytest.mark.django_db(transaction=True)


@pytest.fixture(params=["rollback", pytest.param("commit", marks=REAL)])
def transactions():
    pass


def test_eager(transactions):
    order_in_transaction()


def test_broker(transactions):
    app.conf.task_always_eager = False
    order_in_transaction()


def test_mock(transactions, monkeypatch):
    monkeypatch.setattr(ship, "delay", lambda pk: None)
    order_in_transaction()
"""
    )
    assert found["kind"] == "published-in-transaction"
    assert (found["path"], found["function"]) == ("shop/services.py", "order_in_transaction")
    assert found["code"] == "ship.delay(order.pk)"
    assert found["subject"] == "shop.tasks.ship"
    assert found["sure"] is True
    assert found["facts"] == {
        "opened by": ["`with transaction.atomic()` at shop/services.py:9 in order_in_transaction"],
        "row": ["shop.Order, whose primary key is argument 1"],
        "written": ["before it was sent"],
    }
    assert found["tests"] == 6
    assert found["examples"] == [
        "test_it.py::test_broker[commit]",
        "test_it.py::test_broker[rollback]",
        "test_it.py::test_eager[commit]",
    ]


def test_a_write_after_the_message_is_reported_with_its_line(
    audited: Audited, old: Project
) -> None:
    old.write(
        **{
            "shop/late": """
                from django.db import transaction

                from shop.models import Order
                from shop.tasks import add


                @transaction.atomic
                def late():
                    add.delay(1, 2)
                    Order.objects.filter(pk=1).update(name="x")
                    Order.objects.create(pk=7)
                """
        }
    )
    [found] = audited(EAGER + "from shop.late import late\n\ndef test_it():\n    late()\n")
    assert found["sure"] is False
    assert found["facts"]["written"] == ["after it was sent, at shop/late.py:12 in late"]
    assert found["facts"]["opened by"] == [
        "the decorator transaction.atomic of shop.late.late (shop/late.py:8)"
    ]


def test_a_write_that_is_rolled_back_overtakes_nothing(audited: Audited, old: Project) -> None:
    old.write(
        **{
            "shop/undone": """
                from django.db import transaction

                from shop.models import Order
                from shop.tasks import add


                def undone():
                    add.delay(1, 2)
                    try:
                        with transaction.atomic():
                            Order.objects.create(pk=1)
                            raise LookupError
                    except LookupError:
                        pass


                @transaction.atomic
                def nothing():
                    undone()


                @transaction.atomic
                def something():
                    undone()
                    Order.objects.create()
                """
        }
    )
    test = EAGER + "from shop.undone import nothing, something\n\ndef test_it():\n    {}()\n"
    assert audited(test.format("nothing")) == []
    [found] = audited(test.format("something"))
    assert found["facts"]["written"] == ["after it was sent, at shop/undone.py:26 in something"]


MODELS_WITH_KEYS_OF_EACH_KIND = """
from uuid import uuid4

from django.db import models, transaction
from django.contrib.auth.models import Group


class Parcel(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid4)

    class Meta:
        app_label = "shop"
        managed = False  # it has no table

    def __str__(self):
        return Order.objects.get(name="there is none").name


class Draft(Order):
    class Meta:
        app_label = "shop"
        proxy = True


class Express(Order):
    class Meta:
        app_label = "shop"
        managed = False


@shared_task
def take(*args, **kwargs):
    pass


@transaction.atomic
def write(send):
    made = Order.objects.bulk_create([Order(), Order()])
    Group.objects.create(pk=made[0].pk)
    send(made, Parcel(id=uuid4()))
"""


@pytest.mark.usefixtures("users")
def test_rows_are_known_by_any_form_of_their_key(audited: Audited, old: Project) -> None:
    old.tasks(MODELS_WITH_KEYS_OF_EACH_KIND)
    found = audited(
        EAGER
        + """
from django.db.models.signals import post_save
from shop.tasks import Draft, Express, Parcel


@pytest.mark.parametrize(
    "send",
    [
        lambda made, parcel: take.delay(made[0].pk),
        lambda made, parcel: take.delay(str(made[1].pk)),
        lambda made, parcel: take.delay(made),
        lambda made, parcel: take.delay(orders={"first": made[0].pk}),
        lambda made, parcel: [post_save.send(Parcel, instance=parcel, using="default"),
                              take.delay(parcel.id.hex)],
        lambda made, parcel: take.delay(parcel, [Order.objects.all()]),
        lambda made, parcel: take.delay(True, 3.0, made[0].pk + 1000),
        lambda made, parcel: take.delay(user_id=made[0].pk),  # of another table
        lambda made, parcel: take.delay(user=made[0].pk, group=made[0].pk),
        lambda made, parcel: take.delay(order_id=Draft.objects.create().pk),
        lambda made, parcel: [post_save.send(Express, instance=Express(pk=5000), using="default"),
                              take.delay(order=5000)],
    ],
)
def test_it(send, monkeypatch):
    monkeypatch.setattr(take, "delay", lambda *args, **kwargs: None)
    write(send)
"""
    )
    rows = {
        row
        for each in found
        if each["kind"] == "published-in-transaction"
        for row in each["facts"].get("row", ["none"])
    }
    assert rows == {
        "none",
        "shop.Order, whose primary key is argument 'orders'",
        "shop.Order or auth.Group, whose primary key is argument 1",
        "shop.Order, whose primary key is argument 1",
        "shop.Parcel, whose primary key is argument 1",
        "auth.Group, whose primary key is argument 'group'",
        "shop.Order, whose primary key is argument 'order_id'",
        "shop.Order, whose primary key is argument 'order'",
    }


@pytest.mark.usefixtures("users")
def test_the_model_that_fits_parameter_or_task_is_the_row(audited: Audited, old: Project) -> None:
    old.tasks("""
        from django.contrib.auth.models import Group
        from django.db import transaction


        @shared_task
        def tell(text, group_id): pass

        @shared_task
        def ship_order(pk, /): pass

        @shared_task(name="shop.group.flush")
        def flush(id): pass

        @shared_task
        def other(user_id, n): pass


        @transaction.atomic
        def write(send):
            order = Order.objects.create(pk=7)
            Group.objects.create(pk=7)
            send(order.pk)
        """)
    found = audited(
        EAGER
        + """
from shop.tasks import flush, other, ship_order, tell


@pytest.mark.parametrize(
    "send",
    [
        lambda key: tell.delay("7", key),
        lambda key: ship_order.delay(key),
        lambda key: flush.delay(key),
        lambda key: other.delay(key, key),  # a user's, which was not written
    ],
)
def test_it(send):
    write(send)
"""
    )
    assert {
        each["subject"].rpartition(".")[2]: each["facts"]["row"]
        for each in found
        if each["kind"] == "published-in-transaction"
    } == {
        "tell": ["auth.Group, whose primary key is argument 2"],
        "ship_order": ["shop.Order, whose primary key is argument 1"],
        "flush": ["shop.Order or auth.Group, whose primary key is argument 1"],
        "other": ["shop.Order or auth.Group, whose primary key is argument 2"],
    }


CHANGES_AND_DELETIONS = """
from celery import current_app
from django.db import transaction
from django.db.models import Q

orders = Order.objects


def change(order):
    orders.filter(pk=order.pk).update(name="x")


def change_some(order):
    orders.filter(name="", id__in=[order.pk]).update(name="x")


def change_in_bulk(order):
    orders.bulk_update([order], ["name"])


def delete(order):
    orders.get(pk=order.pk).delete()


def delete_some(order):
    orders.filter(pk=order.pk).delete()


def change_others(order):
    orders.exclude(pk=order.pk).update(name="x")


def change_either(order):
    orders.filter(Q(pk=order.pk) | Q(name="other")).update(name="x")


def change_none(order):
    orders.filter(name="other").update(name="x")
    orders.filter(pk=order.pk, name="none").update(name="x")


@transaction.atomic
def send_after(write, order):
    pk = order.pk
    write(order)
    current_app.send_task(write.__name__, [pk])
"""


def test_rows_that_are_changed_or_deleted_are_known_by_their_keys(
    audited: Audited, old: Project
) -> None:
    old.tasks(CHANGES_AND_DELETIONS)
    found = audited(
        QUEUED
        + """
WRITES = [
    change, change_some, change_in_bulk, delete, delete_some,
    change_others, change_either, change_none,
]


@pytest.mark.parametrize("write", WRITES)
def test_it(write):
    Order.objects.create(name="other")
    send_after(write, Order.objects.create())
"""
    )
    known = {
        each["subject"]: "row" in each["facts"]
        for each in found
        if each["kind"] == "published-in-transaction"
    }
    assert known == {
        "change": True,
        "change_some": True,
        "change_in_bulk": True,
        "delete": True,
        "delete_some": True,
        "change_others": False,
        "change_either": False,
        "change_none": False,
    }


def test_the_django_call_that_opened_the_block_is_named_whoever_calls_it(
    audited: Audited, old: Project
) -> None:
    old.tasks("""
        from django.db.models.signals import post_save
        from django.dispatch import receiver


        @receiver(post_save, sender=Order)
        def announce(instance, **_):
            add.delay(instance.pk, 1)
        """)
    [found] = audited(EAGER + "def test_it():\n    Order.objects.get_or_create(name='x')\n")
    assert found["function"] == "announce"
    assert found["facts"]["opened by"] == [
        "QuerySet.get_or_create(), called at test_it.py:19 in test_it"
    ]


def test_messages_that_do_not_race_are_not_found(audited: Audited) -> None:
    assert (
        audited(
            EAGER
            + """
def test_a_transaction_that_only_reads():
    count_in_transaction()


def test_a_block_that_the_test_opens():
    with transaction.atomic():
        Order.objects.create()
        add.delay(1, 2)


@transaction.atomic
def test_a_block_that_decorates_a_function_of_the_test():
    Order.objects.create()
    add.delay(1, 2)


def test_no_block():
    order = Order.objects.create()
    add.delay(order.pk, 2)
"""
        )
        == []
    )


def test_a_hook_that_the_test_runs_in_place_of_the_commit_is_not_a_race(audited: Audited) -> None:
    assert (
        audited(
            EAGER
            + """
from unittest import mock


@pytest.mark.parametrize(
    "patch",
    [
        lambda: mock.patch("django.db.transaction.on_commit", side_effect=lambda hook: hook()),
        lambda: mock.patch("django.db.transaction.on_commit", lambda hook: hook()),
        lambda: mock.patch.object(transaction, "on_commit", new=lambda hook, using=None: hook()),
    ],
)
def test_by_mock(patch):
    with patch():
        order_on_commit()


def test_by_monkeypatch(monkeypatch):
    monkeypatch.setattr("django.db.transaction.on_commit", lambda hook: hook())
    order_on_commit()
"""
        )
        == []
    )


def test_a_block_inside_the_tests_block_belongs_to_the_code(audited: Audited) -> None:
    [found] = audited(
        EAGER + "def test_it():\n    with transaction.atomic():\n        order_in_transaction()\n"
    )
    assert found["kind"] == "published-in-transaction"


def test_a_nested_eager_task_is_judged_by_its_own_blocks(audited: Audited, old: Project) -> None:
    old.tasks("""
        @shared_task
        def outer(pk):
            add.delay(pk, 1)
        """)
    old.write(
        **{
            "shop/nested": """
                from django.db import transaction

                from shop.models import Order
                from shop.tasks import outer


                @transaction.atomic
                def nested():
                    outer.delay(Order.objects.create().pk)
                """
        }
    )
    found = audited(EAGER + "from shop.nested import nested\n\ndef test_it():\n    nested()\n")
    assert [each["subject"] for each in found] == ["shop.tasks.outer"]


APPLY_OVERRIDDEN = """
from celery import Task
from functools import wraps


def decorated(method):
    @wraps(method)
    def inner(self, *args, **kwargs):
        return method(self, *args, **kwargs)

    return inner


class Own(Task):
    @decorated
    def apply(self, *args, **kwargs):
        return super().apply(*args, **kwargs)


@shared_task(base=Own)
def own(*args):
    pass
"""


def test_eager_runs_of_every_kind_are_publishes_and_apply_is_not(
    audited: Audited, old: Project
) -> None:
    old.tasks(APPLY_OVERRIDDEN)
    old.write(
        **{
            "shop/ways": """
                from celery import chain, chord, group
                from django.db import transaction

                from shop.models import Order
                from shop.tasks import own


                @transaction.atomic
                def ways(number):
                    Order.objects.create()
                    if number == 0:
                        own.delay()
                    elif number == 1:
                        own.s().apply_async()
                    elif number == 2:
                        group([own.s()])()
                    elif number == 3:
                        chain(own.s(), own.s()).delay()
                    elif number == 4:
                        chord([own.s()], own.s())()
                    elif number == 5:
                        own.apply()
                    elif number == 6:
                        own.s().apply()
                    elif number == 7:
                        group([own.s()]).apply()
                    elif number == 8:
                        own.apply(link=own.si())
                """
        }
    )
    found = audited(
        EAGER
        + """
from shop.ways import ways

@pytest.mark.parametrize("number", range(9))
def test_it(number):
    ways(number)
"""
    )
    assert sorted(each["code"] for each in found) == [
        "chain(own.s(), own.s()).delay()",
        "chord([own.s()], own.s())()",
        "group([own.s()])()",
        "own.delay()",
        "own.s().apply_async()",
    ]


def test_a_map_is_reported_as_its_task_and_celerys_internal_tasks_are_not_reported(
    audited: Audited, old: Project
) -> None:
    old.write(
        **{
            "shop/maps": """
                from celery import chord
                from django.db import transaction

                from shop.models import Order
                from shop.tasks import add, ship


                @transaction.atomic
                def maps():
                    pk = Order.objects.create().pk
                    ship.map([pk]).apply_async()
                    add.starmap([(0, 0), (0, pk)]).apply_async()
                    add.chunks(iter([(0, pk), (pk, 0)]), 10).apply_async()


                def with_chord():
                    chord([add.s(1, 2)], add.s(3))()
                """
        }
    )
    test = """
from shop.maps import maps, with_chord

@pytest.mark.parametrize("way", [maps, with_chord])
def test_it(way):
    way()
"""
    races = [
        ("ship.map([pk]).apply_async()", "shop.tasks.ship", "1"),
        ("add.starmap([(0, 0), (0, pk)]).apply_async()", "shop.tasks.add", "2"),
        ("add.chunks(iter([(0, pk), (pk, 0)]), 10).apply_async()", "shop.tasks.add", "1"),
    ]
    for setting in (EAGER, QUEUED):
        found = audited(setting + test)
        assert {
            (each["code"], each["subject"], *each["facts"]["row"])
            for each in found
            if each["kind"] == "published-in-transaction"
        } == {
            (code, task, f"shop.Order, whose primary key is argument {place}")
            for code, task, place in races
        }
        never_run = [each["subject"] for each in found if each["kind"] == "published-never-run"]
        assert sorted(never_run) == (
            [] if setting is EAGER else ["shop.tasks.add"] * 3 + ["shop.tasks.ship"]
        )


def test_a_proxy_in_connections_is_not_a_second_database(audited: Audited, old: Project) -> None:
    old.write(
        conftest="""
            import pytest
            from django.db import connections


            class Proxy:
                def __init__(self, connection):
                    self.__dict__["connection"] = connection

                def __getattr__(self, name):
                    return getattr(self.connection, name)

                def __setattr__(self, name, value):
                    setattr(self.connection, name, value)


            @pytest.fixture
            def replica(db):
                connections["replica"] = Proxy(connections["default"])
                yield
                del connections["replica"]
            """
    )
    assert (
        audited(
            EAGER
            + """
import shop.services

def read_on_replica():
    with transaction.atomic(using="replica"):
        Order.objects.using("default").count()
        add.delay(1, 2)

read_on_replica.__code__ = read_on_replica.__code__.replace(co_filename=shop.services.__file__)

def test_it(replica):
    read_on_replica()
"""
        )
        == []
    )


def test_a_failure_in_a_package_is_attributed_to_the_projects_line(
    audited: Audited, old: Project
) -> None:
    old.tasks("""
        @shared_task
        def tidy(sql):
            import sqlparse
            return sqlparse.format(sql, indent_width="x", reindent=True)
        """)
    [found] = audited(EAGER + "from shop.tasks import tidy\n\ndef test_it():\n    tidy.delay('')\n")
    assert found["kind"] == "failures-nobody-saw"
    assert (found["path"], found["function"]) == ("shop/tasks.py", "tidy")


# Hooks ---------------------------------------------------------------------------------------


def test_hooks_that_never_ran_are_found_with_what_they_would_have_sent(
    audited: Audited, old: Project
) -> None:
    old.write(
        **{
            "shop/hooks": """
                from functools import partial

                from django.db import transaction

                from shop.tasks import add


                def notify():
                    pass


                def hooks():
                    transaction.on_commit(partial(add.delay, 1, 2))
                    transaction.on_commit(notify)
                    with transaction.atomic():
                        transaction.on_commit(lambda: None)
                    add.apply_async_on_commit((1, 2))
                """
        }
    )
    found = audited(
        EAGER
        + """
from shop.hooks import hooks

@pytest.mark.parametrize("number", range(4))
def test_it(number):
    hooks()
"""
    )
    assert [(each["kind"], each["tests"], each["count"]) for each in found] == [
        ("hooks-never-ran", 4, 4)
    ] * 4
    assert [(each["subject"], each["facts"]) for each in found] == [
        (
            "shop.tasks.add.delay",
            {"what": ["a call of a task's delay"], "would send": ["shop.tasks.add"]},
        ),
        ("shop.hooks.notify", {"what": ["a function"]}),
        (
            "shop.hooks.hooks.<locals>.<lambda>",
            {"what": ["a lambda"], "code": ["transaction.on_commit(lambda: None)"]},
        ),
        (
            "shop.tasks.add.apply_async_on_commit",
            {
                "what": ["the apply_async_on_commit of a task"],
                "would send": ["shop.tasks.add"],
            },
        ),
    ]
    assert found[0]["examples"] == [f"test_it.py::test_it[{number}]" for number in range(3)]


PACKAGE_WITH_HOOKS = """
from functools import partial, wraps

from django.db import transaction


class Cache:
    def flush(self): pass

    def clear(self): transaction.on_commit(self.flush)

    def forget(self): transaction.on_commit(lambda: self.flush())


def run_later(function):
    @wraps(function)
    def call(): function()
    transaction.on_commit(call)


def call_later(function): transaction.on_commit(lambda: function())


def pass_later(function): transaction.on_commit(partial(_call, function))


def _call(function): function()
"""


def test_hooks_internal_to_a_package_are_one_row(audited: Audited, old: Project) -> None:
    old.pytester.makeini(
        "[pytest]\nDJANGO_SETTINGS_MODULE = proj.settings\npythonpath = . env/site-packages\n"
    )
    old.write(
        **{
            "env/site-packages/parcel": PACKAGE_WITH_HOOKS,
            "shop/uses": """
                import parcel
                from shop.tasks import add

                def notify(): pass

                def uses():
                    parcel.Cache().clear()
                    parcel.Cache().forget()

                def uses_too():
                    parcel.Cache().clear()

                def sends():
                    parcel.run_later(notify)
                    parcel.call_later(notify)
                    parcel.pass_later(add.s(1, 2).delay)
                """,
        }
    )
    *others, folded = audited(
        EAGER
        + """
from shop.uses import sends, uses, uses_too

@pytest.mark.parametrize("use", [uses, uses_too, sends])
def test_it(use):
    use()
"""
    )
    assert (folded["path"], folded["tests"], folded["count"]) == ("", 2, 3)
    assert folded["subject"] == "hooks of installed packages, which the project can't change"
    assert folded["facts"] == {
        "parcel": ["parcel.Cache.flush", "parcel.Cache.forget.<locals>.<lambda>"]
    }
    assert [(each["path"], each["line"]) for each in others] == [
        ("shop/uses.py", line) for line in (15, 16, 17)
    ]


def test_a_lambda_of_several_lines_is_shown_whole(audited: Audited, old: Project) -> None:
    old.write(
        **{
            "shop/hooks": """
                from django.db import transaction

                from shop.tasks import add


                def hooks():
                    transaction.on_commit(
                        lambda: add.apply_async(
                            args=[1, 2],  # of all
                            countdown=60,
                        )
                    )
                    if add.name:
                        transaction.on_commit(lambda: (
                            None
                        ), robust=True)
                """
        }
    )
    first, second = audited(EAGER + "from shop.hooks import hooks\n\ndef test_it():\n    hooks()\n")
    assert first["code"] == "transaction.on_commit("
    assert first["facts"]["code"] == [
        "transaction.on_commit(lambda: add.apply_async(args=[1, 2], countdown=60))"
    ]
    assert second["facts"]["code"] == ["transaction.on_commit(lambda: None, robust=True)"]


def test_hooks_that_ran_or_never_would_are_not_a_finding(audited: Audited, old: Project) -> None:
    services = old.path / "shop/services.py"
    services.write_text(
        f"{services.read_text()}\n\n"
        "@transaction.atomic\ndef failing():\n    order_on_commit()\n    1 / 0\n\n\n"
        "def failing_inside():\n    with transaction.atomic():\n        try:\n"
        "            failing()\n        except ZeroDivisionError:\n            pass\n"
    )
    assert (
        audited(
            EAGER
            + """
def test_captured_and_executed(django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks(execute=True) as hooks:
        order_on_commit()
    assert len(hooks) == 1


def test_captured_and_called(django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks() as hooks:
        order_on_commit()
    [hook() for hook in hooks]


@pytest.mark.django_db(transaction=True)
def test_real_transactions():
    order_on_commit()


@pytest.mark.parametrize(
    "transactions",
    ["rollback", pytest.param("commit", marks=pytest.mark.django_db(transaction=True))],
)
def test_rolled_back(transactions):
    pytest.raises(ZeroDivisionError, failing)
    failing_inside()
"""
        )
        == []
    )


# Published and never run ---------------------------------------------------------------------


def test_a_message_that_nobody_takes_is_found(audited: Audited) -> None:
    found = audited(
        QUEUED
        + """
def test_it():
    add.delay(1, 2)
    app.send_task("shop.tasks.count_orders")
"""
    )
    assert _brief(found) == [
        ("published-never-run", "test_it", "shop.tasks.add", 1),
        ("published-never-run", "test_it", "shop.tasks.count_orders", 1),
    ]


def test_a_worker_of_the_process_takes_messages(audited: Audited, old: Project) -> None:
    old.tasks("import celery.contrib.testing.tasks  # the worker of Celery asks for it\n")
    found = audited(
        QUEUED
        + """
from celery.contrib.testing.worker import start_worker

@pytest.mark.django_db(transaction=True)
def test_it():
    with start_worker(app, perform_ping_check=False):
        assert add.delay(1, 2).get(timeout=10) == 3
        fail.delay("unseen")
        with pytest.raises(ValueError):
            fail.delay("seen").get(timeout=10)
""",
        "-p",
        "no:djcelery-fixtures",
    )
    assert _brief(found) == [("failures-nobody-saw", "fail", "shop.tasks.fail", 1)]
    assert found[0]["count"] == 1
    assert found[0]["facts"] == {"raised": ["ValueError"], "ran": ["by a worker"]}


# Failures ------------------------------------------------------------------------------------


def test_an_eager_failure_that_nobody_saw_is_found_at_the_tasks_line(audited: Audited) -> None:
    [found] = audited(EAGER + "def test_it():\n    fail.delay()\n")
    assert _brief([found]) == [("failures-nobody-saw", "fail", "shop.tasks.fail", 1)]
    assert found["path"] == "shop/tasks.py"
    assert found["code"] == "raise ValueError(text)"
    assert found["facts"] == {"raised": ["ValueError"], "ran": ["by eager mode"]}


def test_a_failure_that_the_test_saw_is_not_a_finding(audited: Audited) -> None:
    assert (
        audited(
            EAGER
            + """
from celery import group


@pytest.mark.parametrize(
    "look",
    [
        lambda: fail.delay().failed(),
        lambda: fail.delay().state == "FAILURE",
        lambda: fail.delay().traceback,
        lambda: isinstance(fail.delay().info, ValueError),
        lambda: list(fail.delay().collect(propagate=False)),
        lambda: pytest.raises(ValueError, fail.delay().get),
        lambda: pytest.raises(ValueError, fail.delay().maybe_throw),
        lambda: pytest.raises(ValueError, fail.delay().maybe_reraise),
        lambda: pytest.raises(ValueError, group([fail.s(), fail.s()])().maybe_throw),
        lambda: group([fail.s(), fail.s()])().failed(),
        lambda: not group([fail.s(), fail.s()])().successful(),
        lambda: pytest.raises(ValueError, group([fail.s(), fail.s()])().join),
        lambda: pytest.raises(ValueError, fail.apply, throw=True),
        lambda: flaky.delay().get() == "ok",
    ],
)
def test_it(look):
    assert look()


def test_propagated():
    app.conf.task_eager_propagates = True
    pytest.raises(ValueError, fail.delay)
    app.conf.task_eager_propagates = False
"""
        )
        == []
    )


# Mocks ---------------------------------------------------------------------------------------


def test_a_call_that_a_mock_takes_is_found_however_it_was_put_there(audited: Audited) -> None:
    race, mocked = audited(
        EAGER
        + """
from unittest import mock


@pytest.mark.parametrize(
    "patch",
    [
        lambda: mock.patch("shop.tasks.ship.delay"),
        lambda: mock.patch.object(ship, "delay"),
        lambda: mock.patch.object(ship, "delay", autospec=True),
        lambda: mock.patch.object(ship, "delay", lambda *args: None),
        lambda: mock.patch.multiple(ship, delay=mock.DEFAULT, apply_async=mock.DEFAULT),
        lambda: mock.patch("shop.services.ship"),
        lambda: mock.patch("shop.services.ship", autospec=True),
        lambda: mock.patch("celery.app.task.Task.delay", autospec=True),
    ],
)
def test_by_mock(patch):
    with patch():
        order_in_transaction()


@pytest.mark.parametrize("value", [mock.Mock(), [].append, lambda pk: None])
def test_by_monkeypatch(value, monkeypatch):
    monkeypatch.setattr(ship, "delay", value)
    order_in_transaction()


@mock.patch("shop.tasks.ship.delay")
def test_by_decorator(delay):
    order_in_transaction()
"""
    )
    assert race["kind"] == "published-in-transaction"
    assert race["sure"] is True
    assert race["tests"] == 12
    assert _brief([mocked]) == [("mocked-publishes", "order_in_transaction", "shop.tasks.ship", 12)]
    assert mocked["facts"] == {"mocked": ["shop.tasks.ship.delay"]}


def test_a_mock_that_passes_its_calls_on_is_not_a_finding(audited: Audited) -> None:
    found = audited(
        EAGER
        + """
from functools import wraps
from unittest import mock


def spy(real):
    # As pytest-mock's ``mocker.spy`` does it.
    @wraps(real)
    def wrapper(*args, **kwargs):
        return real(*args, **kwargs)

    return wrapper


@pytest.mark.parametrize(
    "patch",
    [
        lambda: mock.patch.object(ship, "delay", wraps=ship.delay),
        lambda: mock.patch("shop.services.ship", wraps=ship),
        lambda: mock.patch.object(ship, "delay", side_effect=spy(ship.delay), autospec=True),
        lambda: mock.patch.object(ship, "delay", side_effect=spy(ship.delay)),
    ],
)
def test_it(patch):
    with patch() as watched:
        order_in_transaction()
    assert watched.mock_calls or watched.delay.mock_calls
"""
    )
    # The second place is of the spy above; pytest-mock's own is passed over.
    assert [(each["kind"], each["code"], each["tests"], each["count"]) for each in found] == [
        ("published-in-transaction", "ship.delay(order.pk)", 2, 2),
        ("published-in-transaction", "return real(*args, **kwargs)", 2, 2),
    ]


def test_what_a_captured_hook_sends_is_attributed_to_the_line_that_registered_it(
    audited: Audited,
) -> None:
    found = audited(
        """
import pytest

pytestmark = pytest.mark.django_db


def test_broker(django_capture_on_commit_callbacks):
    from shop.services import order_on_commit

    with django_capture_on_commit_callbacks(execute=True):
        order_on_commit()


def test_mock(django_capture_on_commit_callbacks, monkeypatch):
    from shop.services import order_on_commit
    from shop.tasks import ship

    monkeypatch.setattr(ship, "apply_async", lambda *args, **kwargs: None)
    with django_capture_on_commit_callbacks(execute=True):
        order_on_commit()
"""
    )
    assert _brief(found) == [
        ("mocked-publishes", "order_on_commit", "shop.tasks.ship", 1),
        ("published-never-run", "order_on_commit", "shop.tasks.ship", 1),
    ]


def test_a_mocked_call_that_would_fail_is_explained(audited: Audited) -> None:
    found = audited(
        EAGER
        + """
from unittest import mock


@mock.patch("celery.Celery.send_task")
@mock.patch("shop.tasks.ship.delay_on_commit")
@mock.patch("shop.tasks.ship.apply_async")
@mock.patch("shop.tasks.ship.delay")
def test_it(*mocks):
    ship.delay()
    ship.delay(1, now=True)
    ship.apply_async((1, 2))
    ship.apply_async(kwargs={"order_id": {1}})
    ship.delay(Order(pk=1))
    ship.delay_on_commit()
    app.send_task("shop.tasks.ship", [1, 2])
    app.send_task("no.such.task", [1, 2])
    ship.delay(mock.Mock())
    ship.delay(1, express=True)
    ship.delay_on_commit(1)
"""
    )
    assert {each["kind"] for each in found} == {"mocked-publishes"}
    faults = {each["code"]: each["facts"].get("fault") for each in found}
    remedy = "send its primary key (order.pk) and fetch the Order in the task"
    missing = "ship() missing 1 required positional argument: 'order_id'"
    assert faults == {
        "ship.delay()": [f"it doesn't fit the task: {missing}"],
        "ship.delay(1, now=True)": [
            "it doesn't fit the task: ship() got an unexpected keyword argument 'now'"
        ],
        "ship.apply_async((1, 2))": [
            "it doesn't fit the task: ship() takes 1 positional argument but 2 were given"
        ],
        'ship.apply_async(kwargs={"order_id": {1}})': [
            "argument 'order_id', a set, can't be encoded by 'json'; send a list"
        ],
        "ship.delay(Order(pk=1))": [f"argument 1, a Order, can't be encoded by 'json'; {remedy}"],
        "ship.delay_on_commit()": [f"it doesn't fit the task: {missing}"],
        'app.send_task("shop.tasks.ship", [1, 2])': [
            "it doesn't fit the task: ship() takes 1 positional argument but 2 were given"
        ],
        'app.send_task("no.such.task", [1, 2])': None,
        "ship.delay(mock.Mock())": None,
        "ship.delay(1, express=True)": None,
        "ship.delay_on_commit(1)": None,
    }
    assert [each["sure"] for each in found] == [True] * 7 + [False] * 4


def test_a_mock_is_forgotten_when_the_real_thing_is_back(audited: Audited) -> None:
    [found] = audited(
        EAGER
        + """
from unittest import mock

def test_it():
    with mock.patch("shop.tasks.add.delay") as delay:
        pass
    delay(1)
    assert add.delay(1, 2).get() == 3
    with mock.patch("shop.tasks.add.delay"):
        add.delay(1, 2)
"""
    )
    assert found["count"] == 1
    assert found["code"] == "add.delay(1, 2)"
    assert found["line"] == 27


# Outside -------------------------------------------------------------------------------------


def test_a_broker_that_was_reached_is_found(audited: Audited, old: Project) -> None:
    for folder in ("messages", "control"):
        (old.path / folder).mkdir()
    old.settings("""
        CELERY_BROKER_URL = "filesystem://"
        CELERY_BROKER_TRANSPORT_OPTIONS = {
            "data_folder_in": "messages", "data_folder_out": "messages",
            "control_folder": "control",
        }
        """)
    found = audited(QUEUED + "def test_a():\n    add.delay(1, 2)\n\ntest_b = test_a\n")
    assert _brief(found) == [
        ("published-never-run", "test_a", "shop.tasks.add", 2),
        ("outside-reached", "test_a", "filesystem://localhost//", 2),
    ]
    assert found[1]["facts"] == {"what": ["broker"]}


def test_a_result_backend_that_was_reached_is_found(audited: Audited, old: Project) -> None:
    (old.path / "results").mkdir()
    old.settings(f"CELERY_RESULT_BACKEND = 'file://{old.path / 'results'}'\n")
    [found] = audited(
        QUEUED + "def test_it():\n    assert app.AsyncResult('nothing').state == 'PENDING'\n"
    )
    assert found["kind"] == "outside-reached"
    assert found["subject"].startswith("file://")
    assert found["facts"] == {"what": ["result backend"]}


def test_redis_that_a_result_backend_connects_to_is_found(audited: Audited, old: Project) -> None:
    services.require("redis")
    old.settings(f"CELERY_RESULT_BACKEND = {services.url('redis')!r}\n")
    found = audited(
        QUEUED
        + """
def test_it():
    add.delay(1, 2)
"""
    )
    [reached] = [each for each in found if each["kind"] == "outside-reached"]
    assert (reached["function"], reached["code"]) == ("test_it", "add.delay(1, 2)")
    assert reached["subject"].startswith("redis://")
    assert reached["facts"] == {"what": ["result backend"]}


def test_hooks_that_a_test_rolls_back_are_not_a_finding(audited: Audited, old: Project) -> None:
    found = audited(
        EAGER.replace(
            "pytestmark = pytest.mark.django_db\n",
            "@pytest.fixture(params=['rollback', pytest.param('commit', marks=pytest.mark."
            "django_db(transaction=True))], autouse=True)\n"
            "def transactions(request):\n    pass\n\n"
            "pytestmark = pytest.mark.django_db\n",
        )
        + """
def test_by_an_exception():
    with pytest.raises(LookupError), transaction.atomic():
        order_on_commit()
        raise LookupError


def test_by_a_mark():
    with transaction.atomic():
        order_on_commit()
        transaction.set_rollback(True)


def test_hooks_outside_the_block_are_due():
    order_on_commit()
    with pytest.raises(LookupError), transaction.atomic():
        raise LookupError
"""
    )
    assert [(each["kind"], each["examples"]) for each in found] == [
        ("hooks-never-ran", ["test_it.py::test_hooks_outside_the_block_are_due[rollback]"])
    ]
