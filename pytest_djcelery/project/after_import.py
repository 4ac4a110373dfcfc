"""Calls a function as soon as a module has been imported, without importing it.

wrapt also has such a hook, but once registered it stays, and so does its finder in
``sys.meta_path``. The one here leaves everything as a test found it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any


@contextmanager
def called_after_import(wanted: Mapping[str, Callable[[], None]]) -> Iterator[None]:
    """Call each function once its module is imported: at once, or when something imports it.

    Args:
        wanted: The functions, by the name of the module.
    """
    finder = _Finder(wanted)
    sys.meta_path.insert(0, finder)
    try:
        for name in [name for name in wanted if name in sys.modules]:
            finder.imported(name)
        yield
    finally:
        if finder in sys.meta_path:
            sys.meta_path.remove(finder)


@contextmanager
def entered_after_import(
    module: str, change: Callable[[], AbstractContextManager[object]]
) -> Iterator[None]:
    """Enter a context manager once a module is imported, and leave it at the end of the ``with``.

    Args:
        module: The name of the module.
        change: Returns the context manager.
    """
    with ExitStack() as stack:

        def begin() -> None:
            stack.enter_context(change())

        with called_after_import({module: begin}):
            yield


class _Finder(MetaPathFinder):
    """Finds what the other finders find, and wraps the loader."""

    def __init__(self, wanted: Mapping[str, Callable[[], None]]) -> None:
        self._wanted = dict(wanted)
        self._finding: set[str] = set()

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname not in self._wanted or fullname in self._finding:
            return None
        self._finding.add(fullname)
        try:
            spec = find_spec(fullname)
        finally:
            self._finding.discard(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, lambda: self.imported(fullname))
        return spec

    def imported(self, name: str) -> None:
        """Call the function for a module that has been imported."""
        function = self._wanted.pop(name, None)
        if not self._wanted and self in sys.meta_path:
            sys.meta_path.remove(self)
        if function is not None:
            function()


class _Loader(Loader):
    """Wraps a loader, and calls back when the module is loaded."""

    def __init__(self, loader: Loader, done: Callable[[], None]) -> None:
        self._loader = loader
        self._done = done

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # The module, and tools that inspect it (`inspect`, `pkgutil`), only see its real loader.
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._done()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
