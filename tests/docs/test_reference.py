"""The reference has every public name, option, marker and fixture; errors say where they stand."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pytest_djcelery
from pytest_djcelery import errors, fixtures, markers

if TYPE_CHECKING:
    from tests.support.project import Project

DOCS = Path(__file__).resolve().parents[2] / "docs"
REFERENCE = DOCS / "reference"
PUBLIC = {name: getattr(pytest_djcelery, name) for name in dir(pytest_djcelery)}
ERRORS = {
    name: value
    for name, value in PUBLIC.items()
    if isinstance(value, type) and issubclass(value, (Exception, Warning))
}


def test_each_error_and_warning_has_a_section_with_cause_and_cure() -> None:
    page = (DOCS.parent / errors.PAGE).read_text(encoding="utf-8")
    _, *sections = re.split(r"^## ", page, flags=re.MULTILINE)
    found = dict(section.split("\n", 1) for section in sections)

    assert {*found} ^ {*ERRORS} == set(), "a section for each, and no other"
    assert [*found] == sorted(found)
    for name in found.keys() - {"DjceleryError", "DjceleryWarning"}:
        assert re.search(r"\*\*Cause\.\*\* \S.*\*\*Cure\.\*\* \S", found[name], re.DOTALL), name


@pytest.mark.parametrize("name", ERRORS)
def test_each_says_where_it_is_explained(name: str) -> None:
    error = ERRORS[name]("What happened.")
    printed = str(error) if isinstance(error, Warning) else error.with_notes()

    assert printed == (
        "What happened.\n"
        f"See docs/reference/errors.md#{name.lower()} in the documentation of pytest-djcelery."
    )


def test_pytest_prints_where_they_are_explained(project: Project) -> None:
    result = project.run("""
        import warnings
        from pytest_djcelery import SharedConnectionsWarning, WorkerError

        def test_error():
            raise WorkerError("It died.")

        def test_warning():
            warnings.warn("Shared.", SharedConnectionsWarning)
    """)
    where = "docs/reference/errors.md#{} in the documentation of pytest-djcelery."
    result.stdout.fnmatch_lines(
        [
            "E *: It died.",
            f"E * See {where.format('workererror')}",
            "E *SharedConnectionsWarning: Shared.",
            f"E * See {where.format('sharedconnectionswarning')}",
        ]
    )

    refused = project.run("def test_it(): pass", "--djcelery-timeout=no")
    refused.stderr.fnmatch_lines(["ERROR: *'no'*", f"See {where.format('badoptionerror')}"])


def test_an_error_without_a_text_is_no_more_than_its_note() -> None:
    assert str(errors.DjceleryWarning()) == str(errors.WorkerError()) == ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn(errors.DjceleryWarning("once"), stacklevel=1)
    assert str(caught[0].message).count("See ") == 1


def test_each_public_name_is_documented_by_autodoc() -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in REFERENCE.glob("*.md"))
    documented = re.findall(r"auto(?:class|function):: pytest_djcelery\.(\w+)", pages)

    assert {*documented} ^ (PUBLIC.keys() - ERRORS.keys()) == set(), "each in docs/reference/"
    assert len(documented) == len({*documented})


def test_each_fixture_is_documented_by_its_docstring() -> None:
    page = (REFERENCE / "fixtures.md").read_text(encoding="utf-8")
    named = re.findall(r"^## `(\w+)`\n\n<!-- fixture: (\w+) -->$", page, re.MULTILINE)

    assert {*named} ^ {(name, name) for name in {*fixtures.NAMES, "celery_session_app"}} == set()
    assert len(named) == len({*named})


def test_markers_and_options_are_read_from_the_code() -> None:
    assert "\n<!-- markers -->\n" in (REFERENCE / "markers.md").read_text(encoding="utf-8")
    assert "\n<!-- options -->\n" in (REFERENCE / "options.md").read_text(encoding="utf-8")


def test_the_benchmark_over_queues_has_each_tool_and_each_test() -> None:
    folder = DOCS.parent / "benchmarks" / "queue_tools"
    modules = {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("bench_*.py")}
    tests = {
        name: re.findall(r"^def (test_\w+)", text, re.MULTILINE) for name, text in modules.items()
    }
    page = (REFERENCE / "queues.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| (.+) \|$", page.partition("\n## ")[0], re.MULTILINE)

    assert len(tests) == 7
    assert {tuple(names) for names in tests.values()} == {
        (
            "test_publish_seen", "test_run_one", "test_retry_with_an_hour_of_back_off",
            "test_chord", "test_after_commit", "test_1000_jobs",
        )
    }  # fmt: skip
    assert [row.count("|") for row in table] == [7] * 7
    assert page.count("\n## ") == 6


def test_what_language_models_are_given_names_fixtures_and_markers_that_exist() -> None:
    text = (DOCS / "llms.txt").read_text(encoding="utf-8")
    named = {*re.findall(r"(?<!django_)\b(celery_[a-z_]+)\b", text)}

    assert len(named) > 5
    assert named <= {*fixtures.NAMES} | {
        declared.partition("(")[0] for declared in markers.DECLARED
    }
