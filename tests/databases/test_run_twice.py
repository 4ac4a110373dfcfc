"""What a second run leaves in the databases, by whatever way it has written."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support import databases

if TYPE_CHECKING:
    from tests.support.project import Project, Run

pytestmark = pytest.mark.usefixtures("users")

MODELS = """
    from django.db import models


    class Order(models.Model):
        name = models.CharField(max_length=50, default="")


    class Tag(models.Model):
        name = models.CharField(max_length=50)


    class Product(models.Model):
        stock = models.IntegerField(default=4)
        sold_out = models.BooleanField(default=False)
        price = models.DecimalField(max_digits=6, decimal_places=2, null=True)
        data = models.JSONField(default=dict)
        updated = models.DateTimeField(auto_now=True)
        tags = models.ManyToManyField(Tag)
    """
TESTS = """
    import pytest
    from celery import shared_task
    from django.contrib.auth.models import Group
    from django.db import connection, transaction
    from django.db.models import F
    from pytest_djcelery.messages.events import RanTwice
    from pytest_djcelery.session.session import current_sandbox
    from shop.models import Order, Product, Tag

    WAYS = {}

    def way(*effects):
        def noted(function):
            WAYS[function.__name__] = function, list(effects)
            return function
        return noted

    @shared_task
    def write(name):
        WAYS[name][0]()

    @way("INSERT shop_order: 2 rows")
    def bulk_create():
        Order.objects.bulk_create([Order(name="a"), Order(name="b")])

    @way("UPDATE shop_product 7: stock 3 → 2")
    def f_expression():
        Product.objects.update(stock=F("stock") - 1)

    @way("UPDATE shop_product 7: stock 3 → 2")
    def raw_sql():
        with connection.cursor() as cursor:
            cursor.execute("UPDATE shop_product SET stock = stock - %s WHERE id = 7", [1])

    @way("INSERT shop_order: 2 rows")
    def many_statements():
        with connection.cursor() as cursor:
            cursor.executemany("INSERT INTO shop_order (name) VALUES (%s)", [["a"], ["b"]])

    @way(
        'UPDATE shop_product 7: sold_out False → True, price NULL → 1.25, data "{}" → "[1]"'
    )
    def several_columns():
        again = bool(Order.objects.filter(name="seen"))
        Order.objects.get_or_create(name="seen")
        if again:
            Product.objects.update(price="1.25", data=[1], sold_out=True)

    @way("DELETE shop_order: 1 row")
    def delete():
        Order.objects.first().delete()

    @way("INSERT shop_tag: 1 row", "INSERT shop_product_tags: 1 row")
    def many_to_many():
        Product.objects.get().tags.create(name="new")

    @way("INSERT auth_group: 1 row (database other)")
    def other_database():
        Group.objects.using("other").create(name=str(Group.objects.using("other").count()))

    @way()
    def the_same_values():
        Product.objects.update(stock=1)

    @way()
    def a_save():
        product = Product.objects.get()
        product.stock = 2
        product.save()  # the clock stands still, and so does `auto_now`

    @way()
    def many_to_many_anew():
        tags = Product.objects.get().tags
        tags.set(list(Tag.objects.all()), clear=True)

    @way()
    def what_is_gone_again():
        with pytest.raises(KeyError), transaction.atomic():
            Order.objects.create(name="rolled back")
            raise KeyError
        Order.objects.create(name="deleted").delete()

    @way("shop_order (1,202 rows, too many to compare one by one): 1 more row")
    def one_of_many():
        fill()
        Order.objects.create()

    @way(
        "shop_order (1,200 rows, too many to compare one by one): as many rows, with other contents"
    )
    def one_of_many_changes():
        fill()
        last = Order.objects.order_by("pk")[42]
        last.name += "!"
        last.save()

    @way()
    def none_of_many_changes():
        fill()
        Order.objects.filter(name="7").update(name="seven")

    def fill():
        if Order.objects.count() < 1000:
            Order.objects.all().delete()
            Order.objects.bulk_create(Order(name=str(number)) for number in range(1200))

    @pytest.mark.celery_redeliver("report")
    class Both:
        def check(self, way, celery_inline):
            Product.objects.create(pk=7).tags.create(name="old")
            Order.objects.bulk_create([Order(name="one"), Order(name="two")])
            write.delay(way)
            assert celery_inline.run().succeeded == 1
            [event] = current_sandbox().journal.events(RanTwice)
            assert list(event.effects) == WAYS[way][1]

    @pytest.mark.django_db(databases=["default", "other"])
    class TestRolledBack(Both):
        @pytest.mark.parametrize("way", WAYS)
        def test_way(self, way, celery_inline):
            self.check(way, celery_inline)
            assert Order.objects.count() < 1202
            if way in ("f_expression", "raw_sql"):
                assert Product.objects.get().stock == 3

    @pytest.mark.django_db(databases=["default", "other"], transaction=True)
    class TestReal(Both):
        @pytest.mark.parametrize("way", ["delete", "f_expression", "many_to_many", "a_save"])
        def test_way(self, way, celery_inline):
            self.check(way, celery_inline)
            assert Order.objects.count() == (0 if way == "delete" else 2)
            if way == "f_expression":
                assert Product.objects.get().stock == 2
    """


@pytest.mark.parametrize("kind", [databases.IN_MEMORY, *databases.SERVERS])
def test_each_way_to_write_is_seen(project: Project, run: Run, kind: str) -> None:
    databases.use(project, kind, "other")
    shutil.rmtree(project.path / "shop/migrations")
    project.write(**{"shop/models": MODELS})
    result = run(TESTS)
    result.assert_outcomes(passed=19)
