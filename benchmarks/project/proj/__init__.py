"""A small Django project, after Celery's tutorial."""

from .celery import app as celery_app

__all__ = ("celery_app",)
