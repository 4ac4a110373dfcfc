"""The project's Celery app."""

import os
from typing import Any

from celery import Celery, Task

# For the ``celery`` command, which knows nothing of manage.py.
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proj.settings")

app = Celery("proj")

# All of Celery's settings are in Django's settings, prefixed with ``CELERY_``. A string, so that
# worker processes load the settings themselves.
app.config_from_object("django.conf:settings", namespace="CELERY")

# Finds ``tasks.py`` in each of INSTALLED_APPS.
app.autodiscover_tasks()


@app.task(bind=True, ignore_result=True)
def debug_task(self: "Task[Any, Any]") -> None:
    """Print its own request, to see that a worker is there."""
    print(f"Request: {self.request!r}")  # noqa: T201 - what the tutorial has it do
