"""Which files are of the tests, and not of the code under test."""

from __future__ import annotations

import inspect
from functools import cache
from pathlib import PurePath
from types import ModuleType
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

_FOLDERS = ("tests", "test")


class SuiteFiles:
    """Learns from pytest where tests, fixtures and plugins are; the rest is told by its name.

    Args:
        config: of the run.
        shown: shortens the path of a file.
    """

    def __init__(self, config: pytest.Config, shown: Callable[[str], str]) -> None:
        # A pattern for any module, such as ``*.py``, says nothing of one.
        patterns: list[str] = config.getini("python_files")
        self._patterns = [each for each in patterns if not PurePath("models.py").match(each)]
        self._shown = shown
        self._seen: set[str] = set()
        self._fixtures: WeakSet[pytest.FixtureDef[Any]] = WeakSet()  # that were made once
        self._named_so = cache(self._is_named_so)  # asked for each block of each test

    def __contains__(self, path: object) -> bool:
        return path in self._seen or self._named_so(str(path))

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """A test is there."""
        self._seen.add(str(item.path))

    def pytest_plugin_registered(self, plugin: object) -> None:
        """A plugin is there, a conftest.py or one that ``pytest_plugins`` names."""
        if isinstance(plugin, ModuleType) and plugin.__file__:
            self._seen.add(plugin.__file__)

    @pytest.hookimpl(tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        """A fixture is about to be made."""
        if fixturedef not in self._fixtures:
            self._fixtures.add(fixturedef)
            code = getattr(inspect.unwrap(fixturedef.func), "__code__", None)
            if code is not None:
                self._seen.add(code.co_filename)

    def _is_named_so(self, path: str) -> bool:
        *folders, name = PurePath(self._shown(path)).parts
        return (
            name == "conftest.py"
            or any(folder in _FOLDERS for folder in folders)
            or any(PurePath(path).match(pattern) for pattern in self._patterns)
        )
