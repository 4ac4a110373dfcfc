"""The signatures that a message carries: what is called after its task.

Celery compares signatures as dictionaries, and what has been sent is never the dictionary that
a test writes: freezing has put ids into it, and the serializer has made lists of tuples.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from celery.canvas import Signature

from pytest_djcelery.messages import unittest_failures

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from celery import Celery


class Carried(Signature):
    """A signature inside a message: it equals one by the rules by which the message does."""

    serializer: str

    def __eq__(self, other: object) -> bool:
        unittest_failures.compared()
        if not isinstance(other, Signature) or isinstance(other, Carried):
            return bool(super().__eq__(other))
        from pytest_djcelery.messages.canvas import same_step

        return same_step(other, self, serializer=self.serializer)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # type: ignore[assignment]  # as of every signature


def carried(written: Mapping[str, Any], app: Celery, serializer: str) -> Signature:
    """What stands in a message, as a signature that a test can compare with its own."""
    signature = app.signature(written)
    kind: Any = type(signature)
    signature.__class__ = _class(kind)
    signature.serializer = serializer
    return signature


def all_carried(
    written: Iterable[Mapping[str, Any]], app: Celery, serializer: str
) -> Iterable[Signature]:
    """`carried` for each."""
    return (carried(each, app, serializer) for each in written)


@cache
def _class(kind: type[Signature]) -> type[Signature]:
    """A chain, group or chord stays one."""
    return type(kind.__name__, (Carried, kind), {})
