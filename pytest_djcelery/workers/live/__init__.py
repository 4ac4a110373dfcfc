"""``celery -A proj worker`` in separate processes."""
