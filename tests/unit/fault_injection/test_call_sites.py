"""Where the function of a fault is looked for."""

from __future__ import annotations

import dataclasses
import json
import sys
from functools import partial
from json import dumps
from types import ModuleType
from typing import TYPE_CHECKING

from pytest_djcelery import locations
from pytest_djcelery.recording.task_bodies import CallSite
from tests.unit.fault_injection import gateways, importing

if TYPE_CHECKING:
    import pytest


def places(function: object) -> list[str]:
    site = CallSite("lose_worker(…)", function, lambda: None)
    found = site.places
    site.close()
    return found


def test_a_function_of_a_library_is_looked_for_in_the_library_and_in_the_project() -> None:
    assert "json.dumps" in places(json.dumps)
    assert f"{__name__}.dumps" in places(dumps)


def test_other_libraries_are_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    other = ModuleType("other")
    other.__file__ = dataclasses.__file__
    other.charge = gateways.charge  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "other", other)
    assert not locations.is_of_project(dataclasses.__file__)
    assert "other.charge" not in places(gateways.charge)
    other.__file__ = __file__
    assert "other.charge" in places(gateways.charge)


def test_faults_that_wait_for_one_function_end_in_any_order() -> None:
    charge, asked = gateways.charge, []
    sites = []
    for number in range(3):
        # What the module holds by now is a stand-in, for which the next one waits, too.
        waiting = partial(asked.append, number)
        sites.append(CallSite("lose_worker(…)", gateways.charge, waiting))
    for number in (1, 0):
        sites[number].close()
        asked.clear()
        gateways.charge(1)
        assert asked == [0, 2][number == 0 :]
    sites[2].close()
    assert gateways.charge is importing.charge is charge
