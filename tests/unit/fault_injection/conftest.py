"""`celery_inline` for each test, without pytest around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit import inline_project

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_djcelery.api.inline import Inline


@pytest.fixture
def worker() -> Iterator[Inline]:
    """The worker of a sandbox that is open for the test."""
    with inline_project.worker() as worker:
        yield worker
