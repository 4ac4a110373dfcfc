"""Keeps the project's Celery app away from every real broker and backend."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from itertools import count
from typing import TYPE_CHECKING, Any

from pytest_djcelery.brokers.memory import addresses
from pytest_djcelery.brokers.run_spaces import RunSpaces
from pytest_djcelery.brokers.servers import bounds
from pytest_djcelery.errors import BadOptionError
from pytest_djcelery.options import MEMORY, PROJECT, Options
from pytest_djcelery.project import consumed_queues, misspelt_settings
from pytest_djcelery.project.configuration import Configuration, Layer, canonical
from pytest_djcelery.project.other_apps import OtherApps
from pytest_djcelery.project.shortcuts.message_path import producers_kept_connected
from pytest_djcelery.project.shortcuts.settings_cache import SettingsCache

if TYPE_CHECKING:
    from celery import Celery

    from pytest_djcelery.brokers.memory.queues import Broker, Topology
    from pytest_djcelery.project.consumed_queues import ConsumedQueues

_ENVIRONMENT = (
    # These take precedence over all settings.
    "CELERY_BROKER_URL",
    "CELERY_BROKER_READ_URL",
    "CELERY_BROKER_WRITE_URL",
    "CELERY_RESULT_BACKEND",
)
_DJANGO_BACKENDS = ("django-db", "django-cache", "django_celery_results")
_LENIENT_BACKENDS = ("disabled", "rpc")  # see `LenientMemoryBackend`
_numbers = count(1)


class Project:
    """The project's app during a test run."""

    def __init__(self, app: Celery, options: Options) -> None:
        self.app = app
        self.options = options
        self.configuration = Configuration(app)
        self.settings_cache = SettingsCache()
        self.virtual_host = f"{app.main or 'app'}-{os.getpid()}-{next(_numbers)}"
        self._url = addresses.url(self.virtual_host)
        self._broker_of_run: Any = None
        self._consumed: tuple[Any, ConsumedQueues] | None = None
        self._settings_layers: dict[str, list[Layer]] = {}
        self._settings_checked = False
        self._spaces = _spaces_of(options)
        self.others = OtherApps(app, self.virtual_host, self._base_values)

    def knows(self, app: object) -> bool:
        """Whether an app is the project's, or another one that is kept off real servers."""
        return app is self.app or app in self.others

    def consumed(self, chosen: tuple[str, ...]) -> ConsumedQueues:
        """See `consumed_queues.of_project`; the same as long as the settings are.

        Args:
            chosen: The names in ``djcelery_queues`` or its marker.
        """
        app = self.app
        conf = app.conf
        read = chosen, app.amqp, tuple(conf.task_queues or ()), dict(conf.maps[0])
        if self._consumed is None or self._consumed[0] != read:
            self._consumed = read, consumed_queues.of_project(app, chosen)
        return self._consumed[1]

    def configurations(self) -> list[Configuration]:
        """The configurations of the project's app and of others that have read their settings."""
        return [self.configuration, *self.others.configurations()]

    @property
    def broker(self) -> Broker | None:
        """The in-memory broker, while the app uses it."""
        if not self._publishes_to_memory:
            return None
        return addresses.broker(self.virtual_host)

    @property
    def _publishes_to_memory(self) -> bool:
        app = self.app
        # Celery looks up the environment and two settings, which takes most of a look-up.
        if app.configured and app.conf.maps[0].get("broker_url") == self._url:
            return "CELERY_BROKER_URL" not in os.environ
        return str(app.conf.broker_url or "") == self._url

    def in_memory(self) -> AbstractContextManager[None]:
        """Within the ``with``, publish to memory, unless a test has chosen another broker."""
        if self._publishes_to_memory or self.app.conf.broker_url != self._broker_of_run:
            return nullcontext()
        return self.configuration.override(**broker_values(self._url))

    def empty(self, kept: Topology | None = None) -> None:
        """Drop all messages, and results in memory.

        Args:
            kept: What stays declared in the broker in memory.
        """
        for broker in addresses.brokers([self.virtual_host]):
            broker.reset(kept if self._publishes_to_memory else None)
        for broker in addresses.brokers(self.others.virtual_hosts()):
            broker.reset()
        if self._spaces is not None:
            self._spaces.empty(self.app)
        self._clear_results()

    @property
    def pristine(self) -> bool:
        """Whether nothing was declared or put in a broker in memory since it was last emptied."""
        return all(broker.pristine for broker in addresses.brokers(self._virtual_hosts()))

    def _virtual_hosts(self) -> list[str]:
        return [self.virtual_host, *self.others.virtual_hosts()]

    def describe(self) -> str:
        """Name the app, and the broker and backend that it uses, for the report header."""
        from celery.app.utils import appstr

        broker = self.app.conf.broker_url
        broker = "memory" if self._publishes_to_memory else addresses.without_password(broker)
        backend = self.app.conf.result_backend
        backend = (
            "memory"
            if backend in addresses.BACKENDS
            else addresses.without_password(str(backend or "disabled"))
        )
        name = appstr(self.app).split(" at ", maxsplit=1)[0]
        return f"app: {name}, broker: {broker}, result backend: {backend}"

    @contextmanager
    def isolated(self) -> Iterator[None]:
        """Within the ``with``, publish to memory and store results there, unless options differ."""
        from django.core.signals import setting_changed

        with ExitStack() as stack:
            stack.enter_context(addresses.scheme_registered())
            stack.enter_context(producers_kept_connected())
            stack.callback(self._forget)
            stack.enter_context(_without_environment(self.options))
            self._push_base(stack)
            if self._spaces is not None:
                stack.enter_context(self._spaces.owned(self.app))
            stack.enter_context(self.others.isolated())
            setting_changed.connect(self._on_setting_changed)
            stack.callback(setting_changed.disconnect, self._on_setting_changed)
            yield

    def _forget(self) -> None:
        for virtual_host in self._virtual_hosts():
            addresses.forget(virtual_host)
        self._clear_results()

    def _clear_results(self) -> None:
        for configuration in self.configurations():
            addresses.clear_results(configuration.app)

    def _push_base(self, stack: ExitStack) -> None:
        """Lay the run's broker and backend over the settings, whenever Celery reads them."""
        app, configuration = self.app, self.configuration
        layers: list[Layer] = []

        def lay(**_: Any) -> None:
            if layers:
                configuration.reapply()
            else:
                self.others.note_project_settings()
                layers.append(configuration.push(self._base_values(app, self.virtual_host)))
            self._broker_of_run = app.conf.broker_url

        if app.configured:
            lay()
        app.on_after_configure.connect(lay, weak=False, dispatch_uid=self.virtual_host)

        def undo() -> None:
            app.on_after_configure.disconnect(lay, dispatch_uid=self.virtual_host)
            for layer in layers:
                configuration.remove(layer)

        stack.callback(undo)

    def _base_values(self, app: Celery, virtual_host: str) -> dict[str, Any]:
        conf = app.conf
        values: dict[str, Any] = {}
        if self.options.broker != PROJECT:
            memory = self.options.broker == MEMORY
            url = addresses.url(virtual_host) if memory else self.options.broker
            values |= broker_values(url)
        if self.options.broker != MEMORY:
            url = str(values.get("broker_url", conf.broker_url) or "")
            given = values.get("broker_transport_options", conf.broker_transport_options)
            values |= bounds(conf, url, given or {}, self.options.timeout)
            if self._spaces is not None:
                values |= self._spaces.broker_settings(values["broker_transport_options"])
        if conf.broker_connection_retry_on_startup is None:
            # As Celery 6 will do. Until then a starting worker warns that the setting is unset.
            values["broker_connection_retry_on_startup"] = conf.broker_connection_retry
        configured = str(conf.result_backend or "")
        kept = (*_DJANGO_BACKENDS, *addresses.BACKENDS)
        if self.options.result_backend == MEMORY and not configured.startswith(kept):
            lenient = not configured or configured.startswith(_LENIENT_BACKENDS)
            values["result_backend"] = addresses.LENIENT_BACKEND if lenient else addresses.BACKEND
        elif self.options.result_backend not in (MEMORY, PROJECT):
            values["result_backend"] = self.options.result_backend
            if self._spaces is not None:
                values |= self._spaces.result_settings()
        return values

    def check_settings(self) -> None:
        """Warn once of what is misspelt in the module of the settings."""
        if not self._settings_checked:
            self._settings_checked = True
            misspelt_settings.warn_of_settings_module(self.app)

    def _on_setting_changed(self, *, setting: str, enter: bool, **_: Any) -> None:
        """Follow ``settings.CELERY_X = …`` and ``override_settings(CELERY_X=…)`` at once."""
        namespace = self.app.namespace
        if not namespace or not setting.startswith(f"{namespace}_".upper()):
            return
        try:
            key = canonical(setting, namespace=namespace)
        except BadOptionError as error:
            if enter:
                misspelt_settings.warn_of_changed(self.app, setting, error)
            return
        layers = self._settings_layers.setdefault(setting, [])
        if enter:
            layers.append(self.configuration.follow(key, setting))
        elif layers:
            self.configuration.remove(layers.pop())


