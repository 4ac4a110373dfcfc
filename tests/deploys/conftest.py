"""A project whose messages have a contract."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.project import Project

SERVICES = """
from shop.tasks import ship


def order(pk):
    return [ship.delay(pk) for _ in range(2)]
"""
FILE = "celery-contract.json"


class Shop(Project):
    """A project with a service that sends, whose files are changed from one release to another."""

    def change(self, before: str, after: str, file: str = "shop/tasks.py") -> None:
        """Replace some text of a module."""
        path = self.path / file
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after))

    def contract(self) -> Any:
        """What the contract has."""
        return json.loads((self.path / FILE).read_text())

    def edit(self, **changed: Any) -> None:
        """Change the contract by hand."""
        (self.path / FILE).write_text(json.dumps(self.contract() | changed))


@pytest.fixture
def shop(project: Project) -> Shop:
    """The project of the other folders, with a service that sends."""
    found = Shop(project.pytester)
    found.write(**{"shop/services": SERVICES})
    return found
