"""A contract from its first file to the removal of what was retired, and wrong use of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.deploys.conftest import Shop
    from tests.support.project import Project, Run

UPDATE, CHECK = "--djcelery-contract=update", "--djcelery-contract=check"
REWRITE = "--djcelery-contract=rewrite"
SENDS = """
from shop.services import order


def test_orders():
    order(1)
"""


def test_a_task_is_planned_to_go_and_is_gone_a_release_later(shop: Shop) -> None:
    assert shop.run(SENDS, UPDATE).ret == 0
    shop.tasks("@shared_task\ndef bill(order_id): ...\n")  # which is fine
    assert shop.run(SENDS, CHECK).ret == 0

    shop.change("def ship(order_id, *, express", "def ship(order_id, carrier, *, express")
    shop.change("@shared_task\ndef count_orders", "def count_orders")
    shop.change("ship.delay(pk)", "ship.delay(pk, carrier='ups')", "shop/services.py")
    red = shop.run(SENDS, CHECK, "--collect-only", "-q")
    assert red.ret == 1
    red.stdout.fnmatch_lines(
        [
            " 1. shop.tasks.count_orders is gone",
            " 2. shop.tasks.ship: 'carrier' is missing in the message",
            "      recorded: ship(order_id, ?, express=?)",
            "      now: ship(order_id, carrier, ?, express=?)",
            "      sent: ship(int) from shop/services.py in order",
            "    do: Give it a default: carrier=None, at the end. *",
        ]
    )
    red.stdout.no_fnmatch_line("*workers of the release before*")  # no test has run

    # Updated without a plan, the file still says so.
    assert shop.run(SENDS, UPDATE).ret == 0
    shop.run(SENDS, CHECK, "-q").stdout.fnmatch_lines([" 1. shop.tasks.count_orders is gone"])
    retired = {
        "shop.tasks.count_orders": "nothing sends it",
        "shop.tasks.ship:carrier": "the queue is drained",
        "queue:mail": "long gone",
    }
    shop.edit(retired=retired)
    green = shop.run(SENDS, CHECK)
    assert green.ret == 0
    green.stdout.fnmatch_lines(
        [
            "Planned, by * in celery-contract.json: shop.tasks.count_orders, shop.tasks.ship:*",
            '"retired" in celery-contract.json accepts nothing in this run by: queue:mail.',
        ]
    )
    assert shop.run(SENDS, UPDATE).ret == 0
    assert shop.contract()["retired"] == retired

    assert shop.run(SENDS, REWRITE).ret == 0
    assert "retired" not in shop.contract()
    assert "shop.tasks.count_orders" not in shop.contract()["tasks"]
    assert shop.run(SENDS, CHECK).ret == 0


def test_what_old_workers_can_not_run_warns_fails_or_is_ignored(shop: Shop) -> None:
    assert shop.run(SENDS, UPDATE).ret == 0
    shop.tasks("@shared_task\ndef bill(order_id): ...\n")
    tests = (
        "from shop.tasks import bill, ship\n\ndef test_it():\n    bill.delay(1)\n"
        "    ship.app.send_task('of.another.service')\n    ship.delay(1, express=True)\n"
    )

    warned = shop.run(tests, CHECK)
    assert warned.ret == 0
    warned.stdout.fnmatch_lines(
        [
            "Messages of this code that break on workers of the release before, * (a warning: *",
            " 1. shop.tasks.bill is new: old workers don't know it, and drop its messages",
            "      sent: bill(int) from test_it.py in test_it",
        ]
    )
    warned.stdout.no_fnmatch_line("*another.service*")  # nor is ``express`` new
    failed = shop.run(
        tests,
        CHECK,
        "--djcelery-contract-rolling=error",
        "--junitxml=junit.xml",
        "-p",
        "no:terminal",
    )
    assert failed.ret == 1
    assert "new messages: shop.tasks.bill" in (shop.path / "junit.xml").read_text()
    shop.ini("djcelery_contract_rolling = ignore")
    ignored = shop.run(tests, CHECK)
    assert ignored.ret == 0
    ignored.stdout.no_fnmatch_line("*bill*")


def test_a_contract_that_can_not_be_used_ends_the_run_before_any_test(shop: Shop) -> None:
    passes = "def test_it(): ..."
    path = shop.path / "celery-contract.json"
    good = '{"format": 1, "queues": [], "tasks": {}, "retired": {"shop.tasks.a": "gone"}}'
    for written, expected in (
        (None, "There is no contract at celery-contract.json."),
        ("{<<<<<<< HEAD", "celery-contract.json is damaged: *"),
        (good.replace("1", "99"), "celery-contract.json has format 99, and this release *"),
        (good.replace('"gone"', '""'), '*"retired" has \'shop.tasks.a\' with "" as its reason.'),
    ):
        if written is not None:
            path.write_text(written)
        for mode in (CHECK, *([UPDATE] if written else [])):
            run = shop.run(passes, mode)
            assert run.ret == pytest.ExitCode.USAGE_ERROR
            run.stderr.fnmatch_lines([f"ERROR: {expected}"])
        if written is not None:
            assert path.read_text() == written
    assert shop.run(passes, REWRITE).ret == 0  # as the errors say
    assert shop.run(passes, CHECK).ret == 0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--djcelery-contract", "check"), "--djcelery-contract needs its value after an equals *"),
        (("--djcelery-contract", "test_it.py"), "--djcelery-contract needs its value after *"),
        (("--djcelery-contract",), "--djcelery-contract needs its value after an equals sign, *"),
        (("--djcelery-contract=test",), "djcelery_contract = 'test': expected one of 'check', *"),
        (
            ("-o", "djcelery_contract_rolling=fail"),
            "djcelery_contract_rolling = 'fail': expected one of 'warn', *",
        ),
    ],
)
def test_an_option_that_is_wrong_is_refused(
    run: Run, options: tuple[str, ...], expected: str
) -> None:
    result = run("def test_it(): ...", *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {expected}"])


def test_no_tasks_are_an_empty_contract_and_two_apps_need_a_name(shop: Shop) -> None:
    passes = "def test_it(): ..."
    shop.write(**{"shop/tasks": "", "shop/services": ""})
    result = shop.run(passes, UPDATE)
    result.stdout.fnmatch_lines(["celery-contract.json is written: 0 tasks, 0 shapes of messages."])
    assert shop.contract() == {"format": 1, "queues": ["celery"], "tasks": {}}
    assert shop.run(passes, CHECK).ret == 0

    other = "from celery import Celery\n\nother = Celery('other', set_as_current=False)\n\n\n"
    shop.write(**{"shop/tasks": f"{other}@other.task(shared=False)\ndef of_the_other(): ...\n"})
    refused = shop.run(passes, CHECK)
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(
        [
            "ERROR: There are two Celery apps with tasks, proj* and other*, and a *",
            "Name the one with djcelery_app (ini) or --djcelery-app; *",
        ]
    )
    assert shop.run(passes, CHECK, "--djcelery-app=proj.celery:app").ret == 0
    options = "--djcelery-app=shop.tasks:other", "--djcelery-contract-file=other/contract.json"
    assert shop.run(passes, UPDATE, *options).ret == 0
    assert '"shop.tasks.of_the_other"' in (shop.path / "other/contract.json").read_text()

    shop.write(**{"shop/tasks": "def broken(:\n"})
    broken = shop.run(passes, CHECK)
    assert broken.ret == pytest.ExitCode.USAGE_ERROR
    broken.stderr.fnmatch_lines(["ERROR: --djcelery-contract imports what a worker imports, *"])


def test_beside_an_audit_and_where_a_process_crashes(shop: Shop) -> None:
    shop.settings('CELERY_BROKER_URL = "memory://"\nCELERY_RESULT_BACKEND = "cache+memory://"\n')
    assert shop.run(SENDS, UPDATE, "--djcelery-audit").ret == 0
    assert shop.contract()["tasks"]["shop.tasks.ship"]["sent"]

    tests = "import os\nfrom shop.services import order\n\ndef test_it():\n    os._exit(1)\n"
    crashed = shop.run(tests, CHECK, "-n", "1")
    crashed.stdout.fnmatch_lines(
        [
            "No message of the contract in celery-contract.json would break.",
            "1 process of xdist ended early: what the tests there had sent is not checked *",
        ]
    )


def test_a_project_without_django(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\ndjcelery_app = tasks:app\npythonpath = .\n")
    tasks = "from celery import Celery\n\napp = Celery('tasks')\n\n\n@app.task\n"
    options = "-p", "no:django", "-p", "no:randomly", "-p", "no:asyncio"
    tests = "from tasks import add\n\ndef test_it(celery_outbox):\n    add.delay(1, 2)\n"

    pytester.makepyfile(tasks=f"{tasks}def add(x, y): ...\n", test_it=tests)
    assert pytester.runpytest_subprocess(UPDATE, *options).ret == 0
    pytester.makepyfile(tasks=f"{tasks}def add(x): ...\n")
    red = pytester.runpytest_subprocess(CHECK, "--collect-only", *options)
    assert red.ret == 1
    red.stdout.fnmatch_lines([" 1. tasks.add: argument 2 ('y') is one too many"])


def test_without_the_option_nothing_of_it_is_loaded(project: Project) -> None:
    result = project.run(
        """
        import sys

        def test_it(celery_outbox):
            from shop.tasks import add

            add.delay(1, 2)
            assert not [name for name in sys.modules if name.startswith("pytest_djcelery.contract")]
        """
    )
    result.assert_outcomes(passed=1)
