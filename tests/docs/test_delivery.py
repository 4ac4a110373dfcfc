"""The page on delivery says what the record says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs import delivery_page


def test_the_page_is_what_the_record_says() -> None:
    assert delivery_page.PAGE.read_text(encoding="utf-8") == delivery_page.page(), (
        f"Stale. Run: {delivery_page.COMMAND}"
    )


def test_a_stale_page_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    page = tmp_path / "delivery.md"
    monkeypatch.setattr(delivery_page, "PAGE", page)
    monkeypatch.setattr("sys.argv", ["delivery_page"])
    assert delivery_page.main() == 0
    monkeypatch.setattr("sys.argv", ["delivery_page", "--check"])
    assert delivery_page.main() == 0
    page.write_text("of yesterday")
    assert delivery_page.main() == 1
    assert "docs/explanation/delivery.md is stale" in capsys.readouterr().err


FIRST = "before_start redelivered=False retries=0"
AGAIN = "before_start redelivered=True retries=0"
RETRY = "before_start redelivered=False retries=1"


@pytest.mark.parametrize(
    ("state", "steps", "message", "errback", "told"),
    [
        ("SUCCESS 'done'", [FIRST], [], [], "ends well"),
        ("STARTED", [FIRST], [], [], "**lost**"),
        ("FAILURE ValueError", [FIRST], [], [], "fails, `ValueError`"),
        ("FAILURE ValueError", [FIRST], ["rejected"], [], "fails, `ValueError`, rejected"),
        ("SUCCESS 'done'", [FIRST, AGAIN], [], [], "**delivered again**"),
        ("SUCCESS 'done'", [FIRST, RETRY], [], [], "**sent again, as a retry**"),
        (
            "SUCCESS 'done'",
            [FIRST, AGAIN],
            [],
            ["called ValueError"],
            "fails, `ValueError`, and is then **delivered again**",
        ),
    ],
)
def test_an_outcome_in_words(
    state: str, steps: list[str], message: list[str], errback: list[str], told: str
) -> None:
    victim = {"state": state, "steps": steps, "message": message}
    outcome = {"rows": [], "victim": victim, "errback": {"steps": errback}}
    assert delivery_page.became(outcome) == told
