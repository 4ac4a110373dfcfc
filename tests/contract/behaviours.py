"""The behaviours: their names, titles and themes, read from their modules."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
THEMES = (
    "arguments", "request", "publishing", "delivery", "failures", "retries", "states", "links",
    "canvas", "canvas_more", "handlers", "inside", "surroundings", "processes", "control",
)  # fmt: skip


@dataclass(frozen=True)
class Behaviour:
    """Something that every worker does, unless `exceptions` says otherwise."""

    name: str
    title: str


@dataclass(frozen=True)
class Theme:
    """A module of behaviours."""

    title: str
    behaviours: tuple[Behaviour, ...]


def theme(module: str) -> Theme:
    """Read a module of `themes`, without importing it."""
    tree = ast.parse((HERE / "themes" / f"{module}.py").read_text())
    tests = [
        each
        for each in tree.body
        if isinstance(each, ast.FunctionDef) and each.name.startswith("test_")
    ]
    title = ast.get_docstring(tree)
    assert title is not None, module
    return Theme(title, tuple(_behaviour(test) for test in tests))


def _behaviour(test: ast.FunctionDef) -> Behaviour:
    name = test.name.removeprefix("test_")
    words = name.replace("_", " ")
    return Behaviour(name, ast.get_docstring(test) or words[0].upper() + words[1:])


def themes() -> list[Theme]:
    """All of them, in the order of the page Fidelity."""
    return [theme(module) for module in THEMES]


def names() -> set[str]:
    """The names of all behaviours."""
    return {behaviour.name for theme in themes() for behaviour in theme.behaviours}
