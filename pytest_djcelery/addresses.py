"""Where the broker and the backend in memory are found, without importing either."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

SCHEME = "djcelery"
TRANSPORT = "pytest_djcelery.transport:Transport"
BACKEND = "pytest_djcelery.backend:MemoryBackend"


def url(virtual_host: str) -> str:
    """The URL that reaches the broker of that name."""
    return f"{SCHEME}://localhost/{virtual_host}"


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
