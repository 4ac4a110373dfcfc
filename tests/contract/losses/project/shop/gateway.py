"""What the task calls in the middle of its work."""

from __future__ import annotations

from shop.losing import reached
from shop.notes import note


def charge(case):
    reached(case, "before charge")
    note(case, "victim", "charged")
    reached(case, "after charge")
