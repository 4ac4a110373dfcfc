"""The seed of a run's random programs: drawn for each run, or given; the run's header shows it."""

from __future__ import annotations

import os
import random

VARIABLE = "DJCELERY_SEED"


def first() -> int:
    """The seed of the first program; the others follow it.

    In the environment, so that the processes of pytest-xdist have the same.
    """
    return int(os.environ.setdefault(VARIABLE, str(random.SystemRandom().randrange(10**9))))


def header() -> str:
    """The line in the header of the run."""
    return f"random programs: {VARIABLE}={first()}"
