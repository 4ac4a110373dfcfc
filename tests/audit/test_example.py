"""The example project's old tests, audited: each planted fault is found, and nothing after them."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.support.forking import ForkServer

EXAMPLE = Path(__file__).resolve().parent.parent.parent / "example_project"
PAGE = EXAMPLE.parent / "docs/how-to/existing-suite.md"
MESSAGES = EXAMPLE / ".broker/messages"
STARTS = re.DOTALL | re.MULTILINE
IN_ORDER = ("-p", "no:randomly")

# Kind, place, what it is about, number of tests, and whether it is marked as sure.
PLANTED = [
    (
        "published-in-transaction", "demoapp/views.py in create_user_pitfall",
        "demoapp.tasks.send_email", 2, True,
    ),
    (
        "published-in-transaction", "demoapp/pitfalls.py in withdraw",
        "demoapp.tasks.delete_widget", 1, True,
    ),
    (
        "failures-nobody-saw", "demoapp/tasks.py in delete_widget",
        "demoapp.tasks.delete_widget", 1, False,
    ),
    (
        "mocked-publishes", "demoapp/pitfalls.py in welcome_again",
        "demoapp.tasks.send_email", 1, True,
    ),
    (
        "mocked-publishes", "demoapp/pitfalls.py in rename_all",
        "demoapp.tasks.rename_widget", 1, True,
    ),
    (
        "mocked-publishes", "demoapp/views.py in sign_up",
        "demoapp.tasks.send_email", 1, False,
    ),
    (
        "mocked-publishes", "demoapp/views.py in create_user_pitfall",
        "demoapp.tasks.send_email", 1, False,
    ),
    (
        "mocked-publishes", "demoapp/views.py in rename",
        "demoapp.tasks.rename_widget", 1, False,
    ),
    (
        "hooks-never-ran", "demoapp/views.py in sign_up",
        "demoapp.tasks.send_email.delay_on_commit", 2, False,
    ),
    (
        "published-never-run", "demoapp/views.py in sign_up",
        "demoapp.tasks.send_email", 1, False,
    ),
    (
        "published-never-run", "tests_before/test_signup.py in test_an_import_is_started",
        "demoapp.tasks.import_widgets", 1, False,
    ),
    (
        "outside-reached", "demoapp/views.py in sign_up",
        "filesystem://localhost//", 1, False,
    ),
]  # fmt: skip


_OF_THIS_RUN = ("BROKER_URL", "PYTEST_ADDOPTS")


class Run:
    """What a run of pytest in the example's folder has printed and written."""

    def __init__(
        self, server: ForkServer, folder: Path, *arguments: str, audit: bool = True
    ) -> None:
        self.report = folder / "report.json"
        audited = ("--djcelery-audit", f"--djcelery-audit-report={self.report}") if audit else ()
        known = {name: value for name, value in os.environ.items() if name not in _OF_THIS_RUN}
        run = server.complete(
            "-p", "no:cacheprovider", "-rA", *audited, *arguments,
            folder=EXAMPLE,
            environment={**known, "DATABASE": "sqlite"},  # of a server it is one for all runs
        )  # fmt: skip
        self.code, self.text = run.returncode, run.stdout + run.stderr

    @property
    def lines(self) -> list[str]:
        """What it has printed."""
        return self.text.splitlines()

    @property
    def outcomes(self) -> Counter[str]:
        """Its tests, each with how it ended."""
        return Counter(
            re.findall(r"^(?:PASSED|FAILED|ERROR|SKIPPED|X\w+) \S+", self.text, re.MULTILINE)
        )

    @property
    def found(self) -> Any:
        """All that the audit has written."""
        return json.loads(self.report.read_text())


BEYOND = "eta-beyond-visibility-timeout"  # the example's broker, over files, has none


