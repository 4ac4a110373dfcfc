"""Who uses no fixture pays for none: nothing is imported before something asks for it."""

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
# A process of its own from the start, and without the plugin that imports Celery by itself.
PYTEST = (sys.executable, "-m", "pytest", "-p", "no:celery", "-p", "no:docker_tools")


def test_celery_stays_unimported_where_nothing_imports_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TEST)

    pytester.run(*PYTEST).assert_outcomes(passed=1)


def test_celery_stays_unimported_in_a_django_project_without_it(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(proj="SECRET_KEY = 'test'\nINSTALLED_APPS = []\n", test_it=TEST)

    pytester.run(*PYTEST, "--ds=proj").assert_outcomes(passed=1)
