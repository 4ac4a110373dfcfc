"""What the timeline costs a test that passes, one that fails, and one that has a page."""

import gc
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any
from unittest import mock

import probe
from shop.tasks import add

from pytest_djcelery import Inline, locations
from pytest_djcelery.messages.events import Started
from pytest_djcelery.messages.journal import Journal
from pytest_djcelery.session.session import current_sandbox
from pytest_djcelery.trace import table, trace_hooks, trace_page
from pytest_djcelery.trace.story import Story

COUNT = int(os.environ["BENCHMARK_COUNT"])
ROUNDS = 15  # pairs
OPENED = 2_000  # messages of a page that a browser opens
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
MANY = 10_000  # messages
FEW = 10


def _run(celery_inline: Inline, count: int) -> None:
    for number in range(count):
        add.delay(number, 4)
    assert celery_inline.run().succeeded == count


def _seconds(action: Callable[[], Any]) -> float:
    gc.collect()
    start = process_time()
    action()
    return process_time() - start


def _nothing(_: Any) -> None:
    """In place of what is left out."""


@contextmanager
def _without_timeline(celery_inline: Inline) -> Iterator[None]:
    """Within the ``with``, leave out all that is only there for the timeline."""

    def append(journal: Any, event: Any) -> None:
        with journal._lock:
            journal._events.append(event)
            journal._version += 1
            journal._notify(type(event))

    runs: Any = celery_inline._runs
    pool = runs._deliveries._worker._consumer.pool
    with (
        mock.patch.object(Journal, "append", append),
        mock.patch.object(pool, "_note", _nothing),
        mock.patch.object(locations, "of_test", _nothing),
    ):
        yield


def test_passing(celery_inline: Inline) -> None:
    """Tasks with the timeline and without it, in turns."""
    _run(celery_inline, 100)
    pairs = []
    for _ in range(ROUNDS):
        with_it = _seconds(lambda: _run(celery_inline, COUNT))
        with _without_timeline(celery_inline):
            without = _seconds(lambda: _run(celery_inline, COUNT))
        pairs.append((with_it, without))
    seconds = [min(found) / COUNT for found in zip(*pairs, strict=True)]
    probe.note(passing=seconds, added=median(one / other for one, other in pairs) - 1)


def test_what_it_adds(celery_inline: Inline) -> None:
    """The instructions that the timeline adds to a message and its run, alone."""
    journal: Any = Journal()
    times: list[int] = []
    clocks: list[float] = []
    threads: list[int] = []
    loops = range(100_000)

    def stamped() -> None:
        for _ in loops:
            times.append(time.perf_counter_ns())
            clocks.append(time.time())
            threads.append(threading.get_ident())

    def empty() -> None:
        for _ in loops:
            pass

    def started() -> None:
        for _ in loops:
            journal.note(Started(task_id="a"))

    def line() -> None:
        for _ in loops:
            locations.of_test(place)

    place = locations.of_caller()
    stamp = min(_seconds(stamped) for _ in range(5)) - min(_seconds(empty) for _ in range(5))
    _run(celery_inline, 1)
    sandbox = current_sandbox()
    assert sandbox is not None
    events = len(sandbox.journal)
    note, where = (min(_seconds(each) for _ in range(5)) for each in (started, line))
    probe.note(adds=(events * stamp + note + where) / len(loops))


def test_failing(celery_inline: Inline) -> None:
    """The table of a test of very many messages."""
    _run(celery_inline, MANY)
    sandbox = current_sandbox()
    assert sandbox is not None
    error = AssertionError("own")
    probe.note(failing=min(_seconds(lambda: table.table(Story(sandbox, error))) for _ in range(5)))


def test_opened(celery_inline: Inline, tmp_path: Path) -> None:
    """A page of very many messages and one of a few, opened by a browser in turns."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        return
    sandbox = current_sandbox()
    assert sandbox is not None
    pages = []
    for count in (FEW, OPENED - FEW):
        _run(celery_inline, count)
        text = trace_page.page(Story(sandbox), test="test_it", result="passed")
        pages.append(trace_hooks.write(tmp_path, f"test_{count}", text))
    few, many = (
        min(found)
        for found in zip(
            *([_opened(browser, page) for page in pages] for _ in range(6)), strict=True
        )
    )
    probe.note(opens=many - few)


def _opened(browser: str, page: Path) -> float:
    start = time.perf_counter()
    subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", page.as_uri()],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip
    return time.perf_counter() - start


def test_page(celery_inline: Inline, tmp_path: Path) -> None:
    """The page of a test of a few messages, written."""
    _run(celery_inline, FEW)
    sandbox = current_sandbox()
    assert sandbox is not None

    def write() -> None:
        text = trace_page.page(Story(sandbox), test="test_it", result="passed")
        trace_hooks.write(tmp_path, "test_it", text)

    write()
    probe.note(page=median(_seconds(write) for _ in range(50)))
