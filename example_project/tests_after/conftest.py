"""No fixture for Celery: the plugin has them."""

import pytest
from django.contrib.auth import get_user_model

from demoapp.models import Widget


@pytest.fixture
def user(db):
    return get_user_model().objects.create(username="ada")


@pytest.fixture
def widget(db):
    return Widget.objects.create(name="old")
