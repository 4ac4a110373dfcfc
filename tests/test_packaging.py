"""What a user installs, and what the README tells its reader to run."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.version import Version

import pytest_djcelery

ROOT = Path(__file__).resolve().parent.parent
DISTRIBUTION = distribution("pytest-djcelery")


def requirements(extra: str | None = None) -> set[str]:
    """Return the requirements of the package itself, or those that an extra adds."""
    lines = [line.partition(";") for line in DISTRIBUTION.requires or ()]
    return {
        requirement.strip()
        for requirement, _, marker in lines
        if (f"extra == '{extra}'" in marker.replace('"', "'") if extra else "extra" not in marker)
    }


def read(name: str) -> str:
    path = ROOT / name
    if not path.exists():
        pytest.skip(f"{name} is not written yet")
    return path.read_text(encoding="utf-8")


def test_pytest_finds_the_plugin_by_its_entry_point() -> None:
    entry_points = DISTRIBUTION.entry_points.select(group="pytest11")

    assert [(point.name, point.value) for point in entry_points] == [
        ("djcelery", "pytest_djcelery.plugin")
    ]


def test_the_plugin_needs_the_packages_of_its_field_and_time_machine_alone() -> None:
    assert requirements() == {
        "celery>=5.4", "django>=4.2", "pytest>=8", "pytest-django>=4.8", "time-machine>=3.0",
    }  # fmt: skip


def test_the_extras_bring_hypothesis_and_celerys_docker_fixtures() -> None:
    assert set(DISTRIBUTION.metadata.get_all("Provides-Extra") or ()) == {"docker", "hypothesis"}
    assert requirements("docker") == {"celery[pytest]>=5.4"}
    assert requirements("hypothesis") == {"hypothesis>=6.100"}


def test_no_requirement_is_capped() -> None:
    assert [line for line in DISTRIBUTION.requires or () if "<" in line or "~" in line] == []


def test_every_public_name_loads_on_first_use() -> None:
    names = dir(pytest_djcelery)

    assert {"Success", "check_registry", "outbox"} < {*names}
    for name in names:
        assert callable(getattr(pytest_djcelery, name))


def test_a_star_import_has_every_public_name() -> None:
    names: dict[str, object] = {}
    exec("from pytest_djcelery import *", names)

    assert {*names} - {"__builtins__"} == {*dir(pytest_djcelery)}


def test_a_name_that_is_not_public_is_an_import_error() -> None:
    with pytest.raises(ImportError, match="cannot import name 'Sucess'"):
        exec("from pytest_djcelery import Sucess")


def test_type_checkers_see_that_the_package_is_typed() -> None:
    assert files("pytest_djcelery").joinpath("py.typed").is_file()


def test_the_oldest_python_is_3_10() -> None:
    assert DISTRIBUTION.metadata["Requires-Python"] == ">=3.10"


def test_the_licence_is_bsd_3_clause() -> None:
    assert DISTRIBUTION.metadata["License-Expression"] == "BSD-3-Clause"
    assert read("LICENSE").startswith("BSD 3-Clause License")


def test_the_version_is_of_the_next_release_until_the_changelog_has_it() -> None:
    released = re.findall(r"^## \[(\d[^]]*)]", read("CHANGELOG.md"), re.MULTILINE)
    version = Version(DISTRIBUTION.version)

    assert version == Version(released[0]) or version.is_devrelease
    assert version >= Version(released[0])
    assert pytest_djcelery.__version__ == DISTRIBUTION.version


def test_on_a_package_index_the_readme_has_no_link_that_only_the_repository_has() -> None:
    shown = (DISTRIBUTION.read_text("METADATA") or "").partition("\n\n")[2]

    assert "](https://docs.celeryq.dev" in shown
    assert re.findall(r"\]\[|\]\((?!https:)|^\[\w+\]: (?!https:)", shown, re.MULTILINE) == []


def test_the_links_of_the_readme_follow_the_address_of_the_repository(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hatchling = SimpleNamespace(MetadataHookInterface=object)
    monkeypatch.setitem(sys.modules, "hatchling.metadata.plugin.interface", hatchling)
    published = runpy.run_path(str(ROOT / ".ci" / "package_readme.py"))["published"]
    text = "[Faults][faults], [Celery](https://a.b/c)\n\n[faults]: docs/faults.md\n"

    assert published(text, None) == "Faults, [Celery](https://a.b/c)\n"
    assert published(text, "https://forge/project/") == text.replace(
        "docs/", "https://forge/project/blob/main/docs/"
    )


def test_no_lock_file_is_committed() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "*.lock"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip(f"not a git checkout: {listed.stderr.strip()}")

    assert listed.stdout == ""


def test_the_quick_start_is_two_commands_of_one_line() -> None:
    _, found, rest = read("README.md").partition("\n## Quick start\n")
    blocks = re.findall(r"^```sh\n(.*?)^```", rest.partition("\n## ")[0], re.DOTALL | re.MULTILINE)

    assert found
    assert [block.count("\n") for block in blocks] == [1, 1]


def test_ci_runs_the_commands_that_the_readme_shows() -> None:
    readme = read("README.md").splitlines()

    for number in ("1", "2"):
        script = ROOT / ".ci" / "quickstart.py"
        printed = subprocess.run(
            [sys.executable, str(script), number], capture_output=True, text=True, check=True
        )
        assert printed.stdout.strip() in readme
