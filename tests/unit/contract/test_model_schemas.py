"""Schemas of models: what the one allows, the other has to allow."""

from __future__ import annotations

import enum
import sys
from typing import TYPE_CHECKING, Any, Literal, Optional

import pytest

from pytest_djcelery.contract.model_schemas import Comparison, schemas_of

if TYPE_CHECKING:
    from pydantic import BaseModel, ConfigDict, Field
else:
    pydantic = pytest.importorskip("pydantic")
    BaseModel, ConfigDict, Field = pydantic.BaseModel, pydantic.ConfigDict, pydantic.Field


class Line(BaseModel):
    """A part of an order."""

    sku: str
    count: int = 1


class Colour(enum.Enum):
    """All there was."""

    RED = "red"
    BLUE = "blue"


class Order(BaseModel):
    """What the old release sends."""

    id: int
    note: Optional[str] = Field(None, description="for people", max_length=50)  # noqa: UP045
    lines: list[Line] = Field(default_factory=list)
    colour: Colour = Colour.RED
    kind: Literal["a", "b"] = "a"
    parent: Optional[Order] = None  # noqa: UP045
    prices: dict[str, int] = Field(default_factory=dict)


def _changed(**fields: Any) -> type[BaseModel]:
    """The same model with some fields changed, or left out."""
    kept = {name: (field.annotation, field) for name, field in Order.model_fields.items()} | fields
    wanted = {name: field for name, field in kept.items() if field is not None}
    return pydantic.create_model("Order", **wanted)


class _Shorter(BaseModel):
    sku: str
    count: int


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, []),
        ({"extra": (int, 0)}, []),
        ({"note": None}, []),
        ({"id": (float, ...)}, []),
        ({"id": (int | str, ...)}, []),
        ({"id": (Any, ...)}, []),
        ({"extra": (int, ...)}, ["extra is required, and was not there"]),
        ({"note": (str | None, ...)}, None),
        ({"id": (str, ...)}, ["id was integer, and has to be string"]),
        ({"id": (list[int] | str, ...)}, ["id was integer, and has to be string"]),
        ({"note": (str, "")}, ["note was null, and has to be string"]),
        ({"lines": (list[_Shorter], [])}, ["lines[].count is required, and could be left out"]),
        ({"kind": (Literal["a"], "a")}, None),
        ({"colour": (Literal["red", "green"], "red")}, ["colour may not be 'blue' any more"]),
        ({"prices": (dict[str, str], {})}, ["prices.* was integer, and has to be string"]),
        ({"id": (int, Field(ge=1))}, ["id has a tighter minimum: 1"]),
    ],
)
def test_a_changed_model(fields: dict[str, Any], expected: list[str] | None) -> None:
    old, new = Order.model_json_schema(), _changed(**fields).model_json_schema()
    found = Comparison(old, new).refusals()
    assert found if expected is None else found == expected


def test_limits_may_be_widened_and_not_tightened() -> None:
    tight = {"type": "integer", "minimum": 1, "maximum": 5}
    wide = {"type": "integer", "minimum": 0, "maximum": 9}
    assert Comparison(tight, wide).refusals() == []
    assert Comparison(wide, tight).refusals() == [
        "the value has a tighter maximum: 5",
        "the value has a tighter minimum: 1",
    ]
    assert Comparison({"type": "integer"}, tight).refusals()
    pattern = {"type": "string", "pattern": "^a"}
    assert Comparison(pattern, pattern).refusals() == []
    assert Comparison({"type": "string"}, pattern).refusals()


def test_what_is_left_out_is_refused_where_nothing_else_is_allowed() -> None:
    class Strict(BaseModel):
        model_config = ConfigDict(extra="forbid")
        id: int

    found = Comparison(Order.model_json_schema(), Strict.model_json_schema()).refusals()
    assert "note is not allowed any more" in found


def test_a_task_is_asked_for_its_models(monkeypatch: pytest.MonkeyPatch) -> None:
    celery = pytest.importorskip("celery")
    if celery.VERSION < (5, 5):
        pytest.skip("Celery 5.4 has no models")
    app = celery.Celery("shop", set_as_current=False)

    def place(order: Order, line: Optional[Line] = None, count: int = 1) -> None: ...  # noqa: UP045

    monkeypatch.setattr(sys.modules[__name__], "Order", Order)
    validated = app.task(pydantic=True, autoretry_for=(ValueError,))(place)

    def takes_anything(self: Any, order: Any) -> None: ...

    bound = app.task(pydantic=True, bind=True, name="bound")(takes_anything)
    assert set(schemas_of(validated)) == {"order", "line"}
    assert schemas_of(bound) == {}
    assert schemas_of(app.task(name="plain", shared=False)(place)) == {}
    note = schemas_of(validated)["order"]["$defs"]["Order"]["properties"]["note"]
    assert "description" not in note
    assert "title" not in note
