"""A message that a worker has received before, over whatever broker: to be received once more."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any


class _NoChannel:
    """Takes the place of the channel of a message that the broker has nothing to do with.

    Private API (what `kombu.message.Message` asks of its channel), checked on kombu 5.4 to 5.7.
    """

    no_ack_consumers = None

    def __init__(self, requeue: Callable[[], object]) -> None:
        self._requeue = requeue

    def basic_ack(self, _tag: Any, **_: Any) -> None:
        """Do nothing: the broker has long forgotten it, or gets its own acknowledgement."""

    def basic_reject(self, _tag: Any, *, requeue: bool = False) -> None:
        if requeue:
            self._requeue()


def received_again(message: Any, receive: Callable[[Any], object]) -> Any:
    """Make a copy of a message, marked as redelivered, which the broker knows nothing of.

    Args:
        message: The message, as kombu has received it.
        receive: Has the worker receive the copy once more, if it is rejected to that end.
    """
    again = copy.copy(message)
    again._state = "RECEIVED"
    again.delivery_info = {**message.delivery_info, "redelivered": True}
    again.channel = _NoChannel(lambda: receive(received_again(message, receive)))
    return again
