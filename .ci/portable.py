#!/usr/bin/env python3
"""Run what passes on every operating system, in the environment of this Python.

The tests of the example, without those of the live worker where there is no POSIX, and the unit
tests. Most of the suite runs pytest in processes that are forked, and belongs to POSIX.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
POSIX = hasattr(os, "fork")


def main() -> int:
    """Run them, and say whether all have passed."""
    without_live = () if POSIX else ("--ignore=example_project/tests/test_live_worker.py",)
    codes = [
        subprocess.run(
            [sys.executable, "-m", "pytest", *arguments],
            cwd=ROOT,
            check=False,
        ).returncode
        for arguments in (("example_project", *without_live), ("tests/unit",))
    ]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
