"""The other Celery apps of the process: they reach no real server either.

There may be several (one for each broker, one that a library or a test makes). What is known of an
app is kept on the app itself, so that it is garbage-collected as usual.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from pytest_djcelery.brokers.memory import addresses
from pytest_djcelery.project.configuration import Configuration
from pytest_djcelery.project.derived import queues_restored
from pytest_djcelery.project.finding import load_config_watched

if TYPE_CHECKING:
    from celery import Celery

_KNOWN: Final = "_pytest_djcelery"


class OtherApps:
    """All apps but the project's, including those that are yet to be made.

    Two apps share a broker, or a result backend, if their settings name the same one.

    Args:
        app: The project's app.
        virtual_host: The virtual host of its broker in memory.
        values: Makes the settings that keep an app off real servers, from the app and the virtual
            host of its broker.
    """

    def __init__(
        self, app: Celery, virtual_host: str, values: Callable[[Celery, str], dict[str, Any]]
    ) -> None:
        self._app = app
        self._values = values
        self._virtual_host = virtual_host
        self._hosts: dict[str, str] = {}  # by the broker in the settings
        self._backend: str | None = None  # in the project's settings
        self._apps: WeakSet[Celery] = WeakSet()

    def note_project_settings(self) -> None:
        """Note the settings that the project's app has read, before anything is laid over them."""
        self._hosts.setdefault(str(self._app.conf.broker_url), self._virtual_host)
        self._backend = str(self._app.conf.result_backend)

    def __contains__(self, app: object) -> bool:
        return app in self._apps

    def configurations(self) -> list[Configuration]:
        """The configurations of the apps that have read their settings."""
        return [vars(app)[_KNOWN] for app in list(self._apps)] if self._apps else []

    def virtual_hosts(self) -> list[str]:
        """The virtual hosts of the brokers in memory that are not the project's."""
        return [host for host in self._hosts.values() if host != self._virtual_host]

    @contextmanager
    def isolated(self) -> Iterator[None]:
        """Within the ``with``, keep each app off real servers once it has read its settings."""
        from celery import _state

        apps: Any = vars(_state)["_apps"]  # private; checked on Celery 5.4 to 5.7
        for app in list(apps):
            if app.configured:
                self._isolate(app)
        try:
            with load_config_watched(self._isolate):
                yield
        finally:
            for app in list(self._apps):
                configuration = vars(app).pop(_KNOWN)
                for layer in configuration.layers:
                    configuration.remove(layer)
            self._apps.clear()

    def _isolate(self, app: Celery) -> None:
        if app is self._app:
            return
        if app in self._apps:  # it has read its settings again
            vars(app)[_KNOWN].reapply()
            return
        # Several apps may read the Django settings, which by now show the project app's values.
        shares = str(app.conf.result_backend) in (self._backend, *addresses.BACKENDS)
        vars(app)[_KNOWN] = configuration = Configuration(app, django=False)
        self._apps.add(app)
        configuration.push(self._values(app, self._host_of(app)))
        if shares and app.conf.result_backend in addresses.BACKENDS:
            addresses.share_results(app, self._app)

    def _host_of(self, app: Celery) -> str:
        url = str(app.conf.broker_url)
        if url == addresses.url(self._virtual_host):
            return self._virtual_host
        return self._hosts.setdefault(url, f"{self._virtual_host}-{len(self._hosts)}")

    @contextmanager
    def queues_restored(self) -> Iterator[None]:
        """Restore their queues, as is done for the project's app."""
        with ExitStack() as stack:
            for app in self._with_queues():
                stack.enter_context(queues_restored(app))
            found = WeakSet(self._with_queues())
            try:
                yield
            finally:
                for app in set(self._with_queues()).difference(found):
                    vars(app).pop("amqp")  # Celery makes them again

    def _with_queues(self) -> list[Celery]:
        """The apps whose queues Celery has already made from their settings."""
        if not self._apps:
            return []
        return [app for app in self._apps if "queues" in vars(vars(app).get("amqp", object))]
