"""The page How a message travels: its files exist, in the order in which they import."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "explanation" / "how-a-message-travels.md"
STOP = re.compile(
    r"^- \[`(?P<shown>[^`]+)`\]\(\.\./\.\./(?P<path>[^)]+)\)\s+`(?P<name>\w+)(?:\(\))?`",
    re.MULTILINE,
)


def _parts() -> dict[str, list[re.Match[str]]]:
    """The stops of each part of the walk, by its heading."""
    _, *parts = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    stops = {part.partition("\n")[0]: list(STOP.finditer(part)) for part in parts}
    assert sum(map(len, stops.values())) == PAGE.read_text(encoding="utf-8").count("\n- ")
    return stops


PARTS = _parts()


@cache
def _imported(path: str) -> frozenset[str]:
    """The files of the package that a file imports anywhere, for types too."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pytest_djcelery"):
            module = str(node.module).replace(".", "/")
            names = (f"{module}.py", *(f"{module}/{alias.name}.py" for alias in node.names))
            found.update(name for name in names if (ROOT / name).is_file())
    return frozenset(found)


def _reached(path: str) -> set[str]:
    """The files that a file imports, and those that these import, and so on."""
    found: set[str] = set()
    pending = {path}
    while pending:
        imported = _imported(pending.pop())
        pending |= imported - found
        found |= imported
    return found


@pytest.mark.parametrize("stops", PARTS.values(), ids=PARTS)
def test_each_file_exists_and_has_what_is_named(stops: list[re.Match[str]]) -> None:
    for stop in stops:
        assert stop["path"] == f"pytest_djcelery/{stop['shown']}"
        tree = ast.parse((ROOT / stop["path"]).read_text(encoding="utf-8"))
        names = {
            node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)
        }
        assert stop["name"] in names, stop["path"]


@pytest.mark.parametrize("stops", PARTS.values(), ids=PARTS)
def test_no_file_imports_one_that_the_walk_has_passed(stops: list[re.Match[str]]) -> None:
    paths = [stop["path"] for stop in stops]
    for place, path in enumerate(paths):
        assert not _reached(path) & set(paths[:place]), path


@pytest.mark.parametrize("stops", PARTS.values(), ids=PARTS)
def test_each_file_is_used_by_those_before_it(stops: list[re.Match[str]]) -> None:
    known = {stops[0]["path"]}
    for stop in stops[1:]:
        known |= {path for earlier in known for path in _reached(earlier)}
        module = stop["path"].removesuffix(".py").replace("/", ".")
        # Celery and kombu load the transport and the result backend by their names.
        loaded = any(f'"{module}:' in (ROOT / path).read_text(encoding="utf-8") for path in known)
        assert stop["path"] in known or loaded, stop["path"]
        known.add(stop["path"])
