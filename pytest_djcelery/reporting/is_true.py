"""Comparisons that pytest asks to explain, though they hold.

Of ``assert outbox == [] and other`` it wants each part explained, also the one that is true.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "in": lambda left, right: left in right,
    "not in": lambda left, right: left not in right,
}


def holds(op: str, left: object, right: object) -> bool:
    """Whether a comparison with something of this plugin's is true; other values aren't asked."""
    compare = _OPERATORS.get(op)
    return compare is not None and (_ours(left) or _ours(right)) and bool(compare(left, right))


def _ours(side: object) -> bool:
    from pytest_djcelery.messages.listing import Count, Listing
    from pytest_djcelery.messages.outcomes import History, Outcome
    from pytest_djcelery.messages.sent_task import SentTask

    one = (SentTask, Outcome)
    return isinstance(side, (*one, History, Count, Listing)) or (
        isinstance(side, list | tuple) and any(isinstance(each, one) for each in side)
    )
