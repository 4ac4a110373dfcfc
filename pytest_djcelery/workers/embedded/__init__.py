"""Celery's own worker in a thread of this process."""
