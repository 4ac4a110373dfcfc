"""The servers that some tests need, and the browser.

They are used where that is asked for: ``DJCELERY_SERVICES=1`` uses those that are there,
``DJCELERY_REQUIRE_SERVICES=1`` fails where one is not, and ``DATABASE`` names one.
"""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from typing import NamedTuple, NoReturn
from urllib.parse import urlsplit

import pytest

_USED = "DJCELERY_SERVICES"
_REQUIRED = "DJCELERY_REQUIRE_SERVICES"
_PORTS = {"postgresql": 5432, "mariadb": 3306, "redis": 6379, "rabbitmq": 5672}
_URLS = {
    "redis": ("REDIS_URL", "redis://127.0.0.1:6379/0"),
    "rabbitmq": ("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672//"),
}
_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


class Address(NamedTuple):
    """Where a server answers."""

    host: str
    port: int


def require(service: str) -> Address:
    """Skip the calling test unless servers are used and this one answers; fail it in CI.

    Args:
        service: ``postgresql``, ``mariadb``, ``redis`` or ``rabbitmq``; where it is,
            ``DATABASE_HOST`` and ``DATABASE_PORT`` say when ``DATABASE`` names it, and
            ``REDIS_URL`` and ``AMQP_URL``.
    """
    _skip_unless_used(service)
    address = _address(service)
    try:
        socket.create_connection(address, timeout=3).close()
    except OSError as error:
        _missing(f"no {service} at {address.host}:{address.port}: {error}")
    return address


def require_chromium() -> str:
    """The path of Chromium; where it is not used or missing, as without a server."""
    _skip_unless_used("chromium")
    path = next(filter(None, map(shutil.which, _CHROMIUM)), None)
    if path is None:
        _missing(f"no chromium: none of {', '.join(_CHROMIUM)} is on PATH")
    return path


def url(service: str) -> str:
    """Where ``redis`` or ``rabbitmq`` is, as Celery is told."""
    variable, default = _URLS[service]
    return os.environ.get(variable) or default


def _skip_unless_used(service: str) -> None:
    asked = any(os.environ.get(variable) == "1" for variable in (_USED, _REQUIRED))
    if not asked and os.environ.get("DATABASE") != service:
        _note_left_out()
        pytest.skip(f"{service} is not used, without {_USED}=1")


def _note_left_out() -> None:
    """Tell CI which test still has to be run, with the servers."""
    path = os.environ.get("DJCELERY_LEFT_OUT")
    if path:
        test, _, _ = os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")  # "… (call)"
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(f"{test}\n")


def _missing(reason: str) -> NoReturn:
    if os.environ.get(_REQUIRED) == "1":
        pytest.fail(f"{reason} ({_REQUIRED}=1)")
    pytest.skip(reason)


def _address(service: str) -> Address:
    host, port = "127.0.0.1", _PORTS[service]
    if service in _URLS:
        parts = urlsplit(url(service))
        return Address(parts.hostname or host, parts.port or port)
    if os.environ.get("DATABASE") != service:
        return Address(host, port)
    return Address(
        os.environ.get("DATABASE_HOST", host), int(os.environ.get("DATABASE_PORT", port))
    )
