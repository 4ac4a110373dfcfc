"""Which files are of the tests, and not of the code under test."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import PurePath
from types import ModuleType
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from pluggy import HookimplMarker

if TYPE_CHECKING:
    import pytest

_FOLDERS = ("tests", "test")
_PATTERNS = ("test*.py", "*_test.py", "tests.py")
hookimpl = HookimplMarker("pytest")  # pytest's own, for runs without pytest too


class NamedFiles:
    """Files that are called as those of tests are, where no pytest tells.

    Args:
        patterns: of names, as pytest's ``python_files`` has them.
        shown: shortens the path of a file.
    """

    def __init__(
        self, patterns: Sequence[str] = _PATTERNS, shown: Callable[[str], str] = str
    ) -> None:
        # A pattern for any module, such as ``*.py``, says nothing of one.
        self._patterns = [each for each in patterns if not PurePath("models.py").match(each)]
        self._shown = shown
        self._named_so = cache(self._is_named_so)  # asked for each block of each test

    def __contains__(self, path: object) -> bool:
        return self._named_so(str(path))

    def _is_named_so(self, path: str) -> bool:
        *folders, name = PurePath(self._shown(path)).parts
        return (
            name == "conftest.py"
            or any(folder in _FOLDERS for folder in folders)
            or any(PurePath(path).match(pattern) for pattern in self._patterns)
        )


class SuiteFiles(NamedFiles):
    """Learns from pytest where tests, fixtures and plugins are; the rest is told by its name.

    Args:
        config: of the run.
        shown: shortens the path of a file.
    """

    def __init__(self, config: pytest.Config, shown: Callable[[str], str]) -> None:
        super().__init__(config.getini("python_files"), shown)
        self._seen: set[str] = set()
        self._fixtures: WeakSet[pytest.FixtureDef[Any]] = WeakSet()  # that were made once
        self._classes: set[type] = set()

    def __contains__(self, path: object) -> bool:
        return path in self._seen or super().__contains__(path)

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """A test is there, and what its class inherits."""
        self._seen.add(str(item.path))
        cls = getattr(item, "cls", None)
        if cls is not None and cls not in self._classes:
            self._classes.add(cls)
            modules = [sys.modules.get(each.__module__) for each in cls.__mro__]
            self._seen.update(filter(None, [getattr(each, "__file__", None) for each in modules]))

    def pytest_plugin_registered(self, plugin: object) -> None:
        """A plugin is there, a conftest.py or one that ``pytest_plugins`` names."""
        if isinstance(plugin, ModuleType) and plugin.__file__:
            self._seen.add(plugin.__file__)

    @hookimpl(tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        """A fixture is about to be made."""
        if fixturedef not in self._fixtures:
            self._fixtures.add(fixturedef)
            code = getattr(inspect.unwrap(fixturedef.func), "__code__", None)
            if code is not None:
                self._seen.add(code.co_filename)