def broker_values(url: str) -> dict[str, Any]:
    """Settings for a broker that keep nothing of the one in the project's settings."""
    parts = ("user", "password", "vhost", "port", "login_method")
    return {
        "broker_url": url,
        "broker_read_url": None,
        "broker_write_url": None,
        "broker_transport": None,
        "broker_transport_options": {},
        "broker_use_ssl": False,
        "broker_failover_strategy": None,
        **{f"broker_{part}": None for part in parts},
    }


def _spaces_of(options: Options) -> RunSpaces | None:
    """The spaces of this process, where a broker or backend is shared with others."""
    broker, results = (
        None if place in (MEMORY, PROJECT) else place
        for place in (options.broker, options.result_backend)
    )
    if broker is None and results is None:
        return None
    return RunSpaces(broker=broker, results=results, timeout=options.timeout)


@contextmanager
def _without_environment(options: Options) -> Iterator[None]:
    hidden = {
        name: os.environ[name]
        for name in _ENVIRONMENT
        if name in os.environ
        and (options.result_backend if "RESULT" in name else options.broker) != PROJECT
    }
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


_PARAMETERS_AS_SETTINGS = {
    "broker": "broker_url",
    "backend": "result_backend",
    "include": "include",
}


@contextmanager
def parameters_applied(app: Celery, parameters: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Apply ``celery_parameters``, which are meant for a new app, to the existing one.

    Yields those that are settings. The others are attributes, which are changed within the
    ``with``.

    Raises:
        BadOptionError: The existing app has no such attribute.
    """
    settings = {
        setting: parameters.pop(name)
        for name, setting in _PARAMETERS_AS_SETTINGS.items()
        if name in parameters
    }
    for name in parameters:
        if not hasattr(app, name):
            msg = f"celery_parameters has {name!r}, which an app that exists can't be given."
            raise BadOptionError(msg)
    before = {name: vars(app).get(name, app) for name in parameters}
    vars(app).update(parameters)
    try:
        yield settings
    finally:
        for name, value in before.items():
            if value is app:
                vars(app).pop(name, None)
            else:
                vars(app)[name] = value
