"""A broker, or a result backend, that is down for a while."""

from __future__ import annotations

import errno
import os
from types import EllipsisType
from typing import TYPE_CHECKING

from kombu.exceptions import OperationalError

from pytest_djcelery.errors import meant
from pytest_djcelery.fault_injection.fault import Fault

if TYPE_CHECKING:
    from typing_extensions import Self

    from pytest_djcelery.session.sandbox import Sandbox


class Downtime(Fault):
    """A server is down: for a number of calls, or for the block of a ``with``.

    Args:
        sandbox: The sandbox of the test.
        call: The call that set it.
        times: How many calls it lasts; an ellipsis if that isn't said: one, or a whole block.
        optional: Whether there need be no call.
    """

    def __init__(
        self, sandbox: Sandbox, call: str, *, times: int | EllipsisType | None, optional: bool
    ) -> None:
        self._is_default = times is ...
        given = 1 if isinstance(times, EllipsisType) else times
        super().__init__(sandbox, call, None, times=given, optional=optional)

    def __enter__(self) -> Self:
        if self._is_default:
            self._times = None
        return super().__enter__()

    def error(self, server: str, at: str) -> OperationalError:
        """What a call raises."""
        refused = ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        error = OperationalError(f"{refused} (the {server} is down, by {self._call}; {at})")
        error.__cause__ = refused
        return meant(error)
