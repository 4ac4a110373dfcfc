"""What `celery_inline` warns of: limits that a worker in the test's own thread can't enforce."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_djcelery.errors import LimitNotEnforcedWarning
from pytest_djcelery.workers.inline import limits as module
from pytest_djcelery.workers.inline.limits import Limits, limits_of


class Lab:
    """Limits, tasks made by hand, and a clock that a delivery moves on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.limits = Limits()
        self.seconds = 0.0
        monkeypatch.setattr(module, "monotonic", lambda: self.seconds)
        self.follow()

    def follow(self, **settings: Any) -> None:
        conf = {
            "task_default_rate_limit": None,
            "task_time_limit": None,
            "task_soft_time_limit": None,
        }
        app: Any = SimpleNamespace(conf=conf | settings)
        self.limits.follow(app)

    def deliver(self, *, takes: float = 0.0, timelimit: Any = None, **own: Any) -> list[str]:
        task = SimpleNamespace(
            **{
                "name": "shop.add",
                "rate_limit": None,
                "time_limit": None,
                "soft_time_limit": None,
                **own,
            }
        )
        headers = {"task": task.name, "timelimit": timelimit}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with self.limits.warned_of({task.name: task}, headers):
                self.seconds += takes
        assert all(warning.category is LimitNotEnforcedWarning for warning in caught)
        return [str(warning.message).partition(":")[0] for warning in caught]


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    return Lab(monkeypatch)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("own", "shown"),
    [
        ({"rate_limit": "10/m"}, "shop.add has rate_limit='10/m'"),
        ({"time_limit": 5}, "shop.add has time_limit=5"),
        ({"soft_time_limit": 3}, "shop.add has soft_time_limit=3"),
        ({"timelimit": (7, None)}, "shop.add has time_limit=7"),
        ({"timelimit": [None, 6]}, "shop.add has soft_time_limit=6"),
        ({"timelimit": (7, None), "time_limit": 5}, "shop.add has time_limit=7"),
        ({"timelimit": (None, 8), "soft_time_limit": 5}, "shop.add has soft_time_limit=8"),
    ],
)
def test_a_limit_of_a_task_or_a_message_is_warned_of_once_at_its_delivery(
    lab: Lab, own: dict[str, Any], shown: str
) -> None:
    assert lab.deliver(**own) == [shown]
    assert lab.deliver(takes=100, **own) == []
    assert lab.deliver(name="shop.other", **own) == [shown.replace("shop.add", "shop.other")]


def test_each_limit_of_a_task_is_warned_of(lab: Lab) -> None:
    assert lab.deliver(rate_limit="1/s", time_limit=2, soft_time_limit=1) == [
        "shop.add has rate_limit='1/s'",
        "shop.add has time_limit=2",
        "shop.add has soft_time_limit=1",
    ]


def test_no_limit_is_nothing_to_warn_of(lab: Lab) -> None:
    assert lab.deliver(takes=100) == []
    assert lab.deliver(takes=100, timelimit=(None, None)) == []


def test_a_limit_of_all_tasks_is_warned_of_when_one_took_longer(lab: Lab) -> None:
    lab.follow(task_time_limit=10, task_soft_time_limit=5)
    assert lab.deliver(takes=5, time_limit=10) == []
    assert lab.deliver(takes=7.25, time_limit=10) == [
        "shop.add has soft_time_limit=5, and it took 7.2 s"
    ]
    assert lab.deliver(takes=10.5) == ["shop.add has time_limit=10, and it took 10.5 s"]
    assert lab.deliver(takes=20) == []


def test_the_rate_limit_of_all_tasks_is_warned_of_after_the_first(lab: Lab) -> None:
    lab.follow(task_default_rate_limit="9/s")
    assert lab.deliver(rate_limit="9/s") == ["shop.add has rate_limit='9/s'"]
    assert lab.deliver(rate_limit="9/s") == []


def test_a_message_without_a_task_has_no_limits(lab: Lab) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with lab.limits.warned_of({}, {"task": "no.such.task", "timelimit": (1, 1)}):
            pass
        with lab.limits.warned_of({}, {}):
            pass


def test_the_text_says_what_to_do(lab: Lab) -> None:
    with pytest.warns(LimitNotEnforcedWarning, match=r"celery_faults.time_out\(task, at=…\)"):
        lab.limits._warn("shop.add", "time_limit", "time_limit=5")


def test_a_project_has_one_record_of_what_was_warned_of() -> None:
    class Project:
        """Can be referred to weakly."""

    one: Any = Project()
    other: Any = Project()
    assert limits_of(one) is limits_of(one)
    assert limits_of(one) is not limits_of(other)
