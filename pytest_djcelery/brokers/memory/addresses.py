"""Where the broker and the backend in memory are found, without importing either."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery import Celery

SCHEME = "djcelery"
_PREFIX = f"{SCHEME}:"
TRANSPORT = "pytest_djcelery.brokers.memory.transport:Transport"
BACKEND = "pytest_djcelery.brokers.memory.result_backend:MemoryBackend"
LENIENT_BACKEND = "pytest_djcelery.brokers.memory.result_backend:LenientMemoryBackend"
BACKENDS = (BACKEND, LENIENT_BACKEND)
FOLDER_BACKEND = "pytest_djcelery.brokers.memory.result_backend:FolderBackend"


def url(virtual_host: str) -> str:
    """The URL that reaches the broker of that name."""
    return f"{SCHEME}://localhost/{virtual_host}"


def in_memory(app: Celery) -> bool:
    """Whether an app publishes to a broker of that kind."""
    # Laid over all else, where it is one; Celery's own way asks the environment and four names.
    return str(app.conf.maps[0].get("broker_url")).startswith(_PREFIX)


def without_password(address: Any) -> str:
    """An address of the project's, or several, as a person may read it."""
    from kombu.utils.url import maybe_sanitize_url

    several = [address] if isinstance(address, str) else address or ()
    return ";".join(
        str(maybe_sanitize_url(each)) for text in several for each in str(text).split(";")
    )


@contextmanager
def registered() -> Iterator[None]:
    """Make the scheme known to kombu, in the table where its own transports stand."""
    from kombu.transport import TRANSPORT_ALIASES

    before = TRANSPORT_ALIASES.get(SCHEME)
    TRANSPORT_ALIASES[SCHEME] = TRANSPORT
    try:
        yield
    finally:
        if before is None:
            del TRANSPORT_ALIASES[SCHEME]
