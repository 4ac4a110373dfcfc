"""The listeners of an audited run, each attached once the suite has imported what it listens to."""

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
def listeners_attached(recorder: Recorder) -> Iterator[None]:
    """Within the ``with``, record what happens."""
    with ExitStack() as stack:

        def attach(listener: Callable[[], AbstractContextManager[None]]) -> None:
            with recorder.errors_contained():
                stack.enter_context(listener())

        calls = mocks.Mocks(recorder)
        by_module: dict[str, Callable[[], AbstractContextManager[None]]] = {
            # Before this is imported there is no connection, and so no transaction.
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
