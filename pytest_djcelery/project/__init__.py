"""The project's Celery app: found, configured in layers, kept off real servers, put back."""
