"""Django for the tests of this process, with two databases in memory.

To be imported before anything that asks for a setting. No pytest plugin of ours takes part.
"""

from __future__ import annotations

from types import SimpleNamespace

from django.conf import settings

if not settings.configured:
    settings.configure(
        DATABASES={
            alias: {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
            for alias in ("default", "other")
        },
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"],
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        ROOT_URLCONF=SimpleNamespace(urlpatterns=[]),
        ALLOWED_HOSTS=["*"],
        SECRET_KEY="test",
        USE_TZ=True,
    )
    import django

    django.setup()

#: Not where the run has been given a project's settings (``--ds``).
is_ours = "other" in settings.DATABASES
