"""What the modules of an old-style suite begin with."""

EAGER = """
import pytest
from django.db import transaction
from proj.celery import app
from shop.models import Order
from shop.services import *
from shop.tasks import *

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def eager(settings):
    settings.CELERY_TASK_ALWAYS_EAGER = app.conf.task_always_eager = True
    yield
    app.conf.task_always_eager = False

"""
QUEUED = EAGER.replace("= True\n", "= False\n")
