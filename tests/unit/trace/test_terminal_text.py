"""What a terminal is given: its colours, and characters that it has."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from _pytest._io import TerminalWriter

from pytest_djcelery.trace.terminal_text import TITLE, adapted, encodable

TEXT = " ms  what\n 0.0  publish ① add(1)\n>0.1    run ⑳ add\n  …"
PLAIN = " ms  what\n 0.0  publish #1 add(1)\n>0.1    run #20 add\n  ..."


@pytest.mark.parametrize(
    ("encoding", "shown"), [("utf-8", TEXT), ("ascii", PLAIN), ("cp1252", PLAIN), ("none", PLAIN)]
)
def test_numbers_are_in_circles_where_the_terminal_has_them(encoding: str, shown: str) -> None:
    assert encodable(TEXT, encoding) == shown


def test_what_can_be_shown_in_no_other_way_is_escaped() -> None:
    assert encodable("世", "ascii") == r"\u4e16"


@pytest.mark.parametrize("colour", [True, False])
def test_within_the_block_sections_are_adapted_and_then_as_they_were(*, colour: bool) -> None:
    writer: Any = TerminalWriter(io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    writer.hasmarkup = colour
    others = [("Captured log call", "① >x"), ("celery: log of the live worker", "①")]
    report: Any = SimpleNamespace(sections=[(TITLE, TEXT), *others])
    with adapted(writer, [report]):
        (_, table), *rest = report.sections
    assert rest == [others[0], ("celery: log of the live worker", "#1")]
    heading, first, marked, _ = table.splitlines()
    assert first == " 0.0  publish #1 add(1)"
    if colour:
        assert heading == "\x1b[1m ms  what\x1b[0m"
        assert marked == "\x1b[31m\x1b[1m>0.1    run #20 add\x1b[0m"
    else:
        assert table == PLAIN
    assert report.sections == [(TITLE, TEXT), *others]
