"""The how-to on FastAPI and SQLAlchemy: its project is written down, and its tests run in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project

PAGE = Path(__file__).resolve().parents[2] / "docs/how-to/fastapi-and-sqlalchemy.md"


def test_the_tests_of_the_page_pass_in_its_project(project: Project) -> None:
    for name in ("fastapi", "httpx2", "sqlalchemy"):
        pytest.importorskip(name)
    text = PAGE.read_text()
    (ini,) = re.findall(r"^```ini\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    files = dict(re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    project.pytester.makeini(ini)
    for name, content in files.items():
        (project.path / name).write_text(content)
    result = project.pytester.runpytest_subprocess("-p", "no:randomly", "test_orders.py")
    result.assert_outcomes(passed=files["test_orders.py"].count("\ndef test_"))
