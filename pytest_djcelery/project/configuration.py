"""Changes an app's configuration in layers, and puts it back exactly.

A setting lives in three places: Celery's ``app.conf``, the Django settings it is read from,
and whatever Celery computed from it and keeps (task attributes, queues, pools, the result
backend). A layer changes all three; removing it, in any order, restores all three.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pytest_djcelery.errors import BadOptionError
from pytest_djcelery.patching import Current, patches, replaced
from pytest_djcelery.project.derived import MISSING, Annotations, DerivedObjects, put, refresh_tasks

if TYPE_CHECKING:
    from celery import Celery


# Settings that a worker itself writes as it starts, in its own thread.
_BY_WORKERS = ("broker_connection_timeout", "include")
_MISSPELT = 0.8  # how similar a misspelt name is to the Celery setting that was meant


class Layer:
    """Values laid over the configuration. Layers are compared by identity."""

    def __init__(self, values: Mapping[str, Any], *, django: bool = True) -> None:
        self.values = dict(values)
        self.django = django  # whether the Django settings show it too


def setting_name(app: Celery, key: str) -> str | None:
    """The Django setting behind a Celery key, if the app reads the Django settings."""
    source = app._config_source
    from_django = str(source).startswith("django.conf") or type(source).__name__ == "LazySettings"
    return f"{app.namespace}_{key}".upper() if from_django and app.namespace else None


def canonical(key: str, *, namespace: str | None = None) -> str:
    """Celery's current name of a setting, from any spelling of it.

    Raises:
        BadOptionError: Celery doesn't have the setting; the text has the nearest names.
    """
    from celery.app.defaults import _TO_NEW_KEY, SETTING_KEYS

    if key in SETTING_KEYS:
        return key
    if key in _TO_NEW_KEY:
        return str(_TO_NEW_KEY[key])
    bare = _bare(key, namespace)
    if bare in SETTING_KEYS:
        return bare
    near = difflib.get_close_matches(bare, SETTING_KEYS, n=3)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    msg = f"Celery has no setting {key!r}.{hint}"
    raise BadOptionError(msg)


def _bare(key: str, namespace: str | None) -> str:
    bare = key.lower()
    return bare.removeprefix(f"{namespace.lower()}_") if namespace else bare


def is_foreign(app: Celery, setting: str) -> bool:
    """Whether a Django setting that Celery doesn't have is a library's, or the project's own.

    They share Celery's namespace: celery-singleton has ``CELERY_SINGLETON_LOCK_EXPIRY``.
    """
    from celery.app.defaults import SETTING_KEYS
    from django.conf import settings

    earlier = getattr(settings._wrapped, "default_settings", None)
    if earlier is not None and hasattr(earlier, setting):
        return True
    bare = _bare(setting, app.namespace)
    meant = difflib.get_close_matches(bare, SETTING_KEYS, n=1, cutoff=_MISSPELT)
    return not meant and _family(bare) not in map(_family, SETTING_KEYS)


def _is_of_library(app: Celery, bare: str) -> bool:
    """Whether a setting that Celery doesn't have is set, or is an installed library's."""
    from celery.app.defaults import SETTING_KEYS

    if bare in app.conf:
        return True
    family = _family(bare)
    if family in map(_family, SETTING_KEYS) or not family.isidentifier():
        return False
    return any(
        map(find_spec, (f"celery_{family}", f"djcelery_{family}", f"django_celery_{family}"))
    )


def _family(key: str) -> str:
    return key.partition("_")[0]


class Configuration:
    """The layers over one app's configuration.

    Args:
        app: The app.
        django: Whether the Django settings follow it, if the app reads them.
    """

    def __init__(self, app: Celery, *, django: bool = True) -> None:
        self.app = app
        self._django = django
        self._layers: list[Layer] = []
        self._originals: dict[str, Any] = {}  # raw entries of ``conf.changes``
        self._holders: dict[str, tuple[Any, Any]] = {}  # Django setting -> (holder, original)
        self._derived = DerivedObjects(app)
        self._annotations = Annotations(app)
        self.version = 0  # grows with each change
        self._insisted: list[Layer] = []  # they stay on top while fixtures are set up
        self._setting_up = False

    @contextmanager
    def override(self, **values: Any) -> Iterator[None]:
        """Lay ``values`` (any spelling of Celery's settings) over the configuration."""
        if not values:
            yield
            return
        layer = self.push(values)
        try:
            yield
        finally:
            self.remove(layer)

    @contextmanager
    def insist(self, **values: Any) -> Iterator[None]:
        """Do as `override`, and stay above what other fixtures change while a test is set up.

        Our fixtures are set up first, but what a test asks of Celery is meant for its body.
        """
        if not values:
            yield
            return
        layer = self._layer(values)
        if self._setting_up:
            self._insisted.append(layer)
        if self._effective(layer.values) != layer.values:
            self._lay(layer)
        try:
            yield
        finally:
            self._insisted = [other for other in self._insisted if other is not layer]
            if layer in self._layers:
                self.remove(layer)

    def set_up(self, *, begins: bool) -> None:
        """Note that a test's set-up begins, or is over: its body may change anything."""
        self._setting_up = begins
        self._insisted.clear()

    def push(self, values: Mapping[str, Any]) -> Layer:
        """Add a layer on top of all others."""
        layer = self._layer(values)
        self._lay(layer)
        return layer

    @property
    def layers(self) -> list[Layer]:
        """The layers, from the lowest up."""
        return list(self._layers)

    def _layer(self, values: Mapping[str, Any]) -> Layer:
        return Layer({self._canonical(key): value for key, value in values.items()})

    def overridden(self) -> dict[str, Any]:
        """The settings that the layers change, with their present values."""
        return {key: self.app.conf[key] for layer in self._layers for key in layer.values}

    def not_in_django_layers(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Those of ``values`` that no change of the Django settings has replaced."""
        followed = {key for layer in self._layers if not layer.django for key in layer.values}
        return {key: value for key, value in values.items() if self._canonical(key) not in followed}

    def _canonical(self, key: str) -> str:
        try:
            return canonical(key, namespace=self.app.namespace)
        except BadOptionError:
            bare = _bare(key, self.app.namespace)
            if _is_of_library(self.app, bare):
                return bare
            raise

    def follow(self, key: str, setting: str) -> Layer:
        """Lay the new value of a Django setting over the configuration.

        Whatever changed the Django setting puts it back, so only Celery's side is overridden.
        """
        from celery.app.defaults import DEFAULTS
        from django.conf import settings

        layer = Layer({key: getattr(settings, setting, DEFAULTS[key])}, django=False)
        before = self._effective(layer.values)
        if before == layer.values:  # Celery reads the Django settings, so it is already changed
            earlier = getattr(settings._wrapped, "default_settings", settings)
            before = {key: getattr(earlier, setting, DEFAULTS[key])}
        self._lay(layer, before=before)
        return layer

    def _lay(self, layer: Layer, *, before: Mapping[str, Any] | None = None) -> None:
        try:
            self._change([*self._layers, layer], layer.values, django=layer.django, before=before)
        except BaseException:  # an annotation that can't be imported, for example
            self.remove(layer)
            raise
        if any(layer is insisted for insisted in self._insisted):
            return
        for insisted in self._insisted:
            if not layer.values.keys().isdisjoint(insisted.values):
                others = [other for other in self._layers if other is not insisted]
                self._change([*others, insisted], insisted.values)

    def remove(self, layer: Layer) -> None:
        """Remove a layer, wherever it is."""
        layers = [other for other in self._layers if other is not layer]
        self._change(layers, layer.values, django=layer.django)

    def reapply(self) -> None:
        """Lay everything over the configuration again, after the app has read it again."""
        layers, self._layers = self._layers, []
        self._originals.clear()
        for layer in layers:
            self._change([*self._layers, layer], layer.values, django=layer.django)

    def snapshot(self) -> dict[str, Any]:
        """The values set on ``app.conf`` by hand, for `restore`."""
        return {key: value for key, value in self._changes().items() if key not in self._originals}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Undo what code set on ``app.conf`` directly since `snapshot`."""
        current = self.snapshot()
        touched = {
            key
            for key in {*current, *snapshot}
            if current.get(key, MISSING) is not snapshot.get(key, MISSING)
        }
        if not touched:
            return
        before = self._effective(touched)
        changes = self._changes()
        for key in touched:
            put(changes, key, snapshot.get(key, MISSING))
        self._refresh(before)

    @contextmanager
    def settings_restored(self) -> Iterator[None]:
        """Undo what is set on ``app.conf`` by hand within the ``with``; cheap if nothing is."""
        conf = self.app.conf
        before = dict(conf.maps[0]) if self.app.configured else None
        try:
            yield
        finally:
            if before is not None and (conf is not self.app.conf or before != conf.maps[0]):
                by_hand = before.keys() - self._originals.keys()
                self.restore({key: before[key] for key in by_hand})

    def _changes(self) -> dict[str, Any]:
        conf = self.app.conf
        if not self.app.configured:
            conf.finalize()
        changes: dict[str, Any] = conf.maps[0]
        return changes

    def _effective(self, keys: Any) -> dict[str, Any]:
        return {key: self.app.conf.get(key) for key in keys}

    def _change(
        self,
        layers: list[Layer],
        keys: Mapping[str, Any],
        *,
        django: bool = True,
        before: Mapping[str, Any] | None = None,
    ) -> None:
        changes = self._changes()
        before = self._effective(keys) if before is None else before
        self._derived.keep(self._combination())
        self._layers = layers
        for key in keys:
            top = next((la.values[key] for la in reversed(layers) if key in la.values), MISSING)
            self._set_conf(changes, key, top)
            if django:
                shown = (
                    la.values[key] for la in reversed(layers) if la.django and key in la.values
                )
                self._set_django(key, next(shown, MISSING))
        self._refresh(before)
        self._derived.forget(map(id, layers))

    def _combination(self) -> tuple[int, ...]:
        return tuple(id(layer) for layer in self._layers)

    def _refresh(self, before: Mapping[str, Any]) -> None:
        """Update what Celery computed from the settings that differ from ``before``."""
        self.version += 1
        changed = {key: old for key, old in before.items() if self.app.conf.get(key) != old}
        self._derived.change(self._combination(), changed)
        with self._annotations.kept_current(changed):
            refresh_tasks(self.app, changed)

    def _set_conf(self, changes: dict[str, Any], key: str, value: Any) -> None:
        # An entry under another spelling (prefixed, old) would be found first. Before Celery 5.7
        # a prefixed one wins in whichever map it is, so the value is put under both.
        spellings = self.app.conf._to_keys(key)
        for raw in {key, *spellings}:
            if value is not MISSING:
                self._originals.setdefault(raw, changes.get(raw, MISSING))
                changes.pop(raw, None)
            elif raw in self._originals:
                put(changes, raw, self._originals.pop(raw))
        if value is not MISSING:
            changes[key] = changes[spellings[0]] = value

    def _set_django(self, key: str, value: Any) -> None:
        name = setting_name(self.app, key) if self._django else None
        if name is None:
            return
        from django.conf import settings

        if value is not MISSING:
            holder = settings._wrapped
            held = self._holders.get(name)
            if held is None:
                self._holders[name] = holder, vars(holder).get(name, MISSING)
            setattr(holder, name, value)
        elif name in self._holders:
            holder, original = self._holders.pop(name)
            put(vars(holder), name, original)
        # LazySettings caches what it has looked up.
        vars(settings).pop(name, None)


@patches(
    "celery.app.utils:Settings.__setitem__",
    "celery.app.utils:Settings.update",
    why="What a test writes into app.conf takes effect at once, including in what Celery has "
    "derived from it.",
    checked_on="Celery 5.4 to 5.7",
)
@contextmanager
def settings_writes_applied(
    configurations: Callable[[], Iterable[Configuration]],
    current: Current[ExitStack] | None = None,
) -> Iterator[None]:
    """Treat what is written to ``app.conf`` within the ``with`` as a layer that ends with it.

    Thus it takes effect like any override. Celery by itself would first find another spelling of
    the setting (from Django's settings, or of an override), and would keep what it had computed
    from the earlier value: task attributes, the result backend, pools.

    Args:
        configurations: Returns the configurations of the apps concerned.
        current: Undoes the writes as it is closed; by default they last as long as the ``with``.

    Private API (``ConfigurationView.__setitem__``, to which setting attributes also leads, and
    ``update``), checked on Celery 5.4 to 5.7.
    """
    from celery.app.utils import Settings

    def configuration_of(conf: Any) -> Configuration | None:
        return next((found for found in configurations() if found.app.conf is conf), None)

    write, update = Settings.__setitem__, Settings.update
    own = ExitStack()
    serving = Current(own) if current is None else current

    def __setitem__(self: Any, key: str, value: Any) -> None:  # noqa: N807 - what it replaces
        layers = serving.now
        configuration = None if layers is None else configuration_of(self)
        if configuration is None or layers is None:
            write(self, key, value)
            return
        try:
            setting = canonical(key, namespace=configuration.app.namespace)
        except BadOptionError:  # a setting of the project's own
            setting = None
        if setting is None or setting in _BY_WORKERS:
            write(self, key, value)
        else:
            layers.callback(configuration.remove, configuration.push({setting: value}))

    def updated(self: Any, *args: Any, **values: Any) -> None:
        if serving.now is None or configuration_of(self) is None:
            update(self, *args, **values)
            return
        for key, value in dict(*args, **values).items():
            self[key] = value

    with own, replaced(Settings, __setitem__=__setitem__, update=updated):
        yield
