"""The page Fidelity, and the table it is generated from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.contract import behaviours, exceptions, fidelity

if TYPE_CHECKING:
    import pytest


def test_the_page_is_what_the_contract_says() -> None:
    assert fidelity.PAGE.read_text() == fidelity.page(), f"Stale. Run: {fidelity.COMMAND}"


def test_a_stale_page_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    page = tmp_path / "fidelity.md"
    monkeypatch.setattr(fidelity, "PAGE", page)
    monkeypatch.setattr("sys.argv", ["fidelity"])
    assert fidelity.main() == 0
    monkeypatch.setattr("sys.argv", ["fidelity", "--check"])
    assert fidelity.main() == 0
    page.write_text("of yesterday")
    assert fidelity.main() == 1
    assert "docs/explanation/fidelity.md is stale" in capsys.readouterr().err


def test_there_are_120_behaviours_and_more() -> None:
    assert len(behaviours.names()) >= 120


def test_what_is_declared_is_a_behaviour_and_has_one_reason() -> None:
    named = [name for each in exceptions.TABLE for name in each.behaviours]
    assert set(named) <= behaviours.names()
    for triple in exceptions.TRIPLES:
        for name in set(named):
            reasons = {
                each.reason
                for each in exceptions.TABLE
                if each.holds(triple, (5, 4)) and name in each.behaviours
            }
            assert len(reasons) <= 1, (triple, name)


def test_the_titles_of_a_theme_differ() -> None:
    for theme in behaviours.themes():
        titles = [behaviour.title for behaviour in theme.behaviours]
        assert len(set(titles)) == len(titles), theme.title


def test_every_module_of_behaviours_is_a_theme() -> None:
    modules = {path.stem for path in (behaviours.HERE / "themes").glob("*.py")}
    assert modules == set(behaviours.THEMES)
