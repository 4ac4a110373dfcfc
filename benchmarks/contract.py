"""How far `celery_inline` does what a real worker does, by the contract in `tests/contract`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from runs import OURS, run_pytest
from table import Row

if TYPE_CHECKING:
    from figures import Repeats

ROOT = Path(__file__).parent.parent
RUNS = "inline-memory-memory or live-filesystem-django-db"


def contract(_: Repeats) -> Iterator[Row]:
    """The behaviours of both, in a run that fails if one is not as declared."""
    sys.path.append(str(ROOT))
    from tests.contract import behaviours, fidelity

    run_pytest("tests/contract/test_contract.py", "-k", RUNS, keep=[OURS], folder=ROOT)
    total = len(behaviours.names())
    declared = len(fidelity.reasons("inline").keys() | fidelity.reasons("live").keys())
    yield Row(
        what="contract behaviours in which inline equals the live prefork worker",
        ours=f"{total - declared} of {total}; the other {declared} are declared",
        must="all but the declared",
        met=True,
    )
