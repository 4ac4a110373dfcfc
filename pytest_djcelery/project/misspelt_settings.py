"""Settings in Celery's namespace that Celery doesn't have: where they are, and what was meant."""

from __future__ import annotations

import difflib
import linecache
import re
import sys
import warnings
from typing import TYPE_CHECKING, Final

from pytest_djcelery import locations
from pytest_djcelery.errors import BadOptionError, UnknownSettingWarning
from pytest_djcelery.project.configuration import canonical, is_foreign, setting_name

if TYPE_CHECKING:
    from celery import Celery

_MISSPELT: Final = 0.8  # how similar a misspelt name is to the setting that was meant


def warn_of_changed(app: Celery, setting: str, error: BadOptionError) -> None:
    """Warn of a setting that a test changes, at the line that does so."""
    if not is_foreign(app, setting):
        place = locations.of_caller()
        _warn(app, setting, error, place.path if place else "<unknown>", place.line if place else 1)


def warn_of_settings_module(app: Celery) -> None:
    """Warn of what is misspelt in the module of Django's settings, at its line there.

    A name that is like none of Celery's is a library's, or the project's own.
    """
    namespace = app.namespace
    if not namespace or setting_name(app, "timezone") is None:
        return
    from django.conf import settings

    module = sys.modules.get(getattr(settings, "SETTINGS_MODULE", None) or "")
    path = getattr(module, "__file__", None)
    if path is None:
        return
    for setting in [name for name in vars(module) if name.startswith(f"{namespace}_".upper())]:
        try:
            canonical(setting, namespace=namespace)
        except BadOptionError as error:
            if meant(app, setting):
                _warn(app, setting, error, path, _line_of(setting, path))


def meant(app: Celery, setting: str) -> str | None:
    """The Django setting whose name is nearest; ``None`` if none is near."""
    from celery.app.defaults import SETTING_KEYS

    bare = setting.lower().removeprefix(f"{app.namespace}_".lower())
    near = difflib.get_close_matches(bare, SETTING_KEYS, n=1, cutoff=_MISSPELT)
    return f"{app.namespace}_{near[0]}".upper() if near else None


def _warn(app: Celery, setting: str, error: BadOptionError, path: str, line: int) -> None:
    write = meant(app, setting)
    remedy = f" Write {write}." if write else ""
    # Without a registry, so that no filter takes a second one for a repetition of the first.
    warnings.warn_explicit(f"{setting}: {error}{remedy}", UnknownSettingWarning, path, line)


def _line_of(setting: str, path: str) -> int:
    written = re.compile(rf"\s*{setting}\s*[:=]")
    lines = linecache.getlines(path)
    return next((number for number, line in enumerate(lines, 1) if written.match(line)), 1)
