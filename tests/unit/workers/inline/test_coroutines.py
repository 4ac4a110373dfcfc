"""Where the tasks that a coroutine publishes run, and that a publish there never hangs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import SyncToAsync, async_to_sync, sync_to_async

from pytest_djcelery.errors import InlineError
from pytest_djcelery.workers.inline.coroutines import event_loop_hidden, run_for_test


def run(function: Callable[[], object], **options: Any) -> None:
    """As the worker of this thread's test runs it."""
    known = {"home": threading.current_thread(), "timeout": 5.0, "progress": lambda: 0}
    run_for_test(function, **{**known, **options})


def in_other_thread(function: Callable[[], object]) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()


def test_a_call_from_its_thread_runs_in_that_thread() -> None:
    threads: list[threading.Thread] = []
    run(lambda: threads.append(threading.current_thread()))
    assert threads == [threading.current_thread()]


def test_a_thread_of_the_code_under_test_runs_nothing() -> None:
    calls: list[int] = []
    home = threading.current_thread()
    in_other_thread(lambda: run(lambda: calls.append(1), home=home))
    assert calls == []


def test_a_call_from_a_coroutine_runs_where_django_runs_the_orm() -> None:
    threads: list[threading.Thread] = []
    orm: list[threading.Thread] = []

    async def main() -> None:
        run(lambda: threads.append(threading.current_thread()))
        await sync_to_async(lambda: orm.append(threading.current_thread()))()

    asyncio.run(main())
    assert threads == orm
    assert threads != [threading.current_thread()]


def test_what_it_raises_is_raised_in_the_coroutine() -> None:
    async def main() -> None:
        def fail() -> None:
            raise KeyError("boom")

        run(fail)

    with pytest.raises(KeyError, match="boom"):
        asyncio.run(main())


def test_code_that_sync_to_async_runs_may_run_it() -> None:
    calls: list[int] = []
    home = threading.Thread()

    async def main() -> None:
        await sync_to_async(lambda: run(lambda: calls.append(1), home=home))()

    asyncio.run(main())
    assert calls == [1]


def test_a_thread_that_is_not_free_in_time_is_reported() -> None:
    free = threading.Event()
    calls: list[int] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        busy = asyncio.Event()

        def occupy() -> None:
            loop.call_soon_threadsafe(busy.set)
            free.wait(10)

        held = asyncio.ensure_future(sync_to_async(occupy)())
        await busy.wait()
        try:
            with pytest.raises(InlineError, match=r"is not free after 0\.05 s.*arun\(\)"):
                run(lambda: calls.append(1), timeout=0.05)
        finally:
            free.set()
        await held
        await sync_to_async(lambda: None)()

    asyncio.run(main())
    assert calls == []  # given up for good: it does not run later


def test_one_that_stands_still_is_shown_where() -> None:
    free = threading.Event()

    def stuck_here() -> None:
        free.wait(10)

    async def main() -> None:
        with pytest.raises(InlineError) as error:
            run(stuck_here, timeout=0.05)
        free.set()
        text = str(error.value)
        assert "has not ended within 0.05 s" in text
        assert "await celery_inline.arun()" in text
        assert "stuck_here" in text.partition("The task is at:\n")[2]

    asyncio.run(main())


def test_one_that_makes_steps_has_the_time_for_each() -> None:
    steps: list[int] = []
    ended = threading.Event()

    def progress() -> int:
        steps.append(1)
        if len(steps) == 6:
            ended.set()
        return len(steps)

    async def main() -> None:
        run(lambda: ended.wait(10), timeout=0.01, progress=progress)

    asyncio.run(main())
    assert len(steps) >= 6


def test_a_task_has_no_event_loop_to_hand_coroutines_to() -> None:
    loops: list[Any] = []

    async def loop_of() -> Any:
        return asyncio.get_running_loop()

    async def main() -> None:
        def task() -> None:
            with event_loop_hidden():
                assert SyncToAsync.threadlocal.main_event_loop is None
                loops.append(async_to_sync(loop_of)())
            loops.append(SyncToAsync.threadlocal.main_event_loop)

        await sync_to_async(task)()
        assert loops[0] is not asyncio.get_running_loop()
        assert loops[1] is asyncio.get_running_loop()

    asyncio.run(main())


def test_outside_of_it_nothing_is_hidden() -> None:
    seen: list[bool] = []

    def look() -> None:
        with event_loop_hidden():
            seen.append(hasattr(SyncToAsync.threadlocal, "main_event_loop"))
        seen.append(hasattr(SyncToAsync.threadlocal, "main_event_loop"))

    in_other_thread(look)
    assert seen == [False, False]
