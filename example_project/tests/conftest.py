"""Fixtures of this project. The plugin needs none: it finds the Celery app by itself."""

import pytest

from tests.factories import UserFactory, WidgetFactory


@pytest.fixture
def user(db):
    return UserFactory(username="ada")


@pytest.fixture
def widget(db):
    return WidgetFactory(name="old")
