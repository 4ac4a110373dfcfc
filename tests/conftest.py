"""The fixtures that run pytest in a Django project, from outside."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import IO

import pytest

from tests.random_programs import seeds
from tests.support.forking import FRESH, MEASURED, ForkServer
from tests.support.project import Project, Run

pytest_plugins = ["pytester"]


def pytest_report_header() -> str:
    """Say how to have the same random programs again."""
    return seeds.header()


@pytest.hookimpl(optionalhook=True)  # xdist may not be loaded
def pytest_xdist_auto_num_workers() -> int:
    """For ``-n auto``, two more than there are processors: some tests always wait for a worker."""
    return (os.cpu_count() or 1) + 2


@pytest.hookimpl(trylast=True)  # after pytest-randomly
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the long tests, so that no processor is idle while the last of them wait.

    xdist gives each of its processes a stretch of the list, so each stretch begins with some.
    """
    stretches = getattr(config, "workerinput", {}).get("workercount", 1)
    long = [item for item in items if item.get_closest_marker("long")]
    others = [item for item in items if not item.get_closest_marker("long")]
    size = -(-len(others) // stretches) or 1
    items[:] = [
        item
        for n in range(stretches)
        for item in (*long[n::stretches], *others[n * size : (n + 1) * size])
    ]


@pytest.fixture
def project(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, fork_server: ForkServer
) -> Project:
    """A fresh Django project."""
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)
    for name in ("CI", "BUILD_NUMBER"):  # pytest shortens no text where it sees them
        monkeypatch.delenv(name, raising=False)
    # Each run is a process, and these plugins would take half of its time for nothing.
    monkeypatch.setenv(
        "PYTEST_ADDOPTS", "-p no:anyio -p no:asyncio -p no:faker -p no:hypothesispytest"
    )
    # Compiling Django, Celery and pytest anew would take most of the rest.
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    popen = pytester.popen

    def forked(command: Sequence[str], stdout: IO[str], stderr: IO[str], **rest: object) -> object:
        if tuple(command[:2]) == (sys.executable, "-mpytest"):
            return fork_server.run(command[2:], stdout, stderr)
        return popen(command, stdout, stderr, **rest)

    monkeypatch.setattr(pytester, "popen", forked)
    return Project(pytester)


@pytest.fixture
def users(project: Project) -> None:
    """Have Django's own models of users and groups in the project: to create them takes long."""
    project.settings("""
        INSTALLED_APPS += ["django.contrib.auth", "django.contrib.contenttypes"]
        MIGRATION_MODULES = {"auth": None, "contenttypes": None}
    """)


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the runs of a test out of the coverage: it takes a third of their time.

    For those that are long, and run what others run, too.
    """
    for name in MEASURED:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def fresh_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a run import the plugin, and start other processes, itself: the test looks at that."""
    monkeypatch.setenv(FRESH, "1")


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    """What the runs of `project` fork from."""
    server = ForkServer()
    yield server
    server.close()


@pytest.fixture
def run(project: Project) -> Run:
    """Run a test module in a fresh Django project."""
    return project.run
