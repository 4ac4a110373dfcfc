"""ETAs that are later than the broker waits for an acknowledgement: the task runs twice."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pytest_djcelery.audit.findings import fix_of
from pytest_djcelery.audit.report import _colours
from tests.audit.suites import EAGER

if TYPE_CHECKING:
    from tests.support.project import Project


@pytest.mark.parametrize(
    ("url", "options", "found"),
    [
        ("redis://192.0.2.1:1/0", None, [7, 9]),
        ("redis://192.0.2.1:1/0", {"visibility_timeout": 3 * 3600}, [9]),
        ("sqs://", {"region": "x"}, [6, 7, 9]),
        ("amqp://guest:guest@192.0.2.1:1//", None, []),
    ],
)
def test_an_eta_beyond_the_visibility_timeout_is_found_at_its_line(
    project: Project, url: str, options: object, found: list[int]
) -> None:
    project.settings(f"""
        CELERY_BROKER_URL = {url!r}
        CELERY_BROKER_TRANSPORT_OPTIONS = {options or {}}
        """)
    project.write(**{"shop/services": """
        from datetime import timedelta
        from django.utils import timezone
        from shop.tasks import add

        def send():
            add.apply_async((1, 2), countdown=2000)
            add.apply_async((1, 2), countdown=7200)
            add.delay(1, 2)
            add.apply_async((1, 2), eta=timezone.now() + timedelta(days=2))
        """})  # fmt: skip
    result = project.run(
        "def test_it():\n    send()\n",
        "--djcelery-audit",
        "--djcelery-audit-report=audit.json",
        "--color=yes",
        preamble=EAGER,
    )
    result.assert_outcomes(passed=1)
    report = json.loads((project.path / "audit.json").read_text(encoding="utf-8"))
    beyond = [
        finding
        for finding in report["findings"]
        if finding["kind"] == "eta-beyond-visibility-timeout"
    ]
    assert [(finding["path"], finding["line"]) for finding in beyond] == [
        ("shop/services.py", line + 1) for line in found
    ]
    if 9 in found:
        last = beyond[-1]
        assert last["facts"]["ETA"] == ["after 2 days"]
        assert fix_of(last) == 'CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 176400}'
        result.stdout.fnmatch_lines(["*\x1b[[]*ETAs beyond the broker's visibility timeout*"])


@pytest.mark.parametrize(
    ("code", "fix"),
    [
        ("send_email.delay(user.pk)", "send_email.delay_on_commit(user.pk)"),
        (
            "send_email.apply_async((1,), queue='mail')",
            "send_email.apply_async_on_commit((1,), queue='mail')",
        ),
        ("welcome.enqueue('ada')", "transaction.on_commit(partial(welcome.enqueue, 'ada'))"),
        ("for user in users: work(user)", "send_email.delay_on_commit(…)"),
    ],
)
def test_the_fix_of_a_race_is_the_line_itself_after_the_commit(code: str, fix: str) -> None:
    finding = {
        "kind": "published-in-transaction",
        "code": code,
        "subject": "shop.tasks.send_email",
        "facts": {},
    }
    assert fix_of(finding) == fix


def test_the_section_has_colours_for_titles_and_what_is_sure() -> None:
    assert _colours("  ! shop/views.py:3 in buy: shop.tasks.ship, in 1 test") == {
        "red": True,
        "bold": True,
    }
    assert _colours("mocked publishes: 2 places  [mocked-publishes]")["bold"]
    assert _colours("2 tests watched, 1 finding.") == {}