@pytest.fixture(scope="module")
def before(fork_server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(fork_server, tmp_path_factory.mktemp("before"), "tests_before", "-v", *IN_ORDER)


def test_each_planted_fault_is_found_and_nothing_else(before: Run) -> None:
    found = [
        (
            each["kind"], f"{each['path']} in {each['function']}",
            each["subject"], each["tests"], each["sure"],
        )
        for each in before.found["findings"]
    ]  # fmt: skip
    assert before.code == 0, before.text
    assert found == PLANTED
    assert before.found["tests"] == 12
    kinds = {kind["name"] for kind in before.found["kinds"]}
    assert kinds - {BEYOND} == {kind for kind, *_ in found}


def test_each_finding_says_what_is_wrong(before: Run) -> None:
    facts = [each["facts"] for each in before.found["findings"]]
    key = "send its primary key (user.pk) and fetch the User in the task"
    by = "the decorator transaction.atomic of demoapp.pitfalls.withdraw (demoapp/pitfalls.py:11)"
    fit = "rename_widget() got an unexpected keyword argument 'new_name'"
    assert facts == [
        {
            "opened by": [
                "`with transaction.atomic()` at demoapp/views.py:58 in create_user_pitfall"
            ],
            "row": ["auth.User, whose primary key is argument 1"],
            "written": ["before it was sent"],
        },
        {
            "opened by": [by],
            "row": ["demoapp.Widget, whose primary key is argument 1"],
            "written": ["after it was sent, at demoapp/pitfalls.py:16 in withdraw"],
        },
        {"raised": ["Widget.DoesNotExist"], "ran": ["by eager mode"]},
        {
            "fault": [f"argument 1, a User, can't be encoded by 'json'; {key}"],
            "mocked": ["demoapp.tasks.send_email.delay"],
        },
        {
            "fault": [f"it doesn't fit the task: {fit}"],
            "mocked": ["demoapp.tasks.rename_widget.delay"],
        },
        {"mocked": ["demoapp.tasks.send_email.delay_on_commit"]},
        {"mocked": ["demoapp.tasks.send_email.delay"]},
        {"mocked": ["demoapp.tasks.rename_widget.apply_async_on_commit"]},
        {"what": ["the delay_on_commit of a task"], "would send": ["demoapp.tasks.send_email"]},
        {},
        {},
        {"what": ["broker"]},
    ]


def test_a_person_reads_what_the_page_shows(before: Run) -> None:
    [shown] = re.findall(r"^ *12 tests watched, 12 .*?(?=```)", PAGE.read_text(), STARTS)
    printed = (line.strip() for line in before.lines)
    lines = [line.strip() for line in shown.splitlines()]
    missing = [line for line in lines if line != "…" and line not in printed]
    assert not missing  # nor in another order: what was read is gone
    assert len(lines) >= 8


def test_inline_mode_fails_two_of_the_old_tests_each_for_its_reason(
    fork_server: ForkServer, tmp_path: Path
) -> None:
    run = Run(
        fork_server, tmp_path, "tests_before", "-o", "djcelery_mode=inline", *IN_ORDER, audit=False
    )
    assert sorted(re.findall(r"^FAILED \S+::(\w+)", run.text, re.MULTILINE)) == [
        "test_a_widget_is_withdrawn",
        "test_the_mail_of_a_user_just_created",
    ]
    for reason in (
        "SentInTransactionWarning: demoapp.tasks.delete_widget(1) was sent inside an open",
        "SentInTransactionWarning: demoapp.tasks.send_email(1) was sent inside an open",
    ):
        assert reason in run.text


def test_nothing_is_found_in_the_tests_that_were_rewritten(
    fork_server: ForkServer, tmp_path: Path, before: Run
) -> None:
    after = Run(fork_server, tmp_path, "tests_after", *IN_ORDER)
    assert after.code == 0, after.text
    assert after.found["findings"] == []
    assert "celery audit: 12 tests watched, nothing found." in after.lines
    assert sorted(after.outcomes) == [
        name.replace("tests_before", "tests_after") for name in sorted(before.outcomes)
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ("-n", "2", *IN_ORDER),
        ("-p", "no:xdist", "--randomly-seed=1"),
        ("-p", "no:xdist", "--randomly-seed=2"),
        ("-p", "no:xdist", "--randomly-seed=3"),
    ],
    ids=" ".join,
)
def test_two_processes_and_any_order_find_the_same(
    fork_server: ForkServer, tmp_path: Path, before: Run, arguments: tuple[str, ...]
) -> None:
    run = Run(fork_server, tmp_path, "tests_before", *arguments)
    assert run.code == 0, run.text
    assert run.found == before.found


@pytest.mark.parametrize("plugin", [(), ("-p", "no:djcelery")], ids=["plugin", "no plugin"])
def test_the_old_tests_end_as_they_do_without_the_audit(
    fork_server: ForkServer, tmp_path: Path, before: Run, plugin: tuple[str, ...]
) -> None:
    lying_there = set(MESSAGES.iterdir()) if MESSAGES.exists() else set()
    run = Run(fork_server, tmp_path, "tests_before", *plugin, *IN_ORDER, audit=False)
    assert run.code == before.code == 0, run.text
    assert run.outcomes == before.outcomes
    assert run.outcomes.total() == 12
    assert set(MESSAGES.iterdir()) == lying_there  # the real broker is reached elsewhere


def test_what_is_in_the_baseline_does_not_fail_the_run(
    fork_server: ForkServer, tmp_path: Path, before: Run
) -> None:
    known = f"--djcelery-audit-baseline={before.report}"
    run = Run(
        fork_server, tmp_path, "tests_before", known, "--djcelery-audit-fail-on=all", *IN_ORDER
    )
    assert run.code == 0, run.text
    assert "12 tests watched, 0 findings, 12 known before." in run.lines
    assert all(each["known"] for each in run.found["findings"])


def test_without_a_baseline_each_finding_fails_the_run(
    fork_server: ForkServer, tmp_path: Path, before: Run
) -> None:
    run = Run(fork_server, tmp_path, "tests_before", "--djcelery-audit-fail-on=all", *IN_ORDER)
    assert run.code == 1
    assert run.outcomes == before.outcomes  # no test has failed
    names = (kind["name"] for kind in before.found["kinds"])
    kinds = ", ".join(name for name in names if name != BEYOND)
    assert f"celery audit: failed by 12 findings of {kinds}" in run.lines
