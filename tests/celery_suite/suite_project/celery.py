import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "suite_project.settings")
app = Celery("suite_project", include=["t.integration.tasks"])
app.config_from_object("django.conf:settings", namespace="CELERY")
