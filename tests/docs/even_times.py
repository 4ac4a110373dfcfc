"""A plugin for pytest: the events of a test come at even times, ``-p even_times``.

What the docs show of a timeline is then the same each time that it is made.
"""

from __future__ import annotations

from itertools import count

from pytest_djcelery.messages import journal

_STEP = 400_000  # nanoseconds
_ticks = count(journal._ticks(), _STEP)


def _next() -> int:
    return next(_ticks)


vars(journal)["_ticks"] = _next
