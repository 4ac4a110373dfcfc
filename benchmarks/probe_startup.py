"""The pytest plugin that times what our plugin does by itself: ``-p probe_startup``.

The import of the plugin and each of its hooks, summed in the process that runs them. Two whole
processes of a second each differ by more than what is measured here.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import pytest

OURS = "djcelery"
_spent = {"clock": 0.0, "processor": 0.0}


@contextmanager
def _counted() -> Iterator[None]:
    clock, processor = perf_counter(), process_time()
    try:
        yield
    finally:
        _spent["clock"] += perf_counter() - clock
        _spent["processor"] += process_time() - processor


def _timed(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Any:
        with _counted():
            return function(*args, **kwargs)

    return timed


_load = importlib.metadata.EntryPoint.load


def _timed_load(entry_point: importlib.metadata.EntryPoint) -> Any:
    if entry_point.name != OURS:
        return _load(entry_point)
    with _counted():
        return _load(entry_point)


# This module comes by `-p`, before pytest loads the entry points of plugins.
importlib.metadata.EntryPoint.load = _timed_load  # type: ignore[method-assign]  # to time it


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Time each hook of the plugin but those that wrap the test itself, which only wait for it."""
    plugin = config.pluginmanager.get_plugin(OURS)
    for caller in config.pluginmanager.get_hookcallers(plugin) or ():
        for implementation in caller.get_hookimpls():
            if implementation.plugin is plugin and not implementation.wrapper:
                implementation.function = _timed(implementation.function)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """Write the figures to the file."""
    Path(os.environ["BENCHMARK_OUTPUT"]).write_text(json.dumps(_spent), encoding="utf-8")
