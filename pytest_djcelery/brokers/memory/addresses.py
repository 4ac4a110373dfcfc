"""Finds the brokers and the results in memory, without loading the code of either."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections import deque

    from celery import Celery

    from pytest_djcelery.brokers.memory.queues import Broker

SCHEME = "djcelery"
_PREFIX = f"{SCHEME}:"
TRANSPORT = "pytest_djcelery.brokers.memory.transport:Transport"
BACKEND = "pytest_djcelery.brokers.memory.result_backend:MemoryBackend"
LENIENT_BACKEND = "pytest_djcelery.brokers.memory.result_backend:LenientMemoryBackend"
BACKENDS = (BACKEND, LENIENT_BACKEND)

_brokers: dict[str, Broker] = {}  # by virtual host
_brokers_lock = threading.Lock()


def url(virtual_host: str) -> str:
    """The URL that reaches the broker of that name."""
    return f"{SCHEME}://localhost/{virtual_host}"


def broker(virtual_host: str) -> Broker:
    """The broker at ``djcelery://localhost/virtual_host``, made on first use."""
    # This loads kombu's virtual transports, which a run that sends nothing doesn't need.
    from pytest_djcelery.brokers.memory.queues import Broker

    name = virtual_host.strip("/")
    with _brokers_lock:
        found = _brokers.get(name)
        if found is None:
            found = _brokers[name] = Broker()
        return found


def brokers(virtual_hosts: Iterable[str]) -> list[Broker]:
    """The brokers at these virtual hosts, as far as they were ever used."""
    return [found for host in virtual_hosts if (found := _brokers.get(host.strip("/"))) is not None]


def forget(virtual_host: str) -> None:
    """Drop a broker for good."""
    with _brokers_lock:
        _brokers.pop(virtual_host.strip("/"), None)


class Results:
    """The results of an app, encoded, by key."""

    def __init__(self) -> None:
        self.stored: dict[bytes, Any] = {}
        #: The queues of whoever listens to what is stored, by key.
        self.listeners: dict[bytes, list[deque[bytes]]] = {}


_results: WeakKeyDictionary[Any, Results] = WeakKeyDictionary()
_results_lock: Final = threading.Lock()


def results(app: Any) -> Results:
    """What an app stores in memory."""
    with _results_lock:
        return _results.setdefault(app, Results())


def clear_results(app: Any) -> None:
    """Forget every result of an app."""
    found = _results.get(app)
    if found is not None:
        found.stored.clear()


def share_results(app: Any, owner: Any) -> None:
    """Have an app keep its results where another app keeps its own."""
    shared = results(owner)
    with _results_lock:
        _results[app] = shared


def in_memory(app: Celery) -> bool:
    """Whether an app publishes to a broker in memory."""
    # The setting is in the top layer then. Celery's own lookup reads the environment and four
    # names, which takes longer.
    return str(app.conf.maps[0].get("broker_url")).startswith(_PREFIX)


def without_password(address: Any) -> str:
    """One address of the project, or several, as text that shows no password."""
    from kombu.utils.url import maybe_sanitize_url

    several = [address] if isinstance(address, str) else address or ()
    return ";".join(
        str(maybe_sanitize_url(part)) for text in several for part in str(text).split(";")
    )


@contextmanager
def scheme_registered() -> Iterator[None]:
    """Within the ``with``, have the scheme in kombu's own table of transports."""
    from kombu.transport import TRANSPORT_ALIASES

    before = TRANSPORT_ALIASES.get(SCHEME)
    TRANSPORT_ALIASES[SCHEME] = TRANSPORT
    try:
        yield
    finally:
        if before is None:
            del TRANSPORT_ALIASES[SCHEME]
