"""The listeners of an audited run. Each waits for an import by the suite: none imports anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from pytest_djcelery.audit.listeners import celery_calls, mocks, written_rows
from pytest_djcelery.project.after_import import called_after_import

if TYPE_CHECKING:
    from pytest_djcelery.audit.recorder import Recorder

_BY_MODULE = {**celery_calls.BY_MODULE, **written_rows.BY_MODULE}


@contextmanager
def listening(recorder: Recorder) -> Iterator[None]:
    """Record what happens in a block."""
    with ExitStack() as stack:

        def attach(listener: Callable[[], AbstractContextManager[None]]) -> None:
            with recorder.errors_kept():
                stack.enter_context(listener())

        calls = mocks.Mocks(recorder)
        by_module: dict[str, Callable[[], AbstractContextManager[None]]] = {
            # There is no connection before this is there, and so no transaction.
            "django.db.backends.base.base": recorder.transactions_recorded,
            **{name: partial(listener, recorder) for name, listener in _BY_MODULE.items()},
            **mocks.by_module(calls),
        }
        wanted: Mapping[str, Callable[[], None]] = {
            name: partial(attach, listener) for name, listener in by_module.items()
        }
        attach(partial(mocks.monkeypatches_recorded, calls))
        stack.enter_context(called_after_import(wanted))
        yield
