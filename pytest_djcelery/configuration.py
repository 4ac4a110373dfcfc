"""Change an app's configuration in layers, and put it back exactly.

A setting lives in three places: Celery's ``app.conf``, the Django settings it is read from,
and whatever Celery computed from it and keeps (task attributes, queues, pools, the result
backend). A layer changes all three; removing it, in any order, restores all three.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from pytest_djcelery.errors import BadOptionError

if TYPE_CHECKING:
    from celery import Celery

_MISSING: Final = object()

# What Celery keeps once computed, and the settings it computes it from (by prefix). Read
# from celery/app/base.py and celery/app/amqp.py; checked on Celery 5.4 to 5.7.
_POOLS = ("broker_",)
_ROUTING = (
    "accept_content", "enable_utc", "task_compression", "task_create_missing",
    "task_default_", "task_protocol", "task_publish_", "task_queue", "task_routes",
    "task_serializer",
)  # fmt: skip
_REMOTE = ("broker_", "control_", "event_")
_CLOCK = ("enable_utc", "timezone")
_NOT_BACKEND = ("beat_", "broker_", "control_", "event_", "imports", "include", "task_", "worker_")


class Layer:
    """Values laid over the configuration. Identity is what matters."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = dict(values)
        self.django = True  # whether the Django settings show it too


def setting_name(app: Celery, key: str) -> str | None:
    """The Django setting behind a Celery key, if the app reads the Django settings."""
    source = app._config_source
    from_django = str(source).startswith("django.conf") or type(source).__name__ == "LazySettings"
    return f"{app.namespace}_{key}".upper() if from_django and app.namespace else None


def canonical(key: str, *, namespace: str | None = None) -> str:
    """Celery's present name of a setting, from any spelling of it.

    Raises `BadOptionError`, with the nearest names, for a setting that Celery doesn't have.
    """
    from celery.app.defaults import _TO_NEW_KEY, SETTING_KEYS

    if key in SETTING_KEYS:
        return key
    if key in _TO_NEW_KEY:
        return str(_TO_NEW_KEY[key])
    bare = key.lower()
    if namespace and bare.startswith(f"{namespace.lower()}_"):
        bare = bare[len(namespace) + 1 :]
    if bare in SETTING_KEYS:
        return bare
    near = difflib.get_close_matches(bare, SETTING_KEYS, n=3)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    msg = f"Celery has no setting {key!r}.{hint}"
    raise BadOptionError(msg)


