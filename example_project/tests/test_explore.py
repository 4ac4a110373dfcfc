"""``celery_explore``: one test, run once for each schedule that production may have.

Several workers run messages in any order, a broker may deliver one again, and a host may be lost in
the middle. Each test here holds in all of these; what finds its bug is left out of the tasks.
"""

import pytest

from demoapp.models import Product
from demoapp.tasks import announce, import_products, restock, sell

pytestmark = [pytest.mark.django_db, pytest.mark.celery_explore]


@pytest.fixture
def tea(db):
    return Product.objects.create(name="tea")


def test_the_stock_is_never_negative(tea, celery_inline):
    restock.delay(tea.pk, 5)
    sell.delay(tea.pk, 3)
    sell.delay(tea.pk, 2)
    celery_inline.run()  # in each of the six orders
    tea.refresh_from_db()
    assert 0 <= tea.stock <= 5


@pytest.mark.celery_explore(duplicates=1)
def test_customers_get_one_mail(tea, celery_inline, mailoutbox):
    announce.delay(tea.pk)
    restock.delay(tea.pk, 5)
    celery_inline.run()  # in each order, with each of the two delivered again, at once or later
    assert [mail.subject for mail in mailoutbox] == ["New: tea"]


@pytest.mark.celery_explore(crashes=1, lost="error")
def test_an_import_can_be_cut_anywhere(tea, celery_inline):
    import_products.delay({"tea": 7, "milk": 2})
    import_products.delay({"sugar": 4})
    celery_inline.run()  # with the worker's host lost at the start or the end of any run
    stocks = {product.name: product.stock for product in Product.objects.all()}
    assert stocks == {"tea": 7, "milk": 2, "sugar": 4}
    assert Product.objects.count() == len(stocks)
