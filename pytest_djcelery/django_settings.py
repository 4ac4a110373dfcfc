"""Whether this is a Django project at all; Celery is also used without one."""

from __future__ import annotations

import os
import sys


def django_is_configured() -> bool:
    """Whether there are Django settings, loaded or yet to be loaded. Imports nothing."""
    if os.environ.get("DJANGO_SETTINGS_MODULE"):
        return True
    conf = sys.modules.get("django.conf")
    return conf is not None and conf.settings.configured
