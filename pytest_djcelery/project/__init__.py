"""The project's Celery app: found, configured in layers, kept away from what is real, put back."""
