"""Which servers the tests use: those that were offered to them, and no others."""

from __future__ import annotations

import socket

import pytest

from tests.support.services import require


@pytest.fixture(autouse=True)
def nothing_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that offers no server."""
    for name in ("SERVICES", "REQUIRE_SERVICES", "LEFT_OUT"):
        monkeypatch.delenv(f"DJCELERY_{name}", raising=False)
    monkeypatch.setenv("DATABASE", "sqlite")


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """Where nothing answers, said to be the port of Redis and of the database."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port: int = unused.getsockname()[1]
    monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{port}/0")
    monkeypatch.setenv("DATABASE_PORT", str(port))
    monkeypatch.delenv("DATABASE_HOST", raising=False)
    return port


def test_a_server_that_was_not_offered_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{server.getsockname()[1]}/0")
        with pytest.raises(pytest.skip.Exception, match="redis is not used, without DJCELERY_SERV"):
            require("redis")
        with pytest.raises(BlockingIOError):  # nobody has connected
            server.accept()
        monkeypatch.setenv("DJCELERY_SERVICES", "1")
        assert require("redis") == server.getsockname()
        server.accept()[0].close()


def test_one_that_was_offered_and_does_not_answer_skips(
    monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    monkeypatch.setenv("DJCELERY_SERVICES", "1")
    with pytest.raises(pytest.skip.Exception, match=f"no redis at 127.0.0.1:{port}: "):
        require("redis")


def test_one_that_is_required_and_does_not_answer_fails(
    monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    monkeypatch.setenv("DJCELERY_REQUIRE_SERVICES", "1")
    with pytest.raises(pytest.fail.Exception, match=f"no redis at .*{port}.*REQUIRE_SERVICES=1"):
        require("redis")


def test_the_database_that_the_environment_names_is_offered(
    monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    with pytest.raises(pytest.skip.Exception, match="is not used"):
        require("postgresql")
    monkeypatch.setenv("DATABASE", "postgresql")
    with pytest.raises(pytest.skip.Exception, match=f"no postgresql at .*:{port}"):
        require("postgresql")
