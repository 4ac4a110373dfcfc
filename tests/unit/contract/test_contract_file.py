"""The file of a contract: read and written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_djcelery.contract import contract_file
from pytest_djcelery.contract.records import KINDS, Contract, Shape, TaskParameter, TaskRecord
from pytest_djcelery.errors import ContractFileError

NAMES: Any = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
KINDS_OF_VALUES: Any = st.sampled_from(["int", "str", "list", "None", "result", "shop.Order"])
PARAMETERS: Any = st.builds(
    TaskParameter,
    name=st.from_regex(r"[a-z_]{1,5}", fullmatch=True),
    kind=st.sampled_from(KINDS),
    has_default=st.booleans(),
    schema=st.none() | st.just({"type": "object", "properties": {"x": {"type": "integer"}}}),
)
SHAPES: Any = st.builds(
    Shape,
    args=st.lists(
        st.tuples(st.from_regex(r"\*?[a-z]{1,4}|", fullmatch=True), KINDS_OF_VALUES), max_size=3
    ).map(tuple),
    kwargs=st.dictionaries(NAMES, KINDS_OF_VALUES, max_size=3).map(
        lambda kwargs: tuple(sorted(kwargs.items()))
    ),
    way=st.sampled_from(["call", "error link"]),
    serializer=st.none() | st.just("pickle"),
)
TASKS: Any = st.builds(
    TaskRecord,
    parameters=st.none() | st.lists(PARAMETERS, max_size=3).map(tuple),
    queue=st.none() | NAMES,
    serializer=st.just("json"),
    function=st.none() | NAMES,
    has_self=st.booleans(),
    is_django=st.booleans(),
    sent=st.dictionaries(SHAPES, st.none() | NAMES, max_size=3),
)
CONTRACTS: Any = st.builds(
    Contract,
    tasks=st.dictionaries(NAMES, TASKS, max_size=3),
    queues=st.sets(NAMES, max_size=3).map(lambda names: tuple(sorted(names))),
    retired=st.dictionaries(NAMES, st.from_regex(r"[a-z]+", fullmatch=True), max_size=2),
)


def _read(text: str, tmp_path: Path) -> Contract:
    path = tmp_path / "celery-contract.json"
    path.write_text(text, encoding="utf-8")
    return contract_file.read(str(path), path.name)


@given(CONTRACTS)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, contract: Contract
) -> None:
    text = contract_file.text_of(contract)
    read = _read(text, tmp_path_factory.mktemp("contract"))
    assert read == contract
    assert contract_file.text_of(read) == text


@given(CONTRACTS, CONTRACTS)
def test_an_update_takes_nothing_away_and_changes_nothing_the_second_time(
    before: Contract, now: Contract
) -> None:
    updated = before.updated(now)
    assert updated.updated(now) == updated
    assert updated.retired == before.retired
    assert {*before.queues, *now.queues} == set(updated.queues)
    for contract in (before, now):
        for name, task in contract.tasks.items():
            assert task.sent.keys() <= updated.tasks[name].sent.keys()
    for name, task in now.tasks.items():
        assert updated.tasks[name].parameters == task.parameters


def test_a_parameter_and_a_shape_are_a_line_each() -> None:
    contract = Contract(
        tasks={
            "shop.tasks.ship": TaskRecord(
                parameters=(TaskParameter(name="order_id"),),
                queue="celery",
                serializer="json",
                sent={
                    Shape(args=(("order_id", "str"),)): "shop/views.py in ship",
                    Shape(args=(("order_id", "int"),)): "shop/views.py in ship",
                },
            )
        },
        queues=("celery",),
        retired={"queue:mail": "it is empty"},
    )
    assert contract_file.text_of(contract) == (
        """\
{
  "format": 1,
  "queues": [
    "celery"
  ],
  "retired": {
    "queue:mail": "it is empty"
  },
  "tasks": {
    "shop.tasks.ship": {
      "parameters": [
        {"name": "order_id", "kind": "positional or keyword", "default": false}
      ],
      "queue": "celery",
      "sent": [
        {"args": ["order_id: int"], "kwargs": {}, "from": "shop/views.py in ship"},
        {"args": ["order_id: str"], "kwargs": {}, "from": "shop/views.py in ship"}
      ],
      "serializer": "json"
    }
  }
}
"""
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is damaged: Expecting value"),
        ('{"format": 1, <<<<<<< HEAD', "is damaged: Expecting property name"),
        ("[]", r'expected an object with "format": 1, found \[\]'),
        ('{"tasks": {}}', r'expected an object with "format": 1, found null'),
        ('{"format": 2}', "has format 2, and this release .* reads up to 1.\nUpgrade"),
        ('{"format": 1, "queues": []}', "is damaged: KeyError: 'tasks'"),
        ('{"format": 1, "queues": [1], "tasks": {}}', "is damaged: TypeError: expected a text"),
        ('{"format": 1, "queues": [], "tasks": {"a": 1}}', "is damaged: TypeError"),
        (
            (
                '{"format": 1, "queues": [], "tasks": {"a": {"parameters": '
                '[{"name": "x", "kind": "odd"}], "queue": "celery", "sent": [], "serializer": ""}}}'
            ),
            "is damaged: ValueError",
        ),
        ('{"format": 1, "queues": [], "tasks": {}, "retired": []}', r'"retired" is \[\]; expected'),
        (
            '{"format": 1, "queues": [], "tasks": {}, "retired": {"a": " "}}',
            "'a' with \" \" as its reason.\nWrite why",
        ),
        ('{"format": 1, "queues": [], "tasks": {}, "retired": {"a": 1}}', "'a' with 1 as its"),
    ],
)
def test_a_file_that_can_not_be_used_says_what_to_do(
    text: str, expected: str, tmp_path: Path
) -> None:
    with pytest.raises(ContractFileError, match=expected) as caught:
        _read(text, tmp_path)
    assert str(caught.value).startswith("celery-contract.json")
    assert "\n" in str(caught.value) or "expected an object such as" in str(caught.value)


def test_a_missing_file_says_how_to_write_the_first(tmp_path: Path) -> None:
    with pytest.raises(ContractFileError, match=r"no contract at x\.json\.\n.*=update on the code"):
        contract_file.read(str(tmp_path / "x.json"), "x.json")


def test_a_file_is_written_as_a_whole_and_only_if_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "celery-contract.json"
    assert contract_file.write(str(path), Contract())
    path.chmod(0o640)
    before = path.stat()
    assert not contract_file.write(str(path), Contract())
    assert path.stat().st_mtime_ns == before.st_mtime_ns

    assert contract_file.write(str(path), Contract(queues=("mail",)))

    assert json.loads(path.read_text())["queues"] == ["mail"]
    assert path.stat().st_mode == before.st_mode
    assert list(path.parent.iterdir()) == [path]
