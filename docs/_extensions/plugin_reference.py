"""Autodoc for what Sphinx does not know: a plugin's fixtures, markers and options.

A page has a comment, ``<!-- fixture: celery_outbox -->``, where what the code says of it belongs.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any

from pytest_djcelery import fixtures, markers, options

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_COMMENT = re.compile(r"^<!-- (fixture|marker|option)(s)?(?:: ([\w, ]+?))? -->$", re.MULTILINE)


def described(text: str) -> str:
    """Replace the comments of a page by what they stand for."""
    return _COMMENT.sub(lambda found: _KINDS[found[1]](found[3]), text)


def _fixture(name: str) -> str:
    definition: Any = getattr(fixtures, name)
    scope = definition._fixture_function_marker.scope
    summary, _, rest = (inspect.getdoc(definition) or "").partition("\n\n")
    yields = re.search(r"Yields:\n +(.+)", rest)
    text = [f"*Fixture, scope `{scope}`.* {_markdown(summary)}"]
    if before := rest[: yields.start()].strip() if yields else rest.strip():
        text.append(_markdown(before))
    return "\n\n".join(text)


def _marker(_: str | None) -> str:
    rows = ["| marker | what it does |", "|---|---|"]
    for declared in markers.DECLARED:
        call, _colon, meaning = declared.partition(": ")
        rows.append(f"| `@pytest.mark.{call}` | {meaning} |")
    return "\n".join(rows)


def _option(_: str | None) -> str:
    rows = ["| ini | command line | what it is |", "|---|---|---|"]
    rows += [f"| `{each.ini}` | `{each.flag}` | {each.help} |" for each in options.DECLARED]
    return "\n".join(rows)


def _markdown(text: str) -> str:
    return " ".join(text.replace("``", "`").split())


_KINDS: dict[str, Any] = {"fixture": _fixture, "marker": _marker, "option": _option}


def _on_read(app: Sphinx, docname: str, source: list[str]) -> None:
    source[0] = described(source[0])


def _constructor_left_out(
    app: Sphinx, what: str, name: str, documented: object, options: object, lines: list[str]
) -> None:
    """Leave out the arguments of classes that only the plugin makes."""
    if what == "class" and not is_dataclass(documented) and "Args:" in lines:
        del lines[lines.index("Args:") :]


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect what this module defines."""
    app.connect("source-read", _on_read)
    app.connect("autodoc-process-docstring", _constructor_left_out, priority=100)
    return {"parallel_read_safe": True}
