"""``--djcelery-trace``: which tests have a page, where it is, and what can't go wrong with it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project, Run

TESTS = """
    import pytest
    from pytest_djcelery import inline, timeline
    from shop.tasks import add, fail

    def test_passes(celery_inline):
        add.delay(1, 2)
        celery_inline.run()

    def test_fails(celery_inline):
        fail.delay("<boo>")
        celery_inline.run()

    def test_of_a_block():
        with inline() as worker:
            add.delay(1, 2)
            raise KeyError("own")

    @pytest.fixture
    def broken(celery_outbox):
        add.delay(3, 4)
        yield
        raise KeyError("own")

    def test_whose_teardown_fails(broken):
        pass

    @pytest.mark.parametrize("name", [1], ids=["a/b:c*" + "x" * 300])
    def test_with_a_long_name(name, celery_eager):
        add.delay(1, 2)

    def test_without_a_fixture():
        assert timeline() == ""
    """


def pages(project: Project, folder: str = "celery-trace") -> list[str]:
    """The tests that have a page, by the title of each."""
    found = (project.path / folder).glob("*.html")
    titles = (re.search("<title>(.*)</title>", path.read_text()) for path in found)
    return sorted(title[1].partition("::")[2][:25] for title in titles if title is not None)


@pytest.mark.parametrize("processes", [(), ("-n", "2")], ids=["one", "xdist"])
def test_each_test_that_uses_a_fixture_has_a_page(
    run: Run, project: Project, processes: tuple[str, ...]
) -> None:
    result = run(TESTS, "--djcelery-trace=on", "--junitxml=junit.xml", *processes)
    result.assert_outcomes(passed=4, failed=2, errors=1)
    assert pages(project) == [
        "test_fails", "test_of_a_block", "test_passes", "test_whose_teardown_fails"[:25],
        "test_with_a_long_name[a/b:c*xxx"[:25],
    ]  # fmt: skip
    title = "*- celery: trace -*"
    result.stdout.fnmatch_lines([title, "celery-trace/test-test_it.py-test_fails-*.html"])
    result.stdout.fnmatch_lines([title, "celery-trace/test-test_it.py-test_of_a_block-*.html"])
    result.stdout.fnmatch_lines(["*KeyError: 'own'", title, "celery-trace/*teardown*.html"])
    result.stdout.fnmatch_lines(["*publish ① add(1, 2)*never ran: block ended*"])
    assert str(result.stdout).count("- celery: trace -") == 3
    properties = {
        case.get("name"): [each.get("value") for each in case.iter("property")]
        for case in ET.parse(project.path / "junit.xml").getroot().iter("testcase")
    }
    assert properties["test_without_a_fixture"] == []
    [path] = properties["test_passes"]
    assert path is not None
    text = (project.path / path).read_text()
    assert "publish ① add(1, 2)" in text
    assert '<strong class="result passed">' in text


def test_only_failures_keep_theirs_in_the_folder_of_the_ini_file(
    run: Run, project: Project
) -> None:
    project.ini("djcelery_trace = retain-on-failure", "djcelery_trace_dir = out/pages")
    (project.path / "out/pages").mkdir(parents=True)
    (project.path / "out/pages/other.html").write_text("<title>x::other</title>")
    result = run(TESTS)
    result.assert_outcomes(passed=4, failed=2, errors=1)
    failed = ["other", "test_fails", "test_of_a_block", "test_whose_teardown_fails"[:25]]
    assert pages(project, "out/pages") == failed
    run(TESTS, "--djcelery-trace=off", "--djcelery-trace-dir=elsewhere")
    assert not (project.path / "elsewhere").exists()
    assert pages(project, "out/pages") == failed


@pytest.mark.parametrize("processes", [(), ("-n", "1")], ids=["one", "xdist"])
def test_a_folder_that_cant_be_written_is_reported_and_changes_no_outcome(
    run: Run, project: Project, processes: tuple[str, ...]
) -> None:
    (project.path / "file").write_text("in the way")
    result = run(TESTS, "--djcelery-trace=on", "--djcelery-trace-dir=file/pages", *processes)
    result.assert_outcomes(passed=4, failed=2, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*- celery: trace -*",
            "The page of this test could not be written: *Not a directory: *file/pages*",
            "Name a folder that can be written to: djcelery_trace_dir, or --djcelery-trace-dir.",
            "*= celery: trace =*",
            "The page of this test could not be written: *",
        ]
    )
    assert Path(project.path / "file").read_text() == "in the way"


def test_an_unknown_mode_is_a_usage_error(run: Run) -> None:
    result = run(TESTS, "--djcelery-trace=always")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*djcelery_trace = 'always': expected one of 'off', 'on', 'retain-on-failure'."]
    )
