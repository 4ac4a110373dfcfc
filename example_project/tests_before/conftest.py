"""What these tests need, as it is found in many projects."""

import pytest
from celery import Celery
from django.contrib.auth import get_user_model

from demoapp.models import Widget
from proj import celery_app


@pytest.fixture(autouse=True, scope="session")
def broker_in_a_folder_of_its_own(tmp_path_factory):
    """Keep messages, which are files here, out of the folder that a developer's worker reads."""
    folder = str(tmp_path_factory.mktemp("messages"))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("data_folder_in", "data_folder_out", "control_folder"):
            patch.setitem(celery_app.conf.broker_transport_options, name, folder)
        yield


@pytest.fixture
def eager():
    """Each task runs inside ``delay()``. What it raises is kept in a result that nobody reads."""
    celery_app.conf.task_always_eager = True
    yield
    celery_app.conf.task_always_eager = False


@pytest.fixture
def memory_app():
    """An app with a broker in memory, as ``celery.contrib.pytest`` makes one."""
    return Celery("tests", broker="memory://", set_as_current=False)


@pytest.fixture
def user(db):
    return get_user_model().objects.create(username="ada")


@pytest.fixture
def widget(db):
    return Widget.objects.create(name="old")
