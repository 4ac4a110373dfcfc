"""The README as a package index shows it: hatchling calls this when it builds.

In the repository its links are relative. On an index they would be dead, so they become addresses
of the repository where `[project.urls]` has its `Source`, and plain text until then.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

DEFINED = re.compile(r"^\[(\w+)\]: (?!https?:)(\S+)\n", re.MULTILINE)


def published(text: str, source: str | None) -> str:
    """The README with no relative link in it.

    Args:
        text: The README.
        source: The address of the repository, if there is one.
    """
    if source:

        def absolute(found: re.Match[str]) -> str:
            name, path = found.groups()
            kind = "raw" if path.endswith(".svg") else "blob"
            return f"[{name}]: {source.rstrip('/')}/{kind}/main/{path}\n"

        return DEFINED.sub(absolute, text)
    names = "|".join(match[1] for match in DEFINED.finditer(text))
    text = re.sub(rf"^!\[[^\[\]]+\]\[(?:{names})\]\n", "", text, flags=re.MULTILINE)
    return re.sub(rf"\[([^\[\]]+)\]\[(?:{names})\]", r"\1", DEFINED.sub("", text)).rstrip() + "\n"


class ReadmeHook(MetadataHookInterface):
    """Fills in `readme`, which pyproject.toml says is dynamic."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the readme of the package."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        text = published(text, metadata.get("urls", {}).get("Source"))
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
