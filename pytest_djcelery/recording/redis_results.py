"""Stores results in Redis without a command that redis-py has deprecated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from pytest_djcelery.patching import patches, replaced
from pytest_djcelery.project.after_import import called_after_import


@contextmanager
def results_set_without_setex() -> Iterator[None]:
    """Within the ``with``, have results stored by ``SET … EX``, which does what ``SETEX`` does."""
    with ExitStack() as stack:

        def begin() -> None:
            stack.enter_context(_set_replaced())

        with called_after_import({"celery.backends.redis": begin}):
            yield


@patches(
    "celery.backends.redis:RedisBackend._set",
    why="Celery stores results by redis-py's setex(), which is deprecated since redis-py 8: where "
    "warnings are errors, none would be stored.",
    checked_on="Celery 5.4 to 5.7, redis-py 6 to 8",
)
@contextmanager
def _set_replaced() -> Iterator[None]:
    from celery.backends.redis import RedisBackend

    def _set(self: Any, key: Any, value: Any, expires: Any = None) -> None:
        expires = self.expires if expires is None else expires
        with self.client.pipeline() as pipe:
            pipe.set(key, value, ex=expires or None)
            pipe.publish(key, value)
            pipe.execute()

    with replaced(RedisBackend, _set=_set):
        yield
