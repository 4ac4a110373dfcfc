"""The pytest plugin that times the report of an audit and weighs the process."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Generator
from pathlib import Path
from time import perf_counter

import pytest

_spent = [0.0]


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_sessionfinish() -> Generator[None, object, object]:
    """Time the plugins' own part, between that of the terminal and the end."""
    outcome = yield from _timed()
    return outcome


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary() -> Generator[None, object, object]:
    """Time the section."""
    outcome = yield from _timed()
    return outcome


def _timed() -> Generator[None, object, object]:
    start = perf_counter()
    outcome = yield
    _spent[0] += perf_counter() - start
    return outcome


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """Write the figures to the file."""
    gc.collect()
    Path(os.environ["BENCHMARK_OUTPUT"]).write_text(
        json.dumps({"report": _spent[0], "blocks": sys.getallocatedblocks()}), encoding="utf-8"
    )