class Configuration:
    """The layers over one app's configuration."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self._layers: list[Layer] = []
        self._originals: dict[str, Any] = {}  # raw entries of ``conf.changes``
        self._holders: dict[str, tuple[Any, Any]] = {}  # Django setting -> (holder, original)
        self._computed: dict[tuple[int, ...], dict[str, Any]] = {}

    @contextmanager
    def override(self, **values: Any) -> Iterator[None]:
        """Lay ``values`` (any spelling of Celery's settings) over the configuration."""
        layer = self.push(values)
        try:
            yield
        finally:
            self.remove(layer)

    def push(self, values: Mapping[str, Any]) -> Layer:
        """Add a layer on top of all others."""
        namespace = self.app.namespace
        layer = Layer({canonical(key, namespace=namespace): value for key, value in values.items()})
        self._change([*self._layers, layer], layer.values)
        return layer

    def follow(self, key: str, setting: str) -> Layer:
        """Lay the value that a Django setting was just given over the configuration.

        The Django side belongs to whoever changed it, so only Celery's side is laid over.
        """
        from celery.app.defaults import DEFAULTS
        from django.conf import settings

        layer = Layer({key: getattr(settings, setting, DEFAULTS[key])})
        before = self._effective(layer.values)
        if before == layer.values:  # Celery reads it from the Django settings: changed already
            earlier = getattr(settings._wrapped, "default_settings", settings)
            before = {key: getattr(earlier, setting, DEFAULTS[key])}
        self._change([*self._layers, layer], layer.values, django=False, before=before)
        layer.django = False
        return layer

    def remove(self, layer: Layer) -> None:
        """Take a layer away, wherever it stands."""
        layers = [other for other in self._layers if other is not layer]
        self._change(layers, layer.values, django=layer.django)

    def reapply(self) -> None:
        """The app has read its configuration anew: lay everything over it again."""
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
            if current.get(key, _MISSING) is not snapshot.get(key, _MISSING)
        }
        if not touched:
            return
        before = self._effective(touched)
        changes = self._changes()
        for key in touched:
            _put(changes, key, snapshot.get(key, _MISSING))
        self._refresh(before, keep=None)

    def _changes(self) -> dict[str, Any]:
        conf = self.app.conf
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
        leaving = self._fingerprint()
        self._computed[leaving] = self._computed_now()
        self._layers = layers
        for key in keys:
            top = next((la.values[key] for la in reversed(layers) if key in la.values), _MISSING)
            self._set_conf(changes, key, top)
            if django:
                shown = (
                    la.values[key] for la in reversed(layers) if la.django and key in la.values
                )
                self._set_django(key, next(shown, _MISSING))
        self._refresh(before, keep=self._computed.get(self._fingerprint()))
        self._prune()

    def _fingerprint(self) -> tuple[int, ...]:
        return tuple(id(layer) for layer in self._layers)

    def _set_conf(self, changes: dict[str, Any], key: str, value: Any) -> None:
        # An entry under another spelling (prefixed, old) would be found first; before Celery 5.7
        # a prefixed one wins wherever it stands, so the value is put under both.
        spellings = self.app.conf._to_keys(key)
        for raw in {key, *spellings}:
            if value is not _MISSING:
                self._originals.setdefault(raw, changes.get(raw, _MISSING))
                changes.pop(raw, None)
            elif raw in self._originals:
                _put(changes, raw, self._originals.pop(raw))
        if value is not _MISSING:
            changes[key] = changes[spellings[0]] = value

    def _set_django(self, key: str, value: Any) -> None:
        name = setting_name(self.app, key)
        if name is None:
            return
        from django.conf import settings

        if value is not _MISSING:
            holder = settings._wrapped
            held = self._holders.get(name)
            if held is None:
                self._holders[name] = holder, vars(holder).get(name, _MISSING)
            setattr(holder, name, value)
        elif name in self._holders:
            holder, original = self._holders.pop(name)
            _put(vars(holder), name, original)
        # LazySettings keeps what it has looked up once.
        vars(settings).pop(name, None)

    # What Celery computed from the settings. ------------------------------------------

    def _computed_now(self) -> dict[str, Any]:
        attributes = vars(self.app)
        amqp = attributes.get("amqp")
        return {
            **{name: attributes.get(name, _MISSING) for name in _COMPUTED},
            "_producer_pool": amqp._producer_pool if amqp is not None else None,
        }

    def _refresh(self, before: Mapping[str, Any], keep: dict[str, Any] | None) -> None:
        changed = [key for key, value in before.items() if self.app.conf.get(key) != value]
        if keep is not None:
            self._put_computed(keep)
        else:
            self._drop_computed(changed)
        refresh_tasks(self.app, {key: before[key] for key in changed})

    def _drop_computed(self, changed: list[str]) -> None:
        app, attributes = self.app, vars(self.app)

        def touches(prefixes: tuple[str, ...]) -> bool:
            return any(key.startswith(prefixes) for key in changed)

        if touches(_ROUTING):
            attributes.pop("amqp", None)
        if touches(_POOLS):
            app._pool = None
            if "amqp" in attributes:
                attributes["amqp"]._producer_pool = None
        if touches(_REMOTE):
            attributes.pop("control", None)
            attributes.pop("events", None)
        if touches(_CLOCK):
            attributes.pop("timezone", None)
        if touches(("task_annotations",)):
            attributes.pop("annotations", None)
        if any(not key.startswith(_NOT_BACKEND) for key in changed):
            app._backend_cache = None
            app._local = type(app._local)()

    def _put_computed(self, computed: Mapping[str, Any]) -> None:
        attributes = vars(self.app)
        for name in _COMPUTED:
            _put(attributes, name, computed[name])
        if "amqp" in attributes:
            attributes["amqp"]._producer_pool = computed["_producer_pool"]

    def _prune(self) -> None:
        """Close what belongs to layers that are gone."""
        living = {id(layer) for layer in self._layers}
        used = {id(vars(self.app).get("_pool"))}
        used |= {id(c["_pool"]) for f, c in self._computed.items() if living.issuperset(f)}
        for fingerprint in [f for f in self._computed if not living.issuperset(f)]:
            pool = self._computed.pop(fingerprint)["_pool"]
            if pool not in (None, _MISSING) and id(pool) not in used:
                close_pool(pool)


_COMPUTED = (
    "amqp", "annotations", "control", "events", "timezone", "_pool", "_backend_cache", "_local",
)  # fmt: skip


def _put(mapping: dict[str, Any], key: str, value: Any) -> None:
    if value is _MISSING:
        mapping.pop(key, None)
    else:
        mapping[key] = value


def close_pool(pool: Any) -> None:
    """Close a kombu connection pool and forget it, with its producers, in kombu's registry."""
    from kombu import pools

    for group in (pools.connections, pools.producers):
        for key in [key for key, value in group.items() if pool in (value, _of(value))]:
            dict.__delitem__(group, key)
    pool.force_close_all()


def _of(producers: Any) -> Any:
    return getattr(producers, "connections", None)


def refresh_tasks(app: Celery, before: Mapping[str, Any]) -> None:
    """Let tasks follow settings that `Task.bind` copied onto their classes.

    Private API of celery.app.task.Task (``bind``, ``from_config``), checked on 5.4 to 5.7:
    binding sets ``__bound__`` on the class and after it each attribute that was still
    ``None``; what the author of the task gave stands before it. Only what still equals the
    setting it came from is changed.
    """
    if not app.finalized:
        return
    touched = False
    for task in list(app._tasks.values()):
        for attribute, key in task.from_config:
            if key not in before:
                continue
            owner = next((cls for cls in type(task).__mro__ if attribute in vars(cls)), None)
            if owner is None or not _copied_by_bind(owner, attribute):
                continue
            if vars(owner)[attribute] == before[key]:
                setattr(owner, attribute, app.conf[key])
                touched = True
    if touched:
        for task in list(app._tasks.values()):
            task.__trace__ = None  # built from these attributes, and built again on demand
            type(task)._exec_options = None


def _copied_by_bind(owner: type, attribute: str) -> bool:
    names = list(vars(owner))
    return "__bound__" in names and names.index(attribute) > names.index("__bound__")
