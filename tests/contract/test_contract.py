"""Every worker keeps the contract, over every broker and result backend."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest
from celery import VERSION

from tests.contract import behaviours, exceptions
from tests.support.services import require, url

if TYPE_CHECKING:
    from tests.contract.exceptions import Triple
    from tests.support.project import Project

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("unmeasured")]

HERE = Path(__file__).parent
SETTINGS = """
    from kombu import Exchange, Queue

    CELERY_TASK_QUEUES = [
        Queue("celery"),
        Queue("elsewhere"),
        Queue("topical", Exchange("topics", "topic"), "order.*"),
    ]
    CELERY_TASK_ROUTES = {
        "shop.contract.routed": {"queue": "elsewhere"},
        "shop.contract.plain.with_priority": {"priority": 4},
    }
    CELERY_WORKER_LOST_WAIT = 1  # seconds, not 10, until the task of a process that ended is lost
    DATABASES["default"]["TEST"] = {"NAME": TEST_DATABASE}
    """  # fmt: skip
BROKERS = {
    "memory": None,
    "filesystem": None,  # what the live worker takes in place of memory
    "redis": f"djcelery_broker = {url('redis')}",
    "rabbitmq": f"djcelery_broker = {url('rabbitmq')}",
}
BACKENDS = {
    "memory": "",
    "django-db": """
        INSTALLED_APPS += ["django_celery_results"]
        CELERY_RESULT_BACKEND = "django-db"
        """,
    "django-cache": """
        INSTALLED_APPS += ["django_celery_results"]
        CELERY_RESULT_BACKEND = "django-cache"
        CELERY_CACHE_BACKEND = "default"
        CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
        """,
    "sqlalchemy": "",
    "redis": "",
    "rpc": "",
}
RESULTS = {
    "sqlalchemy": "djcelery_result_backend = db+sqlite:///FOLDER/results.sqlite3",
    "redis": f"djcelery_result_backend = {url('redis')}",
    "rpc": "djcelery_result_backend = rpc://",
}


@pytest.mark.parametrize("triple", exceptions.TRIPLES, ids=str)
def test_contract(project: Project, monkeypatch: pytest.MonkeyPatch, triple: Triple) -> None:
    for service in {triple.broker, triple.backend} & {"redis", "rabbitmq"}:
        require(service)
    if triple.worker == "eager" and VERSION < (5, 7):
        pytest.skip("what eager mode does not do is declared for Celery 5.7")
    prepare(project, triple)
    outcomes = project.path / "outcomes.jsonl"
    declared = exceptions.declared(triple, VERSION[:3])
    for name, value in {
        "WORKER": triple.worker,
        "BROKER": triple.broker,
        "BACKEND": triple.backend,
        "LOG": str(project.path / "log"),
        "OUTCOMES": str(outcomes),
        "DECLARED": json.dumps(declared),
    }.items():
        monkeypatch.setenv(f"CONTRACT_{name}", value)
    monkeypatch.setenv("C_FORCE_ROOT", "1")  # a worker of root's refuses pickle without it
    result = project.run(
        "",
        *(f"test_{theme}.py" for theme in behaviours.THEMES),
        # That it is said is shown in tests/inline; here, that the limit is not enforced.
        *("-W", "ignore::pytest_djcelery.errors.LimitNotEnforcedWarning"),
    )
    assert not {"failed", "errors", "warnings"} & set(result.parseoutcomes()), result.stdout.str()
    lines = map(json.loads, outcomes.read_text().splitlines())
    shown: dict[str, set[str]] = defaultdict(set)
    for line in lines:
        shown[line["behaviour"]].add(line["outcome"])
    elsewhere = {name for name, reported in declared.items() if not reported["shown"]}
    assert shown.keys() == behaviours.names() - elsewhere
    for name, found in shown.items():
        assert found == {"declared" if name in declared else "passed"}, name


def prepare(project: Project, triple: Triple) -> None:
    """Write the project that the behaviours are shown in."""
    # Other processes can open a database in a file only; a task may leave them in another folder.
    database = str(project.path / "test.sqlite3") if triple.worker == "live" else None
    project.settings(
        dedent(SETTINGS).replace("TEST_DATABASE", repr(database)) + dedent(BACKENDS[triple.backend])
    )
    options = filter(None, (BROKERS[triple.broker], RESULTS.get(triple.backend)))
    project.ini(*(option.replace("FOLDER", str(project.path)) for option in options))
    tasks = {path.stem: path.read_text() for path in (HERE / "tasks").glob("*.py")}
    project.write(**{
        "conftest": (HERE / "conftest_of_project.py").read_text(),
        "shop/contract/__init__": "",
        **{f"shop/contract/{name}": text for name, text in tasks.items()},
        **{
            f"test_{theme}": (HERE / "themes" / f"{theme}.py").read_text()
            for theme in behaviours.THEMES
        },
    })  # fmt: skip
    project.tasks(f"from shop.contract import {', '.join(sorted({*tasks} - {'log'}))}")
