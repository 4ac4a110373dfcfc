"""The servers that some tests need."""

from __future__ import annotations

import os
import socket
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

_PORTS = {"postgresql": 5432, "mariadb": 3306, "redis": 6379}


class Address(NamedTuple):
    """Where a server answers."""

    host: str
    port: int


def require(service: str) -> Address:
    """Skip the calling test unless the server answers; fail it in CI, which promises one.

    Args:
        service: ``postgresql``, ``mariadb`` or ``redis``; where it is, ``DATABASE_HOST`` and
            ``DATABASE_PORT`` say when ``DATABASE`` names it, and ``REDIS_URL``.
    """
    address = _address(service)
    try:
        socket.create_connection(address, timeout=3).close()
    except OSError as error:
        reason = f"no {service} at {address.host}:{address.port}: {error}"
        if os.environ.get("DJCELERY_REQUIRE_SERVICES") == "1":
            pytest.fail(f"{reason} (DJCELERY_REQUIRE_SERVICES=1)")
        pytest.skip(reason)
    return address


def _address(service: str) -> Address:
    host, port = "127.0.0.1", _PORTS[service]
    if service == "redis":
        url = urlsplit(os.environ.get("REDIS_URL", ""))
        return Address(url.hostname or host, url.port or port)
    if os.environ.get("DATABASE") != service:
        return Address(host, port)
    return Address(
        os.environ.get("DATABASE_HOST", host), int(os.environ.get("DATABASE_PORT", port))
    )
