"""A Django project to run pytest in, from outside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

#: The fixture `run`, which is `Project.run` of a fresh project.
Run = Callable[..., pytest.RunResult]

FILES = {
    "proj/__init__": "from .celery import app as celery_app\n\n__all__ = ('celery_app',)\n",
    "proj/celery": """
        import os

        from celery import Celery

        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proj.settings")
        app = Celery("proj")
        app.config_from_object("django.conf:settings", namespace="CELERY")
        app.autodiscover_tasks()
        """,
    "proj/settings": """
        import django

        if django.VERSION >= (6, 1):  # which warns of a default mailer
            MAILERS = {"default": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}}
        SECRET_KEY = "test"
        INSTALLED_APPS = ["shop"]  # to create what Django's own need would take a fifth of each run
        DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
        DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
        ROOT_URLCONF = "proj.urls"
        USE_TZ = True
        CELERY_BROKER_URL = "amqp://nobody:nothing@192.0.2.1:1//"
        CELERY_RESULT_BACKEND = "redis://192.0.2.1:1/0"
        """,
    "proj/urls": "urlpatterns = []\n",
    "shop/__init__": "",
    "shop/models": """
        from django.db import models


        class Order(models.Model):
            name = models.CharField(max_length=50, default="")
        """,
    "shop/migrations/__init__": "",
    "shop/migrations/0001_initial": """
        from django.db import migrations, models


        class Migration(migrations.Migration):
            initial = True
            operations = [
                migrations.CreateModel(
                    "Order",
                    [
                        ("id", models.BigAutoField(primary_key=True, serialize=False)),
                        ("name", models.CharField(default="", max_length=50)),
                    ],
                )
            ]
        """,
    "shop/tasks": """
        from celery import shared_task

        from shop.models import Order


        @shared_task
        def add(x, y):
            return x + y


        @shared_task
        def ship(order_id, *, express=False):
            order = Order.objects.get(pk=order_id)
            order.name = "express" if express else "shipped"
            order.save()
            return order.name


        @shared_task
        def count_orders():
            return Order.objects.count()


        @shared_task
        def fail(text="boom"):
            raise ValueError(text)


        @shared_task(bind=True, default_retry_delay=0)
        def flaky(self, succeed_at=2):
            if self.request.retries < succeed_at:
                raise self.retry(exc=ValueError("not yet"))
            return "ok"
        """,
}


class Project:
    """A Django project with one app, ``shop``, and a way to run tests in it."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.write(**FILES)
        pytester.makeini("[pytest]\nDJANGO_SETTINGS_MODULE = proj.settings\npythonpath = .\n")

    @property
    def path(self) -> Path:
        """The folder of the project."""
        return self.pytester.path

    def write(self, **files: str) -> None:
        """Write modules by their path without ``.py``."""
        for name, text in files.items():
            path = self.path / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(text))

    def settings(self, text: str) -> None:
        """Add lines to the Django settings."""
        path = self.path / "proj/settings.py"
        path.write_text(path.read_text() + dedent(text))

    def tasks(self, text: str) -> None:
        """Add tasks to the app ``shop``."""
        path = self.path / "shop/tasks.py"
        path.write_text(path.read_text() + "\n\n" + dedent(text))

    def ini(self, *lines: str) -> None:
        """Add ini values."""
        path = self.path / "tox.ini"
        # ``makeini`` leaves no newline at the end: the first line must not join another.
        path.write_text("\n".join([path.read_text(), *lines, ""]))

    def run(self, test: str, *args: str, preamble: str = "") -> pytest.RunResult:
        """Run a test module in a separate pytest process, warnings as errors.

        Args:
            test: the module.
            args: options of pytest.
            preamble: what the module begins with, where several tests share it.
        """
        self.write(test_it=dedent(preamble) + dedent(test))
        return self.pytester.runpytest_subprocess(
            "-p", "no:randomly", "-p", "no:cacheprovider", "-W", "error", *args
        )
