#!/usr/bin/env python3
"""Print the command of the README's Quick start that has this number, 1 or 2.

CI runs what the reader is told to run, so the two can't drift apart.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"


def commands(text: str) -> list[str]:
    """Return the `sh` blocks under the heading Quick start, each of which is one command line."""
    _, found, rest = text.partition("\n## Quick start\n")
    if not found:
        sys.exit(f"{README.name}: no heading '## Quick start'.")
    section = re.split(r"^## ", rest, maxsplit=1, flags=re.MULTILINE)[0]
    blocks = [
        block.strip()
        for block in re.findall(r"^```sh\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    ]
    if len(blocks) != 2 or any("\n" in block for block in blocks):
        sys.exit(f"{README.name}: Quick start needs two `sh` blocks of one line, found: {blocks}")
    return blocks


if __name__ == "__main__":
    print(commands(README.read_text(encoding="utf-8"))[int(sys.argv[1]) - 1])
