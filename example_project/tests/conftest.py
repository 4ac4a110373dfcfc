"""Fixtures of this project. The plugin needs none: it finds the Celery app itself."""

import pytest
from django.db import connection

from tests.factories import UserFactory, WidgetFactory


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings, tmp_path_factory):
    """``celery_live_worker`` has processes that also open the test database.

    They can't where it is SQLite in memory, which is pytest-django's default.
    """
    if connection.vendor == "sqlite":
        name = tmp_path_factory.mktemp("database") / "test.sqlite3"
        connection.settings_dict["TEST"]["NAME"] = str(name)


@pytest.fixture
def user(db):
    return UserFactory(username="ada")


@pytest.fixture
def widget(db):
    return WidgetFactory(name="old")
