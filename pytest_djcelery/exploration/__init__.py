"""Runs a test once for each schedule that a real system may have: ``celery_explore``."""
