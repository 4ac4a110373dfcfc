"""The names of types, and the places that send."""

from __future__ import annotations

import datetime as dt
import enum
import os
import sys
from collections import OrderedDict, namedtuple
from pathlib import Path
from typing import Any

import pytest
from django.utils.functional import lazy

from pytest_djcelery.contract.places import Places, shown_from
from pytest_djcelery.contract.records import first_place
from pytest_djcelery.contract.sent_shapes import type_name


class Colour(str, enum.Enum):
    """A text, as JSON has it."""

    RED = "red"


class Money:
    """What only pickle can send."""


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (True, "bool"),
        (1, "int"),
        (None, "None"),
        (Colour.RED, "str"),
        (lazy(str, str)("x"), "str"),
        (namedtuple("Point", "x")(1), "list"),  # noqa: PYI024 - as code has them
        (OrderedDict(), "dict"),
        (dt.datetime.now(dt.timezone.utc), "datetime"),
        (dt.date.min, "date"),
        (Money(), f"{__name__}.Money"),
    ],
)
def test_a_type_has_the_name_of_what_a_worker_gets(value: Any, name: str) -> None:
    assert type_name(type(value)) == name


def test_a_place_is_the_same_on_every_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, outside = tmp_path / "project", tmp_path / "elsewhere"
    monkeypatch.setattr(sys, "path", [str(outside), *sys.path])
    shown = shown_from(str(root))
    site = tmp_path / "venv/lib/site-packages/library/tasks.py"

    assert shown(str(root / "shop/views.py")) == "shop/views.py"
    assert shown(str(site)) == "site-packages/library/tasks.py"
    assert shown(str(outside / "lib/views.py")) == "lib/views.py"
    assert shown(os.path.join(tmp_path, "nowhere", "views.py")) == "views.py"
    assert first_place(["site-packages/a.py in x", None, "zoo.py in y"]) == "zoo.py in y"
    assert first_place([None]) is None


def test_a_place_is_a_function_also_from_within_its_expressions() -> None:
    places = Places(os.path.basename)

    def sender() -> list[Any]:
        found: list[Any] = [places.of(places.nearest())]
        found += [places.of(places.nearest()) for _ in range(2)]
        found += list(places.of(places.nearest()) for _ in range(2))  # noqa: C400 - it has a frame
        return found

    found = sender()
    assert {place for place, _ in found} == {"test_sent_shapes.py in sender"}
    assert found[0][1] is not None  # the next time it is only looked up
    assert places.of(None) == (None, None)
