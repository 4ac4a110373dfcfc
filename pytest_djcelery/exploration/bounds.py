"""How much may vary from one schedule of a test to the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from pytest_djcelery.errors import BadOptionError
from pytest_djcelery.markers import call_of

if TYPE_CHECKING:
    import pytest


def _is_count(value: object, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


_VALID: Final[Mapping[str, tuple[Callable[[object], bool], str]]] = {
    "orders": (lambda value: isinstance(value, bool), "True or False"),
    "duplicates": (_is_count, "a whole number, 0 or more"),
    "crashes": (_is_count, "a whole number, 0 or more"),
    "examples": (lambda value: _is_count(value, 1), "a whole number, 1 or more"),
    "lost": (lambda value: value in ("allow", "error"), "'allow' or 'error'"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What ``@pytest.mark.celery_explore(…)`` says."""

    orders: bool = True
    duplicates: int = 0
    crashes: int = 0
    examples: int = 100
    lost: Literal["allow", "error"] = "allow"

    @classmethod
    def of(cls, marker: pytest.Mark) -> Bounds:
        """Read the marker.

        Raises:
            BadOptionError: It is used in a wrong way.
        """
        if marker.args or set(marker.kwargs) - set(_VALID):
            msg = (
                f"@pytest.mark.{marker.name}{call_of(marker)}: expected keyword arguments only, "
                f"out of {', '.join(_VALID)}."
            )
            raise BadOptionError(msg)
        for name, value in marker.kwargs.items():
            is_valid, expected = _VALID[name]
            if not is_valid(value):
                msg = f"@pytest.mark.{marker.name}({name}={value!r}): expected {expected}."
                raise BadOptionError(msg)
        return cls(**marker.kwargs)
