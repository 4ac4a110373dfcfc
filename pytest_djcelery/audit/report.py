"""The report as a file: JSON, or a page, by its ending."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_djcelery.audit.kinds import KINDS

if TYPE_CHECKING:
    from pytest_djcelery.audit.baseline import Verdict


def write(path: str, verdict: Verdict) -> None:
    """Write what was found, known and new alike, so that a JSON file can be the next baseline."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix.lower() == ".html":
        from pytest_djcelery.audit.page import page

        text = page(as_json(verdict))
    else:
        text = json.dumps(as_json(verdict), indent=2, ensure_ascii=False) + "\n"
    # A file's name can hold bytes that are no text: they become escapes, which JSON has, too.
    file.write_text(text, encoding="utf-8", errors="backslashreplace")


def as_json(verdict: Verdict) -> dict[str, Any]:
    """The whole report as plain data."""
    by_rank = [*((each, False) for each in verdict.new), *((each, True) for each in verdict.known)]
    return {
        "version": 1,
        "tests": verdict.tests,
        "gone": verdict.gone,
        "troubles": verdict.troubles,
        "kinds": [
            {"name": kind.name, "title": kind.title, "why": kind.why, "remedy": kind.remedy}
            for kind in KINDS
        ],
        "findings": [{**finding.as_json(), "known": known} for finding, known in by_rank],
    }
