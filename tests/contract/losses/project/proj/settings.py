import json
import os

import django

if django.VERSION >= (6, 1):  # which warns of a default mailer
    MAILERS = {"default": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}}
SECRET_KEY = "test"
INSTALLED_APPS = ["shop"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("LOSSES_DATABASE", ":memory:"),
        "TEST": {"NAME": os.environ.get("LOSSES_DATABASE")},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
CELERY_TASK_TRACK_STARTED = True
#: What the recorder sets: broker, result backend, prefixes.
for _name, _value in json.loads(os.environ.get("LOSSES_SETTINGS", "{}")).items():
    globals()[f"CELERY_{_name}"] = _value
