"""The files of the pages: their names, and how they are written."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Final

_LONGEST: Final = 150  # characters of a name, before the digest and the ending
_DIGEST: Final = 10  # characters


def file_name(test: str) -> str:
    """A name for a test's page that is safe on every system, and at most 200 bytes long.

    It is the same each time. Two tests never share one, even where names differ by case or by
    characters that a file can't have.
    """
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "-", test).strip("-.")[-_LONGEST:].lstrip("-.")
    digest = hashlib.sha256(test.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]
    return f"test-{readable}-{digest}.html"


def write(folder: Path, test: str, text: str) -> Path:
    """Write the page of a test, in place of an earlier one, and return where it is.

    Nobody sees a page half written. Nothing else in the folder is touched.

    Raises:
        OSError: The folder can't be made, or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file_name(test)
    written = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        written.write_text(text, encoding="utf-8", errors="replace")
        written.replace(path)
    finally:
        written.unlink(missing_ok=True)
    return path
