"""Settings that a test writes to ``app.conf`` by hand: they take effect as any override does.

Celery alone would find another spelling of the setting first (the one from Django's settings, or
of an override), and go on with what it had computed from the value before: task attributes, the
result backend, pools.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from pytest_djcelery.errors import BadOptionError
from pytest_djcelery.patching import replaced

if TYPE_CHECKING:
    from pytest_djcelery.project.configuration import Configuration

# What a worker itself writes as it starts, in its own thread.
_BY_WORKERS = ("broker_connection_timeout", "include")


@contextmanager
def obeyed(configurations: Callable[[], Iterable[Configuration]]) -> Iterator[None]:
    """Lay what is written to ``app.conf`` in a block over the configuration, for the block.

    Args:
        configurations: of the apps for which it is so.

    Private API (``ConfigurationView.__setitem__``, which attributes come to as well, and
    ``update``), checked on Celery 5.4 to 5.7.
    """
    from celery.app.utils import Settings

    from pytest_djcelery.project.configuration import canonical

    def configuration_of(conf: Any) -> Configuration | None:
        return next((each for each in configurations() if each.app.conf is conf), None)

    write, update = Settings.__setitem__, Settings.update

    def __setitem__(self: Any, key: str, value: Any) -> None:  # noqa: N807 - what it replaces
        configuration = configuration_of(self)
        if configuration is None:
            write(self, key, value)
            return
        try:
            setting = canonical(key, namespace=configuration.app.namespace)
        except BadOptionError:  # of the project's own
            setting = None
        if setting is None or setting in _BY_WORKERS:
            write(self, key, value)
        else:
            layers.callback(configuration.remove, configuration.push({setting: value}))

    def updated(self: Any, *args: Any, **values: Any) -> None:
        if configuration_of(self) is None:
            update(self, *args, **values)
            return
        for key, value in dict(*args, **values).items():
            self[key] = value

    with ExitStack() as layers, replaced(Settings, __setitem__=__setitem__, update=updated):
        yield
