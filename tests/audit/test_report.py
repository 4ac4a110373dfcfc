"""How an audit tells what it has found, and what becomes of the run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project

SUITE = """
import pytest
from unittest import mock
from proj.celery import app
from shop.services import *
from shop.tasks import *

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("number", range(4))
def test_mocked(number):
    with mock.patch("shop.tasks.ship.delay") as delay:
        order_in_transaction()
        order_in_transaction()
    assert delay.call_count == 2


def test_hook():
    order_on_commit()
"""
CLEAN = "def test_it():\n    pass\n"
MANY = "from shop.tasks import add\n\ndef test_it():\n" + "    add.delay(1, 2)\n" * 7


@pytest.fixture
def planted(old: Project) -> Project:
    """A suite with three findings in its file."""
    old.write(test_it=SUITE)
    return old


def test_the_section_is_ranked_and_says_why_and_what_answers_it(planted: Project) -> None:
    result = planted.run(SUITE, "--djcelery-audit")
    result.assert_outcomes(passed=5)
    text = result.stdout.str()
    assert text[text.index("5 tests watched") : text.index("====== 5 passed")].rstrip("=") == (
        "5 tests watched, 3 findings.\n"
        "! marks the surest: an argument is the key of a row that the transaction wrote, or the "
        "call would fail.\n"
        "\n"
        "published inside an open transaction: 1 place  [published-in-transaction]\n"
        "  A worker can run the task before the commit, and not see what was written.\n"
        "  Send it with delay_on_commit. celery_outbox warns at that very line, and "
        "djcelery_sent_in_transaction = error stops new ones.\n"
        "  ! shop/services.py:11 in order_in_transaction: shop.tasks.ship, 8 times in 4 tests\n"
        "      opened by: `with transaction.atomic()` at shop/services.py:9 in "
        "order_in_transaction\n"
        "      row: shop.Order, whose primary key is argument 1\n"
        "      written: before it was sent\n"
        "      tests: test_it.py::test_mocked[0], test_it.py::test_mocked[1], "
        "test_it.py::test_mocked[2] and 1 more\n"
        "\n"
        "mocked publishes: 1 place  [mocked-publishes]\n"
        "  A mock takes arguments that no task has and that no serializer can encode.\n"
        "  celery_outbox records real messages: assert celery_outbox == [task.s(…)].\n"
        "  - shop/services.py:11 in order_in_transaction: shop.tasks.ship, 8 times in 4 tests\n"
        "      mocked: shop.tasks.ship.delay\n"
        "      tests: test_it.py::test_mocked[0], test_it.py::test_mocked[1], "
        "test_it.py::test_mocked[2] and 1 more\n"
        "\n"
        "on_commit hooks that never ran: 1 place  [hooks-never-ran]\n"
        "  Production runs them after the commit; what they do is not tested here.\n"
        "  Any fixture of this plugin runs them when production would; celery_on_commit lists "
        "them, celery_outbox what they sent.\n"
        "  - shop/services.py:24 in order_on_commit: shop.tasks.ship.delay_on_commit, in 1 test\n"
        "      what: the delay_on_commit of a task\n"
        "      would send: shop.tasks.ship\n"
        "      tests: test_it.py::test_hook\n"
    )


def test_it_is_short_unless_all_is_asked_for(old: Project) -> None:
    result = old.run(MANY, "--djcelery-audit")
    result.stdout.fnmatch_lines(["published and never run: 7 places *", "*… and 2 more: -v shows*"])
    assert result.stdout.str().count("  - test_it.py:") == 5
    result = old.run(MANY, "--djcelery-audit", "-v")
    assert result.stdout.str().count("  - test_it.py:") == 7
    result.stdout.no_fnmatch_line("*more: -v shows all")


def test_a_clean_suite_is_one_line(old: Project) -> None:
    result = old.run(CLEAN, "--djcelery-audit")
    result.stdout.fnmatch_lines(["celery audit: 1 test watched, nothing found."])
    result.stdout.no_fnmatch_line("*= celery audit =*")


def test_the_ini_file_can_turn_it_on_and_the_command_line_need_not(old: Project) -> None:
    old.ini("djcelery_audit = true")
    old.run(CLEAN).stdout.fnmatch_lines(
        [
            "celery: audit: watches the tests, and changes nothing",
            "celery audit: 1 test watched, nothing found.",
        ]
    )
    old.ini("djcelery_audit_report = sub/folder/audit.json")
    old.run(CLEAN).stdout.fnmatch_lines(["celery audit: written to sub/folder/audit.json"])
    assert json.loads((old.path / "sub/folder/audit.json").read_text())["findings"] == []


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (["--djcelery-audit-report=audit.json"], "--djcelery-audit-report needs --djcelery-audit"),
        (
            ["--djcelery-audit", "--djcelery-audit-report=audit.txt"],
            "djcelery_audit_report = 'audit.txt': expected the path of a file that ends in .json",
        ),
        (
            ["--djcelery-audit", "--djcelery-audit-fail-on=races"],
            "djcelery_audit_fail_on = 'races': expected some of 'published-in-transaction', ",
        ),
        (
            ["--djcelery-audit", "--djcelery-audit-baseline=no.json"],
            "djcelery_audit_baseline = 'no.json': expected a file that --djcelery-audit-report",
        ),
        (
            ["--djcelery-audit", "--djcelery-audit-baseline=test_it.py"],
            "djcelery_audit_baseline = 'test_it.py': expected a file that --djcelery-audit-report",
        ),
        (["-o", "djcelery_audit=perhaps"], "djcelery_audit = 'perhaps': expected 'true' or 'fal"),
    ],
)
def test_a_wrong_option_ends_the_run(old: Project, args: list[str], error: str) -> None:
    result = old.run(CLEAN, *args)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {error}*".replace("[", "[[]")])


def test_a_report_that_cannot_be_written_is_mentioned(old: Project) -> None:
    (old.path / "taken").write_text("no folder")
    result = old.run(CLEAN, "--djcelery-audit", "--djcelery-audit-report=taken/audit.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["celery audit: not written, *taken*"])


def test_a_finding_can_fail_the_run(planted: Project) -> None:
    fail_on = "--djcelery-audit-fail-on=published-in-transaction,failures-nobody-saw"
    result = planted.run(SUITE, "--djcelery-audit", fail_on)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=5)
    result.stdout.fnmatch_lines(["celery audit: failed by 1 finding of published-in-transaction"])

    result = planted.run(SUITE, "--djcelery-audit", "--djcelery-audit-fail-on=failures-nobody-saw")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.no_fnmatch_line("celery audit: failed*")


def test_a_baseline_accepts_what_was_known_and_nothing_new(planted: Project) -> None:
    planted.run(SUITE, "--djcelery-audit", "--djcelery-audit-report=known.json")
    args = [
        "--djcelery-audit",
        "--djcelery-audit-baseline=known.json",
        "--djcelery-audit-fail-on=all",
    ]
    services = planted.path / "shop/services.py"
    text = services.read_text()

    services.write_text(f"# Lines that move\n# what was known.\n{text}")
    result = planted.run(SUITE, *args, "--djcelery-audit-report=audit.json")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["5 tests watched, 0 findings, 3 known before."])
    written = json.loads((planted.path / "audit.json").read_text())["findings"]
    assert [each["known"] for each in written] == [True, True, True]

    services.write_text(text.replace("ship.delay(order.pk)\n", "ship.delay(order.pk)\n" * 2, 1))
    # The same line twice: the first is known, the second is new.
    services.write_text(
        services.read_text().replace(
            "ship.delay(order.pk)\nship", "ship.delay(order.pk)\n        ship", 1
        )
    )
    test = SUITE.replace("call_count == 2", "call_count == 4")
    result = planted.run(test, *args)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "5 tests watched, 2 findings, 3 known before.",
            "  ! shop/services.py:12 in order_in_transaction: *",
            "celery audit: failed by 2 findings of published-in-transaction, mocked-publishes",
        ]
    )

    services.write_text(text.replace("ship.delay(order.pk)", "ship.delay_on_commit(order.pk)"))
    result = planted.run(SUITE.replace("call_count == 2", "call_count == 0"), *args)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["5 tests watched, 1 finding, 1 known before (2 of the baseline no longer found)."]
    )


@pytest.mark.long
def test_processes_of_xdist_and_any_order_find_the_same(planted: Project) -> None:
    report = planted.path / "audit.json"
    found = []
    for args in (
        ["-p", "no:xdist"],
        ["-n", "2"],
        ["-n", "2", "-p", "randomly", "-p", "randomly", "--randomly-seed=3"],
        ["-p", "randomly", "--randomly-seed=4"],
    ):
        order = [] if "randomly" in args else ["-p", "no:randomly"]
        planted.pytester.runpytest_subprocess(
            "--djcelery-audit", "--djcelery-audit-report=audit.json", *order, *args
        ).assert_outcomes(passed=5)
        found.append(json.loads(report.read_text()))
        report.unlink()
    assert found[0]["tests"] == 5
    assert len(found[0]["findings"]) == 3
    assert all(each == found[0] for each in found)


def test_a_process_that_crashes_loses_only_its_own(planted: Project) -> None:
    test = SUITE + "\n\ndef test_crash():\n    import os\n\n    os._exit(3)\n"
    result = planted.run(
        test, "--djcelery-audit", "--djcelery-audit-report=audit.json", "-n", "2",
        "--max-worker-restart=1", "-p", "no:randomly",
    )  # fmt: skip
    result.assert_outcomes(passed=5, failed=1)
    found = json.loads((planted.path / "audit.json").read_text())
    assert found["tests"] == 5
    assert [each["tests"] for each in found["findings"]] == [4, 4, 1]


def test_paths_are_those_of_node_ids_wherever_pytest_is_started(planted: Project) -> None:
    planted.pytester.mkdir("elsewhere")
    planted.pytester.chdir()
    result = planted.pytester.runpytest_subprocess(
        "--djcelery-audit", f"--rootdir={planted.path}", "-c", f"{planted.path / 'tox.ini'}",
        str(planted.path / "test_it.py"), "-p", "no:randomly",
    )  # fmt: skip
    result.stdout.fnmatch_lines(["  ! shop/services.py:11 in order_in_transaction: *"])


def test_twenty_thousand_hooks_are_one_finding_and_kept_nowhere(old: Project) -> None:
    result = old.run(
        """
        import gc

        import pytest
        from django.db import transaction


        @pytest.mark.django_db
        @pytest.mark.parametrize("number", range(20))
        def test_it(number):
            for _ in range(1000):
                transaction.on_commit(int)


        def test_nothing_is_kept(request):
            from pytest_djcelery.transactions.hooks import WatchedHook

            audit = request.config.pluginmanager.get_plugin("djcelery-audit")
            assert len(audit._recorder.journal) == 0
            gc.collect()
            assert not any(type(each) is WatchedHook for each in gc.get_objects())
        """,
        "--djcelery-audit",
    )
    result.assert_outcomes(passed=21)
    result.stdout.fnmatch_lines(
        ["  - test_it.py:*in test_it: builtins.int, 20,000 times in 20 tests"]
    )


def test_a_known_line_whose_call_no_longer_fits_is_new(planted: Project) -> None:
    planted.run(SUITE, "--djcelery-audit", "--djcelery-audit-report=known.json")
    args = ["--djcelery-audit", "--djcelery-audit-baseline=known.json"]
    planted.run(SUITE, *args).stdout.fnmatch_lines(["*, 0 findings, 3 known before."])
    tasks = planted.path / "shop/tasks.py"
    tasks.write_text(tasks.read_text().replace("def ship(order_id", "def ship(order_id, where"))
    planted.run(SUITE, *args).stdout.fnmatch_lines(
        [
            "5 tests watched, 1 finding, 2 known before (1 of the baseline no longer found).",
            "*  fault: it doesn't fit the task: *",
        ]
    )


def test_a_baseline_of_another_machine_and_python(planted: Project) -> None:
    planted.run(SUITE, "--djcelery-audit", "--djcelery-audit-report=known.json")
    known = planted.path / "known.json"
    data = json.loads(known.read_text())
    for each in data["findings"]:
        each["function"] = each["function"].rpartition(".")[2]  # as Python 3.10 calls it
    known.write_text(json.dumps(data))
    elsewhere = planted.pytester.mkdir("elsewhere")
    # The code under test is beside pytest's root.
    (planted.path / "test_it.py").rename(elsewhere / "test_it.py")
    (elsewhere / "pytest.ini").write_text(
        "[pytest]\npythonpath = ..\nDJANGO_SETTINGS_MODULE = proj.settings\n"
        "djcelery_audit = true\ndjcelery_audit_report = audit.json\n"
    )
    planted.pytester.runpytest_subprocess("-c", "elsewhere/pytest.ini", "elsewhere")
    found = json.loads((elsewhere / "audit.json").read_text())["findings"]
    assert {each["path"] for each in found} == {"../shop/services.py"}
