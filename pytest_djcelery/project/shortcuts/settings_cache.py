"""Caches Celery's settings, so that those missing from Django's are not looked up each time.

Celery reads some ten settings for each message, and looks each of them up in up to four spellings
in Django's settings, where most are missing; that is a quarter of what a message costs. A cached
setting is used only while none of its possible sources has changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache as cached
from functools import partial
from operator import is_not
from typing import TYPE_CHECKING, Any

from pytest_djcelery.patching import patches, replaced, standing_while
from pytest_djcelery.project.derived import MISSING

if TYPE_CHECKING:
    from celery import Celery


class SettingsCache:
    """What was read of an app's settings; it is shared by all tests of a run."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[tuple[tuple[str, Any], ...], Any]] = {}
        self._sources: list[Any] = []
        self._names: list[list[str]] = []

    def found(self, conf: Any, django: _DjangoSettings) -> None:
        """Forget everything if the sources of settings, or the names in Django's, have changed."""
        sources = [conf, *conf.maps, *django.held]
        names = [list(settings) for settings in django.held]
        if names != self._names or list(map(id, sources)) != list(map(id, self._sources)):
            self.known.clear()
        self._sources, self._names = sources, names


@patches(
    "celery.app.utils:Settings.__getitem__",
    why="Speed: 100 µs of a message.",
    checked_on="Celery 5.4 to 5.7",
)
@contextmanager
def settings_reads_cached(app: Celery, cache: SettingsCache | None = None) -> Iterator[None]:
    """Within the ``with``, have ``app.conf`` remember what it has read.

    Args:
        app: The app whose settings are cached.
        cache: What was read in earlier tests.

    Private API (``ConfigurationView.__getitem__`` and ``_to_keys``, ``LazySettings._wrapped``),
    checked on Celery 5.4 to 5.7 and Django 4.2 to 6.1.
    """
    from celery.app.utils import Settings

    read = Settings.__getitem__
    conf = app.conf
    if not app.configured:
        conf.finalize()
    django = _DjangoSettings()
    cache = cache or SettingsCache()
    cache.found(conf, django)
    known = cache.known
    readable = _is_readable(conf.maps)
    standing_while(partial(_refreshed, app, conf, list(conf.maps), cache, django))

    def __getitem__(self: Any, key: str) -> Any:  # noqa: N807 - what it replaces
        if self is not conf:
            return read(self, key)
        changes = self.maps[0]
        # What `changed` says, without a call if no settings are overridden.
        if django.settings["_wrapped"] is not django.holder or (
            len(django.names) != django.count or (django.overrides and django.changed)
        ):
            django.look()
            cache.found(conf, django)
        elif (entry := known.get(key)) is not None:
            seen, value = entry
            for spelling, change in seen:
                if changes.get(spelling, MISSING) is not change:
                    break
            else:
                return value
        value = read(self, key)
        spellings = dict.fromkeys(
            (*self._to_keys(key), *(spelled(key) for spelled in self._keys or ()))
        )
        first = next(iter(spellings))
        if first in changes or not any(map(django.has, spellings)):
            known[key] = tuple((name, changes.get(name, MISSING)) for name in spellings), value
        return value

    if not readable:
        yield
        return
    with replaced(Settings, __getitem__=__getitem__), _setting_names_cached():
        yield


def _refreshed(
    app: Celery, conf: Any, maps: list[Any], cache: SettingsCache, django: _DjangoSettings
) -> bool:
    """Whether the same settings are still read; if so, look which names they have now."""
    if app.conf is not conf or not app.configured or len(conf.maps) != len(maps):
        return False
    if any(map(is_not, conf.maps, maps)):
        return False
    django.look()
    cache.found(conf, django)
    return True


@patches(
    "celery.app.utils:Settings.find_value_for_key",
    why="Speed: part of those 100 µs.",
    checked_on="Celery 5.4 to 5.7",
)
@contextmanager
def _setting_names_cached() -> Iterator[None]:
    """Remember which setting Celery means when, for each stored result, it names it by its parts.

    Private API (``Settings.find_value_for_key``), checked on Celery 5.4 to 5.7.
    """
    from celery.app.defaults import find
    from celery.app.utils import Settings

    @cached
    def key_of(name: str, namespace: str) -> str:
        return "_".join(filter(None, find(name, namespace)[:-1]))

    def find_value_for_key(self: Any, name: str, namespace: str = "celery") -> Any:
        return self[key_of(name, namespace)]

    with replaced(Settings, find_value_for_key=find_value_for_key):
        yield


def _is_readable(maps: list[Any]) -> bool:
    """Whether settings only come from Celery's own maps, which stay, and Django's settings."""
    from celery.utils.collections import DictAttribute
    from django.conf import LazySettings

    return all(
        isinstance(source, dict)
        or (isinstance(source, DictAttribute) and isinstance(source.obj, LazySettings))
        for source in maps
    )


class _DjangoSettings:
    """Django's settings, and whether names in them were added or removed since a look."""

    __slots__ = ("_held", "count", "holder", "names", "overrides", "settings")

    def __init__(self) -> None:
        from django.conf import settings

        self.settings: Mapping[str, Any] = vars(settings)
        self.look()

    def look(self) -> None:
        """Remember which names there are."""
        holder = self.holder = self.settings["_wrapped"]
        # Nothing is held where Django isn't configured.
        held = [vars(holder)] if hasattr(holder, "__dict__") else []
        while held and "default_settings" in vars(holder):  # of ``override_settings``
            holder = vars(holder)["default_settings"]
            held.append(vars(holder))
        self._held = [(names, len(names)) for names in held]
        # Attributes, for a reader to whom a call costs too much.
        self.names: Mapping[str, Any] = held[0] if held else {}
        self.count = len(self.names)
        self.overrides = len(held) > 1

    @property
    def held(self) -> list[Mapping[str, Any]]:
        """What `look` has found: the settings, followed by those that they override."""
        return [names for names, _ in self._held]

    @property
    def changed(self) -> bool:
        """Whether a name was added or removed since `look`."""
        if self.settings["_wrapped"] is not self.holder:
            return True
        for names, count in self._held:  # noqa: SIM110 - `any()` takes twice as long
            if len(names) != count:
                return True
        return False

    def has(self, name: str) -> bool:
        """Whether there is a setting of that name."""
        return hasattr(self.holder, name)
