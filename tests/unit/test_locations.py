"""Which files are the project's."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_djcelery import locations


@pytest.mark.parametrize(
    ("path", "package"),
    [
        ("/srv/shop/tasks.py", None),
        ("/srv/shop/.venv/lib/python3.13/site-packages/parcel/__init__.py", "parcel"),
        ("/usr/lib/python3/dist-packages/parcel.py", "parcel"),
        (r"C:\shop\.venv\Lib\site-packages\parcel\sub\deep.py", "parcel"),
        ("/a/site-packages/outer/vendor/site-packages/inner/x.py", "inner"),
        ("/srv/my-site-packages/shop/tasks.py", None),
    ],
)
def test_an_installed_package_is_recognised_by_its_folder(path: str, package: str | None) -> None:
    assert locations.installed_package(path) == package
    assert locations.is_of_project(path) is (package is None)


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/srv/shop/env/lib/site-packages/parcel/sub/a.py", "site-packages/parcel/sub/a.py"),
        ("/usr/lib/python3/dist-packages/parcel.py", "site-packages/parcel.py"),
        ("/srv/shop/orders/tasks.py", "orders/tasks.py"),
        ("/srv/conftest.py", "../conftest.py"),
    ],
)
def test_a_path_is_shown_from_the_root_or_from_where_packages_are(path: str, shown: str) -> None:
    assert locations.from_root(path, "/srv/shop") == shown


@pytest.mark.parametrize("sources", ["parcel", "src/parcel", None])
def test_what_has_its_sources_in_the_working_folder_is_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sources: str | None
) -> None:
    monkeypatch.setattr(locations, "_WORKING_FOLDER", str(tmp_path))
    if sources is not None:
        (tmp_path / sources).mkdir(parents=True)
        (tmp_path / sources / "__init__.py").touch()
    of_file = locations.installed_package.__wrapped__
    assert (of_file("/env/site-packages/parcel/a.py") is None) is (sources is not None)


@pytest.mark.parametrize(
    ("path", "of_tests"),
    [
        ("/srv/tests/.venv/lib/python3.13/site-packages/parcel/result.py", False),
        ("/srv/tests/.venv/lib/python3.13/site-packages/parcel/tests/helpers.py", True),
        ("/srv/shop/tests/helpers.py", True),
        ("/srv/shop/orders/test_views.py", True),
        ("/srv/shop/orders/views.py", False),
    ],
)
def test_a_folder_around_an_environment_makes_no_test_of_what_is_installed(
    path: str, *, of_tests: bool
) -> None:
    assert locations.in_suite(path) is of_tests


def test_the_folder_that_the_plugin_lies_in_makes_no_test_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(locations, "_library_folders", lambda: ("/srv/tests/pytest_djcelery/",))
    assert not locations.in_suite("/srv/tests/pytest_djcelery/recording/failures.py")
