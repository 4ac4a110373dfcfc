"""Settings of the example project.

Everything runs with no server by default. The environment chooses others:

- ``DATABASE``: ``sqlite`` (default), ``postgresql`` or ``mariadb``; where that server is:
  ``DATABASE_HOST``, ``DATABASE_PORT``, ``DATABASE_USER``, ``DATABASE_PASSWORD``,
  ``DATABASE_NAME``
- ``DATABASE_POOL=1``: Django's connection pool (PostgreSQL; Django 5.1, Celery 5.6 and later)
- ``BROKER_URL``: ``filesystem://`` (default), ``redis://...`` or ``amqp://...``
- ``RESULT_BACKEND``: ``django-db`` (default), ``django-cache`` or a URL
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import django
from celery.schedules import crontab
from django.core.exceptions import ImproperlyConfigured

BASE_DIR = Path(__file__).resolve().parent.parent

# Django -----------------------------------------------------------------------------------

SECRET_KEY = os.environ.get("SECRET_KEY", "only-for-the-example-project")
DEBUG = True
ALLOWED_HOSTS: list[str] = []

# django-celery-beat follows a new Django some time after its release.
BEAT_INSTALLED = find_spec("django_celery_beat") is not None

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_celery_results",
    *(["django_celery_beat"] if BEAT_INSTALLED else []),
    "demoapp",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "proj.urls"
WSGI_APPLICATION = "proj.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "static/"

# The worker prints the mails it sends.
_CONSOLE = "django.core.mail.backends.console.EmailBackend"
if django.VERSION >= (6, 1):
    MAILERS = {"default": {"BACKEND": _CONSOLE}}
else:
    EMAIL_BACKEND = _CONSOLE


# Database ---------------------------------------------------------------------------------


def _server(engine: str, *, user: str, port: str) -> dict[str, Any]:
    return {
        "ENGINE": f"django.db.backends.{engine}",
        "NAME": os.environ.get("DATABASE_NAME", "proj"),
        "USER": os.environ.get("DATABASE_USER", user),
        "PASSWORD": os.environ.get("DATABASE_PASSWORD", ""),
        "HOST": os.environ.get("DATABASE_HOST", "127.0.0.1"),
        "PORT": os.environ.get("DATABASE_PORT", port),
    }


def _database(kind: str) -> dict[str, Any]:
    if kind == "sqlite":
        # The worker and the web server write to one file: wait for the other's lock.
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": BASE_DIR / "db.sqlite3",
            "OPTIONS": {"timeout": 20},
        }
    if kind == "postgresql":
        database = _server("postgresql", user="postgres", port="5432")
        if os.environ.get("DATABASE_POOL") == "1":
            # Celery closes the pool in its worker processes, since 5.6: a connection can't be
            # shared between processes.
            database["OPTIONS"] = {"pool": True}
        return database
    if kind == "mariadb":
        return _server("mysql", user="root", port="3306") | {"OPTIONS": {"charset": "utf8mb4"}}
    message = f"DATABASE={kind!r}: expected sqlite, postgresql or mariadb."
    raise ImproperlyConfigured(message)


DATABASES = {"default": _database(os.environ.get("DATABASE", "sqlite"))}

CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.db.DatabaseCache",
        "LOCATION": "my_cache_table",
    },
}

# Celery -----------------------------------------------------------------------------------

CELERY_TIMEZONE = "Australia/Tasmania"
CELERY_TASK_TRACK_STARTED = True
CELERY_TASK_TIME_LIMIT = 30 * 60

CELERY_BROKER_URL = os.environ.get("BROKER_URL", "filesystem://")
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True

if CELERY_BROKER_URL.startswith("filesystem:"):
    # Messages are files: one process writes into the folder that another one reads from.
    # kombu expects the folders to exist.
    _MESSAGES = BASE_DIR / ".broker" / "messages"
    _MESSAGES.mkdir(parents=True, exist_ok=True)
    CELERY_BROKER_TRANSPORT_OPTIONS = {
        "data_folder_in": str(_MESSAGES),
        "data_folder_out": str(_MESSAGES),
        "control_folder": str(BASE_DIR / ".broker" / "control"),
    }

CELERY_RESULT_BACKEND = os.environ.get("RESULT_BACKEND", "django-db")
# Which of CACHES holds the results when the backend is ``django-cache``.
CELERY_CACHE_BACKEND = "default"

# ``DatabaseScheduler`` copies them to the database, where the admin can change them.
CELERY_BEAT_SCHEDULE = {
    "delete-archived-widgets": {
        "task": "demoapp.tasks.delete_archived_widgets",
        "schedule": crontab(hour=3, minute=30),  # by CELERY_TIMEZONE
    },
}
if BEAT_INSTALLED:
    CELERY_BEAT_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"
