"""Each rule of a contract, against a real deploy: what it says breaks is what breaks there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.deploys import two_releases
from tests.deploys.two_releases import BREAKS, RULES, Wrong
from tests.support import services

if TYPE_CHECKING:
    from tests.support.project import Project

SETTINGS = """
CELERY_BROKER_URL = {url!r}
CELERY_RESULT_BACKEND = {url!r}
CELERY_BROKER_TRANSPORT_OPTIONS = {{"global_keyprefix": {prefix!r}}}
CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS = {{"global_keyprefix": {prefix!r}}}
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_TASK_DEFAULT_EXCHANGE = "celery"
CELERY_ACCEPT_CONTENT = {accepted!r}
from kombu import Queue
CELERY_TASK_QUEUES = [Queue(name) for name in {queues!r}]
CELERY_TASK_ROUTES = {routes!r}
"""
TESTS = """
import pytest
from shop.publishing import PUBLISHERS

@pytest.mark.parametrize("publish", PUBLISHERS)
def test_it(publish):
    publish()
"""


def redis_client() -> Any:
    """A client of the server that the tests use."""
    import redis

    return redis.Redis.from_url(services.url("redis"))


@pytest.fixture
def prefix() -> Iterator[str]:
    """What the keys of this test begin with; they are gone afterwards."""
    services.require("redis")
    name = f"djcelery-deploys-{uuid.uuid4().hex}-"
    yield name
    _remove(name)


def _remove(prefix: str) -> None:
    with redis_client() as client:
        for key in client.scan_iter(f"{prefix}*"):
            client.delete(key)


def _become(project: Project, release: str, prefix: str, settings: str) -> None:
    """Have the project be one of the two releases."""
    old = release == "old"
    project.write(
        **{
            "proj/settings": settings
            + SETTINGS.format(
                url=services.url("redis"),
                prefix=f"{prefix}{release}-",
                accepted=["json", "pickle"] if old else ["json"],
                queues=["celery", "mail"] if old else ["celery", "bulk"],
                routes={"shop.tasks.to_mail": "mail"} if old else {"shop.tasks.rerouted": "bulk"},
            ),
            "shop/tasks": two_releases.tasks(release),
            "shop/publishing": two_releases.publishing(release),
        }
    )


def _python(project: Project, program: str, *arguments: str) -> str:
    marks = project.path / "marks"
    marks.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "proj.settings",
        "MARKS": str(marks),
        "C_FORCE_ROOT": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=project.path, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _publish(project: Project, prefix: str) -> None:
    """Send all messages of the release that the project is, to an empty broker."""
    _remove(prefix)
    last = "\nfrom shop.tasks import first\nfirst.apply_async(task_id='the-last')\n"
    _python(project, two_releases.PUBLISH + last)


def _outcomes(project: Project, expected: dict[str, Any]) -> dict[str, Any]:
    """What a real worker of the release that the project is makes of the messages."""
    for mark in (project.path / "marks").iterdir():
        mark.unlink()
    marked = [name for name in expected if name.startswith("of_error")]
    # What breaks may have no outcome at all. It has been tried when what comes later is done.
    awaited = [name for name in expected if name not in marked and expected[name] != BREAKS]
    rest = [name for name in expected if name not in marked + awaited]
    out = _python(project, two_releases.RUN, json.dumps([awaited, marked, rest]))
    found: dict[str, Any] = json.loads(out.rpartition("FOUND")[2])
    return found


def _said(project: Project, half: str) -> set[str]:
    """The tasks that break according to the check, by its JUnit file."""
    return {
        _task(str(case.get("name")).removeprefix(f"{half}: "))
        for case in ET.parse(project.path / "junit.xml").iter("testcase")
        if case.find("failure") is not None and str(case.get("name")).startswith(half)
    }


def _task(key: str) -> str:
    """The task that a key of ``retired`` is about; the queue has one task."""
    return (
        "to_mail"
        if key == "queue:mail"
        else key.split(":", maxsplit=1)[0].removeprefix("shop.tasks.")
    )


def _hand_over(prefix: str, sender: str, receiver: str) -> None:
    """Have the worker of the one release find what the other has published."""
    with redis_client() as client:
        for key in client.scan_iter(f"{prefix}{sender}-*"):
            client.rename(key, key.decode().replace(f"{prefix}{sender}-", f"{prefix}{receiver}-"))


@pytest.mark.usefixtures("unmeasured")
def test_what_breaks_by_the_contract_is_what_breaks_in_a_deploy(
    project: Project, prefix: str
) -> None:
    expected_on_new = {rule.name: rule.on_new for rule in RULES if rule.call("old")}
    expected_on_old = {rule.name: rule.on_old for rule in RULES if rule.call("new")}
    settings = (project.path / "proj/settings.py").read_text()
    _become(project, "old", prefix, settings)
    assert project.run(TESTS, "-q", "--djcelery-contract=update").ret == 0
    _publish(project, prefix)
    _hand_over(prefix, "old", "new")

    _become(project, "new", prefix, settings)
    checked = project.run(
        TESTS, "-q", "--djcelery-contract=check", "--djcelery-contract-rolling=error",
        "--junitxml=junit.xml",
    )  # fmt: skip
    assert checked.ret == 1
    checked.stdout.no_fnmatch_line("* failed*")
    of_old = _outcomes(project, expected_on_new)
    _publish(project, prefix)
    _hand_over(prefix, "new", "old")

    _become(project, "old", prefix, settings)
    of_new = _outcomes(project, expected_on_old)

    for half, expected, outcomes in (
        ("old messages", expected_on_new, of_old),
        ("new messages", expected_on_old, of_new),
    ):
        assert outcomes == {
            name: outcome.value if isinstance(outcome, Wrong) else outcome
            for name, outcome in expected.items()
        }
        broken = {name for name, outcome in expected.items() if _is_break(outcome)}
        assert _said(project, half) == broken
        assert broken < outcomes.keys()


def _is_break(outcome: Any) -> bool:
    return isinstance(outcome, Wrong) or outcome == BREAKS
