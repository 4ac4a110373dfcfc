"""Settings: SQLite in memory, or the file, PostgreSQL or MariaDB that the environment names."""

import os

SECRET_KEY = "only-for-the-benchmark"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "shop"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True

SERVERS = {"postgresql": ("postgresql", "postgres", 5432), "mariadb": ("mysql", "root", 3306)}

if os.environ.get("DATABASE") in SERVERS:
    engine, user, port = SERVERS[os.environ["DATABASE"]]
    DATABASES = {
        "default": {
            "ENGINE": f"django.db.backends.{engine}",
            "NAME": os.environ.get("DATABASE_NAME", "djcelery_benchmark"),
            "USER": os.environ.get("DATABASE_USER", user),
            "PASSWORD": os.environ.get("DATABASE_PASSWORD", ""),
            "HOST": os.environ.get("DATABASE_HOST", "127.0.0.1"),
            "PORT": os.environ.get("DATABASE_PORT", str(port)),
        }
    }
else:
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": ":memory:",
            "TEST": {"NAME": os.environ.get("DATABASE_FILE")},
        }
    }

CELERY_BROKER_URL = "memory://"
CELERY_RESULT_BACKEND = "cache+memory://"
if os.environ.get("BENCHMARK_TASKS"):
    CELERY_IMPORTS = ["shop.many_tasks"]
