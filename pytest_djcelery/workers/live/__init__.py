"""``celery -A proj worker`` in processes of its own."""
