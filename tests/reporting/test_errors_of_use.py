"""What a person reads of an error of use: its text, at the project's line, and no internals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import pytest_djcelery
from pytest_djcelery import NotEnteredError, NotEnteredWarning, inline, outbox

if TYPE_CHECKING:
    from tests.support.project import Project, Run


def test_tracebacks_of_errors_of_use_end_at_the_line_of_the_project(run: Run) -> None:
    result = run(
        """
        import pytest
        from shop.tasks import add

        def helper(outbox):
            return outbox.of(3)

        def test_call(celery_outbox):
            helper(celery_outbox)

        @pytest.mark.celery(task_acks_lat=True)
        def test_setup():
            pass

        def test_comparison(celery_outbox):
            assert celery_outbox == [add]
        """,
        "-rA",
    )
    result.assert_outcomes(failed=2, errors=1)
    text = result.stdout.str()
    for internal in ("pytest_djcelery/", "_pytest/", "pluggy/", "contextlib.py"):
        assert internal not in text.replace("plugins:", "")
    result.stdout.fnmatch_lines(["test_it.py:6: BadOptionError"])
    result.stdout.fnmatch_lines(["test_it.py:16: NotASignatureError"])
    result.stdout.fnmatch_lines(["E *BadOptionError: *Celery has no setting 'task_acks_lat'*"])
    result.stdout.fnmatch_lines(
        ["ERROR test_it.py::test_setup - pytest_djcelery.BadOptionError: Celery has no *"]
    )


def test_public_names_have_the_module_that_they_are_imported_from() -> None:
    for name in pytest_djcelery.__all__:
        assert getattr(pytest_djcelery, name).__module__ == "pytest_djcelery"


def test_a_context_manager_that_was_not_entered_says_so() -> None:
    for use in (
        lambda: outbox() == [],
        lambda: inline().run(),
        lambda: 1 in outbox(),
        lambda: len(outbox()),
        lambda: list(outbox()),
        lambda: outbox()[0],
    ):
        with pytest.raises(NotEnteredError, match=r"Write `with (outbox|inline)\(\) as \w+:`"):
            use()
    with pytest.raises(TypeError, match="unexpected keyword argument 'aut'"):
        inline(aut=True)  # type: ignore[call-arg]
    with pytest.warns(NotEnteredWarning, match=r"inline\(\) was called, but not entered") as found:
        inline()  # which is collected at once
    assert found[0].filename == __file__


def test_what_is_misspelt_in_the_settings_is_named_at_its_line(project: Project) -> None:
    project.settings("""
        CELERY_TASK_ALWAYS_EAGR = True
        CELERY_SHOP_REPORTS = 3
        """)
    result = project.run(
        """
        def test_without_celery():
            pass

        def test_first(celery_outbox):
            pass

        def test_second(celery_outbox):
            pass
        """,
        "-W",
        "default",
    )
    result.assert_outcomes(passed=3, warnings=1)
    line = (project.path / "proj/settings.py").read_text().splitlines().index(
        "CELERY_TASK_ALWAYS_EAGR = True"
    ) + 1  # fmt: skip
    result.stdout.fnmatch_lines(
        [
            f"*proj/settings.py:{line}: UnknownSettingWarning: CELERY_TASK_ALWAYS_EAGR: *_EAGER.",
        ]
    )


def test_fixtures_says_how_each_is_used(run: Run) -> None:
    result = run("", "--fixtures")
    shown = result.stdout.str().partition("fixtures defined from pytest_djcelery")[2]
    shown = shown.partition("--- fixtures defined")[0]
    for name in ("outbox", "on_commit", "inline", "worker", "live_worker", "results", "beat"):
        assert f"celery_{name}" in shown
    for use in (
        "assert celery_outbox == [send_email.s(user.pk)]",
        "celery_inline.run()",
        "assert celery_results[add.delay(4, 4)] == Success(8)",
    ):
        assert use in shown
