"""Who uses no fixture pays for none: nothing is imported, or compiled, that nobody asked for."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

TEST = """
    import sys

    def test_it():
        packages = {name.partition(".")[0] for name in sys.modules}
        assert not packages & {"celery", "kombu", "billiard"}
    """
# A separate process from the start, and without the plugin that imports Celery by itself.
PYTEST = (sys.executable, "-m", "pytest", "-p", "no:celery", "-p", "no:docker_tools")


def test_celery_stays_unimported_where_nothing_imports_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TEST)

    pytester.run(*PYTEST).assert_outcomes(passed=1)


def test_celery_stays_unimported_in_a_django_project_without_it(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(proj="SECRET_KEY = 'test'\nINSTALLED_APPS = []\n", test_it=TEST)

    pytester.run(*PYTEST, "--ds=proj").assert_outcomes(passed=1)


def test_pytest_rewrites_none_of_our_modules_for_assertions(pytester: pytest.Pytester) -> None:
    # What pytest says of each plugin that is installed as files, not as editable.
    pytester.makepyfile(
        installed="import pytest; pytest.register_assert_rewrite('pytest_djcelery')"
    )
    pytester.makepyfile(
        """
        import importlib
        import pkgutil

        import pytest

        import pytest_djcelery

        # As `-p pytest_djcelery.plugin` does, which is imported by then.
        pytest.register_assert_rewrite("pytest_djcelery.plugin")

        def test_it():
            names = [
                each.name
                for each in pkgutil.walk_packages(pytest_djcelery.__path__, "pytest_djcelery.")
            ]
            for name in names:
                loader = type(importlib.import_module(name).__loader__).__name__
                assert loader == "SourceFileLoader", name
        """
    )

    result = pytester.run(*PYTEST, "-p", "no:asyncio", "-W", "error", "-p", "installed")

    result.assert_outcomes(passed=1)
