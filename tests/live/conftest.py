"""A project whose test database other processes can open."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.project import Project


@pytest.fixture(autouse=True)
def database_in_a_file(project: Project) -> None:
    project.settings('DATABASES["default"]["TEST"] = {"NAME": "test.sqlite3"}\n')
