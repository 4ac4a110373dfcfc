# ruff: noqa: PT009, PT027 - unittest's assertions are what this is about
"""Assertions of unittest explain themselves, and many failures by one error are one line."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from textwrap import dedent
from typing import TYPE_CHECKING
from unittest import TestCase

import pytest

from pytest_djcelery import Success
from pytest_djcelery.messages import unittest_failures

if TYPE_CHECKING:
    from tests.support.project import Project

CASES = """
    import unittest

    from pytest_djcelery import Success, outbox
    from shop.tasks import add


    class Tests(unittest.TestCase):
        def setUp(self):
            with outbox() as self.sent:
                add.delay(1, 2)
    """
TEST = """
        def test_{number}(self):
            {assertion}
    """
DIFFERING = [
    "self.assertEqual(self.sent, [add.s(1, 3)])",
    "self.assertEqual([add.s(1, 3)], self.sent)",
    "self.assertEqual(self.sent[0], add.s(1, 3))",
    "self.assertListEqual(list(self.sent), [add.s(1, 3)])",
    "self.assertSequenceEqual(self.sent, [add.s(1, 3)])",
    "self.assertCountEqual(self.sent, [add.s(1, 3)])",
    "self.assertIn(add.s(1, 3), self.sent)",
    "self.assertEqual(self.sent.count(add.s(1, 3)), 1)",
    "self.assertGreater(self.sent.count(add.s(1, 3)), 0)",
    "self.assertEqual(self.sent.canvas, [add.s(1, 3)])",
]


def written(*assertions: str) -> str:
    """A test case with a test for each assertion."""
    tests = (TEST.format(number=at, assertion=each) for at, each in enumerate(assertions))
    return dedent(CASES) + "".join(tests).replace("\n    ", "\n")


def test_an_assertion_explains_what_differs(project: Project) -> None:
    result = project.run(written(*DIFFERING))
    result.assert_outcomes(failed=len(DIFFERING))
    text = result.stdout.str()
    assert text.count("argument y: expected 3, sent 2") == len(DIFFERING)
    assert text.count("If what was sent is right, expect shop.tasks.add.s(1, 2)") == len(DIFFERING)


def test_other_assertions_explain_it_too(project: Project) -> None:
    result = project.run(
        written(
            "self.assertNotEqual(self.sent, [add.s(1, 2)])",
            "self.assertNotEqual(self.sent, [add.s(1, 2)], 'another sum')",
            "self.assertNotIn(add.s(1, 2), self.sent)",
            "self.assertEqual(Success(3, retries=1), Success(3, retries=2))",
            "self.assertEqual(self.sent, [add.s(1, 3)], 'sums are sent')",
            "self.assertSequenceEqual(self.sent, [add.s(1, 3)], 'in sequence')",
            "self.assertSequenceEqual(self.sent, [add.s(1, 3)])",
        )
    )
    result.assert_outcomes(failed=7)
    result.stdout.fnmatch_lines(
        [
            "E  *They are equal.",
            "E  *another sum",
            "E  *Expected no message like: shop.tasks.add.s(1, 2)",
            "E  *expected: Success(3, retries=2)",
            "E  *sums are sent",
            "E  *in sequence",
        ]
    )

    result.stdout.no_fnmatch_line("*Sequences differ*")
    result.stdout.no_fnmatch_line("E *<celery_outbox*")


def test_without_pytest_they_say_the_same(project: Project) -> None:
    project.write(test_it=written(DIFFERING[0]))
    done = subprocess.run(
        [sys.executable, "-c", "import django, unittest; django.setup(); unittest.main('test_it')"],
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "proj.settings"},
        cwd=project.path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "FAILED (failures=1)" in done.stderr, done.stderr
    assert "argument y: expected 3, sent 2" in done.stderr
    assert "AssertionError: celery_outbox == [shop.tasks.add.s(1, 3)]" in done.stderr


class OtherError(Exception):
    """Stands for a project's own failure."""


class ACase(TestCase):
    failureException = OtherError  # type: ignore[assignment]

    def runTest(self) -> None:  # noqa: N802 - as above
        """Nothing."""


def test_the_exception_is_that_of_the_test_case_and_can_be_pickled() -> None:
    case = ACase()
    with pytest.raises(OtherError) as caught:
        case.assertEqual(Success(1), Success(2))
    assert type(caught.value).__name__ == "OtherError"
    assert "happened: Success" in str(caught.value)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert type(copy) is OtherError
    assert copy.args == caught.value.args
    assert ACase().failureException is OtherError


def test_comparisons_of_other_values_fail_as_without_the_plugin() -> None:
    case = ACase()
    with pytest.raises(OtherError, match=r"^1 != 2$"):
        case.assertEqual(1, 2)
    assert case.failureException is OtherError
    with pytest.raises(OtherError, match="happened"):
        case.assertEqual(Success(1), Success(2))
    with pytest.raises(OtherError, match=r"^1 != 2$"):
        case.assertEqual(1, 2)
    with pytest.raises(OtherError, match=r"^ValueError not raised$"), case.assertRaises(ValueError):
        unittest_failures.compared()


def test_many_tests_that_fail_by_one_error_of_a_task_are_one_line(project: Project) -> None:
    result = project.run("""
        import pytest
        from shop.tasks import add, fail

        @pytest.mark.parametrize("n", range(4))
        def test_run(n, celery_inline):
            fail.delay(f"boom {n}")
            celery_inline.run()

        @pytest.mark.parametrize("n", range(2))
        def test_get(n, celery_inline):
            fail.delay("boom").get()

        def test_unseen(celery_inline):
            fail.delay("boom")
            celery_inline.run(raise_failures=False)

        def test_other(celery_inline):
            with pytest.raises(ValueError):
                fail.delay("boom").get()
            assert 0
        """)
    result.assert_outcomes(failed=8)
    result.stdout.fnmatch_lines(
        [
            "*= celery: tests that failed by one error =*",
            "7 tests failed by one error of shop.tasks.fail: ValueError: boom* (shop/tasks.py:*",
        ]
    )


def test_a_single_failure_and_other_failures_add_no_line(project: Project) -> None:
    result = project.run("""
        from shop.tasks import fail

        def test_run(celery_inline):
            fail.delay("boom")
            celery_inline.run()

        def test_other(celery_inline):
            assert 0
        """)
    result.assert_outcomes(failed=2)
    result.stdout.no_fnmatch_line("*tests that failed by one error*")
